//! Jobs, counted by what the engine and the store tell of them.

use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::{
    Accepted, CancelOutcome, LeaseEvent, Observer, RouteObserver, SubmitError,
};
use kjob_core::{Expired, Finish, Header, Owner, Phase, State, StoreError, Timestamp};
use kjob_store::CommitObserver;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::leases::Leases;
use super::table::{self, Maker};
use crate::console::Watched;

/// The label of jobs whose endpoint no route takes. A pattern begins with a slash.
const NO_ROUTE: &str = "none";

/// Counts for all routes.
#[derive(Debug)]
pub(super) struct Jobs {
    submits: IntCounterVec,
    refusals: Refusals,
    ended: IntCounterVec,
    retries: IntCounterVec,
    cancels: [IntCounter; 4],
    wait: HistogramVec,
    run: HistogramVec,
    expired_jobs: IntCounter,
    expired_bytes: IntCounter,
    leases: Leases,
    /// What the console is told.
    pub(super) watched: Arc<Watched>,
}

/// Counts for one route: looked up once, so that an event is an addition.
#[derive(Debug)]
struct OfRoute {
    accepted: IntCounter,
    existing: IntCounter,
    refused: IntCounter,
    refusals: Refusals,
    done: IntCounter,
    failed: IntCounter,
    cancelled: IntCounter,
    retries: IntCounter,
    wait: Histogram,
    run: Histogram,
    watched: Arc<Watched>,
}

/// Why submits are refused.
#[derive(Clone, Debug)]
struct Refusals {
    draining: IntCounter,
    unknown_endpoint: IntCounter,
    bad_payload: IntCounter,
    tag_conflict: IntCounter,
    busy: IntCounter,
    full: IntCounter,
    store: IntCounter,
}

impl Jobs {
    pub(super) fn new(maker: &Maker) -> Self {
        let cancels = maker.counters(&table::CANCELS);
        let outcomes = ["cancelled", "cancelling", "already_ended", "not_found"];
        Self {
            submits: maker.counters(&table::SUBMITS),
            refusals: Refusals::new(&maker.counters(&table::SUBMIT_REFUSALS)),
            ended: maker.counters(&table::ENDED),
            retries: maker.counters(&table::RETRIES),
            cancels: outcomes.map(|outcome| cancels.with_label_values(&[outcome])),
            wait: maker.histograms(&table::WAIT_SECONDS),
            run: maker.histograms(&table::RUN_SECONDS),
            expired_jobs: maker.counter(&table::EXPIRED_JOBS),
            expired_bytes: maker.counter(&table::EXPIRED_BYTES),
            leases: Leases::new(maker),
            watched: Arc::default(),
        }
    }
}

impl Refusals {
    fn new(counters: &IntCounterVec) -> Self {
        let of = |reason| counters.with_label_values(&[reason]);
        Self {
            draining: of("draining"),
            unknown_endpoint: of("unknown_endpoint"),
            bad_payload: of("bad_payload"),
            tag_conflict: of("tag_conflict"),
            busy: of("busy"),
            full: of("full"),
            store: of("store"),
        }
    }

    fn of(&self, error: &SubmitError) -> &IntCounter {
        match error {
            SubmitError::UnknownEndpoint(_) => &self.unknown_endpoint,
            SubmitError::BadPayload { .. } => &self.bad_payload,
            SubmitError::TagConflict { .. } => &self.tag_conflict,
            SubmitError::Busy { .. } => &self.busy,
            SubmitError::Store(StoreError::Full) => &self.full,
            SubmitError::Draining
            | SubmitError::Stopped
            | SubmitError::Store(StoreError::Closed) => &self.draining,
            // What else there may come is the store's.
            _ => &self.store,
        }
    }
}

impl Observer for Jobs {
    fn route(&self, pattern: Option<&str>) -> Arc<dyn RouteObserver> {
        let route = pattern.unwrap_or(NO_ROUTE);
        let submits = |outcome| self.submits.with_label_values(&[route, outcome]);
        let ended = |phase: Phase| {
            let status = phase.status();
            self.ended.with_label_values(&[route, status.as_str()])
        };
        Arc::new(OfRoute {
            accepted: submits("accepted"),
            existing: submits("existing"),
            refused: submits("refused"),
            refusals: self.refusals.clone(),
            done: ended(Phase::Done),
            failed: ended(Phase::Failed),
            cancelled: ended(Phase::Cancelled),
            retries: self.retries.with_label_values(&[route]),
            wait: self.wait.with_label_values(&[route]),
            run: self.run.with_label_values(&[route]),
            watched: self.watched.clone(),
        })
    }

    fn cancelled(&self, outcome: CancelOutcome) {
        let index = match outcome {
            CancelOutcome::Cancelled => 0,
            CancelOutcome::Cancelling => 1,
            CancelOutcome::Ended(_) => 2,
            CancelOutcome::NotFound => 3,
        };
        self.cancels[index].inc();
    }

