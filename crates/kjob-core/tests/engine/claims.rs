//! What claims of a shared store leave to submits, and when there are any.

use std::time::Duration;

use crate::cluster::{Member, member, member_with, once};
use crate::support::*;
use kjob_core::MemoryCluster;
use kjob_core::engine::RouteOptions;
use tokio::time::{Instant, sleep};

async fn wide(cluster: &MemoryCluster, options: RouteOptions) -> Member {
    let (registry, runs) = one("/held", options, true);
    member_with(cluster, config(|config| config.workers = 8), registry, runs).await
}

#[tokio::test(start_paused = true)]
async fn a_submit_that_comes_during_a_claim_finds_a_place() {
    let cluster = MemoryCluster::at(T0);
    let mut a = wide(&cluster, once()).await;
    a.handle.slow_claims(Duration::from_secs(3600));
    sleep(Duration::from_secs(1)).await;
    let begin = Instant::now();
    for payload in ["1", "2", "3"] {
        let id = a.submit(payload).await;
        assert_eq!(a.run().await.id(), id);
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_free_again_is_no_reason_to_claim_where_nothing_waits() {
    let cluster = MemoryCluster::at(T0);
    let mut a = wide(&cluster, once()).await;
    sleep(Duration::from_secs(1)).await;
    let before = a.handle.claims();
    for _ in 0..100 {
        let id = a.submit("1").await;
        let end = a.wait(id);
        a.run().await.done();
        end.await.unwrap();
        settle().await;
    }
    let claims = a.handle.claims() - before;
    assert!(claims <= 2, "{claims} claims for 100 jobs");
}

#[tokio::test(start_paused = true)]
async fn a_job_is_a_reason_to_claim_unless_it_waits_for_a_time() {
    let cluster = MemoryCluster::at(T0);
    let (mut registry, runs) = one("/held", once().concurrency(1), true);
    // There is a place for jobs of this one, so that a look is a claim.
    registry.route("/other", echo, once()).unwrap();
    let mut a = member_with(
        &cluster,
        config(|config| config.workers = 8),
        registry,
        runs,
    )
    .await;
    a.submit("1").await;
    let _run = a.run().await;
    sleep(Duration::from_secs(1)).await;
    settle().await;
    let (begin, before) = (Instant::now(), a.handle.claims());
    for _ in 0..100 {
        let mut delayed = call("/held", "");
        delayed.delay = Duration::from_secs(3600);
        a.engine.submit(delayed).await.unwrap();
        settle().await;
    }
    assert_eq!(a.handle.claims(), before);
    a.submit("2").await;
    settle().await;
    assert!(a.handle.claims() > before);
    assert_eq!(begin.elapsed(), Duration::ZERO, "none was for the time");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_route_that_is_full_is_claimed_as_soon_as_it_is_not() {
    let cluster = MemoryCluster::at(T0);
    let mut busy = member(&cluster, once()).await;
    busy.submit("0").await;
    let _run = busy.run().await;
    let mut a = wide(&cluster, once().concurrency(3)).await;
    a.handle.slow_claims(Duration::from_secs(5));
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(busy.submit("1").await);
    }
    sleep(Duration::from_secs(4)).await;
    a.handle.slow_claims(Duration::ZERO);
    let mut runs = vec![a.run().await];
    // One was found by a claim that left places to others. It looks for more at once, until the route is full.
    let begin = Instant::now();
    runs.extend([a.run().await, a.run().await]);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    settle().await;
    assert!(!a.has_run());
    for _ in 0..4 {
        runs.remove(0).done();
        runs.push(a.run().await);
    }
    runs.into_iter().for_each(Run::done);
    for id in ids {
        a.wait(id).await.unwrap();
    }
    let took = begin.elapsed();
    assert!(took < Duration::from_millis(5), "{took:?}");
}
