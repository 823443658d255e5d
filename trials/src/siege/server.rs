//! The server under siege, and its vital signs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accounts;

/// How often the vital signs are looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(50);

/// Clock ticks of `/proc` in a second, on every Linux there is.
const TICKS: f64 = 100.0;

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Vitals {
    /// Resident memory, in bytes.
    pub(crate) memory: u64,
    /// The highest that it was, since it was last counted anew.
    pub(crate) memory_peak: u64,
    /// Open files.
    pub(crate) files: u64,
    /// Processor time since its start, in seconds.
    pub(crate) processor: f64,
    pub(crate) threads: u64,
}

/// The highest of each since it began to look.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: CancellationToken,
    peaks: Arc<Peaks>,
}

#[derive(Debug, Default)]
struct Peaks {
    memory: AtomicU64,
    files: AtomicU64,
    threads: AtomicU64,
}

impl Server {
    /// Starts `program` on a free port with its data and its log in `home`, and waits until it is
    /// ready. With `accounts` it lets in the [users](super::accounts) alone.
    pub(crate) fn start(
        program: &Path,
        home: &Path,
        arguments: &[&str],
        accounts: bool,
    ) -> Result<Self> {
        let log = home.join("log");
        let mut command = Command::new(program);
        if accounts {
            command
                .arg("--users-file")
                .arg(accounts::users_file(program, home)?);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KJOB_") {
                command.env_remove(name);
            }
        }
        command
            .args(["--listen", "127.0.0.1:0", "--log", "warn", "--data-dir"])
            .arg(home.join("data"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).context("the server's log")?);
        let mut child = command
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let Some((_, address)) = line.trim_end().split_once("http://") else {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{line:?}\n{}", fs::read_to_string(&log).unwrap_or_default());
        };
        Ok(Self {
            address: address.parse().context("the server's address")?,
            child,
            log,
        })
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(format!("the server ended: {status}")),
            Err(error) => Some(format!("the server cannot be looked at: {error}")),
        }
    }

    /// What it uses now.
    pub(crate) fn vitals(&self) -> Result<Vitals> {
        vitals(self.child.id()).context("the server's vital signs")
    }

    /// Begins to look.
    pub(crate) fn watch(&self) -> Watch {
        let pid = self.child.id();
        // The highest that the system has seen of its memory is counted anew: what a look every now and then would miss.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        let stop = CancellationToken::new();
        let peaks = Arc::new(Peaks::default());
        let (stopped, noted) = (stop.clone(), peaks.clone());
        tokio::spawn(async move {
            while !stopped.is_cancelled() {
                if let Ok(vitals) = vitals(pid) {
                    noted
                        .memory
                        .fetch_max(vitals.memory_peak, Ordering::Relaxed);
                    noted.files.fetch_max(vitals.files, Ordering::Relaxed);
                    noted.threads.fetch_max(vitals.threads, Ordering::Relaxed);
                }
                tokio::time::sleep(LOOKED_AT_EVERY).await;
            }
        });
        Watch { stop, peaks }
    }

    /// The lines of its log that tell of an error or a panic.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let is_one = |line: &&str| line.contains("ERROR") || line.contains("panicked");
        log.lines().filter(is_one).map(str::to_owned).collect()
    }

    /// Lets it drain, and tells what is wrong with its end.
    pub(crate) async fn stop(mut self, patience: Duration) -> Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the server ended with {status}");
            }
            if Instant::now() >= end {
                bail!("the server did not end within {patience:?}");
            }
            tokio::time::sleep(LOOKED_AT_EVERY).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watch {
    /// The peaks; the processor's time is not one, and stays 0.
    pub(crate) fn peaks(&self) -> Vitals {
        let memory = self.peaks.memory.load(Ordering::Relaxed);
        Vitals {
            memory,
            memory_peak: memory,
            files: self.peaks.files.load(Ordering::Relaxed),
            threads: self.peaks.threads.load(Ordering::Relaxed),
            processor: 0.0,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a process uses now.
pub(crate) fn vitals(pid: u32) -> Result<Vitals> {
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let status = of("status")?;
    let number = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        Ok(word.with_context(|| name.to_owned())?.parse()?)
    };
    // The name in parentheses may have spaces; after it come fields 3 and on.
    let stat = of("stat")?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |field: usize| -> Result<f64> {
        let word = fields.split_whitespace().nth(field - 3);
        Ok(word.context("stat")?.parse()?)
    };
    Ok(Vitals {
        memory: number("VmRSS:")? << 10,
        memory_peak: number("VmHWM:")? << 10,
        threads: number("Threads:")?,
        files: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
        processor: (ticks(14)? + ticks(15)?) / TICKS,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_process_has_vital_signs() {
        let before = vitals(std::process::id()).unwrap();
        assert!(before.memory > 100 << 10 && before.threads >= 1);
        let _files: Vec<_> = (0..40)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let after = vitals(std::process::id()).unwrap();
        assert!(after.files >= before.files + 30);
        assert!(vitals(u32::MAX).is_err());
    }
}
