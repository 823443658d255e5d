//! The official clients against the real server.

use std::process::Command;

use anyhow::Result;

use crate::build;
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
    let server = build::server(context.release)?;

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

fn total(counts: Counts) -> u32 {
    counts.passed + counts.failed + counts.ignored
}
