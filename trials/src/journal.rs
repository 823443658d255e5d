//! What handlers did, as they wrote it down themselves: a file for each process of a server.

use std::io;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::history::Micros;
use crate::lines::{self, Lines};

/// A line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written.
    pub at: Micros,
    /// The job.
    pub id: i64,
    /// Which attempt, as the handler was told.
    pub attempt: u32,
    /// The job's tag, as the handler was told.
    pub tag: String,
    /// The tag in the payload that the handler was given.
    pub token: String,
    /// What happened.
    pub what: Moment,
}

/// What a handler writes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// It was started: the first thing that it did.
    Start,
    /// It gives a result: the last thing that it did.
    Done,
    /// It gives an error.
    Failed,
    /// It stopped because it was told to.
    Stopped,
    /// It was dropped before it came to an end.
    Dropped,
}

/// The journal of one process of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Before the process was started.
    pub began: Micros,
    /// Whether the process ended by itself, after a drain.
    pub drained: bool,
    /// In the order in which they were written.
    pub entries: Vec<Entry>,
}

/// Where the handlers of a process write.
#[derive(Debug)]
pub struct Writer(Lines);

impl Writer {
    /// Appends to this file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Lines::append_to(path).map(Self)
    }

    /// Writes down one line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        self.0.write(entry)
    }
}

/// Reads what a [`Writer`] wrote.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    lines::read(path)
}

/// Microseconds since the epoch, by the clock of journals and histories.
pub fn now() -> Micros {
    lines::now()
}
