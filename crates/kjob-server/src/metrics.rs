//! Metrics, for Prometheus: what is counted, and the page `/metrics` that shows it.
//!
//! An event is an atomic addition or a few: counters of a route are looked up once, when the route is
//! made. What can be asked for (how many jobs wait, what the process takes) is asked when somebody looks,
//! so that a server that nobody looks at does nothing for this.

mod http;
mod jobs;
mod leases;
mod process;
mod reference;
mod table;

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use ::http::StatusCode;
use kjob_core::engine::{Engine, Observer};
use kjob_core::{CallbackOutcome, Owner};
use kjob_store::CommitObserver;
use kjob_store::embedded::EmbeddedStore;
use prometheus::{Gauge, IntCounter, IntGauge, Registry, TextEncoder};

use crate::SystemInfo;
use crate::console::Watched;
use crate::head::Target;
pub(crate) use http::Open;
use http::{Connections, Requests};
use jobs::{Commits, Jobs};
use process::Process;
pub use reference::reference;
use table::Maker;

/// The type of the page.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counts what a server does. Clones are the same.
///
/// ```
/// use kjob_core::engine::EngineConfig;
/// use kjob_server::metrics::Metrics;
/// use kjob_store::Observed;
/// use kjob_store::embedded::EmbeddedOptions;
///
/// let metrics = Metrics::new();
/// let mut engine = EngineConfig::default();
/// engine.observer = Some(metrics.observer());
/// let observer = Observed::by(metrics.commit_observer());
/// let store = EmbeddedOptions { observer, ..EmbeddedOptions::default() };
/// // And at last, `Server::with_metrics`.
/// ```
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
    is_public: bool,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    jobs: Arc<Jobs>,
    commits: Arc<Commits>,
    requests: Requests,
    connections: Connections,
    callbacks: Callbacks,
    spans: Spans,
    asked: Mutex<Asked>,
    /// Which is to end when its owner lets go of it.
    store: OnceLock<Weak<EmbeddedStore>>,
}

#[derive(Debug)]
struct Callbacks {
    delivered: IntCounter,
    retry: IntCounter,
    given_up: IntCounter,
}

/// Spans of traces.
#[derive(Debug)]
struct Spans {
    exported: IntCounter,
    dropped: IntCounter,
    failed: IntCounter,
}