    fn expired(&self, expired: &Expired) {
        self.expired_jobs.inc_by(expired.jobs);
        self.expired_bytes.inc_by(expired.bytes);
    }

    fn lease(&self, event: LeaseEvent) {
        self.leases.note(event);
    }
}

impl RouteObserver for OfRoute {
    fn submitted(&self, owner: &Owner, accepted: &Accepted) {
        if accepted.existing {
            self.existing.inc();
        } else {
            self.accepted.inc();
        }
        self.watched.submitted(owner, accepted);
    }

    fn refused(&self, error: &SubmitError) {
        self.refused.inc();
        self.refusals.of(error).inc();
        self.watched.refused();
    }

    fn started(&self, job: &Header, state: &State) {
        let mut waited = None;
        // How long a later attempt waits is for the most part its backoff.
        if state.lease.0 == 1
            && let Some(started) = state.started_at
        {
            let ready = job.options.not_before.unwrap_or_default();
            let wait = started.since(job.received_at.max(ready));
            self.wait.observe(wait.as_secs_f64());
            waited = Some(whole_millis(wait));
        }
        self.watched.started(job, waited);
    }

    fn progressed(&self, job: &Header, _: &State) {
        self.watched.changed(job);
    }

    fn cancelling(&self, job: &Header, _: &State) {
        self.watched.changed(job);
    }

    fn returned(&self, _: &Header, started: &State, _: &Finish, at: Timestamp) {
        if let Some(started) = started.started_at {
            let ran = at.since(started);
            self.run.observe(ran.as_secs_f64());
            self.watched.returned(whole_millis(ran));
        }
    }

    fn queued_again(&self, job: &Header, _: &State) {
        self.retries.inc();
        self.watched.changed(job);
    }

    fn ended(&self, job: &Header, state: &State) {
        self.watched.ended(job, state);
        match state.phase {
            Phase::Done => self.done.inc(),
            Phase::Cancelled => self.cancelled.inc(),
            _ => self.failed.inc(),
        }
    }
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Counts commits.
#[derive(Debug)]
pub(super) struct Commits {
    steps: Histogram,
    seconds: Histogram,
    failures: IntCounter,
}

impl Commits {
    pub(super) fn new(maker: &Maker) -> Self {
        Self {
            steps: maker.histogram(&table::COMMIT_STEPS_TAKEN),
            seconds: maker.histogram(&table::COMMIT_TIME),
            failures: maker.counter(&table::COMMIT_FAILURES),
        }
    }
}

impl CommitObserver for Commits {
    fn committed(&self, steps: usize, took: Duration, is_done: bool) {
        if is_done {
            self.steps.observe(steps as f64);
            self.seconds.observe(took.as_secs_f64());
        } else {
            self.failures.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use kjob_core::{JobId, JobOptions, Lease, Owner, QueryId};
    use kjob_proto::{Encoding, Text};
    use prometheus::Registry;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn job(not_before: Option<Timestamp>) -> Header {
        Header {
            id: JobId::FIRST,
            tag: "tag".parse().unwrap(),
            owner: Owner::anonymous(),
            endpoint: Text::from_static("/x"),
            encoding: Encoding::Json,
            query_id: QueryId::from_bytes([7; 16]).unwrap(),
            parent_span: 0,
            received_at: at(1_000),
            source_ip: Text::new(),
            options: JobOptions {
                not_before,
                ..JobOptions::default()
            },
        }
    }

    #[test]
    fn a_wait_is_from_the_submit_or_the_end_of_its_delay_to_the_first_start() {
        let maker = Maker(Registry::new());
        let jobs = Jobs::new(&maker);
        let route = jobs.route(Some("/x"));
        let mut state = State::queued(None);
        state.started_at = Some(at(4_000));
        state.lease = Lease(1);
        route.started(&job(None), &state);
        route.started(&job(Some(at(3_500))), &state);
        state.lease = Lease(2);
        route.started(&job(None), &state);
        let wait = jobs.wait.with_label_values(&["/x"]);
        assert_eq!((wait.get_sample_count(), wait.get_sample_sum()), (2, 3.5));
    }

    #[test]
    fn refusals_are_counted_by_their_reason() {
        let maker = Maker(Registry::new());
        let jobs = Jobs::new(&maker);
        let route = jobs.route(None);
        let corrupt = StoreError::Corrupt { what: "x".into() };
        for error in [
            SubmitError::Store(StoreError::Full),
            SubmitError::Store(StoreError::Closed),
            SubmitError::Draining,
            SubmitError::Store(corrupt),
        ] {
            route.refused(&error);
        }
        let refusals = &jobs.refusals;
        let counts = [&refusals.full, &refusals.draining, &refusals.store];
        assert_eq!(counts.map(IntCounter::get), [1, 2, 1]);
        let refused = jobs.submits.with_label_values(&[NO_ROUTE, "refused"]);
        assert_eq!(refused.get(), 4);
    }
}
