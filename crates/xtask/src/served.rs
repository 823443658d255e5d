//! A server that a step has started.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process;

/// A `kjob-server` that takes requests; killed when dropped.
pub(crate) struct Served {
    child: Child,
    /// Where it is reached.
    pub(crate) url: String,
    /// Kept open, as the server would otherwise find nobody to print to.
    stdout: BufReader<ChildStdout>,
}

impl Served {
    /// Starts it, and waits until it says where it listens.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", process::shown(command)))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut served = Self {
            child,
            url: String::new(),
            stdout: BufReader::new(stdout),
        };
        let mut line = String::new();
        served.stdout.read_line(&mut line)?;
        match line.trim_end().strip_prefix("kjob-server listening on ") {
            Some(url) => served.url = url.to_owned(),
            None => bail!("the server did not start: {line}"),
        }
        Ok(served)
    }

    /// Ends it as systemd does.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        process::run(Command::new("kill").args(["-TERM", &pid]))?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
