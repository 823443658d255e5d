//! Jobs that are passed on to a server of this protocol: the payload in its encoding, and the result from
//! the envelope that comes back. Where there is a ring of clusters, it is walked on the signals that make
//! the official clients do so (docs/protocol.md sections 6 and 7).

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};
use kjob_core::engine::{Handler, HandlerError, JobContext, JobInfo};
use kjob_core::{Output, Payload};
use kjob_proto::failover::contains_phrase;
use kjob_proto::{DecodeError, Encoding, Envelope, Limits, Record as _, Signal, Text};

use super::Upstream;
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
    /// It has not run the job, and says so, or was not reached.
    #[error("{0}")]
    Untouched(String),
    /// It may have run the job.
    #[error("{0}; outcome unknown")]
    Unknown(String),
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
            outcome = self.walk(job, &payload, &reporting) => return outcome.map(Output::from),
            () = context.cancelled() => {}
        }
        // The exchange is dropped by now, and its connection closed with it.
        drop(reporting);
        cancel(&self.route, &self.outbound, job).await;
        Err(HandlerError::Stopped)
    }
}

impl Kinetica {
    /// Asks one cluster after the other, from the one that answered last on, until one answers.
    async fn walk(
        &self,
        job: &JobInfo,
        payload: &Payload,
        reporting: &Reporting,
    ) -> Result<Payload, HandlerError> {
        let ring = &self.route.upstreams;
        let first = self.current.load(Ordering::Relaxed);
        let mut why = None;
        for step in 0..ring.len() {
            let index = (first + step) % ring.len();
            let leave = match self.ask(&ring[index], job, payload, reporting).await {
                Said::Result(result) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(result);
                }
                Said::Error(error) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Err(error);
                }
                Said::Leave(leave) => leave,
            };
            tracing::debug!(job_id = %job.id, upstream = %ring[index], %leave, "an upstream is left");
            let may_go_on = self.may_repeat || matches!(leave, Leave::Untouched(_));
            why = Some(leave);
            if !may_go_on {
                break;
            }
        }
        match why {
            Some(why) => Err(HandlerError::transient(why)),
            None => Err(HandlerError::failed("the route has no upstream")),
        }
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
            Ok((status, body)) => self.judge(status, body, payload.encoding).await,
            Err(failure @ Failure::Send(SendError::Connect(_))) => {
                Said::Leave(Leave::Untouched(failure.to_string()))
            }
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
    ) -> Result<(StatusCode, Bytes), Failure> {
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
        Ok((head.status, body))
    }

    async fn judge(&self, status: StatusCode, body: Bytes, encoding: Encoding) -> Said {
        let start = body.slice(..body.len().min(1 << 10));
        let envelope = match self.open(encoding, body).await {
            Ok(envelope) => envelope,
            Err(_) => return Said::Leave(no_envelope(status, &start)),
        };
        if envelope.status == Envelope::OK {
            return self.unwrap(envelope, encoding);
        }
        match leave(status, &envelope.message) {
            Some(leave) => Said::Leave(leave),
            None => Said::Error(HandlerError::Failed(envelope.message)),
        }
    }

    async fn open(&self, encoding: Encoding, body: Bytes) -> Result<Envelope, DecodeError> {
        let len = body.len();
        // What is in the envelope was bounded when it was read.
        let limits = Limits::default().with_max_body(len).with_max_string(len);
        let reply = encoding.reply();
        if len < HEAVY_LEN_MIN || reply == Encoding::Binary {
            return Envelope::decode(reply, body, &limits);
        }
        let open = move || Envelope::decode(reply, body, &limits);
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
fn leave(status: StatusCode, message: &Text) -> Option<Leave> {
    let told = format!("upstream answered {status}: {message}");
    let signals = [Signal::ShuttingDown, Signal::Draining];
    let is_signal = signals
        .iter()
        .any(|signal| message.contains(signal.message()));
    if status == StatusCode::BAD_REQUEST && is_signal {
        return Some(Leave::Untouched(told));
    }
    // The two signals count only with their status.
    let is_phrase = contains_phrase(message) && !is_signal;
    (is_phrase || is_failure(status)).then(|| of_status(status, told))
}

/// What is no envelope is not from a server of this protocol, but from something before it.
fn no_envelope(status: StatusCode, start: &[u8]) -> Leave {
    let text = answer::visible(start, 200);
    of_status(
        status,
        format!("upstream answered {status}, and no envelope: {text}"),
    )
}

/// Statuses that make the official clients leave.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 500 | 502 | 503 | 504)
}

fn of_status(status: StatusCode, told: String) -> Leave {
    match status {
        // There is nothing there, or nothing that takes requests.
        StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE => Leave::Untouched(told),
        _ => Leave::Unknown(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/protocol.md sections 6 and 7.
    #[test]
    fn clusters_are_left_on_the_signals_of_the_clients() {
        let of = |status: u16, message: &'static str| {
            let status = StatusCode::from_u16(status).unwrap();
            leave(status, &Text::from_static(message)).map(|leave| match leave {
                Leave::Untouched(_) => "untouched",
                Leave::Unknown(_) => "unknown",
            })
        };
        for status in [200, 400, 401, 403, 405, 413, 429] {
            assert_eq!(of(status, "no such table"), None, "{status}");
            let unknown = Some("unknown");
            assert_eq!(of(status, "it says: Kinetica is exiting"), unknown);
        }
        for signal in ["System shutting down", "Unavailable: Draining HA queue"] {
            assert_eq!(of(400, signal), Some("untouched"));
            assert_eq!(of(200, signal), None);
        }
        for status in [500, 502, 504] {
            assert_eq!(of(status, "x"), Some("unknown"));
        }
        for status in [404, 503] {
            assert_eq!(of(status, "x"), Some("untouched"));
        }
    }
}
