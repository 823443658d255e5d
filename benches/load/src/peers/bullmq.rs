//! BullMQ on Redis, with a client and a worker on Node.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{IN_MEMORY, Task, in_all_scenarios, redis, script};
use crate::cases::Case;
use crate::generator::Pace;
use crate::sample::Sample;

pub(crate) const NAME: &str = "bullmq";

pub(crate) fn cases(installed: &Path) -> Vec<Case> {
    let case = |mode, synced| {
        let installed: PathBuf = installed.to_owned();
        in_all_scenarios(NAME, mode, move |home, task, count, pace| {
            measure(&installed, home, synced, task, count, pace)
        })
    };
    let mut cases = case(redis::SYNCED, true);
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
    let redis = redis::start(home, synced)?;
    command.arg(redis.address.port().to_string());
    script::run(command, task, count, pace)
}
