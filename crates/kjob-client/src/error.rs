//! What goes wrong between a caller and a server.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use kjob_proto::{DecodeError, NotUtf8, Text};

use crate::Unsuccessful;
use crate::ring::Verdict;

/// Why a call did not succeed.
///
/// What there is to tell apart is asked by the methods; more kinds may come. Printing shows one
/// level, the [`source`](StdError::source) chain the rest.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    server: Option<String>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Url {
        url: String,
        why: &'static str,
    },
    Payload(NotUtf8),
    Write(serde_json::Error),
    Credentials {
        why: &'static str,
    },
    #[cfg(feature = "tls")]
    TlsSetup {
        what: &'static str,
        why: String,
    },
    #[cfg(feature = "tls")]
    Tls(Cause),
    Connect(Cause),
    Broken(Cause),
    Timeout(Duration),
    Refused {
        status: StatusCode,
        message: Text,
    },
    Busy {
        status: StatusCode,
        message: Text,
    },
    Leaving {
        message: Text,
    },
    Failed {
        message: Text,
    },
    TooLong {
        limit: usize,
    },
    NoEnvelope {
        status: StatusCode,
        source: DecodeError,
    },
    Unsuccessful(Unsuccessful),
    Odd(String),
    Read(serde_json::Error),
}

type Cause = Box<dyn StdError + Send + Sync>;

impl Error {
    /// The server understood the call and said no: an unknown endpoint or job, a bad payload or
    /// option, a tag that names another call. The same call would be refused again.
    pub fn is_refused(&self) -> bool {
        matches!(self.0.kind, Kind::Refused { .. })
    }

    /// There is no such job, or it is another user's, or its time is over. Known by the words of
    /// kjob-server; of other servers it is only known that they [refuse](Self::is_refused).
    pub fn is_no_such_job(&self) -> bool {
        match &self.0.kind {
            Kind::Refused { message, .. } => {
                message.starts_with("job ") && message.ends_with(" not found")
            }
            _ => false,
        }
    }

    /// The server has too much to do, also after some tries.
    pub fn is_busy(&self) -> bool {
        matches!(self.0.kind, Kind::Busy { .. })
    }

    /// The server drains or is about to end, and sends its clients elsewhere.
    pub fn is_leaving(&self) -> bool {
        matches!(self.0.kind, Kind::Leaving { .. })
    }

    /// The server failed (HTTP 500), as when it cannot write to its disk. It may have taken the call.
    pub fn is_failed(&self) -> bool {
        matches!(self.0.kind, Kind::Failed { .. })
    }

    /// No connection could be made, also after some tries: the server has seen nothing of the
    /// call's last try.
    pub fn is_connect(&self) -> bool {
        matches!(self.0.kind, Kind::Connect(_))
    }

    /// TLS was not agreed on: the server's certificate is not trusted, has ended or is another host's,
    /// or the server does not take that of the client. It is not tried again.
    #[cfg(feature = "tls")]
    pub fn is_tls(&self) -> bool {
        matches!(self.0.kind, Kind::Tls(_))
    }

    /// The connection broke before the reply was whole, also after some tries.
    pub fn is_broken(&self) -> bool {
        matches!(self.0.kind, Kind::Broken(_))
    }

