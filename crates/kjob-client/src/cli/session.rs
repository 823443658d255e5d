//! What all commands share: the client, and where output goes.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

use kjob_client::Client;
use serde::Serialize;

use super::args::Cli;
use super::failure::Failure;
use super::settings;
use super::text::shown;

/// The client, and where output goes: data to stdout, all that is for people to stderr.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    /// Whether output is for machines.
    pub(crate) is_json: bool,
    is_quiet: bool,
    /// Whether somebody else handles Ctrl-C at the moment.
    is_interrupt_taken: Cell<bool>,
}

/// While it lives, Ctrl-C does not end the program.
#[derive(Debug)]
pub(crate) struct InterruptTaken<'a>(&'a Cell<bool>);

impl Drop for InterruptTaken<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Session {
    pub(crate) fn new(cli: &Cli) -> Result<Self, Failure> {
        let is_quiet = cli.connection.quiet;
        let warn = |text: &str| {
            if !is_quiet {
                say(text);
            }
        };
        Ok(Self {
            client: settings::client(&cli.connection, warn)?,
            is_json: cli.is_json(),
            is_quiet,
            is_interrupt_taken: Cell::new(false),
        })
    }

    /// Leaves Ctrl-C to the caller.
    pub(crate) fn take_interrupts(&self) -> InterruptTaken<'_> {
        self.is_interrupt_taken.set(true);
        InterruptTaken(&self.is_interrupt_taken)
    }

    /// Waits for a Ctrl-C that nobody else handles. Once tokio listens to the signal it does nothing by
    /// itself any more, so this has to run beside all that may take long.
    pub(crate) async fn interrupted(&self) {
        loop {
            // Where the signal cannot be listened to, it does what it always does.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            if !self.is_interrupt_taken.get() {
                return;
            }
        }
    }

    /// Tells people something.
    pub(crate) fn say(&self, text: &str) {
        if !self.is_quiet {
            say(text);
        }
    }

    /// Whether progress may be drawn on the terminal.
    pub(crate) fn may_draw(&self) -> bool {
        !self.is_quiet && !self.is_json && io::stderr().is_terminal()
    }

    /// Whether people want to read how it goes.
    pub(crate) fn is_talkative(&self) -> bool {
        !self.is_quiet && !self.is_json
    }
}

/// A line on stderr. If nobody reads there, there is nobody to tell.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "kjob: {text}");
}

/// A line of text.
pub(crate) fn print_line(text: &str) -> Result<(), Failure> {
    print(format!("{}\n", shown(text)).as_bytes())
}

/// A JSON document on a line of its own.
pub(crate) fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    print(&line)
}

/// These bytes, at once.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}
