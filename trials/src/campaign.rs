//! A campaign: clients at work while a server lives many lives on one directory, and a check of
//! all that came of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::asker::Asker;
use crate::audit::audit;
use crate::checker::{Findings, Trial, check, owed_tellings};
use crate::client_processes::{ClientProcesses, Setup};
use crate::fate::{Fate, Fault};
use crate::history::{self, Event, Micros, Recorder};
use crate::journal::{self, Journal};
use crate::lines::now;
use crate::marks::{self, Step};
use crate::plan::Endpoints;
use crate::receiver::{self, Receiver};
use crate::server::{Running, Segments, Servers, StoreOf, free_port, segments};

/// Processes of clients.
const CLIENT_PROCESSES: u32 = 2;

/// The number of the client that looks at everything in the end.
const AUDITOR: u32 = 9_999;

/// How long a step is watched for, before the server is killed in whatever it does.
const WATCH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server has to end after SIGTERM. It takes a second; busy machines take longer.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// How long ends have to be told at last: longer than the server waits between two tries, and again.
const TELLINGS_TIMEOUT: Duration = Duration::from_secs(60);

/// Who plays in a campaign.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The program of the server.
    pub server: PathBuf,
    /// The program of the clients.
    pub clients: PathBuf,
    /// What clients may call.
    pub endpoints: Endpoints,
    /// Where to look for a free port. Below those that systems give to clients (from 32,768 on), so
    /// that no client takes it while a server is being started again.
    pub ports: Range<u16>,
}

/// How long a campaign goes on: until one of these is reached.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// The end of the last life.
    pub until: Instant,
    /// So many kills.
    pub kills: u64,
}

/// What came of a campaign.
#[derive(Debug)]
pub struct Outcome {
    /// What the checker found.
    pub findings: Findings,
    /// Each life of the server but the last.
    pub lives: Vec<Life>,
    /// How often a process of clients was stopped for a while.
    pub pauses: u64,
    /// What became of the store's segments.
    pub segments: Segments,
    /// When each job was first acknowledged.
    pub acknowledged: BTreeMap<i64, Micros>,
}

/// One life of a server.
#[derive(Clone, Debug)]
pub struct Life {
    /// How it ended.
    pub fault: Fault,
    /// From when until when.
    pub began: Micros,
    /// See there.
    pub ended: Micros,
    /// How many steps its store was in at the end. Empty without marks.
    pub under_way: BTreeMap<Step, u64>,
}

/// Runs a campaign in a directory of its own.
///
/// # Errors
/// What keeps it from being run or checked. A server that does not start, or ends by itself, is
/// such an error.
pub async fn run(cast: &Cast, dir: &Path, seed: u64, length: Length) -> Result<Outcome> {
    let mut rng = StdRng::seed_from_u64(seed);
    let tellings = dir.join("tellings");
    let receiver = Receiver::start(&tellings, rng.random()).await?;
    let servers = Servers {
        program: cast.server.clone(),
        dir: dir.to_owned(),
        name: String::new(),
        host: Ipv4Addr::LOCALHOST,
        port: free_port(|| rng.random_range(cast.ports.clone()))?,
        store: StoreOf::Directory,
        receiver: receiver.host(),
        is_journalled: cast.endpoints == Endpoints::Journalled,
    };
    write_secret(&servers.secret())?;
    let setup = Setup {
        program: &cast.clients,
        processes: CLIENT_PROCESSES,
        urls: &servers.url(),
        receiver: &receiver.url(),
        endpoints: cast.endpoints,
    };
    let clients = ClientProcesses::start(&setup, dir, seed)?;
    let pausing = clients.pausing(rng.random())?;
    let mut killer = Killer {
        servers: &servers,
        rng,
        getting_ready: Duration::from_millis(100),
        journals: Vec::new(),
        lives: Vec::new(),
    };
    while Instant::now() < length.until && killer.kills() < length.kills {
        killer.one_life().await?;
    }
    let mut last = servers.start(killer.lives.len())?;
    last.ready().await?;
    let pauses = pausing.end().await?;
    let events = clients.end(dir).await?;
    let mut trial = look_at_all(&servers.url(), dir, events, &receiver).await?;
    let segments = segments(dir)?;
    killer.drain(last).await?;

    let acknowledged = acknowledged(&trial.events);
    trial.journals = servers.is_journalled.then_some(killer.journals);
    trial.tellings = receiver::read(&tellings)?;
    let lives = killer.lives;
    // Some hundred thousand events: other campaigns go on meanwhile.
    let findings = tokio::task::spawn_blocking(move || check(&trial)).await?;
    Ok(Outcome {
        findings,
        lives,
        pauses,
        segments,
        acknowledged,
    })
}

