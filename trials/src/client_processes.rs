//! The processes of the clients of a campaign.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::process::{Child, Command};
use tokio_util::task::AbortOnDropHandle;

use crate::history::{self, Event};
use crate::plan::Endpoints;
use crate::server::signal;

/// Clients in each process.
const CLIENTS: u32 = 12;

/// How long clients have to get their last answers: the longest wait between two tries, and more.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(60);

/// What clients ask, and whom.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The program of the clients.
    pub program: &'a Path,
    /// How many processes.
    pub processes: u32,
    /// The servers, with commas between.
    pub urls: &'a str,
    /// Where ends are told.
    pub receiver: &'a str,
    /// What clients may call.
    pub endpoints: Endpoints,
}

/// The processes of the clients; killed when dropped.
#[derive(Debug)]
pub struct ClientProcesses(Vec<Child>);

impl ClientProcesses {
    /// Starts them, with histories in this directory.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn start(setup: &Setup<'_>, dir: &Path, seed: u64) -> Result<Self> {
        let mut processes = Vec::new();
        for process in 0..setup.processes {
            let mut command = Command::new(setup.program);
            command.arg("clients").args(["--url", setup.urls]);
            command.args(["--receiver", setup.receiver]);
            command.args(["--seed", &seed.to_string()]);
            command.args(["--first", &(process * CLIENTS).to_string()]);
            command.args(["--clients", &CLIENTS.to_string()]);
            if setup.endpoints == Endpoints::Demo {
                command.arg("--demo");
            }
            command.arg("--history").arg(history_file(dir, process));
            command.stdin(Stdio::piped()).kill_on_drop(true);
            processes.push(command.spawn().context("cannot start clients")?);
        }
        Ok(Self(processes))
    }

    /// Stops one after another for a while, until it is dropped.
    ///
    /// # Errors
    /// They have ended.
    pub fn pausing(&self, seed: u64) -> Result<Pausing> {
        let count = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(pause(self.ids()?, seed, count.clone()));
        Ok(Pausing {
            count,
            task: AbortOnDropHandle::new(task),
        })
    }

    fn ids(&self) -> Result<Vec<u32>> {
        let ids = self
            .0
            .iter()
            .map(|child| child.id().context("clients ended by themselves"));
        ids.collect()
    }

    /// Lets each client have its last answer, and gives what all of them wrote down.
    ///
    /// # Errors
    /// They do not end, or wrote nothing.
    pub async fn end(mut self, dir: &Path) -> Result<Vec<Event>> {
        for child in &mut self.0 {
            if let Some(id) = child.id() {
                signal(id, "CONT").await?;
            }
            drop(child.stdin.take());
        }
        for child in &mut self.0 {
            let end = tokio::time::timeout(LAST_ANSWERS_TIMEOUT, child.wait());
            let status = end.await.context("clients do not end")??;
            if !status.success() {
                bail!("clients ended with {status}");
            }
        }
        let mut events = Vec::new();
        for process in 0..self.0.len() {
            let process = u32::try_from(process)?;
            events.extend(history::read(&history_file(dir, process))?);
        }
        Ok(events)
    }
}

/// Stops processes of clients until it is dropped.
#[derive(Debug)]
pub struct Pausing {
    count: Arc<AtomicU64>,
    task: AbortOnDropHandle<Result<()>>,
}

impl Pausing {
    /// Stops none any more; how often one was stopped.
    ///
    /// # Errors
    /// One could not be stopped.
    pub async fn end(self) -> Result<u64> {
        self.task.abort();
        // Aborted, or at an error of its own, which is the campaign's.
        if let Ok(Err(error)) = self.task.await {
            return Err(error);
        }
        Ok(self.count.load(Ordering::Relaxed))
    }
}

fn history_file(dir: &Path, process: u32) -> PathBuf {
    dir.join(format!("history-{process}"))
}

/// Stops one process of clients after another for a while.
async fn pause(processes: Vec<u32>, seed: u64, pauses: Arc<AtomicU64>) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        let work = rng.random_range(500..4_000);
        tokio::time::sleep(Duration::from_millis(work)).await;
        let Some(process) = processes.get(rng.random_range(0..processes.len())) else {
            return Ok(());
        };
        signal(*process, "STOP").await?;
        pauses.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..1_500))).await;
        signal(*process, "CONT").await?;
    }
}
