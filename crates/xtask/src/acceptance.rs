//! The official clients against the real server.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::counts::Counts;
use crate::metadata::Workspace;
use crate::process::{self, Tool};
use crate::steps::{Context, Verdict};
use crate::tools;

/// Where the tests of both clients look for the server.
const SERVER_VARIABLE: &str = "KJOB_SERVER_BIN";

/// Builds the server and runs the tests of both clients.
pub(crate) fn run(context: &Context) -> Result<Verdict> {
    let python = tools::python(&context.workspace)?;
    let server = build_server(context.release)?;

    let mut pytest = Tool::At(python).command();
    pytest
        .current_dir(context.workspace.root.join("acceptance/python"))
        .args(["-m", "pytest"]);
    // The tree stays as it was.
    pytest
        .env(SERVER_VARIABLE, &server)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let mut python = Counts::default();
    let python_ok = process::run_watched(&mut pytest, |line| python.add_pytest_line(line))?;

    let mut test = conformance(&context.workspace, "test");
    test.args(["--test", "official_client", "--no-fail-fast"])
        .env(SERVER_VARIABLE, &server);
    let mut rust = Counts::default();
    let rust_ok = process::run_watched(&mut test, |line| rust.add_cargo_line(line))?;

    let note = format!(
        "Python {} of {}, Rust {} of {}",
        python.passed,
        total(python),
        rust.passed,
        total(rust)
    );
    let mut counts = python;
    counts += rust;
    Ok(Verdict::Ran {
        ok: python_ok && rust_ok,
        counts,
        note,
    })
}

/// A cargo command on the tests of the official Rust client, which are no part of this workspace.
pub(crate) fn conformance(workspace: &Workspace, subcommand: &str) -> Command {
    let mut command = Tool::Cargo.command();
    command
        .args([subcommand, "--locked", "--manifest-path"])
        .arg(workspace.root.join("conformance/Cargo.toml"));
    // Below our target directory, but not in it: the two share no file, and would wait for each
    // other's lock.
    command.env("CARGO_TARGET_DIR", workspace.target.join("conformance"));
    command
}

fn build_server(release: bool) -> Result<PathBuf> {
    // The server as users build it: its default features, and none that other members ask for.
    let mut build = Tool::Cargo.command();
    build.args(["build", "--package", "kjob-server", "--bin", "kjob-server"]);
    build.arg("--message-format=json-render-diagnostics");
    if release {
        build.arg("--release");
    }
    // Not `output`, which would hold back what the compiler has to say.
    build.stderr(std::process::Stdio::inherit());
    let messages = process::output(&mut build)?;
    executable(&messages).context("cargo built no kjob-server")
}

/// The path in the message about the program, among cargo's messages, one a line.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == "kjob-server");
    programs.find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

fn total(counts: Counts) -> u32 {
    counts.passed + counts.failed + counts.ignored
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
        assert_eq!(executable(messages), Some("/t/debug/kjob-server".into()));
        assert_eq!(executable("not json\n"), None);
    }
}
