//! The table of all metrics: what is counted, and what docs/metrics.md says of it.

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, Opts, Registry,
};

/// What is known of a metric.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    /// Counts by upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As Prometheus calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// From a millisecond, which is as exact as the engine's clock, to an hour.
const JOB_SECONDS: Kind = Kind::Histogram(&[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0,
]);

/// From what a submit takes to what a long poll does.
const REQUEST_SECONDS: Kind = Kind::Histogram(&[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 60.0,
]);

/// From a fast disk to one that hangs.
const COMMIT_SECONDS: Kind = Kind::Histogram(&[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
]);

/// Up to the most that the store takes together.
const COMMIT_STEPS: Kind = Kind::Histogram(&[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
]);

const COUNTER: Kind = Kind::Counter;
const GAUGE: Kind = Kind::Gauge;

macro_rules! table {
    ($($constant:ident: $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub(super) const $constant: Entry = Entry {
            name: $name,
            kind: $kind,
            labels: &$labels,
            help: $help,
        };)*

        /// All of them, in the order of the documentation.
        pub(super) const ALL: &[Entry] = &[$($constant),*];
    };
}

table! {
    SUBMITS: COUNTER "kjob_submits_total" ["route", "outcome"],
        "Submits that came to the engine: accepted, existing (the same call under its tag again) or refused.";
    SUBMIT_REFUSALS: COUNTER "kjob_submit_refusals_total" ["reason"],
        "Why submits were refused.";
    ENDED: COUNTER "kjob_jobs_ended_total" ["route", "status"],
        "Jobs that have ended, by their word on the wire: DONE, ERROR or CANCELLED.";
    RETRIES: COUNTER "kjob_job_retries_total" ["route"],
        "Jobs that were queued again after a run that was cut off or failed for a while.";
    CANCELS: COUNTER "kjob_cancels_total" ["outcome"],
        "Cancels that were asked for, and what came of each.";
    WAIT_SECONDS: JOB_SECONDS "kjob_job_wait_seconds" ["route"],
        "How long jobs waited for their first start: since their submit, or since the end of the delay that they asked for.";
    RUN_SECONDS: JOB_SECONDS "kjob_job_run_seconds" ["route"],
        "How long handlers ran, each attempt by itself.";
    QUEUED: GAUGE "kjob_jobs_queued" [],
        "Jobs that wait, the delayed ones included.";
    QUEUED_LIMIT: GAUGE "kjob_jobs_queued_limit" [],
        "How many may wait: max_queued.";
    DELAYED: GAUGE "kjob_jobs_delayed" [],
        "Jobs that wait for a moment that is yet to come: a delay, or the backoff before another attempt.";
    OLDEST_QUEUED: GAUGE "kjob_oldest_queued_job_age_seconds" [],
        "How long the job at the head of a queue has waited that has done so for longest, since it was queued or the server started; 0 if none waits. Delayed jobs do not count.";
    RUNNING: GAUGE "kjob_jobs_running" [],
        "Handlers that run.";
    STUCK: GAUGE "kjob_jobs_stuck" [],
        "Handlers that were told to stop and hold on to their thread: each takes a worker's place.";
    WORKERS: GAUGE "kjob_workers" [],
        "How many handlers may run at once: workers.";
    EXPIRED_JOBS: COUNTER "kjob_expired_jobs_total" [],
        "Jobs whose retention was over and whose space was given back.";
    EXPIRED_BYTES: COUNTER "kjob_expired_bytes_total" [],
        "Bytes of their payloads and results.";
    NODES: GAUGE "kjob_nodes" [],
        "Nodes that share the store, this one included, as it has heard last; 0 where the store is not shared.";
    LEASE_HELD: GAUGE "kjob_lease_held" [],
        "1 while this node can prove its lease, of one shard at least, without which it starts nothing; always 1 where the store is not shared.";
    SHARDS: GAUGE "kjob_shards" [],
        "Shards of a store that nodes share, each a database; 0 where the store is not shared.";
    SHARDS_WITHOUT_LEASE: GAUGE "kjob_shards_without_lease" [],
        "Those of them on which this node cannot prove its lease: none of their jobs start here.";
    LEASE_EVENTS: COUNTER "kjob_lease_events_total" ["event"],
        "What became of this node's lease: joined, not_renewed (tried again until it ends), lost (what ran was let go of) or left.";
    LEASE_RENEWAL: COMMIT_SECONDS "kjob_lease_renewal_seconds" [],
        "How long the database took to renew the lease.";
    TAKEN_OVER: COUNTER "kjob_jobs_taken_over_total" [],
        "Jobs that this node took over from nodes whose leases had ended.";
    CALLBACKS: COUNTER "kjob_callbacks_total" ["outcome"],
        "Tries of callbacks: delivered, retry (to be tried again) or given_up.";
    STORE_JOBS: GAUGE "kjob_store_jobs" [],
        "Jobs that are stored, those that have ended and are kept included.";
    STORE_JOBS_LIMIT: GAUGE "kjob_store_jobs_limit" [],
        "How many may be stored for a submit to be accepted: max_stored_jobs.";
    STORE_BYTES: GAUGE "kjob_store_bytes" [],
        "Bytes of payloads and results that are stored.";
    STORE_BYTES_LIMIT: GAUGE "kjob_store_bytes_limit" [],
        "How many may be stored for a submit to be accepted: max_stored_bytes.";
    STORE_SEGMENTS: GAUGE "kjob_store_segments" [],
        "Segments of the embedded store.";
    STORE_FULL: GAUGE "kjob_store_full" [],
        "1 while the disk is full and submits are refused, else 0.";
    STORE_FAILED: GAUGE "kjob_store_failed" [],
        "1 once the store cannot be written to any more, until the server is restarted; else 0.";
    COMMIT_STEPS_TAKEN: COMMIT_STEPS "kjob_store_commit_steps" [],
        "How many steps of jobs (submits, starts, ends and so on) shared a commit.";
    COMMIT_TIME: COMMIT_SECONDS "kjob_store_commit_seconds" [],
        "How long commits took, the sync of the disk included; with a database, the way there and back.";
    COMMIT_FAILURES: COUNTER "kjob_store_commit_failures_total" [],
        "Commits that failed, as on a full disk. Nothing of them was acknowledged.";
    REQUESTS: COUNTER "kjob_http_requests_total" ["endpoint", "code"],
        "Requests that were answered.";
    REQUEST_TIME: REQUEST_SECONDS "kjob_http_request_seconds" ["endpoint"],
        "From the head of a request to the head of its answer; a long poll waits in it.";
    REJECTIONS: COUNTER "kjob_http_rejections_total" ["reason"],
        "Requests that were not done, by the kind of problem that docs/http.md lists: too-large, busy, unauthorized, throttled and so on.";
    STREAMS_RESET: COUNTER "kjob_http_streams_reset_total" [],
        "Requests over HTTP/2 that ended without an answer, as twice max_streams were in progress.";
    LOGIN_FAILURES: COUNTER "kjob_login_failures_total" [],
        "Requests with a wrong password or token.";
    CONNECTIONS: GAUGE "kjob_connections_open" [],
        "Connections that are open.";
    CONNECTIONS_LIMIT: GAUGE "kjob_connections_limit" [],
        "How many may be open: max_connections, or as many as there are files for.";
    CONNECTIONS_ACCEPTED: COUNTER "kjob_connections_accepted_total" [],
        "Connections that were accepted.";
    CONNECTIONS_REFUSED: COUNTER "kjob_connections_refused_total" [],
        "Connections that were closed at once, as their address had all that it may have.";
    CONNECTIONS_EVICTED: COUNTER "kjob_connections_evicted_total" [],
        "Connections that rested and gave up their place for others.";
    SPANS: COUNTER "kjob_trace_spans_total" ["outcome"],
        "Spans of traces: exported, dropped (the queue to the collector was full) or failed (the collector did not take them).";
    DRAINING: GAUGE "kjob_draining" [],
        "1 while the server drains, else 0.";
    BUILD_INFO: GAUGE "kjob_build_info" ["version"],
        "Always 1; its label tells which version runs.";
    PROCESS_CPU: COUNTER "process_cpu_seconds_total" [],
        "Time of processors that the process used, of users and of the system.";
    PROCESS_MEMORY: GAUGE "process_resident_memory_bytes" [],
        "Memory of the process that is in use.";
    PROCESS_VIRTUAL: GAUGE "process_virtual_memory_bytes" [],
        "Addresses that the process has reserved.";
    PROCESS_FILES: GAUGE "process_open_fds" [],
        "Files, sockets and the like that the process has open.";
    PROCESS_FILES_LIMIT: GAUGE "process_max_fds" [],
        "How many it may have open.";
    PROCESS_THREADS: GAUGE "process_threads" [],
        "Threads of the process.";
    PROCESS_START: GAUGE "process_start_time_seconds" [],
        "When the process was started, in seconds since 1970.";
}

