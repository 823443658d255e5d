//! The step between the server and a command: this program, started anew, takes on itself what the
//! command is to be bound by, and then becomes the command.
//!
//! So limits hold from the command's first instruction on, with no moment in between, and without code
//! that runs between fork and exec.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// The first argument by which a program knows that it is to become a command.
pub(crate) const LAUNCH_WORD: &str = "__launch-command";

/// It cannot be started: the shells' code for a program that is not there.
pub(super) const NOT_STARTED: u8 = 127;

/// Limits of a command, in the order in which they are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) cpu_seconds: Option<u64>,
    pub(super) address_space: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) file_size: Option<u64>,
}

impl Bounds {
    /// As one argument.
    pub(super) fn to_argument(self) -> String {
        let all = [
            self.cpu_seconds,
            self.address_space,
            self.open_files,
            self.file_size,
        ];
        let text = |limit: Option<u64>| limit.map_or("-".to_owned(), |limit| limit.to_string());
        all.map(text).join(",")
    }

    fn from_argument(text: &str) -> Option<Self> {
        let mut parts = text.split(',').map(|part| match part {
            "-" => Some(None),
            number => number.parse().ok().map(Some),
        });
        let bounds = Self {
            cpu_seconds: parts.next()??,
            address_space: parts.next()??,
            open_files: parts.next()??,
            file_size: parts.next()??,
        };
        parts.next().is_none().then_some(bounds)
    }
}

/// Becomes a command, as `arguments` behind [`LAUNCH_WORD`] say: the process that is to be the parent, the
/// limits, the program and its arguments. Returns only if that cannot be.
#[cfg(unix)]
pub(crate) fn launch(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    use std::os::unix::process::CommandExt as _;

    let mut arguments = arguments;
    let parent = arguments.next().and_then(|text| number(&text));
    let bounds = arguments.next();
    let bounds = bounds
        .as_deref()
        .and_then(OsStr::to_str)
        .and_then(Bounds::from_argument);
    let (Some(parent), Some(bounds), Some(program)) = (parent, bounds, arguments.next()) else {
        return fail("the server starts commands by this word, and nobody else");
    };
    if let Err(error) = end_with(parent) {
        return fail(format_args!("it cannot be bound to the server: {error}"));
    }
    if let Err(error) = set_bounds(bounds) {
        return fail(format_args!("its limits cannot be set: {error}"));
    }
    let error = std::process::Command::new(&program).args(arguments).exec();
    fail(format_args!("{}: {error}", program.display()))
}

#[cfg(not(unix))]
pub(crate) fn launch(_: impl Iterator<Item = OsString>) -> ExitCode {
    fail("commands run on Unix only")
}

fn fail(why: impl Display) -> ExitCode {
    // With nowhere to print to there is only the exit code left to tell.
    let _ = writeln!(io::stderr(), "cannot be started: {why}");
    ExitCode::from(NOT_STARTED)
}

#[cfg(unix)]
fn number(text: &OsStr) -> Option<u32> {
    text.to_str()?.parse().ok()
}

/// Has the system kill this process when its parent ends, however that ends.
#[cfg(target_os = "linux")]
fn end_with(parent: u32) -> io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that.
    let found = getppid().map(|pid| pid.as_raw_nonzero().get());
    if found.and_then(|pid| u32::try_from(pid).ok()) != Some(parent) {
        return Err(io::Error::other("it has ended"));
    }
    Ok(())
}

/// Other systems have no such signal: a command there outlives a server that is killed.
#[cfg(all(unix, not(target_os = "linux")))]
fn end_with(_: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn set_bounds(bounds: Bounds) -> io::Result<()> {
    use rlimit::Resource;
    let told = [
        (Resource::CPU, bounds.cpu_seconds),
        (Resource::AS, bounds.address_space),
        (Resource::NOFILE, bounds.open_files),
        (Resource::FSIZE, bounds.file_size),
        // What a core dump shows is the payload, and it would lie about in the working directory.
        (Resource::CORE, Some(0)),
    ];
    for (resource, limit) in told {
        let Some(limit) = limit else {
            continue;
        };
        let (_, hard) = resource.get()?;
        let limit = limit.min(hard);
        resource.set(limit, limit)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_handed_over_whole() {
        let bounds = Bounds {
            cpu_seconds: Some(7),
            address_space: None,
            open_files: Some(u64::MAX),
            file_size: Some(0),
        };
        let text = bounds.to_argument();
        assert_eq!(text, "7,-,18446744073709551615,0");
        assert_eq!(Bounds::from_argument(&text), Some(bounds));
        for bad in ["", "1,2,3", "1,2,3,4,5", "a,-,-,-", "-1,-,-,-"] {
            assert_eq!(Bounds::from_argument(bad), None, "{bad}");
        }
    }
}
