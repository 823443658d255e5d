//! What an observer is told, and of whom.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use kjob_core::engine::{
    Accepted, Caller, CancelOutcome, EngineConfig, HandlerError, JobKey, LeaseEvent, Observer,
    Registry, RouteObserver, RouteOptions, SubmitError,
};
use kjob_core::{Expired, Finish, Header, Owner, State, Timestamp};

/// Writes down what it is told.
#[derive(Clone, Default)]
pub(crate) struct Scribe(Log);

struct OfRoute {
    pattern: String,
    log: Log,
}

impl Scribe {
    /// What it was told of leases.
    pub(crate) fn leases(&self) -> Vec<String> {
        self.of("lease: ")
    }

    /// What it was told of jobs of the route `/held`.
    pub(crate) fn jobs(&self) -> Vec<String> {
        self.of("/held: ")
    }

    fn of(&self, start: &str) -> Vec<String> {
        let lines = self.0.lines();
        let lines = lines.iter().filter_map(|line| line.strip_prefix(start));
        lines.map(str::to_owned).collect()
    }
}

impl fmt::Debug for Scribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scribe")
    }
}

impl fmt::Debug for OfRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

impl Observer for Scribe {
    fn route(&self, pattern: Option<&str>) -> Arc<dyn RouteObserver> {
        Arc::new(OfRoute {
            pattern: pattern.unwrap_or("no route").to_owned(),
            log: self.0.clone(),
        })
    }

    fn cancelled(&self, outcome: CancelOutcome) {
        self.0.push(format!("cancel: {outcome:?}"));
    }

    fn expired(&self, expired: &Expired) {
        self.0.push(format!("expired: {}", expired.jobs));
    }

    fn lease(&self, event: LeaseEvent) {
        self.0.push(format!("lease: {event:?}"));
    }
}

impl OfRoute {
    fn note(&self, what: impl fmt::Display) {
        self.log.push(format!("{}: {what}", self.pattern));
    }
}

impl RouteObserver for OfRoute {
    fn submitted(&self, _: &Owner, accepted: &Accepted) {
        let word = if accepted.existing { "existing" } else { "new" };
        self.note(word);
    }

    fn refused(&self, error: &SubmitError) {
        let word = format!("{error:?}");
        self.note(format_args!(
            "refused {}",
            word.split([' ', '(', '{']).next().unwrap()
        ));
    }

    fn started(&self, job: &Header, state: &State) {
        self.note(format_args!("started {} #{}", job.id, state.attempt));
    }

    fn returned(&self, job: &Header, started: &State, finish: &Finish, at: Timestamp) {
        let ran = at.since(started.started_at.unwrap()).as_millis();
        let word = match finish {
            Finish::Complete(_) => "well",
            Finish::Interrupt { .. } => "interrupted",
            _ => "not well",
        };
        self.note(format_args!("returned {} {word} after {ran} ms", job.id));
    }

    fn queued_again(&self, job: &Header, _: &State) {
        self.note(format_args!("queued again {}", job.id));
    }

    fn cancelling(&self, job: &Header, _: &State) {
        self.note(format_args!("cancelling {}", job.id));
    }

    fn ended(&self, job: &Header, state: &State) {
        self.note(format_args!("ended {} {}", job.id, state.phase.status()));
    }
}

fn observed(change: impl FnOnce(&mut EngineConfig)) -> (Log, EngineConfig) {
    let scribe = Scribe::default();
    let log = scribe.0.clone();
    let config = config(|config| {
        config.observer = Some(Arc::new(scribe));
        change(config);
    });
    (log, config)
}

