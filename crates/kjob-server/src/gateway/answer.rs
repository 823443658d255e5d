//! Reading what an upstream answers.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::response::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kjob_core::engine::HandlerError;
use kjob_core::{Info, Payload};
use kjob_proto::Encoding;
use serde::de::IgnoredAny;
use tokio::sync::Notify;

use super::again::retry_after;
use super::gather::{Gathering, TooLarge};
use super::reports::Reporting;
use crate::outbound::{SendError, with_sources};

/// How much of the body of an error is told.
const ERROR_LEN_MAX: usize = 1 << 10;

/// How long the body of an error may take to come: what has not come then is not told.
const ERROR_WITHIN: Duration = Duration::from_secs(5);

/// Results from this size on are checked on a thread for blocking work.
pub(super) const HEAVY_LEN_MIN: usize = 128 << 10;

/// Why an upstream gave no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It was not reached, or the connection broke.
    #[error("upstream: {0}")]
    Send(#[from] SendError),
    /// The connection broke in the body of its answer.
    #[error("upstream: its answer broke off: {0}")]
    Body(String),
    /// It sent nothing for too long.
    #[error("upstream: nothing came within {0:?}")]
    Silent(Duration),
    /// It answered something else than success.
    #[error("upstream answered {status}{}", told(.text))]
    Status {
        status: StatusCode,
        text: String,
        retry_after: Option<Duration>,
    },
    /// Its answer is too large.
    #[error("upstream: {0}")]
    TooLarge(#[from] TooLarge),
    /// Nothing can be asked of it with this job.
    #[error("{0}")]
    Request(String),
}

fn told(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

impl Failure {
    /// Whether another try may do better, on routes whose jobs may be run more than once.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Send(_) | Self::Body(_) | Self::Silent(_) => true,
            Self::Status { status, .. } => matches!(
                *status,
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            ),
            Self::TooLarge(_) | Self::Request(_) => false,
        }
    }
}

impl Failure {
    /// Whether the job has surely not run, and may be taken soon: nobody was reached, or there were too
    /// many requests, and this one was not looked at.
    pub(super) fn is_untouched(&self) -> bool {
        match self {
            Self::Send(SendError::Connect(_)) => true,
            Self::Status { status, .. } => *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }

    /// How long to wait, if the upstream says so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl From<Failure> for HandlerError {
    fn from(failure: Failure) -> Self {
        match failure.is_transient() {
            true => Self::transient(failure),
            false => Self::failed(failure),
        }
    }
}

/// How long an upstream may be silent: what it reports of its progress counts as a word.
pub(super) struct Patience<'a> {
    silence_max: Option<Duration>,
    heard: &'a Notify,
}

impl<'a> Patience<'a> {
    pub(super) fn new(silence_max: Option<Duration>, reporting: &'a Reporting) -> Self {
        Self {
            silence_max,
            heard: reporting.heard(),
        }
    }

    /// Waits, but not for longer than the upstream may be silent.
    pub(super) async fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, Failure> {
        let Some(limit) = self.silence_max else {
            return Ok(future.await);
        };
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                outcome = &mut future => return Ok(outcome),
                () = self.heard.notified() => {}
                () = tokio::time::sleep(limit) => return Err(Failure::Silent(limit)),
            }
        }
    }
}

/// Reads a body whole.
pub(super) async fn read(
    mut body: Incoming,
    mut gathering: Gathering,
    patience: &Patience<'_>,
) -> Result<Bytes, Failure> {
    if let Some(len) = body.size_hint().exact() {
        gathering.expect(len)?;
    }
    while let Some(frame) = patience.wait(body.frame()).await? {
        let frame = frame.map_err(|error| Failure::Body(with_sources(&error)))?;
        // Trailers say nothing that we need.
        if let Ok(data) = frame.into_data() {
            gathering.push(&data).await?;
        }
    }
    Ok(gathering.finish())
}

/// The beginning of the body of an answer that is no success.
pub(super) async fn failure_of(head: &Parts, mut body: Incoming) -> Failure {
    let mut start = Vec::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                start.extend_from_slice(&data);
            }
            if start.len() > ERROR_LEN_MAX {
                return;
            }
        }
    };
    // What came in time is told all the same.
    let _ = tokio::time::timeout(ERROR_WITHIN, reading).await;
    let text = visible(&start, ERROR_LEN_MAX);
    Failure::Status {
        status: head.status,
        text,
        retry_after: retry_after(&head.headers),
    }
}

