//! What goes out: envelopes with their headers, and the body type that sends them uncopied.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use kjob_core::Job;
use kjob_core::engine::Engine;
use kjob_proto::{Encoding, Segments, reply_error, reply_failover};
use tokio::sync::mpsc;

use crate::activity::{Answer, InFlight};
use crate::budget::Held;
use crate::refusal::Refusal;

/// How long the request took, in seconds, as text: the Python client raises unless it is a float
/// (docs/protocol.md section 2).
pub(crate) const REQUEST_TIME: HeaderName = HeaderName::from_static("x-request-time-secs");

/// The largest piece that is handed to the connection at a time while a delivery is watched. The
/// last one counts as written once it is handed over, so it is to be small.
const WATCHED_PIECE_MAX: usize = 64 << 10;

/// The largest piece that is handed over at a time over HTTP/2, a frame of the usual size: by what has left and
/// what was asked for it is known whether the client takes anything.
const FRAMED_PIECE_MAX: usize = 16 << 10;

/// Why a request was not done: noted on its answer, for those who count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rejected(pub(crate) &'static str);

/// A reply to a wire endpoint.
pub(crate) fn envelope(
    status: StatusCode,
    encoding: Encoding,
    segments: Segments,
) -> Response<ReplyBody> {
    let content_type = HeaderValue::from_static(encoding.reply_content_type());
    reply(status, content_type, segments)
}

/// A plain text for people and their tools; never for a wire endpoint.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<ReplyBody> {
    let segments = Segments::from(text.into());
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    reply(status, content_type, segments)
}

/// A reply of any type.
pub(crate) fn bytes(
    status: StatusCode,
    content_type: HeaderValue,
    bytes: impl Into<Bytes>,
) -> Response<ReplyBody> {
    reply(status, content_type, Segments::from(bytes.into()))
}

/// A reply that has no body.
pub(crate) fn empty(status: StatusCode) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::new(Segments::default()));
    *response.status_mut() = status;
    response
}

/// A reply whose pieces come as they are fed, until the feed ends.
pub(crate) fn feed(content_type: &'static str, feed: mpsc::Receiver<Bytes>) -> Response<ReplyBody> {
    let mut response = empty(StatusCode::OK);
    response.body_mut().feed = Some(feed);
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Another server's answer, passed on as it comes.
pub(crate) fn passed(answer: Response<Incoming>) -> Response<ReplyBody> {
    answer.map(|body| ReplyBody {
        passed: Some(body),
        ..ReplyBody::new(Segments::default())
    })
}

/// The reply to a browser that asks if a page may send something: its headers say it.
pub(crate) fn preflight() -> Response<ReplyBody> {
    empty(StatusCode::NO_CONTENT)
}

/// The reply to a request to a wire endpoint that is not done.
pub(crate) fn refusal(refusal: &Refusal, encoding: Encoding) -> Response<ReplyBody> {
    let segments = match refusal.signal() {
        Some(signal) => reply_failover(signal, encoding),
        None => reply_error(&refusal.message(), encoding),
    };
    let reply = envelope(refusal.status(), encoding, segments);
    with_headers(refusal, refusal.retry_after(), reply)
}

/// The reply to another request that is not done.
pub(crate) fn text_refusal(status: StatusCode, refusal: &Refusal) -> Response<ReplyBody> {
    let reply = text(status, refusal.message() + "\n");
    with_headers(refusal, refusal.retry_after(), reply)
}

/// Adds the headers that a refusal goes with, whatever its form.
pub(crate) fn with_headers(
    refusal: &Refusal,
    retry_after: Option<Duration>,
    mut response: Response<ReplyBody>,
) -> Response<ReplyBody> {
    response
        .extensions_mut()
        .insert(Rejected(refusal.kind().name));
    let headers = response.headers_mut();
    if let Some(after) = retry_after {
        // Whole seconds, and never zero, which would be no wait at all.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if let Some(methods) = refusal.allow() {
        headers.insert(ALLOW, HeaderValue::from_static(methods));
    }
    if let Some(challenge) = refusal.challenge() {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}

fn reply(status: StatusCode, content_type: HeaderValue, segments: Segments) -> Response<ReplyBody> {
    let body = ReplyBody::new(segments);
    let len = HeaderValue::from(body.left);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, len);
    response
}

/// The value of [`REQUEST_TIME`].
pub(crate) fn request_time(took: Duration) -> HeaderValue {
    // Each answer has it, and to write a float takes twice as long.
    let mut text = took.as_secs().to_string();
    text.push('.');
    let mut micros = took.subsec_micros();
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit += (micros % 10) as u8;
        micros /= 10;
    }
    text.extend(digits.map(char::from));
    // Digits and a point are always a header value.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0.0"))
}

/// A body of known length in a few shared pieces, or one that is fed.
#[derive(Debug)]
pub(crate) struct ReplyBody {
    pieces: <Segments as IntoIterator>::IntoIter,
    /// The rest of the piece that is being handed over.
    piece: Bytes,
    left: u64,
    delivery: Option<Delivery>,
    in_flight: Option<InFlight>,
    held: Option<Arc<Held>>,
    /// What comes after the pieces, one at a time.
    feed: Option<mpsc::Receiver<Bytes>>,
    /// What comes instead of all that: the body of another server's answer, as it comes.
    passed: Option<Incoming>,
}

