//! One node of a campaign, and what happens to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use super::faults::NodeFault;
use super::proxy::{Proxy, Way};
use crate::checker::Standstill;
use crate::journal::{self, Journal};
use crate::lines::now;
use crate::server::{Running, Servers, Skew};

/// How long a node has to end after SIGTERM, also while its database is away.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a node is started again and again that does not get ready, as its database is away.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// Hosts that are wrong are so by so many seconds.
const SKEWS: [i64; 6] = [-7_200, -90, -7, 7, 90, 7_200];

/// What became of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Book {
    processes: usize,
    pub(crate) journals: BTreeMap<usize, Journal>,
    pub(crate) standstills: Vec<Standstill>,
    pub(crate) faults: BTreeMap<NodeFault, u64>,
    /// Processes that took the time for another.
    pub(crate) skewed: u64,
    /// Processes that ended before they were ready, as there was no database.
    pub(crate) refused: u64,
}

/// A node: one process after the other at one address.
pub(crate) struct Member {
    pub(crate) servers: Servers,
    /// To each server of each database.
    pub(crate) ways: Vec<Arc<[Proxy; 2]>>,
    pub(crate) rng: StdRng,
    /// The library that makes processes take the time for another, where it is there.
    pub(crate) skew: Option<PathBuf>,
    pub(crate) book: Arc<Mutex<Book>>,
}

/// A process, by the number of its journal.
pub(crate) struct Life {
    process: usize,
    server: Running,
}

impl Member {
    /// Lives on until it is over, and gives the process that is left, which is as it should be.
    pub(crate) async fn live(&mut self, over: &CancellationToken) -> Result<Life> {
        let mut last_ready = Instant::now();
        loop {
            let mut life = self.start()?;
            let mut fault = NodeFault::draw(&mut self.rng);
            if fault == NodeFault::KilledAtBirth && !over.is_cancelled() {
                tokio::time::sleep(fault.duration(&mut self.rng)).await;
                // It may have ended by itself, without a database.
                let ended = life.server.ends_within(Duration::ZERO).await?;
                match ended {
                    None => life.server.kill_now().await?,
                    Some(_) => self.book().refused += 1,
                }
                self.note(&life, fault)?;
                continue;
            }
            if !self.is_ready(&mut life).await? {
                if last_ready.elapsed() > START_TIMEOUT {
                    bail!("a node does not get ready; {}", self.where_to_look());
                }
                continue;
            }
            loop {
                if over.is_cancelled() {
                    return Ok(life);
                }
                let work = Duration::from_millis(self.rng.random_range(100..2_500));
                tokio::time::sleep(work).await;
                if self.meets(&mut life, fault).await? {
                    self.note(&life, fault)?;
                    last_ready = Instant::now();
                    break;
                }
                self.count(fault);
                fault = NodeFault::draw(&mut self.rng);
            }
        }
    }

    /// Has a process drain, which is the last one.
    pub(crate) async fn end(&mut self, mut life: Life) -> Result<()> {
        self.drain(&mut life).await?;
        self.keep_journal(&life, true)
    }

    fn start(&mut self) -> Result<Life> {
        let process = {
            let mut book = self.book();
            book.processes += 1;
            book.processes - 1
        };
        let seconds = SKEWS[self.rng.random_range(0..SKEWS.len())];
        let is_wrong = self.rng.random_bool(0.4);
        let library = self.skew.clone().filter(|_| is_wrong);
        let skew = library.map(|library| Skew { library, seconds });
        if skew.is_some() {
            self.book().skewed += 1;
        }
        let server = self.servers.start_with(process, skew.as_ref())?;
        Ok(Life { process, server })
    }

    /// Waits until a process takes calls; not if it ends before, as it does without a database.
    async fn is_ready(&mut self, life: &mut Life) -> Result<bool> {
        match life.server.ready().await {
            Ok(_) => Ok(true),
            Err(_) if life.server.ends_within(Duration::ZERO).await?.is_some() => {
                self.book().refused += 1;
                self.keep_journal(life, false)?;
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(false)
            }
            Err(error) => Err(error).with_context(|| self.where_to_look()),
        }
    }

    /// Lets this happen; whether the process has ended by it.
    async fn meets(&mut self, life: &mut Life, fault: NodeFault) -> Result<bool> {
        let duration = fault.duration(&mut self.rng);
        if let Some(status) = life.server.ends_within(Duration::ZERO).await? {
            bail!(
                "a node ended by itself ({status}); {}",
                self.where_to_look()
            );
        }
        match fault {
            NodeFault::KilledAtBirth | NodeFault::KilledAtWork => {
                self.kill(life).await?;
                return Ok(true);
            }
            NodeFault::KilledInDrain => {
                life.server.terminate().await?;
                if life.server.ends_within(duration).await?.is_none() {
                    self.kill(life).await?;
                }
                return Ok(true);
            }
            NodeFault::Drained => {
                self.drain(life).await?;
                return Ok(true);
            }
            NodeFault::StoodStill | NodeFault::StoodStillTooLong => {
                let from = now();
                life.server.signal("STOP").await?;
                tokio::time::sleep(duration).await;
                life.server.signal("CONT").await?;
                self.book().standstills.push(Standstill {
                    process: life.process,
                    from,
                    until: now(),
                });
            }
            NodeFault::Cut => self.way(Way::Cut, duration).await,
            NodeFault::BlockedTooLong => self.way(Way::Blocked, duration).await,
            NodeFault::Slowed => {
                let by = Duration::from_millis(self.rng.random_range(2..60));
                self.way(Way::Slow(by), duration).await;
            }
        }
        Ok(false)
    }

    /// Has the ways to one database, or to all of them, be so for a while.
    async fn way(&mut self, way: Way, duration: Duration) {
        let all = self.ways.len();
        let troubled = match self.rng.random_bool(0.5) {
            true => 0..all,
            false => {
                let one = self.rng.random_range(0..all);
                one..one + 1
            }
        };
        let set = |way| {
            let ways = self.ways.get(troubled.clone()).into_iter().flatten();
            ways.flat_map(|ways| ways.iter())
                .for_each(|it| it.set_way(way));
        };
        set(way);
        tokio::time::sleep(duration).await;
        set(Way::Open);
    }

    async fn kill(&self, life: &mut Life) -> Result<()> {
        let killed = life.server.kill_now().await;
        killed.with_context(|| self.where_to_look())
    }

    async fn drain(&self, life: &mut Life) -> Result<()> {
        life.server.terminate().await?;
        if life.server.ends_within(END_TIMEOUT).await?.is_none() {
            bail!("a node does not end; {}", self.where_to_look());
        }
        Ok(())
    }

    fn note(&mut self, life: &Life, fault: NodeFault) -> Result<()> {
        self.count(fault);
        self.keep_journal(life, fault == NodeFault::Drained)
    }

    fn count(&mut self, fault: NodeFault) {
        *self.book().faults.entry(fault).or_default() += 1;
    }

    /// Takes in what a process left behind.
    fn keep_journal(&mut self, life: &Life, drained: bool) -> Result<()> {
        let file = &life.server.journal;
        // A process that was killed early enough has made none.
        let entries = match file.exists() {
            true => journal::read(file)?,
            false => Vec::new(),
        };
        let journal = Journal {
            began: life.server.began,
            drained,
            entries,
        };
        self.book().journals.insert(life.process, journal);
        if life.server.marks.exists() {
            std::fs::remove_file(&life.server.marks)?;
        }
        Ok(())
    }

    fn where_to_look(&self) -> String {
        format!("its log is {}", self.servers.log().display())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
