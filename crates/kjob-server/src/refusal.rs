//! Why a request is not done, and what its caller is told.

mod kind;

use std::time::Duration;

use http::{Method, StatusCode};
use kjob_core::engine::SubmitError;
use kjob_core::{JobId, JobTag, Phase, StoreError};
use kjob_proto::{DecodeError, DecodeErrorKind, Signal, Text};

use crate::auth::{Barred, Denied};
use crate::body::BodyError;
use crate::budget::OverBudget;
use crate::callbacks::CallbackUrlError;
use crate::options::OptionError;

pub(crate) use kind::Kind;

/// How long a caller is to wait if the store is full. Space comes back when jobs expire, or when
/// somebody makes some: not within a moment.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(10);

/// How long a caller is to wait if too much is being done at once.
const RETRY_AFTER_BUSY: Duration = Duration::from_secs(1);

/// How long a caller is to wait if the server ends: another one may take its place.
const RETRY_AFTER_STOPPING: Duration = Duration::from_secs(5);

/// The longest error text, in bytes. Texts echo what the caller sent, which may be a mebibyte.
const MESSAGE_LEN_MAX: usize = 2000;

/// Why a request is not done.
///
/// Clients take some statuses for a reason to leave the cluster, so a plain error is always 400 or one
/// of those that docs/protocol.md section 6 lists as plain.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The body was not read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// As many requests as may be are in progress on connections that have one already.
    #[error(
        "busy: {limit} requests are in progress beside the first of each connection, and there may be \
         no more"
    )]
    TooManyStreams { limit: usize },
    /// The answer takes too much memory beside all others.
    #[error("busy: the answer is there, but {0}")]
    AnswerBusy(OverBudget),
    /// The body is not the endpoint's request record.
    #[error("{record}: {error}")]
    Decode {
        record: &'static str,
        error: DecodeError,
    },
    /// An option is wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The callback that is asked for may not be made.
    #[error(transparent)]
    Callback(#[from] CallbackUrlError),
    /// The `Content-Type` is none that the protocol has.
    #[error("Content-Type {found:?} is not supported; allowed: {allowed}")]
    MediaType {
        found: String,
        allowed: &'static str,
    },
    /// The body is compressed in HTTP's way, which the protocol does not have: it has snappy.
    #[error(
        "Content-Encoding {found:?} is not supported; send the body as it is, or as \
         application/x-snappy"
    )]
    ContentEncoding { found: String },
    /// Another method than the path has.
    #[error("method {found} is not allowed here; allowed: {allowed}")]
    Method {
        found: Method,
        allowed: &'static str,
    },
    /// Nothing answers at this path.
    #[error("endpoint {path:?} is not served here")]
    UnknownPath { path: String },
    /// The payload of a job claims an encoding that there is not.
    #[error("request_encoding cannot be {found:?}; allowed: binary, json, snappy")]
    PayloadEncoding { found: Text },
    /// The name of an endpoint is too long.
    #[error("endpoint has {found} bytes, limit {limit}")]
    EndpointTooLong { found: usize, limit: usize },
    /// Jobs can be cancelled, and nothing else.
    #[error("action cannot be {found:?}; allowed: cancel")]
    Action { found: Text },
    /// A request to do something to jobs names none.
    #[error("no job is named: give job_ids, or the option job_tag")]
    NoJobNamed,
    /// The caller has no such job.
    #[error("job {0} not found")]
    UnknownId(i64),
    /// The caller has no such job.
    #[error("job with job_tag {0} not found")]
    UnknownTag(JobTag),
    /// Nobody may report on such a run with such a token.
    #[error("no run of job {0} takes this report: it has ended, or the token is not its own")]
    NoRun(JobId),
    /// The result cannot be given in the encoding that was asked for.
    #[error("response_encoding: {0}")]
    ResultEncoding(Text),
    /// The body is not JSON, or not an object.
    #[error("body: {0}")]
    Json(String),
    /// A member of the body's object is wrong.
    #[error("member {name}: {why}")]
    Member { name: String, why: String },
    /// A query where there are no parameters.
    #[error("this path takes no query; what is to be passed on belongs into the body")]
    Query,
    /// A path that names a job names none.
    #[error("job {found:?} not found; a job is named by its id, or as tag:TAG")]
    NoJobName { found: String },
    /// There is no result yet.
    #[error("job {id} has not ended; it is {phase}")]
    NotEnded { id: JobId, phase: Phase },
    /// There is nothing left to cancel.
    #[error("job {id} has ended already, as {}", phase.status())]
    Ended { id: JobId, phase: Phase },
    /// There will never be a result.
    #[error("job {id} has no result: it ended as {}{}", phase.status(), after_colon(message))]
    NoResult {
        id: JobId,
        phase: Phase,
        message: Text,
    },
    /// A call that was waited for failed.
    #[error("{message}")]
    JobFailed { id: JobId, message: Text },
    /// A call that was waited for was cancelled by somebody.
    #[error("job {0} was cancelled")]
    JobCancelled(JobId),
    /// None of the bytes that were asked for is there.
    #[error("no byte of {found:?} is among the result's {len}")]
    Range { found: String, len: u64 },
    /// The engine refused the job.
    #[error(transparent)]
    Submit(SubmitError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What goes through to the upstream gets no answer there.
    #[error("upstream: {0}")]
    Upstream(String),
    /// The server is about to end.
    #[error("the server is stopping")]
    Stopping,
    /// It is not known who calls.
    #[error("{}", denied(*.0))]
    Login(Denied),
    /// The upstream says that the caller is not let in.
    #[error(transparent)]
    Barred(Barred),
    /// The metrics are not for everybody.
    #[error(
        "the metrics are shown to admins, or, where there are no accounts, to callers on this machine; \
         metrics_public shows them to everybody"
    )]
    MetricsNotShown,
    /// What happened in the last hours is not for everybody.
    #[error("what happens to all jobs is shown to admins")]
    HistoryNotShown,
    /// The request goes to another host than the server answers for.
    #[error(
        "requests to host {found:?} are not answered here; use a loopback address, or add it to \
         allowed_hosts"
    )]
    Host { found: String },
    /// The request is from a web page that may send none.
    #[error(
        "requests of web pages from {found:?} are not answered here; add it to cors_origins if \
         they are to be"
    )]
    Origin { found: String },
}