/// Has an auditor look at everything that clients asked for, and waits until all ends are told that are to be.
pub(crate) async fn look_at_all(
    urls: &str,
    dir: &Path,
    mut events: Vec<Event>,
    receiver: &Receiver,
) -> Result<Trial> {
    let path = dir.join("history-audit");
    let recorder = Arc::new(Recorder::open(&path)?);
    audit(&Asker::patient(urls, AUDITOR, &recorder)?, &events).await?;
    events.extend(history::read(&path)?);
    let trial = Trial {
        events,
        ..Trial::default()
    };
    let owed = owed_tellings(&trial);
    let begin = Instant::now();
    while !receiver.has_taken(&owed) && begin.elapsed() < TELLINGS_TIMEOUT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(trial)
}

pub(crate) fn acknowledged(events: &[Event]) -> BTreeMap<i64, Micros> {
    use crate::history::{Answer, What};
    let mut first = BTreeMap::new();
    for event in events {
        if let What::Submit {
            answer: Answer::Told(accepted),
            ..
        } = &event.what
        {
            let at = first.entry(accepted.id).or_insert(event.answered);
            *at = event.answered.min(*at);
        }
    }
    first
}

/// A secret is to be its owner's alone.
pub(crate) fn write_secret(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    std::io::Write::write_all(&mut file, receiver::SECRET.as_bytes())?;
    Ok(())
}

/// Starts servers and ends them.
struct Killer<'a> {
    servers: &'a Servers,
    rng: StdRng,
    /// How long the last one took to get ready.
    getting_ready: Duration,
    journals: Vec<Journal>,
    lives: Vec<Life>,
}

impl Killer<'_> {
    fn kills(&self) -> u64 {
        self.lives
            .iter()
            .filter(|life| life.fault.is_kill())
            .count() as u64
    }

    async fn one_life(&mut self) -> Result<()> {
        let has_marks = self.servers.is_journalled;
        let fate = Fate::draw(&mut self.rng, self.getting_ready, has_marks);
        let mut server = self.servers.start(self.lives.len())?;
        if let Fate::Started(after) = fate {
            tokio::time::sleep(after).await;
            return self.kill(server, fate.fault()).await;
        }
        self.getting_ready = server.ready().await.context(self.where_to_look())?;
        match fate {
            Fate::Started(_) => Ok(()),
            Fate::Ready(after) => {
                tokio::time::sleep(after).await;
                self.kill(server, fate.fault()).await
            }
            Fate::InStep(after, step) => {
                tokio::time::sleep(after).await;
                watch(&server, step).await?;
                self.kill(server, fate.fault()).await
            }
            Fate::Draining(after, more) => {
                tokio::time::sleep(after).await;
                server.terminate().await?;
                match server.ends_within(more).await? {
                    Some(status) => self.drained(&server, status.success()),
                    None => self.kill(server, fate.fault()).await,
                }
            }
            Fate::Drained(after) => {
                tokio::time::sleep(after).await;
                self.drain(server).await
            }
        }
    }

    async fn kill(&mut self, server: Running, fault: Fault) -> Result<()> {
        let files = (server.began, server.journal.clone(), server.marks.clone());
        server.kill().await.context(self.where_to_look())?;
        self.note(files, fault)
    }

    async fn drain(&mut self, mut server: Running) -> Result<()> {
        server.terminate().await?;
        let status = server.ends_within(END_TIMEOUT).await?;
        let status =
            status.with_context(|| format!("the server does not end; {}", self.where_to_look()))?;
        self.drained(&server, status.success())
    }

    fn drained(&mut self, server: &Running, well: bool) -> Result<()> {
        if !well {
            bail!("a drain did not end well; {}", self.where_to_look());
        }
        let files = (server.began, server.journal.clone(), server.marks.clone());
        self.note(files, Fault::Drained)
    }

    /// Takes in what a process left behind.
    fn note(&mut self, files: (Micros, PathBuf, PathBuf), fault: Fault) -> Result<()> {
        let (began, journal, marks) = files;
        let mut life = Life {
            fault,
            began,
            ended: now(),
            under_way: BTreeMap::new(),
        };
        if self.servers.is_journalled {
            // A process that was killed early enough has made neither file.
            let entries = match journal.exists() {
                true => journal::read(&journal)?,
                false => Vec::new(),
            };
            self.journals.push(Journal {
                began,
                drained: fault == Fault::Drained,
                entries,
            });
            if marks.exists() {
                life.under_way = marks::Reader::open(&marks)?.under_way()?;
                // They are many, and say no more than that.
                std::fs::remove_file(&marks)?;
            }
        }
        self.lives.push(life);
        Ok(())
    }

    fn where_to_look(&self) -> String {
        format!("its log is {}", self.servers.log().display())
    }
}

/// Waits until a server's store is in such a step.
async fn watch(server: &Running, step: Step) -> Result<()> {
    let mut marks = marks::Reader::open(&server.marks)?;
    let begin = Instant::now();
    while begin.elapsed() < WATCH_TIMEOUT && !marks.under_way()?.contains_key(&step) {
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    Ok(())
}
