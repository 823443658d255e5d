//! How engines come to the shards of a store, and leave them: all at once, without one that is away, and in time.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{LEASE, once};
use crate::observer::Scribe;
use crate::shards::*;
use crate::support::*;
use kjob_core::engine::EngineConfig;
use kjob_core::{MemoryNode, Phase, Store};
use tokio::time::{Instant, sleep};

/// What the observer was told, renewals aside.
fn told(scribe: &Scribe) -> Vec<String> {
    let mut told = scribe.leases();
    told.retain(|line| !line.starts_with("Renewed"));
    told
}

fn observed(scribe: &Scribe) -> EngineConfig {
    config(|it| it.observer = Some(Arc::new(scribe.clone())))
}

#[tokio::test(start_paused = true)]
async fn a_node_starts_without_a_shard_and_joins_it_when_it_is_there() {
    for away in [0, 1] {
        let clusters = clusters(2);
        let begin = Instant::now();
        // What waits in both, of a node that is gone.
        let ids = {
            let mut busy = member(&clusters, once(), 1).await;
            busy.engine.submit(call("/held", "x")).await.unwrap();
            let _run = busy.run().await;
            let ids = busy.submit_to_each().await;
            busy.engine.shut_down(Duration::ZERO).await.unwrap();
            ids
        };
        let scribe = Scribe::default();
        let cut = |handles: &[Arc<MemoryNode>]| handles[away].set_cut(true);
        let a = member_after(&clusters, once(), observed(&scribe), cut).await;
        let mut a = a.unwrap();
        let leases = |a: &Member| (a.engine.leases(), told(&scribe));
        let one = vec!["Joined".to_owned()];
        assert_eq!(leases(&a), (vec![away == 1, away == 0], one.clone()));
        assert!(a.engine.has_lease());
        let run = a.run().await;
        assert_eq!(run.id(), ids[1 - away]);
        run.done();
        for _ in 0..4 {
            let id = a.engine.submit(call("/held", "z")).await.unwrap().id;
            assert_eq!(a.shard_of(id), 1 - away);
            a.run().await.done();
            assert_eq!(a.end(id).await, Phase::Done);
        }
        sleep(3 * LEASE).await;
        assert_eq!(leases(&a), (vec![away == 1, away == 0], one));
        assert_eq!(a.ahead(begin), if away == 0 { 60 } else { 0 });

        a.handles[away].set_cut(false);
        let run = a.run().await;
        assert_eq!(run.id(), ids[away]);
        run.done();
        assert_eq!(a.end(ids[away]).await, Phase::Done);
        let both = vec!["Joined".to_owned(); 2];
        assert_eq!(leases(&a), (vec![true, true], both));
        assert_eq!(a.ahead(begin), 0, "the first shard sets the clock");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_starts_with_any_one_shard_and_with_none_it_does_not() {
    let clusters = clusters(3);
    for there in [None, Some(0), Some(1), Some(2)] {
        let scribe = Scribe::default();
        let cut = |handles: &[Arc<MemoryNode>]| {
            for (number, handle) in handles.iter().enumerate() {
                handle.set_cut(Some(number) != there);
            }
        };
        let opened = member_after(&clusters, once(), observed(&scribe), cut).await;
        let Some(there) = there else {
            let error = opened.err().expect("it cannot be opened");
            assert!(error.to_string().contains("the way is cut"), "{error}");
            continue;
        };
        let a = opened.unwrap();
        let leases: Vec<bool> = (0..3).map(|it| it == there).collect();
        assert_eq!(a.engine.leases(), leases);
        sleep(LEASE).await;
        // Those that it never joined it does not leave.
        let _ = a.engine.shut_down(Duration::ZERO).await;
        assert_eq!(told(&scribe), ["Joined", "Left"]);
    }
}

#[tokio::test(start_paused = true)]
async fn shards_are_joined_at_the_same_time_and_the_first_sets_the_clock() {
    let slow = Duration::from_millis(90);
    for last in [0, 1, 2] {
        let clusters = clusters(3);
        let begin = Instant::now();
        let delay = |handles: &[Arc<MemoryNode>]| {
            for (number, handle) in handles.iter().enumerate() {
                handle.slow_beats([if number == last { slow } else { slow / 3 }]);
            }
        };
        let a = member_after(&clusters, once(), config(|_| {}), delay).await;
        let a = a.unwrap();
        assert!(begin.elapsed() <= slow, "{:?}", begin.elapsed());
        assert_eq!(a.engine.leases(), [true, true, true]);
        assert_eq!(a.ahead(begin), 0, "{last} comes last");
    }
}

#[tokio::test(start_paused = true)]
async fn a_beat_under_way_when_an_earlier_shard_is_joined_sets_no_clock() {
    let clusters = clusters(2);
    let begin = Instant::now();
    let cut = |handles: &[Arc<MemoryNode>]| handles[0].set_cut(true);
    let a = member_after(&clusters, once(), config(|_| {}), cut).await;
    let a = a.unwrap();
    assert_eq!(a.ahead(begin), 60);
    a.handles[1].slow_beats([4 * Duration::from_secs(1)]);
    sleep(Duration::from_secs(1)).await;
    a.handles[0].set_cut(false);
    while begin.elapsed() < LEASE {
        sleep(Duration::from_millis(20)).await;
        if a.engine.leases()[0] {
            assert_eq!(a.ahead(begin), 0, "after {:?}", begin.elapsed());
        }
    }
    assert_eq!(a.engine.leases(), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_lets_the_others_wait_is_joined_later() {
    let clusters = clusters(2);
    let begin = Instant::now();
    let scribe = Scribe::default();
    let delay = |handles: &[Arc<MemoryNode>]| handles[0].slow_beats([LEASE / 2, LEASE / 2]);
    let a = member_after(&clusters, once(), observed(&scribe), delay).await;
    let a = a.unwrap();
    assert_eq!(a.engine.leases(), [false, true]);
    assert!(begin.elapsed() < LEASE / 2, "{:?}", begin.elapsed());
    sleep(LEASE).await;
    assert_eq!(a.engine.leases(), [true, true]);
    assert_eq!(told(&scribe), ["Joined", "Joined"]);
    assert_eq!(a.ahead(begin), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_has_left_it_neither_takes_for_lost_nor_joins_again() {
    let clusters = clusters(2);
    let scribe = Scribe::default();
    let limits = config(|it| {
        it.workers = 0;
        it.observer = Some(Arc::new(scribe.clone()));
    });
    let a = member_with(&clusters, once(), limits).await;
    let ids = a.submit_to_each().await;
    // Started without its hearing of it; it takes its time to give that back.
    a.handles[1].start(ids[1], a.engine.now()).await.unwrap();
    a.handles[1].set_slow(LEASE / 2, Duration::ZERO);
    a.engine.shut_down(Duration::ZERO).await.unwrap();
    assert_eq!(told(&scribe), ["Joined", "Joined", "Left", "Left"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_leaves_all_shards_at_once() {
    let clusters = clusters(2);
    let mut a = member(&clusters, retried(), 64).await;
    let ids = a.submit_to_each().await;
    let _runs = [a.run().await, a.run().await];
    let mut b = member(&clusters, retried(), 64).await;
    assert_eq!(b.engine.nodes().len(), 1, "both have one URL");
    a.engine.shut_down(Duration::ZERO).await.unwrap();
    let begin = Instant::now();
    for _ in 0..2 {
        b.run().await.done();
    }
    assert!(begin.elapsed() < Duration::from_secs(1));
    for id in ids {
        assert_eq!(b.end(id).await, Phase::Done);
    }
}
