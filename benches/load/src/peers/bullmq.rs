//! BullMQ on Redis. What it keeps is as durable as Redis is told to be.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{IN_MEMORY, Task, in_all_scenarios, script};
use crate::cases::Case;
use crate::generator::Pace;
use crate::process::{Server, free_address, listening, program};
use crate::sample::Sample;

pub(crate) const NAME: &str = "bullmq";

pub(crate) fn cases(installed: &Path) -> Vec<Case> {
    let case = |mode, synced| {
        let installed: PathBuf = installed.to_owned();
        in_all_scenarios(NAME, mode, move |home, task, count, pace| {
            measure(&installed, home, synced, task, count, pace)
        })
    };
    let mut cases = case("appendfsync always", true);
    cases.extend(case(IN_MEMORY, false));
    cases
}

fn measure(
    installed: &Path,
    home: &Path,
    synced: bool,
    task: Task,
    count: usize,
    pace: Pace,
) -> Result<Sample> {
    let mut command = script::node(installed, NAME)?;
    let redis = start(home, synced)?;
    command.arg(redis.address.port().to_string());
    script::run(command, task, count, pace)
}

fn start(home: &Path, synced: bool) -> Result<Server> {
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
