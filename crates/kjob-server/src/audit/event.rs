//! What the audit log tells.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use kjob_core::engine::{Accepted, Caller, CancelOutcome};
use kjob_core::{JobId, Owner};
use serde::Serialize;

#[cfg(unix)]
use crate::store_orders::Order;
use crate::users::Proof;

/// The longest text of a caller's, in characters. Names that are none may be anything.
const CHARS_MAX: usize = 256;

/// Something that happened. No payloads, and no secrets.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The server began to take requests.
    Start { version: &'static str },
    /// The server took its last request.
    Stop,
    /// The users were read anew.
    Users { count: usize },
    /// Somebody showed who they are, for the first time in a minute.
    Login {
        user: String,
        role: &'static str,
        by: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        peer: IpAddr,
    },
    /// Credentials were tried that are nobody's.
    LoginFailed {
        /// The name that came with a password.
        #[serde(skip_serializing_if = "Option::is_none")]
        claimed: Option<String>,
        #[serde(flatten)]
        stranger: Stranger,
    },
    /// From here on tries of this source, or at this name, have to wait.
    LoginThrottled {
        #[serde(skip_serializing_if = "Option::is_none")]
        claimed: Option<String>,
        #[serde(flatten)]
        stranger: Stranger,
        wait_ms: u64,
    },
    /// A request, or a TLS handshake, of somebody who may not.
    Refused {
        why: &'static str,
        #[serde(flatten)]
        stranger: Stranger,
    },
    /// A job was submitted, or submitted again.
    Submit {
        user: String,
        peer: IpAddr,
        job_id: i64,
        job_tag: String,
        endpoint: String,
        query_id: String,
        existing: bool,
    },
    /// Somebody asked for the end of a job that they may see.
    Cancel {
        user: String,
        peer: IpAddr,
        job_id: i64,
        outcome: String,
    },
    /// Somebody asked for the end of jobs that they do not have.
    CancelUnknown {
        user: String,
        peer: IpAddr,
        count: usize,
    },
    /// Whoever owns the data directory had something done to the store, over the control socket.
    #[cfg(unix)]
    Store {
        #[serde(flatten)]
        order: Order,
        uid: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
        outcome: String,
    },
    /// Lines before this one could not be written.
    Lost { lines: u64 },
}

/// Somebody who is not known, and may do the same any number of times: what comes again within a
/// minute is told of as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Stranger {
    /// `None` where there are too many to be told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<IpAddr>,
    /// How many more times it happened since the line before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) count: Option<u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

impl Event {
    pub(crate) const START: Self = Self::Start {
        version: env!("CARGO_PKG_VERSION"),
    };

    pub(crate) fn login(caller: &Caller, proof: &Proof, peer: IpAddr) -> Self {
        let (by, token) = match proof {
            Proof::Password(_) => ("password", None),
            Proof::Token { name, .. } => ("token", Some(name.clone())),
        };
        Self::Login {
            user: user(caller),
            role: if caller.admin { "admin" } else { "user" },
            by,
            token,
            peer: peer.to_canonical(),
        }
    }

    /// The upstream has taken the credentials of a caller, who is called so here.
    pub(crate) fn upstream_login(owner: &Owner, peer: IpAddr) -> Self {
        Self::Login {
            user: short(owner.as_str()),
            role: "user",
            by: "upstream",
            token: None,
            peer: peer.to_canonical(),
        }
    }

    pub(crate) fn login_failed(claimed: Option<&str>, peer: IpAddr) -> Self {
        Self::LoginFailed {
            claimed: claimed.map(short),
            stranger: Stranger::new(peer),
        }
    }

