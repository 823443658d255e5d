//! Jobs that wait as no more than a mark in memory are like all others for whoever asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::*;
use crate::troubled::{Switch, Troubled};
use kjob_core::engine::{
    Accepted, Attachment, Caller, CancelOutcome, EngineConfig, JobKey, ManualClock, RouteOptions,
    Submission,
};
use kjob_core::{Age, MemoryStore, Owner, Phase, StoreError};
use tokio::sync::mpsc::UnboundedReceiver;

const LONG: Duration = Duration::from_secs(60);

fn caller() -> Caller {
    Caller::user(ann())
}

fn all_doze() -> EngineConfig {
    config(|config| {
        config.whole_jobs = 0;
        config.workers = 1;
    })
}

/// One job that runs, and one that dozes behind it.
async fn one_behind_another(waits: Submission) -> (Bed, UnboundedReceiver<Run>, Run, Accepted) {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(all_doze(), registry).await;
    bed.submit(call("/held", "runs")).await;
    let waits = bed.submit(waits).await;
    settle().await;
    let run = runs.try_recv().unwrap();
    (bed, runs, run, waits)
}

fn whole(bed: &Bed) -> (usize, usize) {
    let stats = bed.engine.stats();
    (stats.live, stats.whole)
}

#[tokio::test]
async fn a_job_that_waits_is_a_mark_until_its_turn() {
    let (bed, mut runs, run, waits) = one_behind_another(tagged("/held", "2", "t")).await;
    assert_eq!(whole(&bed), (2, 1));
    assert_eq!(bed.phase(waits.id).await, Phase::Queued);
    assert_eq!(whole(&bed), (2, 1), "looking at it does not wake it");
    run.done();
    settle().await;
    let run = runs.try_recv().unwrap();
    assert_eq!((run.id(), &run.payload.data[..]), (waits.id, &b"2"[..]));
    assert_eq!(run.context.job().tag, waits.tag);
    assert_eq!(whole(&bed), (1, 1));
    run.done();
    settle().await;
    assert_eq!(bed.phase(waits.id).await, Phase::Done);
    let stats = bed.engine.stats();
    assert_eq!((stats.queued, stats.live, stats.whole), (0, 0, 0));
}

#[tokio::test]
async fn only_what_is_beyond_the_number_dozes() {
    let (registry, _runs) = one("/held", RouteOptions::default(), true);
    let three = config(|config| {
        config.whole_jobs = 3;
        config.workers = 1;
    });
    let bed = bed(three, registry).await;
    for _ in 0..7 {
        bed.submit(call("/held", "")).await;
    }
    settle().await;
    assert_eq!(whole(&bed), (7, 3));
}

#[tokio::test]
async fn whoever_waits_for_it_is_told_of_its_start_and_its_end() {
    for by_tag in [false, true] {
        let (bed, mut runs, run, waits) = one_behind_another(tagged("/held", "2", "t")).await;
        let key = match by_tag {
            true => JobKey::Tag(waits.tag.clone()),
            false => JobKey::Id(waits.id),
        };
        let engine = bed.engine.clone();
        let seen = bed.job(waits.id).await.state.age();
        let end_key = key.clone();
        let end = tokio::spawn(async move { engine.wait(&caller(), &end_key, LONG).await });
        let engine = bed.engine.clone();
        let news = tokio::spawn(async move { engine.news(&caller(), &key, seen, LONG).await });
        settle().await;
        assert_eq!(whole(&bed), (2, 2), "it is watched");
        run.done();
        settle().await;
        let told = news.await.unwrap().unwrap().unwrap();
        assert_eq!(told.state.phase, Phase::Running);
        runs.try_recv().unwrap().done();
        let told = end.await.unwrap().unwrap().unwrap();
        assert_eq!((told.state.phase, told.result_len()), (Phase::Done, 4));
    }
}

#[tokio::test]
async fn it_dozes_again_when_nobody_watches_any_more() {
    let (bed, _runs, _run, waits) = one_behind_another(call("/held", "2")).await;
    let watch = || {
        let (engine, key) = (bed.engine.clone(), JobKey::Id(waits.id));
        tokio::spawn(async move { engine.news(&caller(), &key, Age::LIVE_MAX, LONG).await })
    };
    let first = watch();
    bed.advance(LONG / 2).await;
    let second = watch();
    settle().await;
    assert_eq!(whole(&bed), (2, 2));
    bed.advance(LONG / 2).await;
    let job = first.await.unwrap().unwrap().unwrap();
    assert_eq!(job.state.phase, Phase::Queued);
    assert_eq!(whole(&bed), (2, 2), "the second still does");
    bed.advance(LONG / 2).await;
    second.await.unwrap().unwrap();
    assert_eq!(whole(&bed), (2, 1));
}

