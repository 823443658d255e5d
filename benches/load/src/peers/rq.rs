//! RQ on Redis, with a client and workers in Python.

use std::path::Path;

use anyhow::{Result, bail};

use super::{Task, in_both_modes, redis, script};
use crate::cases::Case;
use crate::generator::Pace;
use crate::process::program;
use crate::sample::Sample;

pub(crate) const NAME: &str = "rq";

pub(crate) fn cases(installed: &Path) -> Vec<Case> {
    let home = installed.join(NAME);
    in_both_modes(
        NAME,
        redis::SYNCED,
        move |data, synced, task, count, pace| measure(&home, data, synced, task, count, pace),
    )
}

fn measure(
    home: &Path,
    data: &Path,
    synced: bool,
    task: Task,
    count: usize,
    pace: Pace,
) -> Result<Sample> {
    let python = home.join("bin/python");
    if !python.is_file() {
        bail!("its packages are not installed");
    }
    let redis = redis::start(data, synced)?;
    let mut command = program(&python.to_string_lossy());
    command.current_dir(home.join("scripts")).arg("bench.py");
    command.arg(redis.address.port().to_string());
    script::run(command, task, count, pace)
}
