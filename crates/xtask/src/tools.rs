//! What the commands need beyond cargo: installed below the target directory, and only if absent.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kjob_test_postgres::{Cluster, Settings};

use crate::debian::{self, packaged};
use crate::fuzz;
use crate::metadata::Workspace;
use crate::process::{self, Tool};

/// Reads deny.toml.
pub(crate) const CARGO_DENY: CargoTool = CargoTool::new("cargo-deny", "0.20.2");
/// Makes Debian packages.
pub(crate) const CARGO_DEB: CargoTool = CargoTool::new("cargo-deb", "3.8.0");
/// Builds the fuzz targets.
pub(crate) const CARGO_FUZZ: CargoTool = CargoTool::new("cargo-fuzz", "0.13.2");
/// Holds the API of one version against that of another.
pub(crate) const CARGO_SEMVER_CHECKS: CargoTool = CargoTool::new("cargo-semver-checks", "0.51.0");
/// Tells of what crates a program is made.
pub(crate) const CARGO_CYCLONEDX: CargoTool = CargoTool {
    asked: &["cyclonedx", "--version"],
    ..CargoTool::new("cargo-cyclonedx", "0.5.9")
};

/// Makes pages for browsers of `docs`.
pub(crate) const MDBOOK: CargoTool = CargoTool::new("mdbook", "0.5.4");

/// What the official Python client is released for.
const PYTHON_MINOR: std::ops::RangeInclusive<u32> = 10..=14;
const PYTHON_MISSING: &str = "the official Python client needs Python 3.10 to 3.14 with its venv module as `python3` \
     (Debian: apt install python3 python3-venv)";

/// A program from crates.io, at one version.
pub(crate) struct CargoTool {
    name: &'static str,
    version: &'static str,
    /// What it is given to tell its version.
    asked: &'static [&'static str],
}

impl CargoTool {
    const fn new(name: &'static str, version: &'static str) -> Self {
        let asked = &["--version"];
        Self {
            name,
            version,
            asked,
        }
    }

    /// The path of the program, which is installed first if it is absent or of another version.
    pub(crate) fn ensure(&self, workspace: &Workspace) -> Result<PathBuf> {
        let Self { name, version, .. } = self;
        let home = workspace.target.join("tools");
        let program = home.join("bin").join(name);
        if self.is_current(&program) {
            return Ok(program);
        }
        println!("installing {name} {version}");
        let mut install = Tool::Cargo.command();
        // Unoptimized without debug info: a minute to build where a release build takes several,
        // and neither program is slow.
        install
            .args([
                "install",
                "--locked",
                "--debug",
                "--version",
                version,
                "--root",
            ])
            .arg(&home)
            .arg(name);
        install.env("CARGO_PROFILE_DEV_DEBUG", "0");
        process::run(&mut install).with_context(|| format!("{name} could not be installed"))?;
        Ok(program)
    }

    fn is_current(&self, program: &Path) -> bool {
        let said = process::output(Tool::At(program.to_owned()).command().args(self.asked));
        // Some put a v before the number.
        let number = |said: &str| {
            said.split_whitespace()
                .nth(1)
                .map(|word| word.trim_start_matches('v').to_owned())
        };
        said.is_ok_and(|said| number(&said).as_deref() == Some(self.version))
    }
}

/// Programs in Python, in an environment of their own.
pub(crate) struct PythonTools {
    /// What they are, for people.
    name: &'static str,
    /// Below the workspace: what is installed, each package at one version.
    requirements: &'static str,
    /// Below the target directory.
    home: &'static str,
}

/// The official client, and what its tests need.
pub(crate) const OFFICIAL_CLIENT: PythonTools = PythonTools {
    name: "the official Python client",
    requirements: "acceptance/python/requirements.txt",
    home: "acceptance-venv",
};

/// What holds a server against its OpenAPI document. The packages below it are none of the client's
/// concern, so the two are kept apart.
pub(crate) const SCHEMATHESIS: PythonTools = PythonTools {
    name: "schemathesis",
    requirements: "acceptance/openapi/requirements.txt",
    home: "schemathesis-venv",
};

/// What drives the browser in which the console is tested.
pub(crate) const PLAYWRIGHT: PythonTools = PythonTools {
    name: "Playwright",
    requirements: "acceptance/console/requirements.txt",
    home: "console-venv",
};

