//! Redis, under queues that are libraries. What they keep is as durable as it is told to be.

use std::path::Path;

use anyhow::Result;

use crate::process::{Server, free_address, listening, program};

/// Each command is on disk before its answer.
pub(super) const SYNCED: &str = "appendfsync always";

pub(super) fn start(home: &Path, synced: bool) -> Result<Server> {
    let address = free_address()?;
    let mut command = program("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--save", ""])
        .args(["--port", &address.port().to_string(), "--dir"])
        .arg(home);
    if synced {
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
    }
    listening(command, home, address)
}
