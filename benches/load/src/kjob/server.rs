//! The server as a process, with an embedded store of its own, or as several over one database.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{Server, announced};

/// Nothing is refused for want of room while a load lasts.
const QUEUED_MAX: &str = "100000000";

/// Jobs that a node runs at once: as many as are in flight at most, as peers are set up too.
const WORKERS: &str = "256";

/// Starts it on an empty directory or, with jobs in it, on those.
///
/// # Errors
/// It does not get ready.
pub(crate) fn start(program: &Path, home: &Path) -> Result<Server> {
    let mut command = command(program);
    command.arg("--data-dir").arg(home.join("data"));
    announced(listening(command), home)
}

/// Starts so many nodes on a database without tables, each with a log of its own below `home`.
///
/// # Errors
/// The tables cannot be made, or a node does not get ready.
pub(crate) fn start_nodes(
    program: &Path,
    home: &Path,
    database: &str,
    count: u8,
) -> Result<Vec<Server>> {
    let mut migrate = command(program);
    migrate.args(["migrate", "--store", database]);
    let said = migrate.output().context("kjob-server migrate")?;
    if !said.status.success() {
        bail!("{}", String::from_utf8_lossy(&said.stderr));
    }
    let node = |number| {
        let home = home.join(format!("node-{number}"));
        std::fs::create_dir(&home)?;
        let mut command = command(program);
        command.args(["--store", database, "--workers", WORKERS]);
        announced(listening(command), &home)
    };
    (1..=count).map(node).collect()
}

/// The program, with no settings but those that it is given here.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KJOB_") {
            command.env_remove(name);
        }
    }
    command
}

fn listening(mut command: Command) -> Command {
    command
        .args(["--listen", "127.0.0.1:0", "--log", "warn"])
        .args(["--max-queued", QUEUED_MAX]);
    command
}