impl Refusal {
    /// The signal that sends clients to another cluster, if that is what this means. It goes with
    /// HTTP 400, where all clients look for it (docs/protocol.md section 7).
    pub(crate) fn signal(&self) -> Option<Signal> {
        match self {
            Self::Submit(SubmitError::Draining) => Some(Signal::Draining),
            Self::Stopping
            | Self::Submit(SubmitError::Stopped | SubmitError::Store(StoreError::Closed))
            | Self::Store(StoreError::Closed) => Some(Signal::ShuttingDown),
            _ => None,
        }
    }

    /// The HTTP status where the answer is an envelope.
    pub(crate) fn status(&self) -> StatusCode {
        self.kind().wire
    }

    /// How long to wait before trying again, where that may help. A 429 that says so is the one
    /// refusal that the Python client waits out (docs/protocol.md section 6).
    ///
    /// A full store counts: to answer 500 would make clients leave for good, though the jobs they
    /// have here can still be fetched, and space comes back as jobs expire.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Submit(SubmitError::Busy { retry_after, .. }) => Some(*retry_after),
            Self::Submit(SubmitError::Store(StoreError::Full)) | Self::Store(StoreError::Full) => {
                Some(RETRY_AFTER_FULL)
            }
            Self::Body(BodyError::Busy(_))
            | Self::AnswerBusy(_)
            | Self::TooManyStreams { .. }
            | Self::Login(Denied::Busy) => Some(RETRY_AFTER_BUSY),
            Self::Login(Denied::Throttled(wait)) => Some(*wait),
            Self::Barred(barred) => barred.retry_after,
            _ => None,
        }
    }

    /// How long to wait where the answer is a problem. What is not ready yet, or ends, is told there too.
    pub(crate) fn http_retry_after(&self) -> Option<Duration> {
        let is_over = self.signal().is_some();
        let later = match self {
            Self::NotEnded { .. } => Some(RETRY_AFTER_BUSY),
            _ => is_over.then_some(RETRY_AFTER_STOPPING),
        };
        self.retry_after().or(later)
    }

    /// The methods that the path has, for `Allow`.
    pub(crate) fn allow(&self) -> Option<&'static str> {
        match self {
            Self::Method { allowed, .. } => Some(allowed),
            _ => None,
        }
    }

    /// How callers may show who they are, for `WWW-Authenticate`.
    pub(crate) fn challenge(&self) -> Option<&'static str> {
        let is_asked = self.status() == StatusCode::UNAUTHORIZED;
        is_asked.then_some(r#"Basic realm="kjob", charset="UTF-8""#)
    }

    /// Whether the caller showed credentials that are not good.
    pub(crate) fn is_wrong_login(&self) -> bool {
        match self {
            Self::Login(denied) => *denied == Denied::Wrong,
            Self::Barred(barred) => barred.status == StatusCode::UNAUTHORIZED,
            _ => false,
        }
    }

    /// Whether the connection cannot be used for another request.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::Body(
                BodyError::Stalled { .. } | BodyError::TooSlow { .. } | BodyError::Broken(_)
            )
        )
    }

    /// The text for the caller, of bounded length. It may echo what the caller sent, so phrases that
    /// make clients fail over are still to be broken.
    pub(crate) fn message(&self) -> String {
        let mut message = self.to_string();
        if message.len() > MESSAGE_LEN_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_LEN_MAX));
            message.push_str("...");
        }
        message
    }
}