/// A peer of the benchmark.
pub(crate) const RQ: PythonTools = PythonTools {
    name: "RQ",
    requirements: "benches/peers/rq/requirements.txt",
    home: "bench-peers/rq",
};

impl PythonTools {
    /// The path of a program of theirs. All are installed first if anything of them is absent.
    pub(crate) fn ensure(&self, workspace: &Workspace, program: &str) -> Result<PathBuf> {
        let requirements = workspace.root.join(self.requirements);
        let home = workspace.target.join(self.home);
        let bin = home.join("bin");
        // A copy of what was installed is written last: without it, the environment is not complete.
        let installed = home.join("requirements.txt");
        let wanted = std::fs::read_to_string(&requirements)
            .with_context(|| requirements.display().to_string())?;
        if std::fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
            return Ok(bin.join(program));
        }
        println!("installing {}", self.name);
        check_python()?;
        process::run(
            Tool::At("python3".into())
                .command()
                .args(["-m", "venv", "--clear"])
                .arg(&home),
        )?;
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ];
        process::run(
            Tool::At(bin.join("python"))
                .command()
                .args(pip)
                .arg(&requirements),
        )?;
        std::fs::write(&installed, wanted).with_context(|| installed.display().to_string())?;
        Ok(bin.join(program))
    }
}

/// Why there is no valgrind on this machine, if so. It is installed where that can be done.
pub(crate) fn missing_valgrind() -> Option<String> {
    debian::ensure(&[packaged("valgrind", "valgrind")]);
    (!debian::is_there("valgrind"))
        .then(|| "there is no valgrind (Debian: apt install valgrind)".to_owned())
}

/// A server for the tests of the store in PostgreSQL, which is installed where that can be done. It ends when
/// this is dropped.
pub(crate) fn postgres() -> Result<Cluster> {
    install_postgres();
    Cluster::start(&Settings::for_tests())
        .context("tests of the store need PostgreSQL (Debian: apt install postgresql)")
}

/// Installs what nodes are put to the trial with: PostgreSQL, and that which makes processes take the time for
/// another.
pub(crate) fn for_nodes() {
    install_postgres();
    debian::ensure(&[packaged("faketime", "faketime")]);
}

fn install_postgres() {
    if !kjob_test_postgres::is_installed() {
        debian::ensure(&[packaged("pg_ctlcluster", "postgresql")]);
    }
}

/// `cargo xtask setup`.
pub(crate) fn install_all(workspace: &Workspace) -> Result<()> {
    OFFICIAL_CLIENT.ensure(workspace, "python")?;
    SCHEMATHESIS.ensure(workspace, "schemathesis")?;
    PLAYWRIGHT.ensure(workspace, "python")?;
    CARGO_DENY.ensure(workspace)?;
    CARGO_DEB.ensure(workspace)?;
    match fuzz::missing() {
        Some(reason) => println!("cargo-fuzz is not installed: {reason}"),
        None => {
            CARGO_FUZZ.ensure(workspace)?;
        }
    }
    if let Some(reason) = missing_valgrind() {
        println!("instructions are not counted: {reason}");
    }
    if let Err(error) = postgres() {
        println!("the store in PostgreSQL cannot be tested: {error:#}");
    }
    println!("all is in {}", workspace.target.display());
    Ok(())
}

fn check_python() -> Result<()> {
    // ensurepip is what Debian leaves out of python3 without python3-venv.
    let script = "import sys, venv, ensurepip; print(*sys.version_info[:2])";
    let version = process::output(Tool::At("python3".into()).command().args(["-c", script]))
        .context(PYTHON_MISSING)?;
    if !is_supported(version.trim()) {
        bail!(
            "python3 is {}: {PYTHON_MISSING}",
            version.trim().replace(' ', ".")
        );
    }
    Ok(())
}

/// `version` is the major and the minor number with a space between.
fn is_supported(version: &str) -> bool {
    let minor = version
        .strip_prefix("3 ")
        .and_then(|minor| minor.parse().ok());
    minor.is_some_and(|minor| PYTHON_MINOR.contains(&minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_pythons() {
        assert!(is_supported("3 10") && is_supported("3 14"));
        for version in ["3 9", "3 15", "2 11", "3", ""] {
            assert!(!is_supported(version), "{version}");
        }
    }

    #[test]
    fn an_absent_tool_is_not_current() {
        assert!(!CARGO_DENY.is_current(Path::new("/no/such/program")));
    }
}