/// Bytes as a text for people: of bounded length, on one line, with nothing in it that a terminal would
/// act on.
pub(super) fn visible(bytes: &[u8], len_max: usize) -> String {
    let is_cut = bytes.len() > len_max;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(len_max)]);
    let text = text.trim_end();
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            letter if letter.is_control() => shown.extend(letter.escape_default()),
            letter => shown.push(letter),
        }
    }
    if is_cut {
        shown.push('…');
    }
    shown
}

/// An answer as a result: JSON if it says that it is, and that is so; else bytes. What is packed is bytes,
/// whatever is in it.
pub(super) async fn result(headers: &HeaderMap, data: Bytes) -> Payload {
    if coding(headers).is_none() && says_json(headers) && is_json(&data).await {
        return Payload {
            encoding: Encoding::Json,
            data,
        };
    }
    Payload::binary(data)
}

/// What is kept of an answer's head beside the result: `upstream_status`, and `content_type` and
/// `content_encoding` if there are such.
pub(super) fn info(status: StatusCode, headers: &HeaderMap) -> Info {
    let mut info = Info::new();
    let told = [
        ("upstream_status", Some(status.as_str())),
        ("content_type", text_of(headers, &CONTENT_TYPE)),
        ("content_encoding", coding(headers)),
    ];
    for (name, value) in told {
        // One that is too long to be kept is left out.
        let _ = value.map(|value| info.insert(name, value.to_owned()));
    }
    info
}

/// What an answer was packed with, though nobody asked for it.
fn coding(headers: &HeaderMap) -> Option<&str> {
    let coding = text_of(headers, &CONTENT_ENCODING)?.trim();
    (!coding.is_empty() && !coding.eq_ignore_ascii_case("identity")).then_some(coding)
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn says_json(headers: &HeaderMap) -> bool {
    let media = text_of(headers, &CONTENT_TYPE).and_then(|value| value.split(';').next());
    let media = media.unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || media.ends_with("+json")
}

/// Whether bytes are a JSON text.
pub(super) async fn is_json(data: &Bytes) -> bool {
    if data.len() < HEAVY_LEN_MIN {
        return parses(data);
    }
    let data = data.clone();
    // It fails only in a runtime that ends.
    let check = tokio::task::spawn_blocking(move || parses(&data));
    check.await.unwrap_or(false)
}

/// What is ignored is not looked at for being UTF-8, so that is done first.
fn parses(data: &[u8]) -> bool {
    let text = std::str::from_utf8(data);
    text.is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of_type(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))])
    }

    #[tokio::test]
    async fn json_is_what_says_so_and_is() {
        for (content_type, data, encoding) in [
            ("application/json", "{\"a\": 1}", Encoding::Json),
            ("Application/JSON; charset=utf-8", "7", Encoding::Json),
            ("application/problem+json", "[]", Encoding::Json),
            ("application/json", "{\"a\": ", Encoding::Binary),
            ("application/json", "", Encoding::Binary),
            ("application/json", "{} {}", Encoding::Binary),
            ("text/plain", "{}", Encoding::Binary),
            ("application/jsonp", "{}", Encoding::Binary),
        ] {
            let payload = result(&of_type(content_type), Bytes::from(data)).await;
            assert_eq!(payload.encoding, encoding, "{content_type} {data}");
            assert_eq!(payload.data, data);
        }
        let not_utf8 = Bytes::from_static(b"\"\xff\"");
        let payload = result(&of_type("application/json"), not_utf8).await;
        assert_eq!(payload.encoding, Encoding::Binary);
        let large = Bytes::from(format!("\"{}\"", "x".repeat(HEAVY_LEN_MIN)));
        assert!(is_json(&large).await);
        assert!(!is_json(&large.slice(1..)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn every_word_ends_a_silence() {
        let heard = Notify::new();
        let patience = Patience {
            silence_max: Some(Duration::from_millis(100)),
            heard: &heard,
        };
        let words = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(90)).await;
                heard.notify_one();
            }
            tokio::time::sleep(Duration::from_millis(90)).await;
        };
        assert!(patience.wait(words).await.is_ok());
        let silence = tokio::time::sleep(Duration::from_millis(101));
        assert!(patience.wait(silence).await.is_err());
    }

    #[test]
    fn what_a_terminal_would_act_on_is_made_visible() {
        let text = visible(b"a\x1b[2Jb\r\nc\xffd\n\n", 100);
        assert_eq!(text, "a\\u{1b}[2Jb\\r\\nc\u{fffd}d");
        assert_eq!(visible("aé".repeat(9).as_bytes(), 6), "aéaé…");
        assert_eq!(visible(b"", 5), "");
    }
}