/// A piece on its way out. The connection may keep it long after the body was handed over whole, and
/// until then it takes memory.
struct HeldPiece {
    piece: Bytes,
    _held: Arc<Held>,
    answer: Option<Arc<Answer>>,
}

impl Drop for HeldPiece {
    fn drop(&mut self) {
        if let Some(answer) = &self.answer {
            answer.on_taken();
        }
    }
}

impl AsRef<[u8]> for HeldPiece {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

/// Tells the engine that a result went out whole.
#[derive(Debug)]
pub(crate) struct Delivery {
    engine: Engine,
    /// In a box, as few bodies have one.
    job: Box<Job>,
}

impl ReplyBody {
    fn new(segments: Segments) -> Self {
        Self {
            left: segments.total_len() as u64,
            pieces: segments.into_iter(),
            piece: Bytes::new(),
            delivery: None,
            in_flight: None,
            held: None,
            feed: None,
            passed: None,
        }
    }

    /// How many bytes are left of it, where that is known.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }

    /// Keeps a part of the budget of memory until the last piece has left, or was given up.
    pub(crate) fn set_held(&mut self, held: Held) {
        self.held = (!held.is_empty()).then(|| Arc::new(held));
    }

    /// Leaves nothing to be sent, and so no delivery: the answer to a HEAD, whose headers say all.
    pub(crate) fn strip(&mut self) {
        *self = Self {
            in_flight: self.in_flight.take(),
            ..Self::new(Segments::default())
        };
    }

    /// Makes the engine told when this was sent whole.
    pub(crate) fn set_delivery(&mut self, delivery: Option<Delivery>) {
        self.delivery = delivery;
    }

    /// Keeps the request counted as in flight until this was sent or given up.
    pub(crate) fn set_in_flight(&mut self, mut in_flight: InFlight) {
        in_flight.begin_sending();
        self.in_flight = Some(in_flight);
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        while self.piece.is_empty() {
            self.piece = self.pieces.next()?;
        }
        let answer = self.in_flight.as_ref().and_then(InFlight::answer);
        let len_max = if answer.is_some() {
            FRAMED_PIECE_MAX
        } else if self.delivery.is_some() {
            WATCHED_PIECE_MAX
        } else {
            usize::MAX
        };
        let len = self.piece.len().min(len_max);
        let piece = self.piece.split_to(len);
        self.left -= piece.len() as u64;
        if let Some(in_flight) = &self.in_flight {
            in_flight.on_sent();
        }
        if self.left == 0
            && let Some(delivery) = self.delivery.take()
        {
            delivery.complete();
        }
        Some(match self.held.clone() {
            Some(_held) => Bytes::from_owner(HeldPiece {
                piece,
                _held,
                answer: answer.cloned(),
            }),
            None => piece,
        })
    }
}

impl Delivery {
    /// The delivery of a job's result; `None` if nothing depends on it.
    pub(crate) fn of(engine: &Engine, job: Job) -> Option<Self> {
        job.header.options.remove_on_complete.then(|| Self {
            engine: engine.clone(),
            job: Box::new(job),
        })
    }

    fn complete(self) {
        tokio::spawn(async move {
            if let Err(error) = self.engine.delivered(&self.job).await {
                let job_id = self.job.header.id;
                tracing::warn!(%job_id, %error, "a delivery cannot be noted");
            }
        });
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    /// Only what is passed on can fail.
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self {
            passed,
            feed,
            in_flight,
            ..
        } = &mut *self;
        let polled = match (passed, feed) {
            (Some(passed), _) => Pin::new(passed).poll_frame(context),
            (None, Some(feed)) => {
                let piece = feed.poll_recv(context);
                piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
            }
            (None, None) => {
                let piece = self.next_piece();
                return Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))));
            }
        };
        if let Some(in_flight) = in_flight {
            if polled.is_ready() {
                in_flight.on_sent();
            } else {
                in_flight.on_wanted();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.passed {
            Some(passed) => passed.is_end_stream(),
            None => self.left == 0 && self.feed.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.passed, &self.feed) {
            (Some(passed), _) => passed.size_hint(),
            (None, None) => SizeHint::with_exact(self.left),
            (None, Some(_)) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use kjob_proto::{GetJobResponse, reply_ok};

    use super::*;

    #[test]
    fn a_big_payload_goes_out_as_the_memory_it_is() {
        let payload = Bytes::from(vec![7; 1 << 20]);
        let record = GetJobResponse {
            job_response: payload.clone(),
            ..Default::default()
        };
        let mut body = ReplyBody::new(reply_ok(&record, Encoding::Binary));
        let announced = body.left;
        let pieces: Vec<Bytes> = std::iter::from_fn(|| body.next_piece()).collect();
        assert!(
            pieces
                .iter()
                .any(|piece| piece.as_ptr() == payload.as_ptr())
        );
        let sent: usize = pieces.iter().map(Bytes::len).sum();
        assert_eq!(sent as u64, announced);
        assert!(body.is_end_stream());
    }

    #[test]
    fn the_request_time_is_a_float() {
        for took in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let value = request_time(took);
            assert!(value.to_str().unwrap().parse::<f64>().is_ok(), "{value:?}");
        }
        let value = request_time(Duration::from_nanos(12_000_340_567));
        assert_eq!(value, "12.000340");
    }
}
