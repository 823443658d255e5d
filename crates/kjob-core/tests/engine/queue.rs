//! Who runs when, who may come in, and what a tag means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::*;
use crate::troubled::{Sweeps, Switch, Troubled};
use kjob_core::engine::{
    Caller, EngineConfig, HandlerError, Interrupted, JobKey, ManualClock, Registry, RouteOptions,
    SubmitError,
};
use kjob_core::{Difference, MemoryStore, Owner, Payload, Phase, Priority, TagReuse};
use tokio::sync::mpsc::UnboundedReceiver;

fn urgent(payload: &'static str, priority: u8) -> kjob_core::engine::Submission {
    let mut submission = call("/held", payload);
    submission.priority = Priority::new(priority).unwrap();
    submission
}

/// Ends the runs one after another, and gives their payloads in the order in which they began.
async fn order(runs: &mut UnboundedReceiver<Run>) -> Vec<String> {
    let mut order = Vec::new();
    settle().await;
    while let Ok(run) = runs.try_recv() {
        order.push(String::from_utf8(run.payload.data.to_vec()).unwrap());
        run.done();
        settle().await;
    }
    order
}

#[tokio::test]
async fn urgent_jobs_go_first_and_owners_take_turns() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(config(|c| c.workers = 1), registry).await;
    bed.submit(urgent("first", 5)).await;
    bed.submit(urgent("low", 1)).await;
    bed.submit(urgent("a1", 5)).await;
    bed.submit(urgent("a2", 5)).await;
    let mut bobs = urgent("b1", 5);
    bobs.owner = Owner::new("bob");
    bed.submit(bobs).await;
    bed.submit(urgent("high", 9)).await;
    assert_eq!(
        order(&mut runs).await,
        ["first", "high", "a1", "b1", "a2", "low"]
    );
}

#[tokio::test]
async fn the_server_and_each_route_have_their_limits() {
    let mut registry = Registry::default();
    let (slow, mut slow_runs) = held(true);
    let (fast, mut fast_runs) = held(true);
    registry
        .route("/slow", slow, RouteOptions::default().concurrency(2))
        .unwrap();
    registry
        .route("/fast", fast, RouteOptions::default())
        .unwrap();
    let bed = bed(config(|c| c.workers = 3), registry).await;
    for _ in 0..4 {
        bed.submit(call("/slow", "s")).await;
        bed.submit(call("/fast", "f")).await;
    }
    settle().await;
    let (slow, fast) = (begun(&mut slow_runs), begun(&mut fast_runs));
    assert_eq!(slow.len() + fast.len(), 3);
    assert!(slow.len() <= 2);
    assert_eq!(bed.engine.stats().running, 3);
    assert_eq!(bed.engine.stats().queued, 5);
    // A full route holds up nobody but its own jobs.
    for run in fast {
        run.done();
    }
    settle().await;
    assert!(fast_runs.try_recv().is_ok());
}

fn of(owner: &str, payload: &'static str) -> kjob_core::engine::Submission {
    let mut submission = call("/held", payload);
    submission.owner = Owner::new(owner);
    submission
}

fn begun(runs: &mut UnboundedReceiver<Run>) -> Vec<Run> {
    std::iter::from_fn(|| runs.try_recv().ok()).collect()
}

#[tokio::test]
async fn the_last_places_are_for_owners_who_run_nothing() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let two_of_four = config(|c| {
        c.workers = 4;
        c.reserved_workers = Some(2);
    });
    let bed = bed(two_of_four, registry).await;
    // Who is alone has all.
    for _ in 0..8 {
        bed.submit(of("ann", "a")).await;
    }
    settle().await;
    let mut anns = begun(&mut runs);
    assert_eq!(anns.len(), 4);
    bed.submit(of("bob", "b1")).await;
    bed.submit(of("bob", "b2")).await;
    settle().await;
    assert!(runs.try_recv().is_err(), "nobody's run is broken off");
    anns.pop().unwrap().done();
    settle().await;
    let bobs = begun(&mut runs);
    assert_eq!(bobs.len(), 1);
    assert_eq!(&bobs[0].payload.data[..], b"b1");
    // Two places are free now, which are neither ann's nor bob's, and it does not matter how many these are.
    anns.truncate(1);
    settle().await;
    bed.submit(of("ann", "a")).await;
    settle().await;
    assert!(runs.try_recv().is_err());
    bed.submit(of("eve", "e1")).await;
    bed.submit(of("eve", "e2")).await;
    bed.submit(of("joe", "j")).await;
    settle().await;
    let others = begun(&mut runs);
    assert_eq!(others.len(), 2);
    assert_eq!(&others[0].payload.data[..], b"e1");
    assert_eq!(&others[1].payload.data[..], b"j");
    // From the queue as well, though others have waited for longer.
    let [_eves, joes] = others.try_into().unwrap_or_else(|_| panic!());
    bed.submit(of("joe", "j2")).await;
    joes.done();
    settle().await;
    let next = begun(&mut runs);
    assert_eq!(next.len(), 1);
    assert_eq!(&next[0].payload.data[..], b"j2");
}

