//! What is known of a job: what was submitted, where it stands, how it ended.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kjob_proto::{Encoding, Text};

use crate::{CallbackState, JobId, JobTag, Output, QueryId, State, Timestamp};

/// The user who submitted a job, and who alone may see it.
///
/// A server without a users file gives every job to [`Owner::anonymous`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Arc<str>);

impl Owner {
    /// The owner with this user name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Who owns the jobs of a server that knows no users.
    pub fn anonymous() -> Self {
        Self::new("anonymous")
    }

    /// The user name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({})", self.0)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How urgent a job is: 0 (low) to 9 (high), 5 unless told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// How many priorities there are.
    pub const COUNT: usize = 10;

    /// The priority with this number, if it is at most 9.
    pub fn new(number: u8) -> Option<Self> {
        (usize::from(number) < Self::COUNT).then_some(Self(number))
    }

    /// The number, 0 to 9.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

/// Bytes and how they are encoded: what a handler is given and what it gives back.
///
/// `Binary` is bare Avro (no envelope), `Json` is UTF-8 text, `Snappy` a raw snappy block of
/// bare Avro; a result is never `Snappy` (docs/protocol.md section 4). Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// How `data` is encoded.
    pub encoding: Encoding,
    /// The bytes.
    pub data: Bytes,
}

impl Payload {
    /// Bare Avro.
    pub fn binary(data: impl Into<Bytes>) -> Self {
        Self {
            encoding: Encoding::Binary,
            data: data.into(),
        }
    }

    /// JSON text.
    pub fn json(text: impl Into<Text>) -> Self {
        Self {
            encoding: Encoding::Json,
            data: text.into().into_bytes(),
        }
    }
}

/// Shows the length only: payloads are the users' and do not belong in logs.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Payload({}, {} bytes)",
            self.encoding.as_str(),
            self.data.len()
        )
    }
}

/// All of a job that never changes, but for its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its number.
    pub id: JobId,
    /// Its name, given or generated.
    pub tag: JobTag,
    /// Who submitted it.
    pub owner: Owner,
    /// What it calls.
    pub endpoint: Text,
    /// How its payload is encoded.
    pub encoding: Encoding,
    /// Its id in logs and traces.
    pub query_id: QueryId,
    /// The span of the submitting request, 0 if it had none.
    pub parent_span: u64,
    /// When it was submitted.
    pub received_at: Timestamp,
    /// From which address, as text; empty if unknown.
    pub source_ip: Text,
    /// What the submit asked for.
    pub options: JobOptions,
}

/// What a submit may ask for beside the call itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOptions {
    /// Order among waiting jobs.
    pub priority: Priority,
    /// Not started before this moment.
    pub not_before: Option<Timestamp>,
    /// How long one attempt may run; `None` leaves it to the route.
    pub timeout: Option<Duration>,
    /// How long the ended job is kept, from its end.
    pub retention: Duration,
    /// Drop the job a short while after its result was delivered.
    pub remove_on_complete: bool,
    /// A text of the user's, shown in lists.
    pub user_data: Text,
    /// Whom to tell when the job has ended: an absolute URL. Whether it may be called is for
    /// whoever takes the submit to judge.
    pub callback_url: Option<Text>,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            priority: Priority::default(),
            not_before: None,
            timeout: None,
            retention: Duration::from_secs(24 * 60 * 60),
            remove_on_complete: false,
            user_data: Text::default(),
            callback_url: None,
        }
    }
}

/// A job about to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// Everything but the payload. `header.received_at` is the store's "now" for the submit.
    pub header: Header,
    /// The bytes for the handler, in `header.encoding`.
    pub payload: Bytes,
    /// Whether a tag that is taken may be given anew.
    pub tag_reuse: TagReuse,
}

/// When the tag of an ended job may start a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TagReuse {
    /// Only once the old job's retention is over.
    #[default]
    Never,
    /// Also if the old job ended as ERROR or CANCELLED.
    IfFailed,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this result (its payload empty where the caller asked for none of the bytes).
    Done(Output),
    /// With this message.
    Failed(Text),
    /// Cancelled.
    Cancelled,
}

/// A stored job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What was submitted.
    pub header: Header,
    /// Where it stands.
    pub state: State,
    /// What was submitted to the handler, where it was asked for.
    pub payload: Option<Bytes>,
    /// How it ended, if it has.
    pub ending: Option<Ending>,
    /// When it is dropped, if it has ended.
    pub expires_at: Option<Timestamp>,
    /// How far its callback is, if it has ended and has one.
    pub callback: Option<CallbackState>,
}

impl Job {
    /// Bytes of the result that are at hand.
    pub fn result_len(&self) -> usize {
        match &self.ending {
            Some(Ending::Done(result)) => result.payload.data.len(),
            _ => 0,
        }
    }
}