#[tokio::test]
async fn it_can_be_cancelled_and_leaves_the_queue() {
    let (bed, mut runs, run, waits) = one_behind_another(call("/held", "2")).await;
    let engine = bed.engine.clone();
    let key = JobKey::Id(waits.id);
    let stranger = Caller::user(Owner::new("bob"));
    let refused = bed.engine.cancel(&stranger, &key).await.unwrap();
    assert_eq!(refused, CancelOutcome::NotFound);
    assert_eq!(whole(&bed), (2, 1));
    let end = {
        let key = key.clone();
        tokio::spawn(async move { engine.wait(&caller(), &key, LONG).await })
    };
    settle().await;
    let outcome = bed.engine.cancel(&caller(), &key).await.unwrap();
    assert_eq!(outcome, CancelOutcome::Cancelled);
    let told = end.await.unwrap().unwrap().unwrap();
    assert_eq!(told.state.phase, Phase::Cancelled);
    assert_eq!(bed.engine.stats().queued, 0);
    run.done();
    settle().await;
    assert!(runs.try_recv().is_err());
    assert_eq!(whole(&bed), (0, 0));
}

#[tokio::test]
async fn a_delayed_job_and_one_that_is_tried_again_doze_too() {
    let retry = RouteOptions::default().retry(3);
    let (registry, mut runs) = one("/held", retry, true);
    let bed = bed(all_doze(), registry).await;
    let mut delayed = call("/held", "");
    delayed.delay = Duration::from_secs(5);
    let delayed = bed.submit(delayed).await;
    assert_eq!(whole(&bed), (1, 0));
    bed.advance(Duration::from_secs(5)).await;
    let run = runs.try_recv().unwrap();
    assert_eq!(run.id(), delayed.id);
    run.end(Err(kjob_core::engine::HandlerError::transient("again")));
    settle().await;
    assert_eq!(whole(&bed), (1, 0));
    bed.advance(LONG).await;
    let run = runs.try_recv().unwrap();
    assert_eq!(run.context.job().attempt, 2);
    run.done();
    settle().await;
    assert_eq!(bed.phase(delayed.id).await, Phase::Done);
}

#[tokio::test]
async fn what_came_for_the_handler_alone_keeps_a_job_whole() {
    let mut attached = call("/held", "2");
    attached.attachment = Some(Attachment::new("a secret"));
    let (bed, mut runs, run, _) = one_behind_another(attached).await;
    assert_eq!(whole(&bed), (2, 2));
    run.done();
    settle().await;
    let run = runs.try_recv().unwrap();
    let attachment = run.context.job().attachment.as_ref().unwrap();
    assert_eq!(attachment.get::<&str>(), Some(&"a secret"));
}

#[tokio::test]
async fn an_engine_takes_up_those_that_wait_as_marks() {
    let store: Arc<MemoryStore> = Arc::default();
    let (registry, _runs) = one("/held", RouteOptions::default(), true);
    let clock = ManualClock::at(T0);
    let first = bed_on(store.clone(), clock.clone(), all_doze(), registry).await;
    for name in ["a", "b", "c", "d"] {
        let mut delayed = tagged("/held", "", name);
        delayed.delay = LONG;
        first.submit(delayed).await;
    }
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let one_worker = config(|config| config.workers = 1);
    let bed = bed_on(store, clock, one_worker, registry).await;
    assert_eq!(whole(&bed), (4, 0));
    assert_eq!(bed.engine.stats().queued, 4);
    bed.advance(LONG).await;
    for left in (0..4).rev() {
        runs.try_recv().unwrap().done();
        settle().await;
        assert_eq!(bed.engine.stats().live, left);
    }
}

async fn one_behind_another_in_trouble()
-> (Bed, UnboundedReceiver<Run>, Run, [Accepted; 2], Arc<Switch>) {
    let switch = Arc::new(Switch::default());
    let store = Arc::new(Troubled::new(Arc::new(MemoryStore::new()), switch.clone()));
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed_on(store, ManualClock::at(T0), all_doze(), registry).await;
    bed.submit(call("/held", "1")).await;
    let waiting = [
        bed.submit(call("/held", "2")).await,
        bed.submit(call("/held", "3")).await,
    ];
    settle().await;
    let run = runs.try_recv().unwrap();
    (bed, runs, run, waiting, switch)
}

#[tokio::test]
async fn one_that_is_damaged_is_not_run_and_keeps_nobody_back() {
    let (bed, mut runs, run, [damaged, next], switch) = one_behind_another_in_trouble().await;
    switch.damaged.store(damaged.id.get(), Ordering::SeqCst);
    let look = bed.engine.get(&caller(), &JobKey::Id(damaged.id)).await;
    assert!(matches!(look, Err(StoreError::Corrupt { .. })), "{look:?}");
    run.done();
    settle().await;
    let run = runs.try_recv().unwrap();
    assert_eq!(run.id(), next.id);
    run.done();
    settle().await;
    assert!(runs.try_recv().is_err());
    let stats = bed.engine.stats();
    assert_eq!((stats.queued, stats.live, stats.running), (0, 0, 0));
}

#[tokio::test]
async fn one_that_cannot_be_read_for_now_keeps_its_place() {
    let (bed, mut runs, run, [first, second], switch) = one_behind_another_in_trouble().await;
    run.done();
    switch.loses_answers.store(true, Ordering::SeqCst);
    bed.advance(Duration::from_secs(3)).await;
    assert!(runs.try_recv().is_err());
    switch.loses_answers.store(false, Ordering::SeqCst);
    bed.advance(Duration::from_secs(10)).await;
    for waits in [first, second] {
        let run = runs.try_recv().unwrap();
        assert_eq!(run.id(), waits.id);
        run.done();
        settle().await;
    }
}
