//! Queues in PostgreSQL: a new cluster with the settings that it comes with, so each commit is synced.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kjob_test_postgres::{Cluster, Settings};

use super::{SCENARIOS, Task, WITH_MANY, in_scenarios, script};
use crate::cases::{Case, Kjob, SMALL};
use crate::generator::Pace;
use crate::kjob::{self, Life, Submit, Tags};
use crate::sample::{Sample, sample_all};

pub(crate) const PG_BOSS: &str = "pg-boss";
pub(crate) const GRAPHILE_WORKER: &str = "graphile-worker";
pub(crate) const NODES: &str = "kjob over PostgreSQL";

/// Lanes, and what looks after them.
const CONNECTIONS: &str = "max_connections=600";

pub(crate) fn pg_boss(installed: &Path) -> Vec<Case> {
    cases(PG_BOSS, installed)
}

pub(crate) fn graphile_worker(installed: &Path) -> Vec<Case> {
    cases(GRAPHILE_WORKER, installed)
}

fn cases(peer: &'static str, installed: &Path) -> Vec<Case> {
    let installed: PathBuf = installed.to_owned();
    in_scenarios(&all(), peer, "", move |home, task, count, pace| {
        measure(peer, &installed, home, task, count, pace)
    })
}

fn measure(
    peer: &str,
    installed: &Path,
    home: &Path,
    task: Task,
    count: usize,
    pace: Pace,
) -> Result<Sample> {
    let mut command = script::node(installed, peer)?;
    let postgres = start(home)?;
    command.arg(postgres.port().to_string());
    script::run(command, task, count, pace)
}

/// Two nodes of kjob-server over a cluster like that of the others.
pub(crate) fn nodes(kjob: &Kjob) -> Vec<Case> {
    let program = kjob.program.clone();
    in_scenarios(
        &all(),
        NODES,
        "two nodes",
        move |home, task, count, pace| {
            let postgres = start(home)?;
            let servers = kjob::start_nodes(&program, home, &postgres.url(), 2)?;
            let payload = kjob::payload(SMALL);
            match task {
                Task::Submits => {
                    let submits = (0..count).map(|_| Submit::new(&payload, Tags::Server));
                    sample_all(&servers, submits.collect::<Result<_>>()?, pace)
                }
                Task::Lives => {
                    let lives = (0..count).map(|_| Life::new(&payload)).collect();
                    sample_all(&servers, lives, pace)
                }
            }
        },
    )
}

/// With some connections as all peers, and with many, as commits of several may go together.
fn all() -> Vec<(&'static str, Task, usize)> {
    SCENARIOS.into_iter().chain(WITH_MANY).collect()
}

fn start(home: &Path) -> Result<Cluster> {
    // The server runs as a user of its own, who has to get through.
    fs::set_permissions(home, fs::Permissions::from_mode(0o711))?;
    Cluster::start(&Settings {
        settings: vec![CONNECTIONS.to_owned()],
        home: Some(home.to_owned()),
        ..Settings::default()
    })
}
