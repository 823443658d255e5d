//! BullMQ on Redis, with a client and a worker on Node.

use std::path::Path;

use anyhow::Result;

use super::{Task, in_both_modes, redis, script};
use crate::cases::Case;
use crate::generator::Pace;
use crate::sample::Sample;

pub(crate) const NAME: &str = "bullmq";

pub(crate) fn cases(installed: &Path) -> Vec<Case> {
    let installed = installed.to_owned();
    in_both_modes(
        NAME,
        redis::SYNCED,
        move |data, synced, task, count, pace| measure(&installed, data, synced, task, count, pace),
    )
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
    let redis = redis::start(home, synced)?;
    command.arg(redis.address.port().to_string());
    script::run(command, task, count, pace)
}
