//! What an engine does while its store refuses, and with what handlers should not give it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;
#[path = "support/troubled.rs"]
#[allow(dead_code, reason = "other tests make other trouble")]
mod troubled;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kjob_core::engine::{EngineConfig, HandlerError, ManualClock, RouteOptions};
use kjob_core::{MemoryStore, Phase};
use support::*;
use troubled::{Switch, Troubled};

/// A full disk under many waiting jobs: each failed start made the next job try, so all of them
/// were tried every second and the log filled the disk that was full already.
#[tokio::test]
async fn while_the_store_is_full_few_starts_are_tried_and_all_jobs_run_later() {
    let switch = Arc::new(Switch::default());
    let store = Arc::new(Troubled::full(Arc::new(MemoryStore::new()), switch.clone()));
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

/// A result whose store is full is kept until it is stored: the handler's work is not lost.
#[tokio::test]
async fn an_end_is_stored_once_the_store_takes_it() {
    let switch = Arc::new(Switch::default());
    let store = Arc::new(Troubled::full(Arc::new(MemoryStore::new()), switch.clone()));
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
