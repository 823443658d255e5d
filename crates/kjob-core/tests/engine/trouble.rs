//! What an engine does while its store refuses, and with what handlers should not give it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::*;
use crate::troubled::{Switch, Troubled};
use kjob_core::engine::{
    Caller, CancelOutcome, EngineConfig, HandlerError, JobKey, ManualClock, RouteOptions,
};
use kjob_core::{MemoryStore, Phase};

/// A full disk under many waiting jobs: each failed start made the next job try, so all of them
/// were tried every second and the log filled the disk that was full already.
#[tokio::test]
async fn while_the_store_is_full_few_starts_are_tried_and_all_jobs_run_later() {
    let switch = Arc::new(Switch::default());
    let store = Arc::new(Troubled::new(Arc::new(MemoryStore::new()), switch.clone()));
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let clock = ManualClock::at(T0);
    let bed = bed_on(store, clock, config(|c| c.workers = 4), registry).await;
    let mut ids = Vec::new();
    for _ in 0..100 {
        let mut later = call("/held", "in");
        later.delay = Duration::from_secs(10);
        ids.push(bed.submit(later).await.id);
    }
    switch.is_full.store(true, Ordering::SeqCst);
    bed.advance(Duration::from_secs(10)).await;
    let tried = switch.refused.load(Ordering::SeqCst);
    assert!(
        (1..=4).contains(&tried),
        "{tried} starts were tried at once"
    );
    for _ in 0..5 {
        bed.advance(Duration::from_secs(1)).await;
    }
    let tried = switch.refused.load(Ordering::SeqCst);
    assert!(
        (2..=24).contains(&tried),
        "{tried} starts were tried in five seconds"
    );
    assert_eq!(
        (bed.engine.stats().queued, bed.engine.stats().running),
        (100, 0)
    );

    switch.is_full.store(false, Ordering::SeqCst);
    bed.advance(Duration::from_secs(1)).await;
    while let Ok(run) = runs.try_recv() {
        run.done();
        settle().await;
    }
    for id in ids {
        assert_eq!(bed.phase(id).await, Phase::Done);
    }
}

/// While starts are paused a new job found a free worker, and ran before those that waited.
#[tokio::test]
async fn during_a_pause_no_new_job_passes_those_that_wait() {
    let switch = Arc::new(Switch::default());
    let store = Arc::new(Troubled::new(Arc::new(MemoryStore::new()), switch.clone()));
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let clock = ManualClock::at(T0);
    let bed = bed_on(store, clock, config(|c| c.workers = 1), registry).await;
    let mut first = call("/held", "first");
    first.delay = Duration::from_secs(1);
    let first = bed.submit(first).await.id;
    switch.is_full.store(true, Ordering::SeqCst);
    bed.advance(Duration::from_secs(1)).await;
    assert_eq!(
        switch.refused.load(Ordering::SeqCst),
        1,
        "its start is tried"
    );
    switch.is_full.store(false, Ordering::SeqCst);
    bed.submit(call("/held", "second")).await;
    settle().await;
    assert!(runs.try_recv().is_err(), "nothing is started yet");
    bed.advance(Duration::from_secs(1)).await;
    assert_eq!(runs.try_recv().unwrap().id(), first);
}

/// Whoever watches for it is told by the first step that meets it, and needs not look again and
/// again.
#[tokio::test]
async fn the_first_step_that_meets_a_failed_store_tells_of_it() {
    let switch = Arc::new(Switch::default());
    let store = Arc::new(Troubled::new(Arc::new(MemoryStore::new()), switch.clone()));
    let (registry, _runs) = one("/held", RouteOptions::default(), true);
    let clock = ManualClock::at(T0);
    let bed = bed_on(store, clock, EngineConfig::default(), registry).await;
    let engine = bed.engine.clone();
    let told = tokio::spawn(async move { engine.store_failed().await });
    switch.is_full.store(true, Ordering::SeqCst);
    assert!(bed.engine.submit(call("/held", "in")).await.is_err());
    settle().await;
    assert!(!told.is_finished(), "a full store has not failed for good");
    switch.is_full.store(false, Ordering::SeqCst);
    switch.has_failed.store(true, Ordering::SeqCst);
    settle().await;
    assert!(!told.is_finished(), "no step has met it yet");
    assert!(bed.engine.submit(call("/held", "in")).await.is_err());
    settle().await;
    assert!(told.is_finished());
    assert!(
        told.await
            .unwrap()
            .to_string()
            .contains("the test wants it so")
    );
    // Also whoever comes later.
    bed.engine.store_failed().await;
}

