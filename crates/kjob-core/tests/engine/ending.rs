//! Runs that are over but for their ends, which the store takes its time for: others have their places meanwhile.

use std::time::Duration;

use crate::cluster::{Member, member_with, once};
use crate::support::*;
use kjob_core::engine::HandlerError;
use kjob_core::{JobId, MemoryCluster, Payload, Phase};
use kjob_proto::Encoding;
use tokio::time::{Instant, sleep};

/// How long ends take.
const SLOW: Duration = Duration::from_secs(4);

/// More than what may wait beside those that have places.
const LARGE: usize = (64 << 10) + 1;

async fn slow(workers: usize) -> Member {
    let (registry, runs) = one("/held", once().concurrency(workers), true);
    let config = config(|config| config.workers = workers);
    let a = member_with(&MemoryCluster::at(T0), config, registry, runs).await;
    a.handle.set_slow(Duration::ZERO, SLOW);
    a
}

fn result(len: usize) -> Result<Payload, HandlerError> {
    Ok(Payload {
        encoding: Encoding::Binary,
        data: vec![7; len].into(),
    })
}

async fn submit(a: &Member, count: usize) -> Vec<JobId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(a.submit("1").await);
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn the_next_job_does_not_wait_for_the_store_to_have_the_last_ones_end() {
    let mut a = slow(1).await;
    let ids = submit(&a, 3).await;
    let begin = Instant::now();
    for id in &ids {
        let run = a.run().await;
        assert_eq!(run.id(), *id);
        assert!(!a.has_run(), "one at a time");
        run.end(result(64 << 10));
    }
    assert!(begin.elapsed() < Duration::from_secs(1));
    for id in ids {
        assert_eq!(a.wait(id).await.unwrap().state.phase, Phase::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_result_keeps_its_place_until_it_is_stored() {
    let mut a = slow(1).await;
    let ids = submit(&a, 2).await;
    a.run().await.end(result(LARGE));
    sleep(SLOW / 2).await;
    assert!(!a.has_run());
    let next = a.run().await;
    assert_eq!(next.id(), ids[1]);
    assert_eq!(a.phase(ids[0]).await, Phase::Done);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_so_many_are_ending() {
    let mut a = slow(1).await;
    submit(&a, 200).await;
    let mut count = 0;
    while let Ok(Some(run)) = tokio::time::timeout(SLOW / 4, a.runs.recv()).await {
        run.done();
        count += 1;
    }
    // 64 are ending, and one has the place.
    assert_eq!(count, 65);
    assert_eq!(a.engine.stats().running, 65);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_waits_for_what_is_ending() {
    let mut a = slow(2).await;
    let ids = submit(&a, 2).await;
    a.run().await.done();
    a.run().await.done();
    settle().await;
    assert_eq!(a.engine.stats().running, 2);
    let begin = Instant::now();
    a.engine.stop_running(3 * SLOW).await;
    assert!(begin.elapsed() >= SLOW / 2);
    assert_eq!(a.engine.stats().running, 0);
    for id in ids {
        assert_eq!(a.phase(id).await, Phase::Done);
    }
}
