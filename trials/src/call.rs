//! What a client submits, and what was promised of it.

use serde::{Deserialize, Serialize};

/// A call as it was submitted. Its tag is its own: no other call has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The tag, which the payload carries too.
    pub tag: String,
    /// What is called.
    pub endpoint: String,
    /// How often its handler may run.
    pub rule: Rule,
    /// Whether it can end only as done, unless somebody cancels it.
    pub must_succeed: bool,
    /// How long the job is kept after its end at least, in milliseconds.
    pub kept_millis: i64,
    /// How long it is kept after its end at most, in milliseconds: then nobody sees it.
    pub retention_millis: i64,
    /// Whether its end is to be told to a receiver.
    pub calls_back: bool,
    /// What its result has to be, if it gives one.
    pub want: Want,
}

/// What a result has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// This text.
    Text(String),
    /// What a handler with a journal makes of such a payload.
    Handled {
        /// Of the payload's filler.
        payload_crc: u32,
        /// The length of the result's filler.
        result_len: usize,
    },
}

/// How often a handler may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// Started once at most.
    Once,
    /// Started again when it was cut off. At least once, if the job ends as done.
    Retry {
        /// The most attempts that count.
        max_attempts: u32,
    },
}
