//! Telling a URL that a job has ended: where that stands, and what a try to do so makes of it.

use kjob_proto::Text;

use crate::{Job, Timestamp};

/// Whether a job's end has been told to its
/// [`callback_url`](crate::JobOptions::callback_url).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CallbackPhase {
    /// Not yet; it will be tried.
    Pending = 0,
    /// The receiver has taken it.
    Delivered = 1,
    /// It will not be tried again.
    GivenUp = 2,
}

impl CallbackPhase {
    /// Every phase.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::GivenUp];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }
}

/// Where the callback of an ended job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackState {
    /// Whether it is still to be made.
    pub phase: CallbackPhase,
    /// How many tries were noted.
    pub attempts: u32,
    /// When it is to be tried next; `Some` as long as it is pending.
    pub next_at: Option<Timestamp>,
    /// When the last try was noted.
    pub tried_at: Option<Timestamp>,
    /// The HTTP status that the last try got, if it got an answer.
    pub http_status: Option<u16>,
    /// What was wrong with the last try, if anything was.
    pub error: Option<Text>,
}

/// How a try went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackTry {
    /// The HTTP status that it got, if it got an answer.
    pub http_status: Option<u16>,
    /// What became of it.
    pub outcome: CallbackOutcome,
}

/// What becomes of a callback by a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// The receiver has taken it.
    Delivered,
    /// It failed, and is to be tried again.
    Retry {
        /// What was wrong.
        error: Text,
        /// When.
        at: Timestamp,
    },
    /// It failed, and is not to be tried again.
    GiveUp {
        /// What was wrong.
        error: Text,
    },
}

impl CallbackState {
    /// That of a job that ended at this moment: to be tried at once.
    pub fn pending(ended_at: Timestamp) -> Self {
        Self {
            phase: CallbackPhase::Pending,
            attempts: 0,
            next_at: Some(ended_at),
            tried_at: None,
            http_status: None,
            error: None,
        }
    }

    /// What a try that was noted at `at` makes of it; `None` if it was not pending any more.
    #[must_use]
    pub fn after(&self, tried: CallbackTry, at: Timestamp) -> Option<Self> {
        if self.phase != CallbackPhase::Pending {
            return None;
        }
        let (phase, next_at, error) = match tried.outcome {
            CallbackOutcome::Delivered => (CallbackPhase::Delivered, None, None),
            CallbackOutcome::Retry { error, at } => (CallbackPhase::Pending, Some(at), Some(error)),
            CallbackOutcome::GiveUp { error } => (CallbackPhase::GivenUp, None, Some(error)),
        };
        Some(Self {
            phase,
            attempts: self.attempts.saturating_add(1),
            next_at,
            tried_at: Some(at),
            http_status: tried.http_status,
            error,
        })
    }
}

/// What [`Store::claim_callbacks`](crate::Store::claim_callbacks) gave.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClaimedCallbacks {
    /// Jobs whose callbacks are due, the one that is due for longest first; without their bytes.
    pub jobs: Vec<Job>,
    /// When to ask again, if no other job ends and no try is noted before: when the next callback
    /// is due, or the first claim is over. `None` if no callback is pending.
    pub next_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_tried_until_it_is_delivered_or_given_up_and_then_never_changes() {
        let at = Timestamp::from_millis;
        let retry = |at| CallbackTry {
            http_status: Some(500),
            outcome: CallbackOutcome::Retry {
                error: "busy".into(),
                at,
            },
        };
        let pending = CallbackState::pending(at(1));
        assert_eq!((pending.attempts, pending.next_at), (0, Some(at(1))));
        let again = pending.after(retry(at(9)), at(3)).unwrap();
        let expected = CallbackState {
            phase: CallbackPhase::Pending,
            attempts: 1,
            next_at: Some(at(9)),
            tried_at: Some(at(3)),
            http_status: Some(500),
            error: Some("busy".into()),
        };
        assert_eq!(again, expected);
        let delivered = CallbackTry {
            http_status: Some(204),
            outcome: CallbackOutcome::Delivered,
        };
        let given_up = CallbackTry {
            http_status: None,
            outcome: CallbackOutcome::GiveUp {
                error: "no such host".into(),
            },
        };
        for (last, phase) in [
            (delivered.clone(), CallbackPhase::Delivered),
            (given_up.clone(), CallbackPhase::GivenUp),
        ] {
            let over = again.after(last, at(10)).unwrap();
            assert_eq!((over.phase, over.attempts, over.next_at), (phase, 2, None));
            for late in [delivered.clone(), given_up.clone(), retry(at(20))] {
                assert_eq!(over.after(late, at(11)), None);
            }
        }
    }
}