#[tokio::test]
async fn each_step_of_a_job_is_told_once() {
    let (log, config) = observed(|config| config.max_queued = 1);
    let (registry, mut runs) = one("/held/*", RouteOptions::default().retry(2), true);
    let bed = bed(config, registry).await;
    bed.submit(tagged("/held/a", "in", "one")).await;
    bed.submit(tagged("/held/a", "in", "one")).await;
    let refused = bed.engine.submit(tagged("/held/b", "in", "one")).await;
    assert!(refused.is_err());
    settle().await;
    bed.clock.advance(Duration::from_millis(7));
    let transient = Err(HandlerError::transient("later"));
    runs.recv().await.unwrap().end(transient);
    settle().await;
    assert_eq!(bed.engine.stats().delayed, 1);
    assert!(
        bed.engine
            .submit(call("/held/a", "too many"))
            .await
            .is_err()
    );
    bed.advance(Duration::from_secs(2)).await;
    runs.recv().await.unwrap().done();
    settle().await;
    assert_eq!(
        log.lines(),
        [
            "/held/*: new",
            "/held/*: existing",
            "/held/*: refused TagConflict",
            "/held/*: started 1 #1",
            "/held/*: returned 1 interrupted after 7 ms",
            "/held/*: queued again 1",
            "/held/*: refused Busy",
            "/held/*: started 1 #2",
            "/held/*: returned 1 well after 0 ms",
            "/held/*: ended 1 DONE",
        ]
    );
}

#[tokio::test]
async fn what_no_route_takes_is_told_of_as_well() {
    let (log, config) = observed(|config| config.workers = 1);
    let (registry, mut runs) = one("/old", RouteOptions::default(), true);
    let bed = bed(config, registry).await;
    assert!(bed.engine.submit(call("/nowhere", "in")).await.is_err());
    bed.submit(call("/old", "runs")).await;
    let first = runs.recv().await.unwrap();
    bed.submit(call("/old", "waits")).await;
    let mut registry = Registry::default();
    registry
        .route("/new", echo, RouteOptions::default())
        .unwrap();
    bed.engine.replace_routes(registry).unwrap();
    first.done();
    settle().await;
    bed.submit(call("/new", "in")).await;
    settle().await;
    bed.engine.drain();
    assert!(bed.engine.submit(call("/new", "late")).await.is_err());
    assert_eq!(
        log.lines(),
        [
            "no route: refused UnknownEndpoint",
            "/old: new",
            "/old: started 1 #1",
            "/old: new",
            "no route: ended 2 ERROR",
            "/old: returned 1 well after 0 ms",
            "no route: ended 1 DONE",
            "/new: new",
            "/new: started 3 #1",
            "/new: returned 3 well after 0 ms",
            "/new: ended 3 DONE",
            "/new: refused Draining",
        ]
    );
}

#[tokio::test]
async fn cancels_and_expiries_are_told() {
    let (log, config) = observed(|config| config.workers = 1);
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(config, registry).await;
    let caller = Caller::user(ann());
    let running = bed.submit(call("/held", "runs")).await.id;
    let _run = runs.recv().await.unwrap();
    assert_eq!(bed.engine.waiting_since(), None);
    bed.clock.advance(Duration::from_millis(5));
    let waiting = bed.submit(call("/held", "waits")).await.id;
    let since = T0.after(Duration::from_millis(5));
    assert_eq!(bed.engine.waiting_since(), Some(since));
    let other = Caller::user(kjob_core::Owner::new("bob"));
    for (caller, id) in [
        (&caller, waiting),
        (&caller, waiting),
        (&other, running),
        (&caller, running),
        (&caller, running),
    ] {
        bed.engine.cancel(caller, &JobKey::Id(id)).await.unwrap();
    }
    settle().await;
    bed.advance(Duration::from_secs(25 * 60 * 60)).await;
    assert_eq!(
        log.lines(),
        [
            "/held: new",
            "/held: started 1 #1",
            "/held: new",
            "/held: ended 2 CANCELLED",
            "cancel: Cancelled",
            "cancel: Ended(Cancelled)",
            "cancel: NotFound",
            "/held: cancelling 1",
            "cancel: Cancelling",
            "cancel: Cancelling",
            "/held: returned 1 not well after 5 ms",
            "/held: ended 1 CANCELLED",
            "expired: 2",
        ]
    );
}
