//! What a new engine makes of what an old one left, and how an engine stops.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use kjob_core::engine::{
    Caller, CancelOutcome, EngineConfig, JobKey, ManualClock, RouteOptions, SubmitError,
};
use kjob_core::{MemoryStore, Parts, Phase, Store};

/// Runs jobs on an engine that is then killed: one runs, one is being cancelled, one waits.
fn killed(options: RouteOptions) -> (Arc<dyn Store>, [kjob_core::JobId; 3]) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let ids = until_killed(async {
        let (registry, mut runs) = one("/held", options, false);
        let clock = ManualClock::at(T0);
        let bed = bed_on(store.clone(), clock, config(|c| c.workers = 2), registry).await;
        let runs_on = bed.submit(tagged("/held", "a", "runs")).await.id;
        let cancelling = bed.submit(tagged("/held", "b", "cancelling")).await.id;
        let waits = bed.submit(tagged("/held", "c", "waits")).await.id;
        let _held = (runs.recv().await.unwrap(), runs.recv().await.unwrap());
        let outcome = bed
            .engine
            .cancel(&Caller::user(ann()), &JobKey::Id(cancelling))
            .await;
        assert_eq!(outcome.unwrap(), CancelOutcome::Cancelling);
        [runs_on, cancelling, waits]
    });
    (store, ids)
}

#[tokio::test(flavor = "current_thread")]
async fn what_ran_fails_as_interrupted_and_what_waited_runs() {
    let setup = std::thread::spawn(|| killed(RouteOptions::default()));
    let (store, [ran, cancelling, waited]) = setup.join().unwrap();
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed_on(
        store,
        ManualClock::at(T0),
        EngineConfig::default(),
        registry,
    )
    .await;
    settle().await;
    assert!(
        bed.error(ran)
            .await
            .starts_with("interrupted: the server stopped")
    );
    assert_eq!(bed.phase(cancelling).await, Phase::Cancelled);
    let run = runs.try_recv().unwrap();
    assert_eq!(run.id(), waited);
    assert!(runs.try_recv().is_err(), "no handler is started twice");
    // Tags lead to the jobs as before, and ids are not given again.
    let again = bed.submit(tagged("/held", "c", "waits")).await;
    assert_eq!((again.id, again.existing), (waited, true));
    let new = bed.submit(call("/held", "new")).await;
    assert!(new.id > waited);
}

#[tokio::test(flavor = "current_thread")]
async fn on_a_retry_route_what_ran_runs_again() {
    let retry = || RouteOptions::default().retry(2);
    let setup = std::thread::spawn(move || killed(retry()));
    let (store, [ran, cancelling, _]) = setup.join().unwrap();
    let (registry, mut runs) = one("/held", retry(), true);
    let bed = bed_on(
        store,
        ManualClock::at(T0),
        EngineConfig::default(),
        registry,
    )
    .await;
    settle().await;
    runs.try_recv().unwrap().done();
    assert_eq!(
        bed.phase(cancelling).await,
        Phase::Cancelled,
        "a cancelled job is not run again"
    );
    assert_eq!(bed.phase(ran).await, Phase::Queued);
    bed.advance(Duration::from_secs(1)).await;
    let run = runs.try_recv().unwrap();
    assert_eq!((run.id(), run.context.job().attempt), (ran, 2));
    run.done();
    settle().await;
    assert_eq!(bed.phase(ran).await, Phase::Done);
}

#[tokio::test(flavor = "current_thread")]
async fn jobs_of_an_endpoint_that_is_gone_fail() {
    let setup = std::thread::spawn(|| killed(RouteOptions::default()));
    let (store, [ran, _, waited]) = setup.join().unwrap();
    let (registry, _runs) = one("/other", RouteOptions::default(), true);
    let bed = bed_on(
        store,
        ManualClock::at(T0),
        EngineConfig::default(),
        registry,
    )
    .await;
    settle().await;
    for id in [ran, waited] {
        assert_eq!(
            bed.error(id).await,
            "endpoint \"/held\" is no longer served"
        );
    }
    let stats = bed.engine.stats();
    assert_eq!((stats.queued, stats.running), (0, 0));
}

#[tokio::test]
async fn a_drain_lets_running_jobs_end_and_starts_no_others() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(config(|c| c.workers = 1), registry).await;
    let first = bed.submit(call("/held", "first")).await.id;
    let second = bed.submit(call("/held", "second")).await.id;
    let run = runs.recv().await.unwrap();
    let engine = bed.engine.clone();
    let stopping = tokio::spawn(async move { engine.shut_down(Duration::from_secs(30)).await });
    settle().await;
    let refused = bed.engine.submit(call("/held", "late")).await;
    assert!(matches!(refused, Err(SubmitError::Draining)));
    assert_eq!(bed.phase(first).await, Phase::Running);
    assert!(!run.context.is_cancelled());
    let waiter = {
        let engine = bed.engine.clone();
        let key = JobKey::Id(second);
        tokio::spawn(async move {
            engine
                .wait(&Caller::user(ann()), &key, Duration::from_secs(3600))
                .await
        })
    };
    settle().await;
    run.done();
    stopping.await.unwrap().unwrap();
    assert!(runs.try_recv().is_err());
    // Whoever waits for a job that will not run any more is answered.
    let job = waiter.await.unwrap().unwrap().unwrap();
    assert_eq!(job.state.phase, Phase::Queued);
}

#[tokio::test]
async fn when_the_time_to_drain_is_over_runs_are_interrupted_by_their_routes_rule() {
    for (options, phase) in [
        (RouteOptions::default(), Phase::Failed),
        (RouteOptions::default().retry(1), Phase::Queued),
    ] {
        for obedient in [true, false] {
            let (registry, mut runs) = one("/held", options.clone(), obedient);
            let store = Arc::new(MemoryStore::new());
            let clock = ManualClock::at(T0);
            let bed = bed_on(store.clone(), clock, EngineConfig::default(), registry).await;
            let id = bed.submit(call("/held", "in")).await.id;
            let run = runs.recv().await.unwrap();
            let engine = bed.engine.clone();
            let stopping =
                tokio::spawn(async move { engine.shut_down(Duration::from_secs(30)).await });
            bed.advance(Duration::from_millis(29_999)).await;
            assert!(!run.context.is_cancelled());
            bed.advance(Duration::from_millis(1)).await;
            assert!(run.context.is_cancelled());
            bed.advance(Duration::from_secs(5)).await;
            stopping.await.unwrap().unwrap();
            store.reopen();
            let state = store.get(id, Parts::NONE, T0).await.unwrap().unwrap().state;
            assert_eq!(state.phase, phase);
            // An interruption by the server's stop costs no attempt.
            assert_eq!(state.attempt, u32::from(phase == Phase::Failed));
        }
    }
}
