//! The one table of refusals: what each kind is called, and with which status it goes.
//!
//! Clients of the wire protocol take most statuses for a reason to leave the cluster, so there a plain
//! error is 400 (docs/protocol.md section 6). Ordinary HTTP has a status for each.

use http::StatusCode;
use kjob_core::StoreError;
use kjob_core::engine::SubmitError;

use super::{Refusal, is_too_large};
use crate::auth::{Barred, Denied};
use crate::body::BodyError;

/// What refusals of a kind have in common.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Ends the problem's type URI, and is its heading in docs/http.md.
    pub(crate) name: &'static str,
    /// For people, the same for all of the kind.
    pub(crate) title: &'static str,
    /// The status where the answer is an envelope.
    pub(crate) wire: StatusCode,
    /// The status where the answer is a problem.
    pub(crate) http: StatusCode,
}

macro_rules! kinds {
    ($($constant:ident: $name:literal, $wire:ident, $http:ident, $title:literal;)*) => {
        impl Kind {
            $(const $constant: Self = Self {
                name: $name,
                title: $title,
                wire: StatusCode::$wire,
                http: StatusCode::$http,
            };)*

            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$constant),*];
        }
    };
}

kinds! {
    // name, the wire's status, HTTP's status, title
    INVALID_BODY: "invalid-body", BAD_REQUEST, BAD_REQUEST, "The body cannot be read";
    INVALID_PARAMETER: "invalid-parameter", BAD_REQUEST, UNPROCESSABLE_ENTITY, "A parameter is not valid";
    INVALID_PAYLOAD: "invalid-payload", BAD_REQUEST, UNPROCESSABLE_ENTITY, "The endpoint does not take the payload";
    UNKNOWN_ENDPOINT: "unknown-endpoint", BAD_REQUEST, UNPROCESSABLE_ENTITY, "The endpoint is not served here";
    RESULT_ENCODING: "result-encoding", BAD_REQUEST, UNPROCESSABLE_ENTITY, "The result cannot be turned into the encoding";
    UNAUTHORIZED: "unauthorized", UNAUTHORIZED, UNAUTHORIZED, "It is not known who calls";
    FORBIDDEN: "forbidden", FORBIDDEN, FORBIDDEN, "The caller is not let in";
    FOREIGN_HOST: "foreign-host", FORBIDDEN, FORBIDDEN, "Requests to this host are not answered";
    FOREIGN_ORIGIN: "foreign-origin", FORBIDDEN, FORBIDDEN, "Web pages of this origin are not answered";
    NOT_FOUND: "not-found", BAD_REQUEST, NOT_FOUND, "Nothing is at this path";
    JOB_NOT_FOUND: "job-not-found", BAD_REQUEST, NOT_FOUND, "The caller has no such job";
    NO_RESULT: "no-result", BAD_REQUEST, NOT_FOUND, "The job ended without a result";
    METHOD: "method-not-allowed", METHOD_NOT_ALLOWED, METHOD_NOT_ALLOWED, "The path has no such method";
    TOO_SLOW: "too-slow", REQUEST_TIMEOUT, REQUEST_TIMEOUT, "The body came too slowly";
    TAG_CONFLICT: "tag-conflict", BAD_REQUEST, CONFLICT, "The tag names another call";
    JOB_NOT_ENDED: "job-not-ended", BAD_REQUEST, CONFLICT, "The job has not ended";
    JOB_ENDED: "job-ended", BAD_REQUEST, CONFLICT, "The job has ended";
    JOB_CANCELLED: "job-cancelled", BAD_REQUEST, CONFLICT, "The job was cancelled";
    TOO_LARGE: "too-large", PAYLOAD_TOO_LARGE, PAYLOAD_TOO_LARGE, "The body is too large";
    MEDIA_TYPE: "media-type", UNSUPPORTED_MEDIA_TYPE, UNSUPPORTED_MEDIA_TYPE, "The body is of a type that is not taken";
    RANGE: "range", BAD_REQUEST, RANGE_NOT_SATISFIABLE, "The result has no such bytes";
    BUSY: "busy", TOO_MANY_REQUESTS, TOO_MANY_REQUESTS, "A budget is used up";
    THROTTLED: "throttled", TOO_MANY_REQUESTS, TOO_MANY_REQUESTS, "Too many logins failed";
    STORE_FAILED: "store-failed", INTERNAL_SERVER_ERROR, INTERNAL_SERVER_ERROR, "The store failed";
    JOB_FAILED: "job-failed", BAD_REQUEST, BAD_GATEWAY, "The job failed";
    UPSTREAM: "upstream", BAD_GATEWAY, BAD_GATEWAY, "The upstream gives no answer";
    // These two send clients of the wire to another cluster: by their texts, not by a status.
    DRAINING: "draining", BAD_REQUEST, SERVICE_UNAVAILABLE, "The server takes no more jobs";
    STOPPING: "stopping", BAD_REQUEST, SERVICE_UNAVAILABLE, "The server is about to end";
}

