//! Making callbacks: each is tried until it is delivered, refused for good, or too old.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Full;
use kjob_core::engine::Engine;
use kjob_core::{CallbackOutcome, CallbackTry, Job, JobId, StepError, StoreError, Timestamp};
use kjob_proto::Text;
use rand::RngExt;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::connect::{self, SendError};
use super::{Callbacks, Patience, message};
use crate::metrics::Metrics;

/// Callbacks that one step takes from the store.
const BATCH: usize = 64;

/// How long those are ours; then the store hands them out again.
const CLAIM: Duration = Duration::from_secs(30);

/// Tries at a time to one host: a slow one has these and no more.
const TRIES_PER_HOST_MAX: usize = 4;

/// Callbacks that wait for their turn with one host. Those beyond it are let go, and come again when
/// their claims are over; so a host that does not answer keeps neither memory nor others.
const HELD_PER_HOST_MAX: usize = 512;

/// The wait after a step of the store that failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Makes callbacks for ever. Tries under way end when the future is dropped, and are made again by the
/// next server.
pub(crate) async fn deliver(engine: Engine, callbacks: Callbacks, metrics: Option<Metrics>) {
    let deliverer = Arc::new(Deliverer::new(engine, callbacks, metrics));
    let mut tries = JoinSet::new();
    loop {
        // Not given up for anything else: what it has claimed by then would have to wait.
        let due = deliverer.engine.due_callbacks(BATCH, CLAIM).await;
        while tries.try_join_next().is_some() {}
        match due {
            Ok(jobs) => {
                for job in jobs {
                    if let Some(turn) = deliverer.hold(&job) {
                        tries.spawn(deliverer.clone().make(job, turn));
                    }
                }
            }
            // The server is at its end.
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "callbacks cannot be looked up; will try again");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    }
}

struct Deliverer {
    engine: Engine,
    callbacks: Callbacks,
    metrics: Option<Metrics>,
    /// Or why there is none, as where the operating system trusts nobody.
    tls: Result<Arc<rustls::ClientConfig>, rustls::Error>,
    hosts: Mutex<HashMap<String, Lane>>,
}

/// The callbacks to one host.
struct Lane {
    turns: Arc<Semaphore>,
    held: HashSet<JobId>,
}

/// A place in a lane, given back when it is dropped.
struct Turn {
    deliverer: Arc<Deliverer>,
    host: String,
    id: JobId,
    turns: Arc<Semaphore>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut hosts = self.deliverer.hosts();
        if let Some(lane) = hosts.get_mut(&self.host) {
            lane.held.remove(&self.id);
            if lane.held.is_empty() {
                hosts.remove(&self.host);
            }
        }
    }
}

