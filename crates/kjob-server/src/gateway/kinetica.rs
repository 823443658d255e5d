//! Jobs that are passed on to a server of this protocol: the payload in its encoding, and the result from
//! the envelope that comes back. Where there is a ring of clusters, it is walked on the signals that make
//! the official clients do so (docs/protocol.md sections 6 and 7).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::response::Parts;
use http::{HeaderValue, Request, StatusCode};
use kjob_core::engine::{Handler, HandlerError, JobContext, JobInfo};
use kjob_core::{Output, Payload};
use kjob_proto::failover::contains_phrase;
use kjob_proto::{DecodeError, Encoding, Envelope, Limits, Signal, Text};

use super::Upstream;
use super::again::{Again, retry_after};
use super::answer::{self, Failure, HEAVY_LEN_MIN, Patience};
use super::gather::{Memory, TooLarge};
use super::plain::{add_headers, cancel};
use super::reports::{Reporting, Reports};
use super::route::HttpRoute;
use crate::outbound::{Outbound, SendError, whole};

/// What an envelope has beside the result: names, and texts that are empty in a success.
const ENVELOPE_LEN_MAX: usize = 64 << 10;

/// Calls endpoints of servers of this protocol.
#[derive(Debug)]
pub(super) struct Kinetica {
    pub(super) route: HttpRoute,
    pub(super) outbound: Outbound,
    pub(super) memory: Memory,
    pub(super) max_result: usize,
    pub(super) reports: Reports,
    /// Whether a job may be run more than once.
    pub(super) may_repeat: bool,
    /// The cluster that answered last.
    pub(super) current: AtomicUsize,
}

/// Why a cluster is left for the next one.
#[derive(Debug, thiserror::Error)]
enum Leave {
    /// It has not run the job, and says so, or was not reached. It may take it soon.
    #[error("{why}")]
    Busy {
        why: String,
        retry_after: Option<Duration>,
    },
    /// It has not run the job, and will not.
    #[error("{0}")]
    Absent(String),
    /// It may have run the job.
    #[error("{0}; outcome unknown")]
    Unknown(String),
}

impl Leave {
    /// Which of several says the most of the job.
    fn weight(&self) -> u8 {
        match self {
            Self::Absent(_) => 0,
            Self::Busy { .. } => 1,
            Self::Unknown(_) => 2,
        }
    }
}

/// What a cluster says.
enum Said {
    Result(Payload),
    /// An error that another cluster would give as well.
    Error(HandlerError),
    Leave(Leave),
}

#[async_trait]
impl Handler for Kinetica {
    async fn call(&self, context: JobContext, payload: Payload) -> Result<Output, HandlerError> {
        let job = context.job();
        let reporting = self.reports.open(&self.route, &context);
        tokio::select! {
            biased;
            outcome = self.walks(job, &payload, &reporting) => return outcome.map(Output::from),
            () = context.cancelled() => {}
        }
        // The exchange is dropped by now, and its connection closed with it.
        drop(reporting);
        cancel(&self.route, &self.outbound, job).await;
        Err(HandlerError::Stopped)
    }
}

impl Kinetica {
    /// Walks the ring until a cluster answers, or its time for that is over.
    async fn walks(
        &self,
        job: &JobInfo,
        payload: &Payload,
        reporting: &Reporting,
    ) -> Result<Payload, HandlerError> {
        let mut again = Again::within(self.route.unavailable_timeout);
        loop {
            let leave = match self.walk(job, payload, reporting).await {
                Ok(outcome) => return outcome,
                Err(leave) => leave,
            };
            let may_soon = match &leave {
                Leave::Busy { retry_after, .. } => again.wait(*retry_after).await,
                Leave::Absent(_) | Leave::Unknown(_) => false,
            };
            if !may_soon {
                return Err(HandlerError::transient(leave));
            }
        }
    }

