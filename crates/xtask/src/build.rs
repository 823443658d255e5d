//! Building programs of this workspace that other steps run.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::metadata::Workspace;
use crate::process::{self, Tool};

/// Builds `kjob-server`; with optimisations as users do, with its default features and none that other
/// members ask for.
pub(crate) fn server(release: bool) -> Result<PathBuf> {
    tested(&["--package", "kjob-server"], "kjob-server", release)
}

/// Builds `kjob`; with optimisations as users do.
pub(crate) fn cli(release: bool) -> Result<PathBuf> {
    tested(
        &["--package", "kjob-client", "--features", "cli"],
        "kjob",
        release,
    )
}

/// Builds the server and `kjob`: the directory that both are in.
pub(crate) fn both_programs(release: bool) -> Result<PathBuf> {
    let server = server(release)?;
    cli(release)?;
    let directory = server.parent().context("a program is in a directory")?;
    Ok(directory.to_owned())
}

/// Builds an example, as tests build it.
pub(crate) fn example(name: &str) -> Result<PathBuf> {
    let mut build = Tool::Cargo.command();
    build.args(WHOLE);
    build.args(["--message-format=json-render-diagnostics"]);
    build.stderr(Stdio::inherit());
    let messages = process::output(&mut build)?;
    executable(&messages, name).with_context(|| format!("cargo built no {name}"))
}

/// Builds with the features that all has in the tests (those of dev-dependencies count only where examples or
/// tests are built), so that it is there already.
const WHOLE: [&str; 4] = ["build", "--workspace", "--all-features", "--examples"];

/// Builds a program of `kjob-trials`.
pub(crate) fn trial(name: &str, release: bool) -> Result<PathBuf> {
    tested(&["--package", "kjob-trials"], name, release)
}

/// Builds a program for the steps that run it; of this package with optimisations.
fn tested(package: &[&str], name: &str, release: bool) -> Result<PathBuf> {
    let mut build = Tool::Cargo.command();
    if release {
        build.arg("build").args(package);
    } else {
        build.args(WHOLE);
    }
    program(build, name, release)
}

/// Builds a program of `kjob-benches`, with optimisations and with the names of its functions.
pub(crate) fn counted(name: &str) -> Result<PathBuf> {
    let mut build = Tool::Cargo.command();
    build.args(["build", "--package", "kjob-benches"]);
    // Released programs have none.
    build.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    program(build, name, true)
}

/// Builds the load of the benchmark; optimised, as it is measured with.
pub(crate) fn load() -> Result<PathBuf> {
    let mut build = Tool::Cargo.command();
    build.args(["build", "--package", "kjob-load"]);
    program(build, "kjob-load", true)
}

/// A cargo command on a package that is no part of this workspace, with its own lock file.
pub(crate) fn outside(workspace: &Workspace, package: &str, subcommand: &str) -> Command {
    let mut command = Tool::Cargo.command();
    command
        .args([subcommand, "--locked", "--manifest-path"])
        .arg(workspace.root.join(package).join("Cargo.toml"));
    // Below our target directory, but not in it: the two share no file, and would wait for each
    // other's lock.
    command.env("CARGO_TARGET_DIR", workspace.target.join(package));
    command
}

/// Builds a program: where it is.
fn program(mut build: Command, name: &str, release: bool) -> Result<PathBuf> {
    build.args(["--bin", name]);
    build.arg("--message-format=json-render-diagnostics");
    if release {
        build.arg("--release");
    }
    // Not `output`, which would hold back what the compiler has to say.
    build.stderr(Stdio::inherit());
    let messages = process::output(&mut build)?;
    executable(&messages, name).with_context(|| format!("cargo built no {name}"))
}

/// The path in the message about the program, among cargo's messages, one a line.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == name);
    programs.find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"kjob_server"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"kjob-server"},"executable":"/t/debug/kjob-server"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(
            executable(messages, "kjob-server"),
            Some("/t/debug/kjob-server".into())
        );
        assert_eq!(executable("not json\n", "kjob-server"), None);
    }
}