impl From<SubmitError> for Refusal {
    /// The decoder calls what it is given the body; here that would be taken for the request's.
    fn from(mut error: SubmitError) -> Self {
        if let SubmitError::BadPayload { why, .. } = &mut error
            && let Some(rest) = why.strip_prefix(DecodeError::BODY)
            && rest.starts_with(':')
        {
            *why = Text::from(format!("payload{rest}"));
        }
        Self::Submit(error)
    }
}

fn after_colon(message: &str) -> String {
    if message.is_empty() {
        return String::new();
    }
    format!(": {message}")
}

fn denied(denied: Denied) -> &'static str {
    match denied {
        Denied::Missing => "unauthorized: give a user and a password, or a token",
        Denied::Malformed => {
            "unauthorized: Authorization is neither \"Basic\" with a user and a password nor \
             \"Bearer\" with a token"
        }
        Denied::Wrong => "unauthorized: the user, the password or the token is wrong",
        Denied::Throttled(_) => "too many logins failed; try again later",
        Denied::Busy => "busy: too many logins at once",
    }
}

/// Whether it is the body as a whole that is too large, which only decompression can show.
fn is_too_large(error: &DecodeError) -> bool {
    error.field == DecodeError::BODY && matches!(error.kind, DecodeErrorKind::TooLong { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that docs/protocol.md section 6 lists as plain, or that are meant to be waited out.
    #[test]
    fn only_our_own_failures_make_clients_leave() {
        let plain = [400, 401, 403, 405, 408, 413, 415, 429];
        let store = || StoreError::Corrupt { what: "x".into() };
        let (wanted, limit) = (2, 1);
        let over = OverBudget { wanted, limit };
        let refusals = [
            Refusal::Body(BodyError::Busy(over)),
            Refusal::AnswerBusy(over),
            Refusal::TooManyStreams { limit },
            Refusal::Body(BodyError::Broken("x".into())),
            Refusal::MediaType {
                found: "x".into(),
                allowed: "y",
            },
            Refusal::ContentEncoding { found: "x".into() },
            Refusal::UnknownPath { path: "/x".into() },
            Refusal::UnknownId(7),
            Refusal::Store(StoreError::Full),
            Refusal::Submit(SubmitError::Store(StoreError::Full)),
            Refusal::Submit(SubmitError::UnknownEndpoint("/x".into())),
            Refusal::Login(Denied::Missing),
            Refusal::Login(Denied::Malformed),
            Refusal::Login(Denied::Wrong),
            Refusal::Login(Denied::Throttled(Duration::from_secs(1))),
            Refusal::Login(Denied::Busy),
            Refusal::Host { found: "x".into() },
            Refusal::Origin { found: "x".into() },
        ];
        for refusal in refusals {
            assert_eq!(refusal.signal(), None, "{refusal}");
            assert!(plain.contains(&refusal.status().as_u16()), "{refusal}");
        }
        for ours in [Refusal::Store(store()), Refusal::Submit(store().into())] {
            assert_eq!(ours.status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
    }

    #[test]
    fn the_signals_go_with_400() {
        for (refusal, signal) in [
            (Refusal::Submit(SubmitError::Draining), Signal::Draining),
            (Refusal::Submit(SubmitError::Stopped), Signal::ShuttingDown),
            (Refusal::Store(StoreError::Closed), Signal::ShuttingDown),
            (Refusal::Stopping, Signal::ShuttingDown),
        ] {
            assert_eq!(refusal.signal(), Some(signal));
            assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn the_payload_is_not_called_the_body() {
        let message = |why: &'static str| {
            Refusal::from(SubmitError::BadPayload {
                endpoint: "/x".into(),
                encoding: kjob_proto::Encoding::Json,
                why: why.into(),
            })
            .message()
        };
        let head = "the payload is not a valid json request of /x: ";
        for (why, told) in [
            ("body: not JSON, at byte 0", "payload: not JSON, at byte 0"),
            ("body.x: too long", "body.x: too long"),
            ("message: too long", "message: too long"),
        ] {
            assert_eq!(message(why), format!("{head}{told}"));
        }
    }

    #[test]
    fn what_the_caller_sent_is_echoed_up_to_a_bound() {
        let path = "ü".repeat(1 << 20);
        let message = Refusal::UnknownPath { path }.message();
        assert!(message.starts_with("endpoint \"üü") && message.ends_with("ü..."));
        assert!(message.len() <= MESSAGE_LEN_MAX + 3);
    }
}
