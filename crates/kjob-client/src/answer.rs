//! What a reply means (docs/protocol.md sections 3, 6 and 7).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{DATE, RETRY_AFTER};
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
        return Err(Failed {
            error: Kind::Busy { status, message }.into(),
            retry_after: retry_after(headers),
        });
    }
    Err(match status {
        _ if failover::contains_phrase(&message) => Kind::Leaving { message }.into(),
        StatusCode::INTERNAL_SERVER_ERROR => Kind::Failed { message }.into(),
        _ => Kind::Refused { status, message }.into(),
    })
}

/// Seconds or a date (RFC 9110 section 10.2.3). A date is told from the server's own clock, where it shows
/// that; one that has passed asks for no wait.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let date = |text| httpdate::parse_http_date(text).ok();
    let asked = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = text(DATE).and_then(date).unwrap_or_else(SystemTime::now);
    let until = date(asked)?.duration_since(now);
    Some(until.unwrap_or_default())
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
    use crate::ring::Verdict;

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
        for status in [200, 400, 401, 409, 413] {
            let error = error(status, refusal());
            assert!(error.is_refused(), "{status}");
            assert_eq!(error.verdict(), Verdict::Stands);
            assert_eq!(error.message(), Some("no such thing"));
            assert_eq!(error.status().map(|status| status.as_u16()), Some(status));
        }
    }

    #[test]
    fn a_busy_server_says_how_long_to_wait() {
        for status in [429, 503] {
            let failed = read(status, refusal()).unwrap_err();
            assert!(failed.error.is_busy(), "{status}");
            assert_eq!(failed.retry_after, Some(Duration::from_secs(3)));
        }
    }

    #[test]
    fn a_wait_may_be_asked_for_until_a_date() {
        let asked = |retry_after: &'static str, date: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(retry_after));
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_static(date));
            }
            super::retry_after(&headers)
        };
        let noon = Some("Sun, 06 Nov 1994 12:00:00 GMT");
        for (text, date, seconds) in [
            ("3", noon, Some(3)),
            ("Sun, 06 Nov 1994 12:00:07 GMT", noon, Some(7)),
            // The forms of old that are to be taken too.
            ("Sunday, 06-Nov-94 12:00:07 GMT", noon, Some(7)),
            ("Sun Nov  6 12:00:07 1994", noon, Some(7)),
            ("Sun, 06 Nov 1994 11:59:59 GMT", noon, Some(0)),
            ("Sun, 06 Nov 1994 12:00:07 GMT", None, Some(0)),
            ("Sun, 06 Nov 1994 12:00:07 GMT", Some("noon"), Some(0)),
            ("soon", noon, None),
            ("-1", noon, None),
            ("", noon, None),
        ] {
            let found = asked(text, date);
            assert_eq!(
                found,
                seconds.map(Duration::from_secs),
                "{text} at {date:?}"
            );
        }
        let far = asked("Fri, 31 Dec 9999 23:59:59 GMT", None).unwrap();
        assert!(far > Duration::from_secs(1 << 30), "by our clock: {far:?}");
    }

    #[test]
    fn a_proxy_that_lost_its_server_counts_as_busy() {
        for status in [502, 503, 504] {
            assert!(error(status, "<html>").is_busy(), "{status}");
        }
    }

    /// kjob-server says 500 when its store failed: it may have taken the job before.
    #[test]
    fn a_server_that_failed_has_not_refused() {
        let error = error(500, refusal());
        assert!(error.is_failed() && !error.is_refused(), "{error}");
        assert_eq!(error.message(), Some("no such thing"));
        assert_eq!(error.status(), Some(StatusCode::INTERNAL_SERVER_ERROR));
        assert_eq!(error.verdict(), Verdict::Gone);
    }

    /// The table of the README; docs/protocol.md sections 6 and 7.
    #[test]
    fn what_makes_a_client_go_elsewhere() {
        for (status, body, verdict) in [
            (400, refusal(), Verdict::Stands),
            (401, refusal(), Verdict::Stands),
            (404, refusal(), Verdict::Stands),
            (404, Bytes::from("<html>"), Verdict::Gone),
            // What proxies say is no refusal, whatever their status.
            (200, Bytes::from("{}"), Verdict::Gone),
            (403, Bytes::from(r#"{"detail":"Forbidden"}"#), Verdict::Gone),
            (404, Bytes::from(r#"{"error":"x"}"#), Verdict::Gone),
            (429, refusal(), Verdict::Waits),
            (500, refusal(), Verdict::Gone),
            (500, Bytes::from("<html>"), Verdict::Gone),
            (502, refusal(), Verdict::Unsure),
            (503, refusal(), Verdict::Unsure),
            (504, refusal(), Verdict::Unsure),
        ] {
            assert_eq!(error(status, body).verdict(), verdict, "{status}");
        }
        for phrase in failover::PHRASES {
            let body = serde_json::json!({
                "status": "ERROR", "message": format!("x {phrase} y"), "data_type": "none",
                "data": "", "data_str": "",
            });
            assert_eq!(error(200, body.to_string()).verdict(), Verdict::Gone);
        }
    }

    #[test]
    fn a_job_that_is_not_there_is_told_from_other_refusals() {
        for (message, is_no_such_job) in [
            ("job 7 not found", true),
            ("job with job_tag a-b not found", true),
            ("endpoint /x not found", false),
            ("job 7 is not to be found", false),
        ] {
            let body = reply_error(message, Encoding::Json).into_bytes();
            assert_eq!(
                error(400, body).is_no_such_job(),
                is_no_such_job,
                "{message}"
            );
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
        for body in ["", "<html>", "{", "[]", "{}", r#"{"detail":"x"}"#] {
            let error = error(200, body);
            assert!(error.is_odd(), "{body}: {error}");
        }
    }
}