#[tokio::test]
async fn the_places_that_were_left_are_taken_once_the_others_have_gone() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(config(|c| c.workers = 8), registry).await;
    bed.submit(of("bob", "b")).await;
    runs.recv().await.unwrap().done();
    for _ in 0..9 {
        bed.submit(of("ann", "a")).await;
    }
    settle().await;
    let anns = begun(&mut runs);
    assert_eq!(anns.len(), 7, "one in eight is left by default");
    bed.clock.advance(Duration::from_secs(59));
    settle().await;
    assert!(runs.try_recv().is_err());
    bed.clock.advance(Duration::from_secs(1));
    settle().await;
    assert_eq!(
        begun(&mut runs).len(),
        1,
        "though nothing has come or ended"
    );
}

/// A piece takes 100 ms, so the next comes 200 ms later, unless somebody waits for the space.
#[tokio::test]
async fn expiry_rests_between_its_pieces() {
    let (clock, switch) = (ManualClock::at(T0), Arc::new(Switch::default()));
    let takes = Duration::from_millis(100);
    *switch.sweeps.lock().unwrap() = Some(Sweeps {
        clock: clock.clone(),
        takes,
        left: 7,
    });
    let left = || switch.sweeps.lock().unwrap().as_ref().unwrap().left;
    let store = Arc::new(Troubled::new(Arc::new(MemoryStore::new()), switch.clone()));
    let (registry, _runs) = one("/held", RouteOptions::default(), true);
    let bed = bed_on(store, clock, EngineConfig::default(), registry).await;
    settle().await;
    bed.clock.advance(EngineConfig::default().expire_interval);
    for pieces in [6, 5] {
        settle().await;
        assert_eq!(left(), pieces);
        bed.clock.advance(2 * takes - Duration::from_millis(1));
        settle().await;
        assert_eq!(left(), pieces, "it rests");
        bed.clock.advance(Duration::from_millis(1));
    }
    // However long it took: the clock may have been set meanwhile.
    switch.sweeps.lock().unwrap().as_mut().unwrap().takes = Duration::from_secs(3_600);
    settle().await;
    assert_eq!(left(), 4);
    bed.clock.advance(Duration::from_secs(1));
    settle().await;
    assert_eq!(left(), 3);
    switch.is_full.store(true, Ordering::SeqCst);
    let refused = bed.engine.submit(call("/held", "no room")).await;
    assert!(refused.is_err(), "{refused:?}");
    bed.clock.advance(Duration::from_secs(1));
    settle().await;
    assert_eq!(left(), 1, "and on at once");
}