/// Makes the metrics of the table, and keeps them to be shown.
#[derive(Debug)]
pub(super) struct Maker(pub(super) Registry);

impl Maker {
    pub(super) fn counters(&self, entry: &Entry) -> IntCounterVec {
        self.keep(IntCounterVec::new(opts(entry), entry.labels))
    }

    pub(super) fn counter(&self, entry: &Entry) -> IntCounter {
        self.keep(IntCounter::with_opts(opts(entry)))
    }

    pub(super) fn seconds(&self, entry: &Entry) -> Counter {
        self.keep(Counter::with_opts(opts(entry)))
    }

    pub(super) fn gauge(&self, entry: &Entry) -> IntGauge {
        self.keep(IntGauge::with_opts(opts(entry)))
    }

    pub(super) fn fine_gauge(&self, entry: &Entry) -> Gauge {
        self.keep(Gauge::with_opts(opts(entry)))
    }

    pub(super) fn gauges(&self, entry: &Entry) -> GaugeVec {
        self.keep(GaugeVec::new(opts(entry), entry.labels))
    }

    pub(super) fn histograms(&self, entry: &Entry) -> HistogramVec {
        self.keep(HistogramVec::new(buckets(entry), entry.labels))
    }

    pub(super) fn histogram(&self, entry: &Entry) -> Histogram {
        self.keep(Histogram::with_opts(buckets(entry)))
    }

    fn keep<M: Collector + Clone + 'static>(&self, made: prometheus::Result<M>) -> M {
        let kept = made.and_then(|metric| {
            self.0.register(Box::new(metric.clone()))?;
            Ok(metric)
        });
        match kept {
            Ok(metric) => metric,
            // A test makes all of them.
            Err(error) => unreachable!("the table has a metric that cannot be: {error}"),
        }
    }
}

fn opts(entry: &Entry) -> Opts {
    Opts::new(entry.name, entry.help)
}

fn buckets(entry: &Entry) -> HistogramOpts {
    let opts = HistogramOpts::new(entry.name, entry.help);
    match entry.kind {
        Kind::Histogram(bounds) => opts.buckets(bounds.to_vec()),
        Kind::Counter | Kind::Gauge => opts,
    }
}