impl Deliverer {
    fn new(engine: Engine, callbacks: Callbacks, metrics: Option<Metrics>) -> Self {
        let tls = tls();
        if let Err(error) = &tls {
            tracing::warn!(%error, "https receivers of callbacks cannot be told");
        }
        Self {
            engine,
            callbacks,
            metrics,
            tls,
            hosts: Mutex::default(),
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Lane>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a callback; `None` if it has one already, or there are too many for its host.
    fn hold(self: &Arc<Self>, job: &Job) -> Option<Turn> {
        let url = job.header.options.callback_url.as_ref()?;
        let uri = url.parse::<http::Uri>().ok();
        let authority = uri.as_ref().and_then(|uri| uri.authority());
        let host = authority.map_or(String::new(), |host| host.as_str().to_ascii_lowercase());
        let mut hosts = self.hosts();
        let lane = hosts.entry(host.clone()).or_insert_with(|| Lane {
            turns: Arc::new(Semaphore::new(TRIES_PER_HOST_MAX)),
            held: HashSet::new(),
        });
        let id = job.header.id;
        if lane.held.len() >= HELD_PER_HOST_MAX || !lane.held.insert(id) {
            return None;
        }
        let turns = lane.turns.clone();
        drop(hosts);
        Some(Turn {
            deliverer: self.clone(),
            host,
            id,
            turns,
        })
    }

    /// Makes one try, and notes how it went.
    async fn make(self: Arc<Self>, job: Job, turn: Turn) {
        // Never closed.
        let _permit = turn.turns.acquire().await;
        let id = job.header.id;
        let tried = match self.send(&job).await {
            Ok(status) => judge(status).unwrap_or_else(|error| {
                let http_status = Some(status.as_u16());
                self.again(&job, http_status, error)
            }),
            Err(error) => self.again(&job, None, error),
        };
        if let Some(metrics) = &self.metrics {
            metrics.called_back(&tried.outcome);
        }
        let is_delivered = tried.outcome == CallbackOutcome::Delivered;
        match self.engine.note_callback(id, tried).await {
            Ok(state) if is_delivered => {
                tracing::debug!(job_id = %id, host = turn.host, attempts = state.attempts, "callback delivered");
            }
            Ok(state) => {
                let (phase, error) = (state.phase.as_str(), state.error.unwrap_or_default());
                tracing::warn!(job_id = %id, host = turn.host, attempts = state.attempts, phase, %error, "callback failed");
            }
            // It has expired meanwhile, or another try was noted.
            Err(StepError::Unknown(_) | StepError::Refused(_)) => {}
            Err(error @ StepError::Store(_)) => {
                tracing::warn!(job_id = %id, %error, "a callback's try cannot be noted; it will be made again");
            }
            Err(error) => tracing::warn!(job_id = %id, %error, "a callback's try is not noted"),
        }
    }

    async fn send(&self, job: &Job) -> Result<StatusCode, String> {
        let url = job
            .header
            .options
            .callback_url
            .as_deref()
            .unwrap_or_default();
        // The list may be another than when the job was submitted.
        let target = self
            .callbacks
            .hosts
            .check(url)
            .map_err(|error| error.to_string())?;
        let body = message::body(job).map_err(|error| error.to_string())?;
        let id = message::id(job);
        let seconds = message::seconds(self.engine.now());
        let signature = message::signature(&self.callbacks.key, &id, seconds, &body);
        let request = Request::post(&target.path)
            .header(HOST, &target.authority)
            .header(
                USER_AGENT,
                concat!("kjob-server/", env!("CARGO_PKG_VERSION")),
            )
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let timeout = self.callbacks.patience.timeout;
        let tls = match (&self.tls, target.is_https) {
            (_, false) => None,
            (Ok(tls), true) => Some(tls.clone()),
            (Err(error), true) => return Err(format!("no TLS: {error}")),
        };
        let sent = connect::send(&target, tls, request);
        match tokio::time::timeout(timeout, sent).await {
            Ok(answer) => answer.map_err(|error: SendError| error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
        }
    }

    /// To be tried again, unless that would be too late.
    fn again(&self, job: &Job, http_status: Option<u16>, error: String) -> CallbackTry {
        let attempts = job
            .callback
            .as_ref()
            .map_or(0, |callback| callback.attempts);
        let now = self.engine.now();
        let jitter = rand::rng().random_range(0.5..=1.0);
        let ended = job.state.ended_at.unwrap_or(now);
        let next = self.callbacks.patience.next(ended, now, attempts, jitter);
        let error = Text::from(error);
        CallbackTry {
            http_status,
            outcome: match next {
                Some(at) => CallbackOutcome::Retry { error, at },
                None => CallbackOutcome::GiveUp { error },
            },
        }
    }
}

/// Trusts whom the operating system trusts.
fn tls() -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(Arc::new(tls))
}

impl Patience {
    /// When to try again after `attempts` tries and this one; `None` if that is too late.
    fn next(
        &self,
        ended: Timestamp,
        now: Timestamp,
        attempts: u32,
        jitter: f64,
    ) -> Option<Timestamp> {
        let full = self.backoff.saturating_mul(1 << attempts.min(30));
        let next = now.after(full.min(self.backoff_max).mul_f64(jitter));
        (next <= ended.after(self.retry_for)).then_some(next)
    }
}

/// What an answer says, if it is the last word.
fn judge(status: StatusCode) -> Result<CallbackTry, String> {
    let outcome = match status {
        status if status.is_success() => CallbackOutcome::Delivered,
        StatusCode::GONE => CallbackOutcome::GiveUp {
            error: Text::from_static("the receiver says 410: it is gone for good"),
        },
        status if status.is_redirection() => {
            return Err(format!(
                "answered {}; redirects are not followed",
                status.as_u16()
            ));
        }
        status => return Err(format!("answered {}", status.as_u16())),
    };
    Ok(CallbackTry {
        http_status: Some(status.as_u16()),
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour_for_a_day() {
        let at = |secs: i64| Timestamp::from_millis(secs * 1000);
        let patience = Patience {
            retry_for: Duration::from_secs(86_400),
            backoff: Duration::from_secs(5),
            backoff_max: Duration::from_secs(3_600),
            timeout: Duration::from_secs(1),
        };
        let next = |now, attempts| patience.next(at(0), at(now), attempts, 1.0);
        assert_eq!(next(0, 0), Some(at(5)));
        assert_eq!(next(5, 1), Some(at(15)));
        assert_eq!(next(100, 9), Some(at(100 + 2_560)));
        assert_eq!(next(100, 10), Some(at(100 + 3_600)));
        assert_eq!(next(100, u32::MAX), Some(at(100 + 3_600)));
        assert_eq!(next(86_395, 0), Some(at(86_400)), "the last moment");
        assert_eq!(next(86_396, 0), None, "one past it");
        assert_eq!(patience.next(at(0), at(0), 1, 0.5), Some(at(5)));
    }

    #[test]
    fn two_hundreds_are_deliveries_and_410_is_the_end() {
        let judged = |code| judge(StatusCode::from_u16(code).unwrap());
        for code in [200, 202, 204] {
            assert_eq!(judged(code).unwrap().outcome, CallbackOutcome::Delivered);
        }
        assert!(matches!(
            judged(410).unwrap().outcome,
            CallbackOutcome::GiveUp { .. }
        ));
        for code in [301, 307, 400, 404, 429, 500, 503] {
            assert!(judged(code).is_err(), "{code}");
        }
    }
}