    /// Asks one cluster after the other, from the one that answered last on, until one answers; else tells
    /// why that one was left which gives the best hope: none, if a cluster may have run the job.
    async fn walk(
        &self,
        job: &JobInfo,
        payload: &Payload,
        reporting: &Reporting,
    ) -> Result<Result<Payload, HandlerError>, Leave> {
        let ring = &self.route.upstreams;
        let first = self.current.load(Ordering::Relaxed);
        let mut why = Leave::Absent("the route has no upstream".to_owned());
        for step in 0..ring.len() {
            let index = (first + step) % ring.len();
            let outcome = match self.ask(&ring[index], job, payload, reporting).await {
                Said::Result(result) => Ok(result),
                Said::Error(error) => Err(error),
                Said::Leave(leave) => {
                    tracing::debug!(job_id = %job.id, upstream = %ring[index], %leave, "an upstream is left");
                    if matches!(leave, Leave::Unknown(_)) && !self.may_repeat {
                        return Err(leave);
                    }
                    if leave.weight() >= why.weight() {
                        why = leave;
                    }
                    continue;
                }
            };
            self.current.store(index, Ordering::Relaxed);
            return Ok(outcome);
        }
        Err(why)
    }

    async fn ask(
        &self,
        upstream: &Upstream,
        job: &JobInfo,
        payload: &Payload,
        reporting: &Reporting,
    ) -> Said {
        let uri = match upstream.at(&job.endpoint) {
            Ok(uri) => uri,
            Err(error) => return Said::Error(HandlerError::failed(error)),
        };
        let content_type = HeaderValue::from_static(payload.encoding.content_type());
        let request = Request::post(uri)
            .header(CONTENT_TYPE, &content_type)
            .header(ACCEPT, content_type)
            .body(whole(payload.data.clone()));
        let mut request = match request {
            Ok(request) => request,
            Err(error) => return Said::Error(HandlerError::failed(error)),
        };
        add_headers(&mut request, &self.route, job);
        reporting.add_to(&mut request);
        match self.exchange(request, payload.encoding, reporting).await {
            Ok((head, body)) => self.judge(&head, body, payload.encoding).await,
            Err(failure @ Failure::Send(SendError::Connect(_))) => Said::Leave(Leave::Busy {
                why: failure.to_string(),
                retry_after: None,
            }),
            Err(failure @ (Failure::TooLarge(_) | Failure::Request(_))) => {
                Said::Error(HandlerError::failed(failure))
            }
            Err(failure) => Said::Leave(Leave::Unknown(failure.to_string())),
        }
    }

    async fn exchange(
        &self,
        request: Request<crate::outbound::OutBody>,
        encoding: Encoding,
        reporting: &Reporting,
    ) -> Result<(Parts, Bytes), Failure> {
        let patience = Patience::new(self.route.response_timeout, reporting);
        let response = patience.wait(self.outbound.send(request)).await??;
        let (head, body) = response.into_parts();
        // JSON inside a JSON text grows: each quote and each backslash takes two bytes.
        let grown = match encoding {
            Encoding::Json => self.max_result.saturating_mul(2),
            _ => self.max_result,
        };
        let gathering = self.memory.gather(grown.saturating_add(ENVELOPE_LEN_MAX));
        let body = answer::read(body, gathering, &patience).await?;
        Ok((head, body))
    }

    async fn judge(&self, head: &Parts, body: Bytes, encoding: Encoding) -> Said {
        let start = body.slice(..body.len().min(1 << 10));
        let envelope = match self.open(encoding, body).await {
            Ok(envelope) => envelope,
            Err(_) => return Said::Leave(no_envelope(head, &start)),
        };
        if envelope.status == Envelope::OK {
            return self.unwrap(envelope, encoding);
        }
        match leave(head, &envelope.message) {
            Some(leave) => Said::Leave(leave),
            None => Said::Error(HandlerError::Failed(envelope.message)),
        }
    }

