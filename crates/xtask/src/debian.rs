//! Packages of Debian that a command needs, installed where that can be done.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process;

/// A program, and the package that has it.
pub(crate) struct Packaged {
    program: &'static str,
    package: &'static str,
}

/// A program and its package.
pub(crate) const fn packaged(program: &'static str, package: &'static str) -> Packaged {
    Packaged { program, package }
}

/// Installs what is absent, and says what that was not possible for.
///
/// Debian starts a server with its package, on its usual port. A rule keeps it from that while we
/// install, as nobody asked for a server that goes on.
pub(crate) fn ensure(wanted: &[Packaged]) {
    let absent = || wanted.iter().filter(|it| !is_there(it.program));
    let packages: Vec<&str> = absent().map(|it| it.package).collect();
    if packages.is_empty() {
        return;
    }
    if can_install() {
        println!("installing {}", packages.join(" "));
        let rule = NoStart::begin();
        // Lists of packages that are old, or not there at all, are the usual reason to fail.
        let installed = install(&packages).or_else(|_| update().and_then(|()| install(&packages)));
        drop(rule);
        if let Err(error) = installed {
            println!("could not install: {error:#}");
        }
    }
    for Packaged { program, package } in absent() {
        println!("there is no {program} (Debian: apt install {package})");
    }
}

/// Whether a program is in the search path, or where systems keep servers.
pub(crate) fn is_there(program: &str) -> bool {
    find(program).is_some()
}

/// Where it is, if it is there.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let servers = ["/usr/sbin".into(), "/usr/local/sbin".into()];
    let places = std::env::split_paths(&path).chain(servers);
    let mut files = places.map(|place| place.join(program));
    files.find(|file| file.is_file())
}

fn can_install() -> bool {
    let is_root = process::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    is_root && Path::new("/etc/debian_version").is_file() && is_there("apt-get")
}

fn install(packages: &[&str]) -> Result<()> {
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends"]);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    process::run(install.args(packages))
}

fn update() -> Result<()> {
    process::run(Command::new("apt-get").arg("update"))
}

/// Debian's own way to say that no service is to be started, unless it is said already.
struct NoStart(bool);

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoStart {
    fn begin() -> Self {
        if Path::new(POLICY).exists() {
            return Self(false);
        }
        let written = std::fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| make_executable(Path::new(POLICY)));
        Self(written.is_ok())
    }
}

impl Drop for NoStart {
    fn drop(&mut self) {
        if self.0 {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}

#[cfg(unix)]
fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_not() {
        assert!(is_there("sh"));
        assert!(!is_there("no-such-program"));
    }
}
