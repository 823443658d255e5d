//! Leases of nodes: what happens to jobs of those that end, and what a node does without its own.

use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::{Caller, ClusterConfig, Engine, SubmitError};
use kjob_core::{Clock, Ending, Filter, MemoryCluster, Phase, Store};
use tokio::time::{Instant, sleep};

use crate::cluster::*;
use crate::support::*;

#[tokio::test(start_paused = true)]
async fn jobs_of_a_node_that_is_gone_are_taken_over_by_the_rule_of_their_route() {
    for retries in [false, true] {
        let options = || match retries {
            true => once().retry(3),
            false => once(),
        };
        let cluster = MemoryCluster::at(T0);
        let mut a = member(&cluster, options()).await;
        let mut b = member(&cluster, options()).await;
        let id = a.submit("1").await;
        let _run = a.run().await;
        a.kill();
        let begin = Instant::now();
        if retries {
            let run = b.run().await;
            assert_eq!((run.id(), run.context.job().attempt), (id, 2));
            run.done();
            assert_eq!(b.wait(id).await.unwrap().state.phase, Phase::Done);
        } else {
            match b.wait(id).await.unwrap().ending {
                Some(Ending::Failed(why)) => assert!(why.starts_with("interrupted:"), "{why}"),
                other => panic!("{other:?}"),
            }
            assert!(!b.has_run(), "at most once");
        }
        let took = begin.elapsed();
        let after = LEASE - Duration::from_secs(1)..LEASE * 2;
        assert!(after.contains(&took), "{took:?}");
    }
}