#[tokio::test]
async fn past_a_budget_a_submit_is_refused_and_nothing_is_kept() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let limits = config(|c| {
        c.workers = 1;
        c.max_queued = 3;
        c.max_queued_per_owner = 2;
    });
    let bed = bed(limits, registry).await;
    bed.submit(call("/held", "runs")).await;
    let first = runs.recv().await.unwrap();
    for tag in ["t1", "t2"] {
        bed.submit(tagged("/held", "waits", tag)).await;
    }
    let refused = bed.engine.submit(call("/held", "one too many")).await;
    let Err(SubmitError::Busy {
        what,
        found: 3,
        limit: 2,
        ..
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(what, "queued jobs of one user");
    let stored = bed.engine.usage(&ann()).total.jobs;
    // Who lost an answer gets it all the same; a different call under that tag is a conflict.
    assert!(bed.submit(tagged("/held", "waits", "t1")).await.existing);
    let conflict = bed.engine.submit(tagged("/held", "other", "t1")).await;
    assert!(
        matches!(conflict, Err(SubmitError::TagConflict { .. })),
        "{conflict:?}"
    );
    assert_eq!(bed.engine.stats().queued, 2);
    assert_eq!(bed.engine.usage(&ann()).total.jobs, stored);
    // Another user still has room, until the server has none.
    bed.submit(of("bob", "bob's")).await;
    let refused = bed.engine.submit(of("eve", "bob's")).await;
    assert!(
        matches!(
            refused,
            Err(SubmitError::Busy {
                what: "queued jobs",
                ..
            })
        ),
        "{refused:?}"
    );
    // Once a job has left the queue there is room again.
    first.done();
    settle().await;
    bed.submit(call("/held", "fits again")).await;
}

#[tokio::test]
async fn stored_bytes_have_a_budget() {
    let mut registry = Registry::default();
    registry
        .route("/echo", echo, RouteOptions::default())
        .unwrap();
    let bed = bed(config(|c| c.max_stored_bytes_per_owner = 20), registry).await;
    bed.submit(call("/echo", "12345678")).await;
    settle().await;
    // The payload and the result are 16 bytes; four more fit, five do not.
    let refused = bed.engine.submit(call("/echo", "12345")).await;
    assert!(
        matches!(
            refused,
            Err(SubmitError::Busy {
                found: 21,
                limit: 20,
                ..
            })
        ),
        "{refused:?}"
    );
    bed.submit(call("/echo", "1234")).await;
}

#[tokio::test]
async fn stored_jobs_have_a_budget() {
    let mut registry = Registry::default();
    registry
        .route("/echo", echo, RouteOptions::default())
        .unwrap();
    let limits = config(|c| {
        c.max_stored_jobs = 3;
        c.max_stored_jobs_per_owner = 2;
        c.expire_interval = Duration::from_secs(1);
    });
    let bed = bed(limits, registry).await;
    let busy = async |submission| match bed.engine.submit(submission).await {
        Err(SubmitError::Busy {
            what, found, limit, ..
        }) => (what, found, limit),
        other => panic!("not refused: {other:?}"),
    };
    let brief = |tag| {
        let mut submission = tagged("/echo", "in", tag);
        submission.retention = Some(Duration::from_secs(5));
        submission
    };
    bed.submit(brief("t1")).await;
    bed.submit(brief("t2")).await;
    settle().await;
    let told = ("stored jobs of one user", 3, 2);
    assert_eq!(busy(brief("t3")).await, told, "those that have ended count");
    assert!(bed.submit(brief("t1")).await.existing);
    let mut bobs = call("/echo", "bob's");
    bobs.owner = Owner::new("bob");
    bed.submit(bobs.clone()).await;
    assert_eq!(busy(bobs).await, ("stored jobs", 4, 3));
    // There is room once their retention is over and their space was given back.
    bed.advance(Duration::from_secs(5)).await;
    bed.advance(Duration::from_secs(1)).await;
    assert!(!bed.submit(brief("t3")).await.existing);
}

/// A result that waits for the store is memory and will be bytes on disk: while many did, submits
/// were accepted as if there were none.
#[tokio::test]
async fn results_on_their_way_into_the_store_count_as_stored() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let switch = Arc::new(Switch::default());
    let store = Troubled::new(Arc::new(MemoryStore::new()), switch.clone());
    let limits = config(|c| c.max_stored_bytes = 20);
    let bed = bed_on(Arc::new(store), ManualClock::at(T0), limits, registry).await;
    bed.submit(call("/held", "12345678")).await;
    let run = runs.recv().await.unwrap();
    switch.is_full.store(true, Ordering::SeqCst);
    run.end(Ok(Payload::binary("12345678")));
    settle().await;
    switch.is_full.store(false, Ordering::SeqCst);
    let refused = bed.engine.submit(call("/held", "12345")).await;
    let is_counted = matches!(refused, Err(SubmitError::Busy { found: 21, .. }));
    assert!(is_counted, "{refused:?}");
    // It is tried again, stored, and counts once.
    bed.advance(Duration::from_secs(1)).await;
    assert_eq!(bed.engine.usage(&ann()).total.bytes, 16);
    bed.submit(call("/held", "1234")).await;
}

