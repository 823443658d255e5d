//! The phases of a job and the status words that travel.

use std::fmt;

/// Where a job is in its life.
///
/// The protocol knows four statuses; the first three phases all read `RUNNING` there, since it
/// has no word for a waiting job (docs/protocol.md section 4, `/get/job`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Durable and waiting for a worker.
    Queued = 0,
    /// Its handler was started.
    Running = 1,
    /// A cancel was requested while its handler runs.
    Cancelling = 2,
    /// The handler gave a result.
    Done = 3,
    /// The handler failed, ran out of time, was interrupted, or its result was too large.
    Failed = 4,
    /// Cancelled while queued, or by a handler that stopped for it.
    Cancelled = 5,
}

/// The status word of a phase (docs/protocol.md section 4, `/get/job`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// `RUNNING`: waiting, running or being cancelled.
    Running,
    /// `DONE`: ended with a result.
    Done,
    /// `ERROR`: ended without one.
    Error,
    /// `CANCELLED`.
    Cancelled,
}

impl Phase {
    /// Every phase, in the order of a job's life.
    pub const ALL: [Phase; 6] = [
        Phase::Queued,
        Phase::Running,
        Phase::Cancelling,
        Phase::Done,
        Phase::Failed,
        Phase::Cancelled,
    ];

    /// Whether the job has ended. A terminal phase never changes.
    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Done | Phase::Failed | Phase::Cancelled)
    }

    /// The word that travels.
    pub fn status(self) -> Status {
        match self {
            Phase::Queued | Phase::Running | Phase::Cancelling => Status::Running,
            Phase::Done => Status::Done,
            Phase::Failed => Status::Error,
            Phase::Cancelled => Status::Cancelled,
        }
    }

    /// The phase with this number, as stores keep it.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| *phase as u8 == number)
    }

    /// Our own word, as in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Queued => "queued",
            Phase::Running => "running",
            Phase::Cancelling => "cancelling",
            Phase::Done => "done",
            Phase::Failed => "failed",
            Phase::Cancelled => "cancelled",
        }
    }
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 4] = [
        Status::Running,
        Status::Done,
        Status::Error,
        Status::Cancelled,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "RUNNING",
            Status::Done => "DONE",
            Status::Error => "ERROR",
            Status::Cancelled => "CANCELLED",
        }
    }
}

/// The text is none of `RUNNING`, `DONE`, `ERROR`, `CANCELLED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a status is one of RUNNING, DONE, ERROR, CANCELLED")]
pub struct BadStatus;

impl std::str::FromStr for Status {
    type Err = BadStatus;

    fn from_str(word: &str) -> Result<Self, BadStatus> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or(BadStatus)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_lead_back() {
        for phase in Phase::ALL {
            assert_eq!(Phase::from_u8(phase as u8), Some(phase));
            assert_eq!(phase.status().as_str().parse(), Ok(phase.status()));
            assert_eq!(phase.is_terminal(), phase.status() != Status::Running);
        }
        assert_eq!(Phase::from_u8(6), None);
        assert_eq!("QUEUED".parse::<Status>(), Err(BadStatus));
    }
}