/// A node is alive by its beats, however long what it runs takes.
#[tokio::test(start_paused = true)]
async fn a_handler_may_run_for_longer_than_leases_last() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once().retry(3)).await;
    let id = a.submit("1").await;
    let run = a.run().await;
    let (mut b, scribe) = observed_member(&cluster, once().retry(3)).await;
    let lease = b.job(id).await.state.lease;
    sleep(5 * LEASE).await;
    assert!(!run.context.is_cancelled() && !run.is_gone());
    for member in [&a, &b] {
        let state = member.job(id).await.state;
        assert_eq!((state.phase, state.lease), (Phase::Running, lease));
    }
    let told = scribe.leases();
    let took_over = |line: &String| line.starts_with("TookOver");
    assert!(!told.iter().any(took_over), "{told:?}");
    run.done();
    assert_eq!(b.wait(id).await.unwrap().state.phase, Phase::Done);
    assert!(!a.has_run() && !b.has_run());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_lets_go_and_speaks_for_nothing_when_it_is_back() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once().retry(3)).await;
    let mut b = member(&cluster, once().retry(3)).await;
    let id = a.submit("1").await;
    let zombie = a.run().await;
    let was = a.handle.node();
    a.handle.set_cut(true);
    assert!(a.engine.has_lease());
    let begin = Instant::now();
    zombie.context.cancelled().await;
    assert!(begin.elapsed() <= LEASE, "{:?}", begin.elapsed());
    assert!(!a.engine.has_lease());
    let run = b.run().await;
    assert_eq!((run.id(), run.context.job().attempt), (id, 2));
    a.handle.set_cut(false);
    sleep(LEASE).await;
    assert!(a.engine.has_lease(), "it has joined anew");
    assert_ne!(a.handle.node(), was, "as another node");
    assert_eq!(
        b.phase(id).await,
        Phase::Running,
        "the zombie's end does not count"
    );
    run.done();
    assert_eq!(a.wait(id).await.unwrap().state.phase, Phase::Done);
    let next = [a.submit("2").await, a.submit("3").await];
    for run in [a.run().await, b.run().await] {
        assert!(next.contains(&run.id()));
        run.done();
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_zombie_brings_in_time_counts_and_late_does_not() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let b = member(&cluster, once()).await;
    // A handler that does not stop, and ends while its node is cut off.
    let early = a.submit("1").await;
    let run = a.run().await;
    a.handle.set_cut(true);
    sleep(LEASE / 2).await;
    run.done();
    sleep(Duration::from_secs(1)).await;
    a.handle.set_cut(false);
    assert_eq!(b.wait(early).await.unwrap().state.phase, Phase::Done);

    let late = a.submit("2").await;
    let run = a.run().await;
    a.handle.set_cut(true);
    sleep(LEASE / 2).await;
    run.done();
    let told = b.wait(late).await.unwrap();
    assert_eq!(told.state.phase, Phase::Failed);
    a.handle.set_cut(false);
    sleep(LEASE).await;
    assert_eq!(a.phase(late).await, Phase::Failed, "an end never changes");
    let stats = a.engine.stats();
    assert_eq!((stats.queued, stats.live, stats.running), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_gives_its_jobs_to_the_others() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once().retry(3)).await;
    let mut b = member(&cluster, once().retry(3)).await;
    let id = a.submit("1").await;
    let run = a.run().await;
    let waits = {
        let held = b.submit("2").await;
        let run = b.run().await;
        assert_eq!(run.id(), held);
        let waits = a.submit("3").await;
        run.done();
        waits
    };
    let next = b.run().await;
    assert_eq!(next.id(), waits);
    next.done();
    let begin = Instant::now();
    a.engine.drain();
    let refused = a.engine.submit(call("/held", "4")).await;
    assert!(matches!(refused, Err(SubmitError::Draining)));
    a.engine.shut_down(Duration::from_secs(1)).await.unwrap();
    assert!(run.context.is_cancelled());
    let again = b.run().await;
    assert_eq!(
        (again.id(), again.context.job().attempt),
        (id, 1),
        "uncharged"
    );
    assert!(
        begin.elapsed() < LEASE / 2,
        "nobody waits for its lease to end"
    );
    again.done();
    assert_eq!(b.wait(id).await.unwrap().state.phase, Phase::Done);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(b.engine.nodes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_started_without_word_waits_again_and_costs_no_attempt() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let first = a.submit("1").await;
    let run = a.run().await;
    let second = a.submit("2").await;
    // Started for this node by a claim whose answer was lost.
    let now = a.clock.now();
    a.handle.start(second, now).await.unwrap();
    a.handle.set_cut(true);
    run.done();
    sleep(Duration::from_secs(2)).await;
    a.handle.set_cut(false);
    let run = a.run().await;
    assert_eq!((run.id(), run.context.job().attempt), (second, 1));
    run.done();
    for id in [first, second] {
        assert_eq!(a.wait(id).await.unwrap().state.phase, Phase::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_under_a_lease_that_was_never_heard_of() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    a.handle.set_cut(true);
    sleep(2 * LEASE).await;
    assert!(!a.engine.has_lease());
    // It joins, and hears nothing of it: a lease that the next try to join ends again.
    a.handle.lose_beats(3);
    a.handle.set_cut(false);
    let mut tries = 0;
    while !a.engine.has_lease() {
        assert!(!a.has_run());
        // Waits, as there is no lease.
        let _ = a.engine.submit(call("/held", "1")).await;
        sleep(Duration::from_millis(500)).await;
        tries += 1;
    }
    assert!(tries >= 5, "it had a lease after {tries} half seconds");
    a.run().await.done();
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_lease_tells_what_the_store_says() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once().retry(3)).await;
    let mut b = member(&cluster, once().retry(3)).await;
    let id = a.submit("1").await;
    let run = a.run().await;
    a.handle.set_cut(true);
    // Its end cannot be stored, and is tried again for as long as that is so.
    run.done();
    let again = b.run().await;
    assert_eq!(again.id(), id);
    again.done();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(b.phase(id).await, Phase::Done);
    a.handle.set_cut(false);
    assert!(!a.engine.has_lease());
    assert_eq!(a.phase(id).await, Phase::Done);
    let listed = a.engine.list(&Caller::user(ann()), Filter::ALL).await;
    assert_eq!(listed.unwrap().jobs[0].state.phase, Phase::Done);
    assert_eq!(a.wait(id).await.unwrap().state.phase, Phase::Done);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_leases_is_told() {
    let cluster = MemoryCluster::at(T0);
    let (mut a, scribe) = observed_member(&cluster, once()).await;
    assert_eq!(scribe.leases(), ["Joined"]);
    a.handle.lose_beats(2);
    sleep(Duration::from_secs(3)).await;
    let told = scribe.leases();
    let failures = told.iter().filter(|line| *line == "NotRenewed").count();
    let renewals = told
        .iter()
        .filter(|line| line.starts_with("Renewed"))
        .count();
    assert_eq!((failures, renewals), (2, 4), "{told:?}");

    let mut b = member(&cluster, once()).await;
    b.submit("1").await;
    let _run = b.run().await;
    b.kill();
    sleep(2 * LEASE).await;
    assert!(scribe.leases().contains(&"TookOver { jobs: 1 }".to_owned()));

    a.handle.set_cut(true);
    sleep(2 * LEASE).await;
    assert_eq!(scribe.leases().last().map(String::as_str), Some("Lost"));
    a.handle.set_cut(false);
    sleep(LEASE).await;
    a.engine.shut_down(Duration::ZERO).await.unwrap();
    assert!(!a.has_run());
    let told = scribe.leases();
    let after = told.iter().rposition(|line| line == "Lost").unwrap();
    assert_eq!(told[after + 1], "Joined");
    assert_eq!(told.last().map(String::as_str), Some("Left"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_word_of_the_stores_clock_is_asked_for_again() {
    let cluster = MemoryCluster::at(T0);
    let made = Instant::now();
    let hour = Duration::from_secs(3_600);
    for (answers, error_max) in [(&[4_000, 3_000, 20][..], 10), (&[900; 9], 450)] {
        let handle = Arc::new(cluster.handle());
        handle.slow_beats(answers.iter().copied().map(Duration::from_millis));
        let (registry, _runs) = one("/held", once(), true);
        let clock = Arc::new(RuntimeClock::at(Instant::now() - hour));
        let mut node = ClusterConfig::new("http://node");
        node.lease_time = LEASE;
        let engine = Engine::open_shared(handle, registry, config(|_| {}), node, clock, 7).await;
        let engine = engine.unwrap();
        let shown = engine.now().as_millis();
        let error = shown.abs_diff(T0.after(made.elapsed()).as_millis());
        assert!(error <= error_max, "{error} ms after {answers:?}");
        assert!(engine.has_lease());
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_anew_has_no_lease_before_it_has_joined() {
    let cluster = MemoryCluster::at(T0);
    let (a, scribe) = observed_member(&cluster, once()).await;
    a.handle.set_cut(true);
    sleep(2 * LEASE).await;
    // The first word is slow, and the question after it does not get through.
    a.handle.slow_beats([Duration::from_secs(4)]);
    a.handle.lose_beats(1);
    a.handle.set_cut(false);
    let began = Instant::now();
    while !a.engine.has_lease() {
        sleep(Duration::from_millis(20)).await;
    }
    let told = scribe.leases();
    let lost = told.iter().position(|line| line == "Lost").unwrap();
    assert_eq!(told[lost + 1], "Joined", "{told:?}");
    // What was heard first is enough.
    assert!(began.elapsed() < Duration::from_secs(6));
    sleep(2 * LEASE).await;
    assert!(a.engine.has_lease());
}