#[tokio::test]
async fn the_same_submit_is_the_same_job() {
    let (registry, mut runs) = one("/*", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let first = bed.submit(tagged("/held", "in", "t")).await;
    let again = bed.submit(tagged("/held", "in", "t")).await;
    assert_eq!(
        (again.id, again.query_id, again.existing),
        (first.id, first.query_id, true)
    );
    runs.recv().await.unwrap().done();
    settle().await;
    assert_eq!(bed.submit(tagged("/held", "in", "t")).await.id, first.id);
    settle().await;
    assert!(runs.try_recv().is_err(), "it must run once");

    let mut json = tagged("/held", "in", "t");
    json.payload = Payload::json("in");
    for (other, what) in [
        (tagged("/held", "other", "t"), Difference::Payload),
        (tagged("/elsewhere", "in", "t"), Difference::Endpoint),
        (json, Difference::Encoding),
    ] {
        match bed.engine.submit(other).await {
            Err(SubmitError::TagConflict { id, difference, .. }) => {
                assert_eq!((id, difference), (first.id, what));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn concurrent_submits_of_one_tag_are_one_job() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let submits: Vec<_> = (0..50)
        .map(|_| {
            let engine = bed.engine.clone();
            tokio::spawn(async move { engine.submit(tagged("/held", "in", "t")).await.unwrap() })
        })
        .collect();
    let mut ids = Vec::new();
    for submit in submits {
        ids.push(submit.await.unwrap());
    }
    assert_eq!(ids.iter().filter(|accepted| !accepted.existing).count(), 1);
    ids.dedup_by_key(|accepted| accepted.id);
    assert_eq!(ids.len(), 1);
    runs.recv().await.unwrap();
    assert!(runs.try_recv().is_err());
    let stats = bed.engine.stats();
    assert_eq!((stats.queued, stats.running), (0, 1));
}

#[tokio::test]
async fn the_tag_of_a_failed_job_may_be_used_anew_on_request() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let reuse = || {
        let mut submission = tagged("/held", "new", "t");
        submission.tag_reuse = TagReuse::IfFailed;
        submission
    };
    let failed = bed.submit(tagged("/held", "old", "t")).await;
    let run = runs.recv().await.unwrap();
    assert!(bed.engine.submit(reuse()).await.is_err(), "it still runs");
    run.end(Err(HandlerError::failed("no")));
    settle().await;
    assert!(
        bed.engine
            .submit(tagged("/held", "new", "t"))
            .await
            .is_err(),
        "not without asking"
    );
    let anew = bed.submit(reuse()).await;
    assert!(!anew.existing && anew.id != failed.id);
    runs.recv().await.unwrap().done();
    settle().await;
    let key = JobKey::Tag("t".parse().unwrap());
    let job = bed
        .engine
        .get(&Caller::user(ann()), &key)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(job.header.id, anew.id);
    assert_eq!(bed.phase(failed.id).await, Phase::Failed);
    // Now it names a done job: the same call finds it, reuse or not.
    assert!(bed.submit(reuse()).await.existing);
}

#[tokio::test]
async fn a_job_that_nobody_serves_is_refused() {
    let (registry, _runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let refused = bed.engine.submit(call("/other", "in")).await;
    assert!(
        matches!(refused, Err(SubmitError::UnknownEndpoint(_))),
        "{refused:?}"
    );
    assert_eq!(bed.engine.usage(&ann()).total.jobs, 0);
}

#[tokio::test]
async fn a_transient_failure_is_tried_again_with_backoff_until_attempts_run_out() {
    let options = RouteOptions::default().retry(3);
    assert_eq!(options.on_interrupt, Interrupted::Retry { max_attempts: 3 });
    let (registry, mut runs) = one("/held", options, true);
    let bed = bed(EngineConfig::default(), registry).await;
    let id = bed.submit(call("/held", "in")).await.id;
    let run = runs.recv().await.unwrap();
    run.context.progress(40);
    bed.advance(Duration::from_millis(100)).await;
    run.end(Err(HandlerError::transient("busy")));
    settle().await;
    let job = bed.job(id).await;
    assert_eq!(
        (job.state.phase, job.state.progress),
        (Phase::Queued, 40),
        "it never falls"
    );
    assert_eq!(bed.engine.stats().queued, 1);
    // A second, less a jitter of up to half.
    bed.advance(Duration::from_millis(499)).await;
    assert!(runs.try_recv().is_err());
    bed.advance(Duration::from_millis(501)).await;
    let run = runs.try_recv().unwrap();
    assert_eq!(run.context.job().attempt, 2);
    run.end(Err(HandlerError::transient("busy")));
    bed.advance(Duration::from_millis(999)).await;
    assert!(runs.try_recv().is_err());
    bed.advance(Duration::from_millis(1001)).await;
    let run = runs.try_recv().unwrap();
    assert_eq!(run.context.job().attempt, 3);
    run.end(Err(HandlerError::transient("still busy")));
    settle().await;
    assert_eq!(bed.error(id).await, "still busy");
    let stats = bed.engine.stats();
    assert_eq!((stats.queued, stats.running), (0, 0));
}
