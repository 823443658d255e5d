//! Running other programs, from the root of the workspace.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program, and with which environment it is started.
pub(crate) enum Tool {
    /// The cargo that runs us.
    Cargo,
    /// A program of the nightly toolchain, or one that calls it.
    Nightly(PathBuf),
    /// A program found by its path, or by its name.
    At(PathBuf),
}

impl Tool {
    /// A command without arguments yet.
    pub(crate) fn command(&self) -> Command {
        let mut command = match self {
            Tool::Cargo => {
                Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            }
            Tool::Nightly(program) => {
                let mut command = Command::new("rustup");
                // Ours is the stable cargo; programs that look for the variable would call it.
                command
                    .args(["run", "nightly"])
                    .arg(program)
                    .env_remove("CARGO");
                command
            }
            Tool::At(program) => Command::new(program),
        };
        command.current_dir(root());
        // What cargo told us about this package is nothing to others. Some build scripts ask to be
        // run again when it changes, and would be, each time we and the developer take turns.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_about_this_package) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    let this_package = Path::new(env!("CARGO_MANIFEST_DIR"));
    this_package.ancestors().nth(2).unwrap_or(this_package)
}

/// The variable `PATH` by which programs are looked for in `dir` first.
pub(crate) fn path_with(dir: &Path) -> Result<OsString> {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let places = [dir.to_owned()].into_iter();
    Ok(std::env::join_paths(
        places.chain(std::env::split_paths(&usual)),
    )?)
}

/// Makes a directory that is empty, whatever an earlier run has left there.
pub(crate) fn empty_dir(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| path.display().to_string())?;
    }
    fs::create_dir_all(path).with_context(|| path.display().to_string())
}

/// Runs to the end; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("could not start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs to the end, shows what it prints and lets `watch` see each line of it. Whether it succeeded.
pub(crate) fn run_watched(command: &mut Command, mut watch: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {}", shown(command)))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        watch(text.trim_end());
        line.clear();
    }
    Ok(child.wait()?.success())
}

/// What it prints on stdout; failure is an error that carries what it said on stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("could not start {}", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}: {}",
            shown(command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The command as one would type it, without the path of the program.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn is_about_this_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_watched_and_failure_is_told() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; printf two; exit 3"]);
        assert!(!run_watched(&mut command, |line| lines.push(line.to_owned())).unwrap());
        assert_eq!(lines, ["one", "two"]);
        let error = run(&mut command).unwrap_err().to_string();
        assert!(
            error.starts_with("sh -c ") && error.contains('3'),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = format!(
            "{:#}",
            output(&mut Tool::At("/no/such/program".into()).command()).unwrap_err()
        );
        assert!(error.contains("could not start program"), "{error}");
    }

    #[test]
    fn a_failed_command_brings_its_words() {
        let error = output(Command::new("sh").args(["-c", "echo because >&2; false"])).unwrap_err();
        assert!(error.to_string().ends_with("because"), "{error}");
    }
}
