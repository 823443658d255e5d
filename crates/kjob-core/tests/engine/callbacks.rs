//! Callbacks are handed out as they become due, and nothing looks for them before.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use kjob_core::engine::{EngineConfig, ManualClock, RouteOptions};
use kjob_core::{
    CallbackOutcome, CallbackPhase, CallbackTry, Job, JobId, MemoryStore, Store, StoreError,
};

const CLAIM: Duration = Duration::from_secs(30);

fn told(endpoint: &'static str) -> kjob_core::engine::Submission {
    let mut submission = call(endpoint, "in");
    submission.callback_url = Some("http://127.0.0.1/".into());
    submission
}

fn ids(due: Result<Vec<Job>, StoreError>) -> Vec<JobId> {
    due.unwrap().iter().map(|job| job.header.id).collect()
}

/// Asserts that nothing is due, however long everything else goes on.
async fn assert_waits<T>(due: &mut (impl Future<Output = T> + Unpin)) {
    tokio::select! {
        biased;
        _ = due => panic!("nothing is due"),
        () = settle() => {}
    }
}

fn retry_in(bed: &Bed, wait: Duration) -> CallbackTry {
    CallbackTry {
        http_status: Some(500),
        outcome: CallbackOutcome::Retry {
            error: "busy".into(),
            at: bed.engine.now().after(wait),
        },
    }
}

fn delivered() -> CallbackTry {
    CallbackTry {
        http_status: Some(200),
        outcome: CallbackOutcome::Delivered,
    }
}

#[tokio::test]
async fn whoever_waits_is_woken_by_an_end_and_by_the_time_of_the_next_try() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let engine = bed.engine.clone();
    let due = || Box::pin(engine.due_callbacks(9, CLAIM));
    let id = bed.submit(told("/held")).await.id;
    bed.submit(call("/held", "untold")).await;
    let mut waiting = due();
    assert_waits(&mut waiting).await;
    let (first, second) = (runs.recv().await.unwrap(), runs.recv().await.unwrap());
    second.done();
    assert_waits(&mut waiting).await;
    first.done();
    assert_eq!(ids(waiting.await), [id]);

    let mut waiting = due();
    assert_waits(&mut waiting).await;
    let tried = retry_in(&bed, Duration::from_secs(5));
    bed.engine.note_callback(id, tried).await.unwrap();
    assert_waits(&mut waiting).await;
    bed.advance(Duration::from_secs(5)).await;
    assert_eq!(ids(waiting.await), [id], "sooner than the claim was over");

    let mut waiting = due();
    bed.advance(CLAIM - Duration::from_millis(1)).await;
    assert_waits(&mut waiting).await;
    bed.advance(Duration::from_millis(1)).await;
    assert_eq!(ids(waiting.await), [id], "the claim is over");
    let state = bed.engine.note_callback(id, delivered()).await.unwrap();
    assert_eq!((state.phase, state.attempts), (CallbackPhase::Delivered, 2));
    assert_eq!(bed.job(id).await.callback, Some(state));
    let mut waiting = due();
    bed.advance(CLAIM * 2).await;
    assert_waits(&mut waiting).await;
    bed.engine.shut_down(Duration::ZERO).await.unwrap();
    assert!(matches!(waiting.await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn what_is_pending_is_handed_out_by_the_next_engine() {
    let store = Arc::new(MemoryStore::new());
    let clock = ManualClock::at(T0);
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let before = bed_on(
        store.clone(),
        clock.clone(),
        EngineConfig::default(),
        registry,
    )
    .await;
    let id = before.submit(told("/held")).await.id;
    // Nobody stops for it, so the drain ends it: it fails, and that is told as well.
    let cut_off = before.submit(told("/held")).await.id;
    runs.recv().await.unwrap().done();
    assert_eq!(ids(before.engine.due_callbacks(9, CLAIM).await), [id]);
    before.engine.shut_down(Duration::ZERO).await.unwrap();
    store.reopen();
    let (registry, _runs) = one("/held", RouteOptions::default(), true);
    let after = bed_on(
        store.clone() as Arc<dyn Store>,
        clock,
        EngineConfig::default(),
        registry,
    )
    .await;
    let mut due = ids(after.engine.due_callbacks(9, CLAIM).await);
    due.sort();
    assert_eq!(due, [id, cut_off], "its claim was the old engine's");
}
