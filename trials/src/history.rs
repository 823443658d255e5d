//! What clients asked and were told, and when.
//!
//! An answer was true at some moment between the asking and the answer. Nothing more is known of
//! the order of two that overlap.

use std::io;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::lines::{self, Lines};

/// Microseconds since the Unix epoch.
pub type Micros = i64;

/// One thing that a client asked, with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Which client.
    pub client: u32,
    /// When it began to ask.
    pub asked: Micros,
    /// When it had the answer, or gave up.
    pub answered: Micros,
    /// What it asked, and what it was told.
    pub what: What,
}

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A submit.
    Submit {
        /// Of what.
        call: Call,
        /// The job.
        answer: Answer<Accepted>,
    },
    /// A look at one job.
    Get {
        /// Which.
        key: Key,
        /// How it stands.
        answer: Answer<Sight>,
    },
    /// A cancel.
    Cancel {
        /// Which job.
        id: i64,
        /// What it did.
        answer: Answer<CancelWord>,
    },
    /// A list of some jobs.
    List {
        /// Those.
        answer: Answer<Vec<Row>>,
    },
    /// A list of all jobs, made when nothing ran any more: each is in it that is kept.
    FinalList {
        /// All.
        rows: Vec<Row>,
    },
}

/// An answer, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<T> {
    /// What was told.
    Told(T),
    /// There is no such job.
    NotFound,
    /// It was refused for good, with this message.
    Refused(String),
    /// There was no answer that stands: what was asked was done, or not, or will be.
    Unknown(String),
}

/// A submit's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The job.
    pub id: i64,
    /// Whether it was there already.
    pub existing: bool,
}

/// How a job is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    /// By its id.
    Id(i64),
    /// By its tag.
    Tag(String),
}

/// How a job stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// The tag that it was said to have.
    pub tag: Option<String>,
    /// How it stood.
    pub status: Status,
    /// In percent.
    pub progress: i32,
    /// When it ended, by the server's clock, in milliseconds since the epoch.
    pub ended_millis: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// What came of it.
    pub result: Option<ResultSeen>,
}

/// Where a job is, in the words of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It has not ended.
    Running,
    /// It gave a result.
    Done,
    /// It failed.
    Error,
    /// It was cancelled.
    Cancelled,
}

/// A result, as its bytes and as what its handler wrote into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultSeen {
    /// Of all its bytes.
    pub crc: u32,
    /// Whether it is what this call has to give.
    pub is_right: bool,
    /// The run that gave it, if the handler says so.
    pub by: Option<ResultOf>,
}

/// Which run gave a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultOf {
    /// The job.
    pub id: i64,
    /// The attempt.
    pub attempt: u32,
    /// What the payload said of itself: the tag of its call.
    pub token: String,
}

/// What a cancel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelWord {
    /// The job was waiting, and has ended.
    Cancelled,
    /// It runs, and is told to stop.
    Cancelling,
    /// It had ended so.
    Already(Status),
}

/// A job in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its id.
    pub id: i64,
    /// Its tag.
    pub tag: Option<String>,
    /// How it stood.
    pub status: Status,
}

impl Status {
    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        self != Status::Running
    }
}

/// Where the clients of a process write.
#[derive(Debug)]
pub struct Recorder(Lines);

impl Recorder {
    /// Appends to this file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Lines::append_to(path).map(Self)
    }

    /// Writes down one event.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn record(&self, event: &Event) -> io::Result<()> {
        self.0.write(event)
    }
}

/// Reads what a [`Recorder`] wrote.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    lines::read(path)
}