/// A submit that was stored with its start, but answered with an error, and then cancelled by
/// somebody else before the engine had found out: the job was cancelling for ever.
#[tokio::test]
async fn a_job_that_is_cancelled_before_its_submit_is_found_out_about_ends() {
    let switch = Arc::new(Switch::default());
    let store = Arc::new(Troubled::new(Arc::new(MemoryStore::new()), switch.clone()));
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let clock = ManualClock::at(T0);
    let bed = bed_on(store, clock, EngineConfig::default(), registry).await;
    // Its ids are reserved.
    let before = bed.submit(call("/held", "in")).await.id;
    runs.recv().await.unwrap().done();
    settle().await;
    switch.loses_answers.store(true, Ordering::SeqCst);
    let lost = bed.engine.submit(tagged("/held", "in", "lost")).await;
    assert!(lost.is_err(), "{lost:?}");
    settle().await;
    switch.loses_answers.store(false, Ordering::SeqCst);
    let id = bed.submit(tagged("/held", "in", "lost")).await.id;
    assert_ne!(id, before);
    let key = JobKey::Id(id);
    let outcome = bed.engine.cancel(&Caller::user(ann()), &key).await;
    assert_eq!(outcome.unwrap(), CancelOutcome::Cancelling);
    bed.advance(Duration::from_secs(1)).await;
    assert_eq!(bed.phase(id).await, Phase::Cancelled);
    assert!(runs.try_recv().is_err(), "its handler need not begin");
    let stats = bed.engine.stats();
    assert_eq!((stats.queued, stats.live, stats.running), (0, 0, 0));
}

/// A full store at the start: a job of an endpoint that is gone stayed queued for ever, and one
/// that had run kept the server from starting at all.
#[tokio::test]
async fn with_a_full_store_an_engine_opens_and_ends_old_jobs_later() {
    let memory = Arc::new(MemoryStore::new());
    let of_old = memory.clone();
    let old = move || {
        until_killed(async {
            let (registry, mut runs) = one("/held", RouteOptions::default(), true);
            let limits = config(|c| c.workers = 1);
            let bed = bed_on(of_old, ManualClock::at(T0), limits, registry).await;
            let ran = bed.submit(call("/held", "ran")).await.id;
            let waited = bed.submit(call("/held", "waited")).await.id;
            let _run = runs.recv().await.unwrap();
            [ran, waited]
        })
    };
    let [ran, waited] = std::thread::spawn(old).join().unwrap();

    let switch = Arc::new(Switch::default());
    let store = Arc::new(Troubled::new(memory, switch.clone()));
    switch.is_full.store(true, Ordering::SeqCst);
    let (registry, _runs) = one("/other", RouteOptions::default(), true);
    let clock = ManualClock::at(T0);
    let opening = {
        let clock = clock.clone();
        tokio::spawn(bed_on(store, clock, EngineConfig::default(), registry))
    };
    settle().await;
    clock.advance(Duration::from_secs(1));
    settle().await;
    assert!(opening.is_finished(), "a full store can be looked at");
    let bed = opening.await.unwrap();
    assert_eq!(bed.phase(ran).await, Phase::Running);
    assert_eq!(bed.phase(waited).await, Phase::Queued);
    switch.is_full.store(false, Ordering::SeqCst);
    bed.advance(Duration::from_secs(5)).await;
    for id in [ran, waited] {
        assert_eq!(
            bed.error(id).await,
            "endpoint \"/held\" is no longer served"
        );
    }
    assert_eq!(bed.engine.stats().live, 0);
}

/// A result whose store is full is kept until it is stored: the handler's work is not lost.
#[tokio::test]
async fn an_end_is_stored_once_the_store_takes_it() {
    let switch = Arc::new(Switch::default());
    let store = Arc::new(Troubled::new(Arc::new(MemoryStore::new()), switch.clone()));
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let clock = ManualClock::at(T0);
    let bed = bed_on(store, clock, EngineConfig::default(), registry).await;
    let id = bed.submit(call("/held", "in")).await.id;
    let run = runs.recv().await.unwrap();
    switch.is_full.store(true, Ordering::SeqCst);
    run.done();
    bed.advance(Duration::from_secs(3)).await;
    assert_eq!(
        bed.phase(id).await,
        Phase::Running,
        "nobody is told of an end that is not stored"
    );
    switch.is_full.store(false, Ordering::SeqCst);
    bed.advance(Duration::from_secs(5)).await;
    assert_eq!(bed.phase(id).await, Phase::Done);
    assert_eq!(bed.engine.stats().running, 0);
}

#[tokio::test]
async fn a_handlers_message_is_cut_where_it_is_too_long() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    for (len, kept) in [(16 * 1024, 16 * 1024), (16 * 1024 + 2, 16 * 1024)] {
        let id = bed.submit(call("/held", "in")).await.id;
        // Two bytes a character, so that a cut may not fall anywhere.
        let message = "é".repeat(len / 2);
        runs.recv()
            .await
            .unwrap()
            .end(Err(HandlerError::failed(&message)));
        settle().await;
        let error = bed.error(id).await;
        assert!(error.starts_with(&message[..kept]));
        assert_eq!(error == message, len == kept);
        assert!(error.len() < kept + 64);
    }
}