    pub(crate) fn throttled(claimed: Option<&str>, peer: IpAddr, wait: Duration) -> Self {
        Self::LoginThrottled {
            claimed: claimed.map(short),
            stranger: Stranger::new(peer),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn refused(why: &'static str, peer: IpAddr) -> Self {
        let stranger = Stranger::new(peer);
        Self::Refused { why, stranger }
    }

    pub(crate) fn submit(
        caller: &Caller,
        peer: IpAddr,
        endpoint: &str,
        accepted: &Accepted,
    ) -> Self {
        Self::Submit {
            user: user(caller),
            peer: peer.to_canonical(),
            job_id: accepted.id.get(),
            job_tag: accepted.tag.to_string(),
            endpoint: short(endpoint),
            query_id: accepted.query_id.to_string(),
            existing: accepted.existing,
        }
    }

    /// `None` where there was no job: those are told of together.
    pub(crate) fn cancel(
        caller: &Caller,
        peer: IpAddr,
        id: JobId,
        outcome: CancelOutcome,
    ) -> Option<Self> {
        let outcome = match outcome {
            CancelOutcome::NotFound => return None,
            CancelOutcome::Cancelled => "cancelled".to_owned(),
            CancelOutcome::Cancelling => "cancelling".to_owned(),
            CancelOutcome::Ended(phase) => format!("already {}", phase.status()),
        };
        Some(Self::Cancel {
            user: user(caller),
            peer: peer.to_canonical(),
            job_id: id.get(),
            outcome,
        })
    }

    pub(crate) fn cancel_unknown(caller: &Caller, peer: IpAddr, count: usize) -> Self {
        Self::CancelUnknown {
            user: user(caller),
            peer: peer.to_canonical(),
            count,
        }
    }

    /// An order of a process, of which it is not known yet what came of it.
    #[cfg(unix)]
    pub(crate) fn store_order(order: Order, uid: u32, pid: Option<i32>) -> Self {
        let outcome = String::new();
        Self::Store {
            order,
            uid,
            pid,
            outcome,
        }
    }

    /// The same, now that it is known.
    #[cfg(unix)]
    pub(crate) fn with_outcome(self, what: &str) -> Self {
        match self {
            Self::Store {
                order, uid, pid, ..
            } => Self::Store {
                order,
                uid,
                pid,
                outcome: short(what),
            },
            other => other,
        }
    }

    /// What a stranger did, and who it was, if it was one.
    pub(super) fn by_stranger(&mut self) -> Option<(&'static str, &mut Stranger)> {
        match self {
            Self::LoginFailed { stranger, .. } => Some(("login_failed", stranger)),
            Self::LoginThrottled { stranger, .. } => Some(("login_throttled", stranger)),
            Self::Refused { why, stranger } => Some((why, stranger)),
            _ => None,
        }
    }

    /// The name that a stranger claimed.
    pub(super) fn claimed(&mut self) -> Option<&mut Option<String>> {
        match self {
            Self::LoginFailed { claimed, .. } | Self::LoginThrottled { claimed, .. } => {
                Some(claimed)
            }
            _ => None,
        }
    }

    /// The line, with the time and its end.
    pub(super) fn line(&self) -> Vec<u8> {
        let line = Line {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            event: self,
        };
        match serde_json::to_vec(&line) {
            Ok(mut bytes) => {
                bytes.push(b'\n');
                bytes
            }
            // Texts, numbers and addresses are JSON, whatever is in them.
            Err(error) => unreachable!("an event is no JSON: {error}"),
        }
    }

    /// Says in the server's log what there is no audit log for any more.
    pub(super) fn log_lost(&self) {
        tracing::error!(event = ?self, "the audit log has ended; an event is only here");
    }
}

impl Stranger {
    fn new(peer: IpAddr) -> Self {
        Self {
            peer: Some(peer.to_canonical()),
            count: None,
        }
    }
}

fn user(caller: &Caller) -> String {
    caller.owner.as_str().to_owned()
}

fn short(text: &str) -> String {
    text.chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_is_in_it() {
        let peer = "::ffff:192.0.2.1".parse().unwrap();
        let odd = "a\"b\n{}\u{2028}é".repeat(1000);
        let line = Event::login_failed(Some(&odd), peer).line();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(line.last(), Some(&b'\n'));
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["event"], "login_failed");
        assert_eq!(read["peer"], "192.0.2.1");
        let claimed = read["claimed"].as_str().unwrap();
        assert!(odd.starts_with(claimed) && claimed.chars().count() == CHARS_MAX);
        let time = read["time"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    }
}
