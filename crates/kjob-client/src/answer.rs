//! What a reply means (docs/protocol.md sections 3, 6 and 7).

use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use kjob_proto::{Encoding, Limits, Record, Reply, Text, failover};

use crate::Error;
use crate::error::Kind;

/// A try that brought no answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// How long the server asks to wait.
    pub(crate) retry_after: Option<Duration>,
}

impl From<Kind> for Failed {
    fn from(kind: Kind) -> Self {
        Self {
            error: kind.into(),
            retry_after: None,
        }
    }
}

/// Opens the reply to a request in `encoding`.
pub(crate) fn open<Response: Record>(
    status: StatusCode,
    headers: &HeaderMap,
    encoding: Encoding,
    body: Bytes,
) -> Result<Response, Failed> {
    let message = match Reply::<Response>::decode(encoding, body.clone(), &limits(body.len())) {
        Ok(Ok(response)) => return Ok(response),
        Ok(Err(refusal)) => refusal.message,
        // A proxy that has lost its server answers in its own words.
        Err(_) if is_busy(status) => Text::from(status.to_string()),
        Err(source) => return Err(Kind::NoEnvelope { status, source }.into()),
    };
    if is_busy(status) {
        let seconds = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        return Err(Failed {
            error: Kind::Busy { status, message }.into(),
            retry_after: seconds
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs),
        });
    }
    Err(match failover::contains_phrase(&message) {
        true => Kind::Leaving { message }.into(),
        false => Kind::Refused { status, message }.into(),
    })
}

/// Whether the same call may fare better a moment later.
fn is_busy(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// What is in a reply was asked for, so only its length bounds it, which was checked as it came.
fn limits(len: usize) -> Limits {
    Limits::default()
        .with_max_body(len)
        .with_max_decompressed(len)
        .with_max_string(len)
        .with_max_map_entries(len)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use kjob_proto::{CreateJobResponse, Signal, reply_error, reply_failover, reply_ok};

    use super::*;

    fn read(status: u16, body: impl Into<Bytes>) -> Result<CreateJobResponse, Failed> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("3"));
        let status = StatusCode::from_u16(status).unwrap();
        open(status, &headers, Encoding::Json, body.into())
    }

    fn error(status: u16, body: impl Into<Bytes>) -> Error {
        read(status, body).unwrap_err().error
    }

    fn refusal() -> Bytes {
        reply_error("no such thing", Encoding::Json).into_bytes()
    }

    #[test]
    fn a_record_is_an_answer() {
        let response = CreateJobResponse {
            job_id: 7,
            ..CreateJobResponse::default()
        };
        let body = reply_ok(&response, Encoding::Json).into_bytes();
        assert_eq!(read(200, body).unwrap(), response);
    }

    #[test]
    fn an_error_envelope_is_a_refusal_at_any_plain_status() {
        for status in [200, 400, 401, 409, 413, 500] {
            let error = error(status, refusal());
            assert!(error.is_refused() && !error.is_passing(), "{status}");
            assert_eq!(error.message(), Some("no such thing"));
            assert_eq!(error.status().map(|status| status.as_u16()), Some(status));
        }
    }

    #[test]
    fn a_busy_server_says_how_long_to_wait() {
        for status in [429, 503] {
            let failed = read(status, refusal()).unwrap_err();
            assert!(
                failed.error.is_busy() && failed.error.is_passing(),
                "{status}"
            );
            assert_eq!(failed.retry_after, Some(Duration::from_secs(3)));
        }
    }

    #[test]
    fn a_proxy_that_lost_its_server_counts_as_busy() {
        for status in [502, 503, 504] {
            assert!(error(status, "<html>").is_busy(), "{status}");
        }
    }

    #[test]
    fn a_signal_to_go_elsewhere_is_no_refusal() {
        for signal in [Signal::Draining, Signal::ShuttingDown] {
            let error = error(400, reply_failover(signal, Encoding::Json).into_bytes());
            assert!(error.is_leaving() && !error.is_refused());
            assert_eq!(error.message(), Some(signal.message()));
        }
    }

    #[test]
    fn what_is_no_envelope_is_odd() {
        for body in ["", "<html>", "{", "[]"] {
            let error = error(200, body);
            assert!(error.is_odd(), "{body}: {error}");
        }
    }
}
