//! What is submitted, and what a submit answers.

use std::time::Duration;

use kjob_proto::{Encoding, Text};

use super::handler::Attachment;
use crate::{
    Difference, JobId, JobTag, Owner, Payload, Priority, QueryId, StoreError, TagReuse, TraceParent,
};

/// A call to be made asynchronously.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Submission {
    /// What to call.
    pub endpoint: Text,
    /// What to call it with.
    pub payload: Payload,
    /// Who calls.
    pub owner: Owner,
    /// The job's tag; `None` to have one made.
    pub tag: Option<JobTag>,
    /// Whether the tag may be taken from an ended job.
    pub tag_reuse: TagReuse,
    /// The caller's trace.
    pub trace: Option<TraceParent>,
    /// The caller's address, as text.
    pub source_ip: Text,
    /// Order among waiting jobs.
    pub priority: Priority,
    /// Not to be started before this long from now.
    pub delay: Duration,
    /// How long an attempt may run; `None` leaves it to the route. A route's own limit holds in
    /// any case.
    pub timeout: Option<Duration>,
    /// How long the ended job is kept; `None` leaves it to the server.
    pub retention: Option<Duration>,
    /// Drop the job a short while after its result was delivered.
    pub remove_on_complete: bool,
    /// A text of the user's, shown in lists.
    pub user_data: Text,
    /// Whom to tell when the job has ended: an absolute URL that the caller has judged.
    pub callback_url: Option<Text>,
    /// What the handler is to be handed beside the payload, in memory only.
    pub attachment: Option<Attachment>,
}

impl Submission {
    /// A call of `endpoint` with `payload`, all else as it is by default.
    pub fn new(owner: Owner, endpoint: impl Into<Text>, payload: Payload) -> Self {
        Self {
            endpoint: endpoint.into(),
            payload,
            owner,
            tag: None,
            tag_reuse: TagReuse::Never,
            trace: None,
            source_ip: Text::default(),
            priority: Priority::default(),
            delay: Duration::ZERO,
            timeout: None,
            retention: None,
            remove_on_complete: false,
            user_data: Text::default(),
            callback_url: None,
            attachment: None,
        }
    }
}

/// A job that is durable: the answer to a submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: JobId,
    /// Its tag, given or made.
    pub tag: JobTag,
    /// Its id in logs and traces.
    pub query_id: QueryId,
    /// Whether the job was there already, under this tag.
    pub existing: bool,
}

/// Why a submit was refused. Nothing was stored then, but for [`SubmitError::Store`], after which
/// it is unknown; submitting again with the same tag is safe in any case.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The server is stopping and takes no more jobs.
    #[error("the server is draining")]
    Draining,
    /// No route takes the endpoint.
    #[error("endpoint {endpoint:?} is not served here{}", if_no_slash(.0), endpoint = .0)]
    UnknownEndpoint(Text),
    /// The payload is not what the endpoint takes.
    #[error("the payload is not a valid {encoding} request of {endpoint}: {why}")]
    BadPayload {
        /// The endpoint.
        endpoint: Text,
        /// How the payload claims to be encoded.
        encoding: Encoding,
        /// What is wrong with it, and where.
        why: Text,
    },
    /// The tag names another call of the same user.
    #[error("job_tag {tag} names job {id}, which has another {}", difference_word(*.difference))]
    TagConflict {
        /// The tag.
        tag: JobTag,
        /// The job that has it.
        id: JobId,
        /// What is different.
        difference: Difference,
    },
    /// A budget is used up; try again later.
    #[error("busy: {found} {what} would be more than the limit of {limit}")]
    Busy {
        /// Of what: a phrase such as "queued jobs".
        what: &'static str,
        /// How many there would be.
        found: u64,
        /// How many there may be.
        limit: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine was shut down while the submit was on its way.
    #[error("the engine has stopped")]
    Stopped,
}

fn difference_word(difference: Difference) -> &'static str {
    match difference {
        Difference::Endpoint => "endpoint",
        Difference::Encoding => "request_encoding",
        Difference::Payload => "payload",
    }
}

/// What those who forget it are told.
fn if_no_slash(endpoint: &Text) -> &'static str {
    if endpoint.as_str().starts_with('/') {
        ""
    } else {
        "; endpoints begin with /"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_slash_is_told() {
        let told =
            |endpoint: &'static str| SubmitError::UnknownEndpoint(endpoint.into()).to_string();
        assert_eq!(told("/a"), "endpoint \"/a\" is not served here");
        assert!(told("a").ends_with("; endpoints begin with /"));
    }
}
