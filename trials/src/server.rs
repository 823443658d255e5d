//! A server under trial, as a process.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::history::Micros;
use crate::lines::now;

/// Names the file that handlers write their journal to.
pub const JOURNAL_VARIABLE: &str = "TRIAL_JOURNAL";

/// Names the file that the store marks its steps in.
pub const MARKS_VARIABLE: &str = "TRIAL_MARKS";

/// Says by how many microseconds the clock of the process is ahead of that of the machine.
pub const AHEAD_VARIABLE: &str = "TRIAL_AHEAD";

/// How long a job with `remove_job_on_complete` is kept after its first delivery.
pub const REMOVE_GRACE: Duration = Duration::from_secs(1);

/// How long a drain waits for running jobs: some end in time, and some are cut off.
const DRAIN_TIMEOUT: &str = "100ms";

/// How long a server has to get ready. It takes milliseconds; machines that are busy take longer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Where and how servers of a campaign run, one after the other.
#[derive(Clone, Debug)]
pub struct Servers {
    /// The program.
    pub program: PathBuf,
    /// Where all files of the campaign are.
    pub dir: PathBuf,
    /// What the names of their files begin with.
    pub name: String,
    /// The host of them all.
    pub host: Ipv4Addr,
    /// The port of them all.
    pub port: u16,
    /// Where their jobs are.
    pub store: StoreOf,
    /// The host and port that callbacks may go to.
    pub receiver: String,
    /// Whether it is the one with handlers that write a journal, on a store with marks.
    pub is_journalled: bool,
}

/// Where jobs are.
#[derive(Clone, Debug)]
pub enum StoreOf {
    /// In the campaign's directory.
    Directory,
    /// In the database with this URL, where nodes are alive for so long without being heard of.
    Database(String, Duration),
}

/// What makes a process take the time for another.
#[derive(Clone, Debug)]
pub struct Skew {
    /// The library that does it (libfaketime).
    pub library: PathBuf,
    /// By how many seconds its clock is ahead.
    pub seconds: i64,
}

/// A process of a server; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    started: Instant,
    /// Just before it was started.
    pub began: Micros,
    /// The files of its journal and its marks.
    pub journal: PathBuf,
    /// See there.
    pub marks: PathBuf,
}

impl Servers {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// Starts the process with this number.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, number: usize) -> Result<Running> {
        self.start_with(number, None)
    }

    /// Starts it with another clock.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with(&self, number: usize, skew: Option<&Skew>) -> Result<Running> {
        let file = |name: &str| self.dir.join(format!("{}{name}-{number:05}", self.name));
        let (journal, marks) = (file("journal"), file("marks"));
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KJOB_") {
                command.env_remove(name);
            }
        }
        if self.is_journalled {
            command
                .env(JOURNAL_VARIABLE, &journal)
                .env(MARKS_VARIABLE, &marks);
        }
        command
            .arg(format!("--listen={}:{}", self.host, self.port))
            .arg("--workers=32")
            .arg("--stop-grace=500ms")
            .arg("--stop-timeout=500ms")
            .arg(format!("--remove-grace={}ms", REMOVE_GRACE.as_millis()))
            .arg(format!("--drain-timeout={DRAIN_TIMEOUT}"))
            .arg(format!("--callback-hosts={}", self.receiver))
            .arg("--callback-secret-file")
            .arg(self.secret())
            .arg("--log=warn")
            .arg("--log-format=json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        match &self.store {
            StoreOf::Directory => command.arg("--data-dir").arg(self.dir.join("data")),
            StoreOf::Database(url, lease_time) => command
                .arg(format!("--store={url}"))
                .arg(format!("--lease-time={}ms", lease_time.as_millis())),
        };
        if let Some(Skew { library, seconds }) = skew {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME", format!("{seconds:+}"))
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env(AHEAD_VARIABLE, (seconds * 1_000_000).to_string());
        }
        let began = now();
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        Ok(Running {
            child,
            stdout: BufReader::new(stdout).lines(),
            started,
            began,
            journal,
            marks,
        })
    }

    /// Where the secret of callbacks is.
    pub fn secret(&self) -> PathBuf {
        self.dir.join("callback.secret")
    }

    /// Where the servers' log lines go.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}log", self.name))
    }
}

impl Running {
    /// Waits until it is ready: how long that took from its start on.
    ///
    /// # Errors
    /// It ended, or takes too long.
    pub async fn ready(&mut self) -> Result<Duration> {
        let line = tokio::time::timeout(READY_TIMEOUT, self.stdout.next_line());
        let line = line.await.context("the server does not get ready")??;
        match line {
            Some(line) if line.contains("listening on") => Ok(self.started.elapsed()),
            other => {
                let status = self.child.wait().await?;
                bail!("the server ended ({status}) before it was ready; it said {other:?}")
            }
        }
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// It cannot be killed, or had ended by itself.
    pub async fn kill(mut self) -> Result<()> {
        self.kill_now().await
    }

    /// As [`kill`](Self::kill), for those who still want to know where its files are.
    ///
    /// # Errors
    /// As of [`kill`](Self::kill).
    pub async fn kill_now(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended by itself: {status}");
        }
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }

    /// Sends it a signal, by its name without SIG.
    ///
    /// # Errors
    /// It had ended by itself.
    pub async fn signal(&self, name: &str) -> Result<()> {
        match self.child.id() {
            Some(id) => signal(id, name).await,
            None => bail!("the server ended by itself"),
        }
    }

    /// Asks it to drain.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn terminate(&self) -> Result<()> {
        self.signal("TERM").await
    }

    /// Waits so long for its end.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn ends_within(&mut self, time: Duration) -> Result<Option<ExitStatus>> {
        match tokio::time::timeout(time, self.child.wait()).await {
            Ok(status) => Ok(Some(status?)),
            Err(_) => Ok(None),
        }
    }
}

/// Sends a signal, by its name without SIG, to one process.
///
/// # Errors
/// There is no such process.
pub async fn signal(process: u32, name: &str) -> Result<()> {
    let mut kill = Command::new("kill");
    let status = kill
        .arg(format!("-{name}"))
        .arg(process.to_string())
        .status()
        .await?;
    if !status.success() {
        bail!("kill -{name} {process} ended with {status}");
    }
    Ok(())
}

/// A port that nobody listens on.
///
/// # Errors
/// All that were tried are taken.
pub fn free_port(mut draw: impl FnMut() -> u16) -> Result<u16> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        let port = draw();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("none of {TRIES} ports is free")
}

/// How many segments a data directory has had, and how often they were rewritten at least.
///
/// # Errors
/// It cannot be read.
pub fn segments(dir: &Path) -> Result<Segments> {
    let mut segments = Segments::default();
    for file in std::fs::read_dir(dir.join("data/segments"))? {
        let name = file?.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".sqlite") else {
            continue;
        };
        let Some((number, generation)) = name.split_once('-') else {
            continue;
        };
        segments.begun = segments.begun.max(number.parse().unwrap_or_default());
        segments.rewritten += generation.parse().unwrap_or(0);
        segments.there += 1;
    }
    Ok(segments)
}

/// What became of a store's segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// The number of the newest.
    pub begun: u64,
    /// How many are there.
    pub there: u64,
    /// How often those that are there were rewritten.
    pub rewritten: u64,
}