    async fn open(&self, encoding: Encoding, body: Bytes) -> Result<Envelope, DecodeError> {
        let len = body.len();
        // What is in the envelope was bounded when it was read.
        let limits = Limits::default().with_max_body(len).with_max_string(len);
        if len < HEAVY_LEN_MIN || encoding.reply() == Encoding::Binary {
            return Envelope::of_reply(encoding, body, &limits);
        }
        let open = move || Envelope::of_reply(encoding, body, &limits);
        match tokio::task::spawn_blocking(open).await {
            Ok(opened) => opened,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends, and the job with it.
            Err(_) => std::future::pending().await,
        }
    }

    fn unwrap(&self, envelope: Envelope, encoding: Encoding) -> Said {
        let result = match encoding.reply() {
            Encoding::Json => Payload::json(envelope.data_str),
            _ => Payload::binary(envelope.data),
        };
        if result.data.len() > self.max_result {
            let limit = self.max_result;
            let failure = Failure::TooLarge(TooLarge { limit });
            return Said::Error(HandlerError::failed(failure));
        }
        Said::Result(result)
    }
}

/// Why an envelope with an error is a reason to leave the cluster, if it is one.
fn leave(head: &Parts, message: &Text) -> Option<Leave> {
    let status = head.status;
    let told = format!("upstream answered {status}: {message}");
    let signals = [Signal::ShuttingDown, Signal::Draining];
    let is_signal = signals
        .iter()
        .any(|signal| message.contains(signal.message()));
    if status == StatusCode::BAD_REQUEST && is_signal {
        return Some(Leave::Busy {
            why: told,
            retry_after: retry_after(&head.headers),
        });
    }
    // The two signals count only with their status.
    let is_phrase = contains_phrase(message) && !is_signal;
    (is_phrase || is_failure(status)).then(|| of_status(head, told))
}

/// What is no envelope is not from a server of this protocol, but from something before it.
fn no_envelope(head: &Parts, start: &[u8]) -> Leave {
    let (status, text) = (head.status, answer::visible(start, 200));
    let told = format!("upstream answered {status}, and no envelope: {text}");
    of_status(head, told)
}

/// Statuses that make the official clients leave, and the one that the Python client waits out where it is
/// told for how long (docs/protocol.md section 6).
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 429 | 500 | 502 | 503 | 504)
}

fn of_status(head: &Parts, told: String) -> Leave {
    match head.status {
        // There is nothing there.
        StatusCode::NOT_FOUND => Leave::Absent(told),
        // There is nothing that takes requests now, or there are too many.
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Leave::Busy {
            why: told,
            retry_after: retry_after(&head.headers),
        },
        _ => Leave::Unknown(told),
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    /// docs/protocol.md sections 6 and 7.
    #[test]
    fn clusters_are_left_on_the_signals_of_the_clients() {
        let of = |status: u16, message: &'static str| {
            let (head, ()) = Response::builder()
                .status(status)
                .body(())
                .unwrap()
                .into_parts();
            leave(&head, &Text::from_static(message)).map(|leave| match leave {
                Leave::Busy { .. } => "busy",
                Leave::Absent(_) => "absent",
                Leave::Unknown(_) => "unknown",
            })
        };
        for status in [200, 400, 401, 403, 405, 413] {
            assert_eq!(of(status, "no such table"), None, "{status}");
            let unknown = Some("unknown");
            assert_eq!(of(status, "it says: Kinetica is exiting"), unknown);
        }
        for signal in ["System shutting down", "Unavailable: Draining HA queue"] {
            assert_eq!(of(400, signal), Some("busy"));
            assert_eq!(of(200, signal), None);
        }
        for status in [500, 502, 504] {
            assert_eq!(of(status, "x"), Some("unknown"));
        }
        for status in [429, 503] {
            assert_eq!(of(status, "x"), Some("busy"));
        }
        assert_eq!(of(404, "x"), Some("absent"));
    }
}