/// What is asked when somebody looks; one at a time.
#[derive(Debug)]
struct Asked {
    queued: IntGauge,
    queued_limit: IntGauge,
    delayed: IntGauge,
    oldest_queued: Gauge,
    running: IntGauge,
    stuck: IntGauge,
    workers: IntGauge,
    store_jobs: IntGauge,
    store_jobs_limit: IntGauge,
    store_bytes: IntGauge,
    store_bytes_limit: IntGauge,
    segments: IntGauge,
    is_full: IntGauge,
    has_failed: IntGauge,
    is_draining: IntGauge,
    nodes: IntGauge,
    lease_held: IntGauge,
    shards: IntGauge,
    shards_without_lease: IntGauge,
    process: Process,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let maker = Maker(Registry::new());
        let callbacks = maker.counters(&table::CALLBACKS);
        let callbacks = |outcome| callbacks.with_label_values(&[outcome]);
        let spans = maker.counters(&table::SPANS);
        let spans = |outcome| spans.with_label_values(&[outcome]);
        let inner = Inner {
            jobs: Arc::new(Jobs::new(&maker)),
            commits: Arc::new(Commits::new(&maker)),
            requests: Requests::new(&maker),
            connections: Connections::new(&maker),
            callbacks: Callbacks {
                delivered: callbacks("delivered"),
                retry: callbacks("retry"),
                given_up: callbacks("given_up"),
            },
            spans: Spans {
                exported: spans("exported"),
                dropped: spans("dropped"),
                failed: spans("failed"),
            },
            asked: Mutex::new(Asked::new(&maker)),
            store: OnceLock::new(),
            registry: maker.0.clone(),
        };
        let version = env!("CARGO_PKG_VERSION");
        let build = maker.gauges(&table::BUILD_INFO);
        build.with_label_values(&[version]).set(1.0);
        Self {
            inner: Arc::new(inner),
            is_public: false,
        }
    }

    /// Shows them to whoever asks, and not only to admins or, where there are no accounts, to callers on
    /// this machine.
    #[must_use]
    pub fn public(mut self, is_public: bool) -> Self {
        self.is_public = is_public;
        self
    }

    /// To be told what the engine does.
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.inner.jobs.clone()
    }

    /// To be told of the store's commits.
    pub fn commit_observer(&self) -> Arc<dyn CommitObserver> {
        self.inner.commits.clone()
    }

    /// Says which store its files are to be asked of; only the first word counts.
    pub fn set_store(&self, store: &Arc<EmbeddedStore>) {
        // It fails if it was said before.
        let _ = self.inner.store.set(Arc::downgrade(store));
    }

    /// What the console is told of jobs.
    pub(crate) fn watched(&self) -> &Watched {
        &self.inner.jobs.watched
    }

    pub(crate) fn is_public(&self) -> bool {
        self.is_public
    }

    /// A request was answered.
    pub(crate) fn answered(&self, target: &Target, status: StatusCode, took: Duration) {
        self.inner.requests.answered(target, status, took);
    }

    /// A request was not done, for this reason.
    pub(crate) fn rejected(&self, reason: &str) {
        self.inner.requests.rejected(reason);
    }

    /// A stream ended without an answer.
    pub(crate) fn stream_reset(&self) {
        self.inner.requests.streams_reset.inc();
    }

    /// Somebody came with wrong credentials.
    pub(crate) fn login_failed(&self) {
        self.inner.requests.login_failures.inc();
    }

    pub(crate) fn set_max_connections(&self, limit: usize) {
        self.inner.connections.limit.set(limit as i64);
    }

    /// A connection is open until what this gives is dropped.
    pub(crate) fn accepted(&self) -> Open {
        Open::new(&self.inner.connections)
    }

    /// A connection found no place.
    pub(crate) fn refused(&self) {
        self.inner.connections.refused.inc();
    }

    /// A connection gave up its place.
    pub(crate) fn evicted(&self) {
        self.inner.connections.evicted.inc();
    }

    /// A callback was tried.
    pub(crate) fn called_back(&self, outcome: &CallbackOutcome) {
        let callbacks = &self.inner.callbacks;
        match outcome {
            CallbackOutcome::Delivered => callbacks.delivered.inc(),
            CallbackOutcome::Retry { .. } => callbacks.retry.inc(),
            CallbackOutcome::GiveUp { .. } => callbacks.given_up.inc(),
        }
    }

    /// Spans that a collector has taken.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "none is sent"))]
    pub(crate) fn spans_exported(&self, count: u64) {
        self.inner.spans.exported.inc_by(count);
    }

    /// Spans that found no place in the queue.
    pub(crate) fn spans_dropped(&self, count: u64) {
        self.inner.spans.dropped.inc_by(count);
    }

    /// Spans that a collector has not taken.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "none is sent"))]
    pub(crate) fn spans_failed(&self, count: u64) {
        self.inner.spans.failed.inc_by(count);
    }

    /// The page. Reads files of the system.
    pub(crate) fn page(&self, engine: &Engine, system: &SystemInfo) -> String {
        let inner = &self.inner;
        let asked = inner.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.ask_engine(engine, system);
        if let Some(store) = inner.store.get().and_then(Weak::upgrade) {
            asked.segments.set(store.statistics().segments as i64);
            asked.is_full.set(i64::from(*store.watch_full().borrow()));
        }
        asked.process.look();
        let text = TextEncoder::new().encode_to_string(&inner.registry.gather());
        // What it is told is by the table, and texts can always be written to.
        text.unwrap_or_else(|error| unreachable!("metrics cannot be shown: {error}"))
    }
}

