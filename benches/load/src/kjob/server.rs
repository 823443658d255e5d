//! The server as a process, with an embedded store of its own.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::{Server, announced};

/// Nothing is refused for want of room while a load lasts.
const QUEUED_MAX: &str = "100000000";

/// Starts it on an empty directory or, with jobs in it, on those.
///
/// # Errors
/// It does not get ready.
pub(crate) fn start(program: &Path, home: &Path) -> Result<Server> {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KJOB_") {
            command.env_remove(name);
        }
    }
    command
        .args(["--listen", "127.0.0.1:0", "--log", "warn"])
        .args(["--max-queued", QUEUED_MAX])
        .arg("--data-dir")
        .arg(home.join("data"));
    announced(command, home)
}