    /// The reply took too long, also after some tries.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::Timeout(_))
    }

    /// The reply is not of this protocol, or longer than the client takes, or no value of the type
    /// that was asked for.
    pub fn is_odd(&self) -> bool {
        matches!(
            self.0.kind,
            Kind::Odd(_) | Kind::Read(_) | Kind::NoEnvelope { .. } | Kind::TooLong { .. }
        )
    }

    /// Why the job has no result, if that is what is wrong: all calls went well, and it failed, was cancelled,
    /// or has not ended.
    pub fn unsuccessful(&self) -> Option<&Unsuccessful> {
        match &self.0.kind {
            Kind::Unsuccessful(why) => Some(why),
            _ => None,
        }
    }

    /// What the caller handed in cannot be used: a URL, a payload, credentials, a certificate.
    pub fn is_usage(&self) -> bool {
        #[cfg(feature = "tls")]
        if matches!(self.0.kind, Kind::TlsSetup { .. }) {
            return true;
        }
        matches!(
            self.0.kind,
            Kind::Url { .. } | Kind::Payload(_) | Kind::Write(_) | Kind::Credentials { .. }
        )
    }

    /// What the server said, if it said something.
    pub fn message(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::Refused { message, .. }
            | Kind::Busy { message, .. }
            | Kind::Leaving { message }
            | Kind::Failed { message } => Some(message.as_str()),
            _ => None,
        }
    }

    /// The HTTP status of the reply, if there was one and it matters.
    pub fn status(&self) -> Option<StatusCode> {
        match &self.0.kind {
            Kind::Refused { status, .. } | Kind::Busy { status, .. } => Some(*status),
            Kind::NoEnvelope { status, .. } => Some(*status),
            Kind::Leaving { .. } => Some(StatusCode::BAD_REQUEST),
            Kind::Failed { .. } => Some(StatusCode::INTERNAL_SERVER_ERROR),
            _ => None,
        }
    }

    /// The URL of the server that was asked last, if one was.
    pub fn server(&self) -> Option<&str> {
        self.0.server.as_deref()
    }

    /// What it says about the server and the call (docs/protocol.md sections 6 and 7).
    pub(crate) fn verdict(&self) -> Verdict {
        match &self.0.kind {
            Kind::Busy { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS => Verdict::Waits,
            // The server behind a proxy may have taken the call before it was lost.
            Kind::Busy { .. } | Kind::Broken(_) | Kind::Timeout(_) => Verdict::Unsure,
            Kind::Connect(_) => Verdict::Absent,
            #[cfg(feature = "tls")]
            Kind::Tls(_) => Verdict::Gone,
            Kind::Leaving { .. } | Kind::Failed { .. } | Kind::NoEnvelope { .. } => Verdict::Gone,
            _ => Verdict::Stands,
        }
    }

    pub(crate) fn at_server(mut self, base: &str) -> Self {
        self.0.server = Some(base.to_owned());
        self
    }

    pub(crate) fn url(url: &str, why: &'static str) -> Self {
        Self::from(Kind::Url {
            url: url.to_owned(),
            why,
        })
    }

    pub(crate) fn payload(source: NotUtf8) -> Self {
        Self::from(Kind::Payload(source))
    }

    pub(crate) fn odd(what: String) -> Self {
        Self::from(Kind::Odd(what))
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self(Box::new(Inner { kind, server: None }))
    }
}

impl From<Unsuccessful> for Error {
    fn from(why: Unsuccessful) -> Self {
        Self::from(Kind::Unsuccessful(why))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            Kind::Url { url, why } => write!(f, "url {url:?}: {why}"),
            Kind::Payload(_) => f.write_str("the JSON payload is no text"),
            Kind::Write(_) => f.write_str("the payload cannot be written as JSON"),
            Kind::Credentials { why } => write!(f, "the credentials cannot be sent: {why}"),
            #[cfg(feature = "tls")]
            Kind::TlsSetup { what, why } => write!(f, "{what} cannot be used: {why}"),
            #[cfg(feature = "tls")]
            Kind::Tls(_) => f.write_str("no TLS connection could be made"),
            Kind::Connect(_) => f.write_str("the server cannot be reached"),
            Kind::Broken(_) => f.write_str("the connection broke before the reply was whole"),
            Kind::Timeout(after) => write!(f, "no reply within {} ms", after.as_millis()),
            Kind::Refused { status, message } => {
                write!(f, "the server refused ({}): {message}", status.as_u16())
            }
            Kind::Busy { status, message } => {
                write!(f, "the server is busy ({}): {message}", status.as_u16())
            }
            Kind::Leaving { message } => write!(f, "the server is leaving: {message}"),
            Kind::Failed { message } => write!(f, "the server failed: {message}"),
            Kind::TooLong { limit } => write!(f, "the reply is longer than {limit} bytes"),
            Kind::NoEnvelope { status, .. } => {
                write!(
                    f,
                    "the reply ({}) is not of the protocol; another program, or a proxy, may have answered",
                    status.as_u16()
                )
            }
            Kind::Unsuccessful(why) => write!(f, "{why}"),
            Kind::Odd(what) => write!(f, "the reply is odd: {what}"),
            Kind::Read(_) => f.write_str("the result is no value of the type that was asked for"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0.kind {
            Kind::Connect(cause) | Kind::Broken(cause) => Some(cause.as_ref()),
            #[cfg(feature = "tls")]
            Kind::Tls(cause) => Some(cause.as_ref()),
            Kind::NoEnvelope { source, .. } => Some(source),
            Kind::Payload(source) => Some(source),
            Kind::Write(source) | Kind::Read(source) => Some(source),
            _ => None,
        }
    }
}