impl Refusal {
    /// What it is called, and its statuses.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Body(error) => of_body(error),
            Self::TooManyStreams { .. } | Self::AnswerBusy(_) => Kind::BUSY,
            Self::Decode { error, .. } if is_too_large(error) => Kind::TOO_LARGE,
            Self::Decode { .. } | Self::Json(_) => Kind::INVALID_BODY,
            Self::Option(_)
            | Self::Callback(_)
            | Self::Member { .. }
            | Self::PayloadEncoding { .. }
            | Self::EndpointTooLong { .. }
            | Self::Action { .. }
            | Self::NoJobNamed
            | Self::Query => Kind::INVALID_PARAMETER,
            Self::ResultEncoding(_) => Kind::RESULT_ENCODING,
            Self::MediaType { .. } | Self::ContentEncoding { .. } => Kind::MEDIA_TYPE,
            Self::Method { .. } => Kind::METHOD,
            Self::UnknownPath { .. } => Kind::NOT_FOUND,
            Self::UnknownId(_) | Self::UnknownTag(_) | Self::NoRun(_) | Self::NoJobName { .. } => {
                Kind::JOB_NOT_FOUND
            }
            Self::NotEnded { .. } => Kind::JOB_NOT_ENDED,
            Self::Ended { .. } => Kind::JOB_ENDED,
            Self::NoResult { .. } => Kind::NO_RESULT,
            Self::JobFailed { .. } => Kind::JOB_FAILED,
            Self::JobCancelled(_) => Kind::JOB_CANCELLED,
            Self::Range { .. } => Kind::RANGE,
            Self::Submit(error) => of_submit(error),
            Self::Store(error) => of_store(error),
            Self::Upstream(_) => Kind::UPSTREAM,
            Self::Stopping => Kind::STOPPING,
            Self::Login(denied) => of_login(*denied),
            Self::Barred(barred) => of_barred(barred),
            Self::MetricsNotShown | Self::HistoryNotShown => Kind::FORBIDDEN,
            Self::Host { .. } => Kind::FOREIGN_HOST,
            Self::Origin { .. } => Kind::FOREIGN_ORIGIN,
        }
    }
}

fn of_body(error: &BodyError) -> Kind {
    match error {
        BodyError::TooLarge { .. } => Kind::TOO_LARGE,
        BodyError::Stalled { .. } | BodyError::TooSlow { .. } => Kind::TOO_SLOW,
        BodyError::Broken(_) => Kind::INVALID_BODY,
        BodyError::Busy(_) => Kind::BUSY,
    }
}

fn of_submit(error: &SubmitError) -> Kind {
    match error {
        SubmitError::Draining => Kind::DRAINING,
        SubmitError::UnknownEndpoint(_) => Kind::UNKNOWN_ENDPOINT,
        SubmitError::TagConflict { .. } => Kind::TAG_CONFLICT,
        SubmitError::Busy { .. } => Kind::BUSY,
        SubmitError::Store(error) => of_store(error),
        SubmitError::Stopped => Kind::STOPPING,
        // What else there may come is wrong with the call.
        _ => Kind::INVALID_PAYLOAD,
    }
}

/// A full store counts as busy: to answer 500 would make clients leave for good, though the jobs they
/// have here can still be fetched, and space comes back as jobs expire. Anything else is our fault and
/// not the caller's: another cluster may do better.
fn of_store(error: &StoreError) -> Kind {
    match error {
        StoreError::Full => Kind::BUSY,
        StoreError::Closed => Kind::STOPPING,
        _ => Kind::STORE_FAILED,
    }
}

/// No client tries another cluster for 401 but C++, which does for all but 400.
fn of_login(denied: Denied) -> Kind {
    match denied {
        Denied::Missing | Denied::Malformed | Denied::Wrong => Kind::UNAUTHORIZED,
        Denied::Throttled(_) => Kind::THROTTLED,
        Denied::Busy => Kind::BUSY,
    }
}

fn of_barred(barred: &Barred) -> Kind {
    match barred.status {
        StatusCode::UNAUTHORIZED => Kind::UNAUTHORIZED,
        StatusCode::TOO_MANY_REQUESTS => Kind::THROTTLED,
        _ => Kind::FORBIDDEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_once() {
        for (n, kind) in Kind::ALL.iter().enumerate() {
            let later = Kind::ALL.iter().skip(n + 1);
            assert!(later.into_iter().all(|other| other.name != kind.name));
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(kind.name.bytes().all(is_name), "{}", kind.name);
        }
    }

    /// Each has its heading in the documentation, which the type URI leads to.
    #[test]
    fn each_is_explained() {
        let docs = include_str!("../../../../docs/http.md");
        for kind in Kind::ALL {
            let row = format!(
                "| <a id=\"{0}\"></a>`{0}` | {1} |",
                kind.name,
                kind.http.as_u16()
            );
            assert!(docs.contains(&row), "docs/http.md lacks {row}");
        }
    }

    /// docs/errors.md tells of each what to do, with both statuses, and of no other.
    #[test]
    fn each_has_its_row_among_the_errors() {
        let docs = include_str!("../../../../docs/errors.md");
        for Kind {
            name, wire, http, ..
        } in Kind::ALL
        {
            let (wire, http) = (wire.as_u16(), http.as_u16());
            let row = format!("| [`{name}`](http.md#{name}) | {wire} | {http} | ");
            assert!(docs.contains(&row), "docs/errors.md lacks {row}");
        }
        let rows = docs.lines().filter(|line| line.starts_with("| [`"));
        assert_eq!(rows.count(), Kind::ALL.len());
    }
}
