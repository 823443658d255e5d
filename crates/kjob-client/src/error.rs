//! What goes wrong between a caller and a server.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use kjob_proto::{DecodeError, NotUtf8, Text};

/// Why a call did not succeed.
///
/// What there is to tell apart is asked by the methods; more kinds may come. Printing shows one
/// level, the [`source`](StdError::source) chain the rest.
#[derive(Debug)]
pub struct Error(Box<Kind>);

#[derive(Debug)]
pub(crate) enum Kind {
    Url {
        url: String,
        why: &'static str,
    },
    Payload(NotUtf8),
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
    TooLong {
        limit: usize,
    },
    NoEnvelope {
        status: StatusCode,
        source: DecodeError,
    },
    Odd(String),
}

type Cause = Box<dyn StdError + Send + Sync>;

impl Error {
    /// The server understood the call and said no: an unknown endpoint or job, a bad payload or
    /// option, a tag that names another call. The same call would be refused again.
    pub fn is_refused(&self) -> bool {
        matches!(*self.0, Kind::Refused { .. })
    }

    /// The server has too much to do, also after some tries.
    pub fn is_busy(&self) -> bool {
        matches!(*self.0, Kind::Busy { .. })
    }

    /// The server drains or is about to end, and sends its clients elsewhere.
    pub fn is_leaving(&self) -> bool {
        matches!(*self.0, Kind::Leaving { .. })
    }

    /// No connection could be made, also after some tries: the server has seen nothing of the
    /// call's last try.
    pub fn is_connect(&self) -> bool {
        matches!(*self.0, Kind::Connect(_))
    }

    /// TLS was not agreed on: the server's certificate is not trusted, has ended or is another host's,
    /// or the server does not take that of the client. It is not tried again.
    #[cfg(feature = "tls")]
    pub fn is_tls(&self) -> bool {
        matches!(*self.0, Kind::Tls(_))
    }

    /// The connection broke before the reply was whole, also after some tries.
    pub fn is_broken(&self) -> bool {
        matches!(*self.0, Kind::Broken(_))
    }

    /// The reply took too long, also after some tries.
    pub fn is_timeout(&self) -> bool {
        matches!(*self.0, Kind::Timeout(_))
    }

    /// The reply is not of this protocol, or longer than the client takes.
    pub fn is_odd(&self) -> bool {
        matches!(
            *self.0,
            Kind::Odd(_) | Kind::NoEnvelope { .. } | Kind::TooLong { .. }
        )
    }

    /// What the caller handed in cannot be used: a URL, a payload, credentials, a certificate.
    pub fn is_usage(&self) -> bool {
        #[cfg(feature = "tls")]
        if matches!(*self.0, Kind::TlsSetup { .. }) {
            return true;
        }
        matches!(
            *self.0,
            Kind::Url { .. } | Kind::Payload(_) | Kind::Credentials { .. }
        )
    }

    /// What the server said, if it said something.
    pub fn message(&self) -> Option<&str> {
        match &*self.0 {
            Kind::Refused { message, .. }
            | Kind::Busy { message, .. }
            | Kind::Leaving { message } => Some(message.as_str()),
            _ => None,
        }
    }

    /// The HTTP status of the reply, if there was one and it matters.
    pub fn status(&self) -> Option<StatusCode> {
        match &*self.0 {
            Kind::Refused { status, .. } | Kind::Busy { status, .. } => Some(*status),
            Kind::NoEnvelope { status, .. } => Some(*status),
            Kind::Leaving { .. } => Some(StatusCode::BAD_REQUEST),
            _ => None,
        }
    }

    /// Whether the same call may fare better a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        self.is_busy() || self.is_connect() || self.is_broken() || self.is_timeout()
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
        Self(Box::new(kind))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Url { url, why } => write!(f, "url {url:?}: {why}"),
            Kind::Payload(_) => f.write_str("the JSON payload is no text"),
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
            Kind::TooLong { limit } => write!(f, "the reply is longer than {limit} bytes"),
            Kind::NoEnvelope { status, .. } => {
                write!(f, "the reply ({}) is not of the protocol", status.as_u16())
            }
            Kind::Odd(what) => write!(f, "the reply is odd: {what}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &*self.0 {
            Kind::Connect(cause) | Kind::Broken(cause) => Some(cause.as_ref()),
            #[cfg(feature = "tls")]
            Kind::Tls(cause) => Some(cause.as_ref()),
            Kind::NoEnvelope { source, .. } => Some(source),
            Kind::Payload(source) => Some(source),
            _ => None,
        }
    }
}