impl Asked {
    fn new(maker: &Maker) -> Self {
        let gauge = |entry| maker.gauge(entry);
        Self {
            queued: gauge(&table::QUEUED),
            queued_limit: gauge(&table::QUEUED_LIMIT),
            delayed: gauge(&table::DELAYED),
            oldest_queued: maker.fine_gauge(&table::OLDEST_QUEUED),
            running: gauge(&table::RUNNING),
            stuck: gauge(&table::STUCK),
            workers: gauge(&table::WORKERS),
            store_jobs: gauge(&table::STORE_JOBS),
            store_jobs_limit: gauge(&table::STORE_JOBS_LIMIT),
            store_bytes: gauge(&table::STORE_BYTES),
            store_bytes_limit: gauge(&table::STORE_BYTES_LIMIT),
            segments: gauge(&table::STORE_SEGMENTS),
            is_full: gauge(&table::STORE_FULL),
            has_failed: gauge(&table::STORE_FAILED),
            is_draining: gauge(&table::DRAINING),
            nodes: gauge(&table::NODES),
            lease_held: gauge(&table::LEASE_HELD),
            shards: gauge(&table::SHARDS),
            shards_without_lease: gauge(&table::SHARDS_WITHOUT_LEASE),
            process: Process::new(maker),
        }
    }

    fn ask_engine(&self, engine: &Engine, system: &SystemInfo) {
        let stats = engine.stats();
        self.queued.set(stats.queued as i64);
        self.delayed.set(stats.delayed as i64);
        self.running.set(stats.running as i64);
        self.stuck.set(stats.stuck as i64);
        let waited = engine
            .waiting_since()
            .map(|since| engine.now().since(since));
        self.oldest_queued
            .set(waited.unwrap_or_default().as_secs_f64());
        let is_draining = stats.draining || system.is_draining();
        self.is_draining.set(i64::from(is_draining));
        self.nodes.set(engine.nodes().len() as i64);
        self.lease_held.set(i64::from(engine.has_lease()));
        let leases = engine.leases();
        let missing = leases.iter().filter(|held| !**held).count();
        self.shards.set(leases.len() as i64);
        self.shards_without_lease.set(missing as i64);
        let failure = engine.store_failure();
        self.has_failed.set(i64::from(failure.is_some()));
        let stored = engine.usage(&Owner::anonymous()).total;
        self.store_jobs.set(signed(stored.jobs));
        self.store_bytes.set(signed(stored.bytes));
        let config = engine.config();
        self.workers.set(signed(config.workers as u64));
        self.queued_limit.set(signed(config.max_queued as u64));
        self.store_jobs_limit.set(signed(config.max_stored_jobs));
        self.store_bytes_limit.set(signed(config.max_stored_bytes));
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use kjob_core::Timestamp;
    use kjob_proto::Text;

    use super::*;

    #[test]
    fn connections_and_callbacks_are_counted_by_what_became_of_them() {
        let metrics = Metrics::new();
        let first = metrics.accepted();
        let second = metrics.accepted();
        metrics.evicted();
        drop(first);
        metrics.refused();
        let connections = &metrics.inner.connections;
        assert_eq!(connections.open.get(), 1);
        assert_eq!(connections.accepted.get(), 2);
        let ended = [&connections.evicted, &connections.refused];
        assert_eq!(ended.map(IntCounter::get), [1, 1]);
        drop(second);
        assert_eq!(connections.open.get(), 0);

        let error = Text::from_static("x");
        let at = Timestamp::from_millis(0);
        metrics.called_back(&CallbackOutcome::Delivered);
        for _ in 0..2 {
            let error = error.clone();
            metrics.called_back(&CallbackOutcome::Retry { error, at });
        }
        for _ in 0..3 {
            let error = error.clone();
            metrics.called_back(&CallbackOutcome::GiveUp { error });
        }
        let callbacks = &metrics.inner.callbacks;
        let counts = [&callbacks.delivered, &callbacks.retry, &callbacks.given_up];
        assert_eq!(counts.map(IntCounter::get), [1, 2, 3]);
    }

    #[test]
    fn other_statuses_than_ours_are_one_label() {
        let metrics = Metrics::new();
        let target = Target::Unknown("/what/a/client/sent".to_owned());
        for status in [200, 418, 599] {
            let status = StatusCode::from_u16(status).unwrap();
            metrics.answered(&target, status, Duration::from_millis(1));
        }
        let text = TextEncoder::new().encode_to_string(&metrics.inner.registry.gather());
        let text = text.unwrap();
        let other = r#"kjob_http_requests_total{code="other",endpoint="unknown"} 2"#;
        assert!(text.contains(other), "{text}");
        assert!(!text.contains("client"));
    }
}
