//! Several engines on one store: each runs what it can, any answers for all, and none speaks for another.
//!
//! Time is that of the runtime, and paused: it moves when everything waits for it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::{
    Caller, CancelOutcome, ClusterConfig, Engine, EngineConfig, HandlerError, JobKey, Registry,
    RouteOptions, SubmitError,
};
use kjob_core::{
    Age, Clock, Ending, Filter, Job, JobId, MemoryCluster, MemoryNode, Owner, Phase, Store,
    Timestamp,
};
use support::*;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep};

const LEASE: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(600);

/// The runtime's time, which a test may pause.
#[derive(Clone, Copy, Debug)]
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        T0.after(self.0.elapsed())
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(sleep(at.since(self.now())))
    }
}

struct Member {
    clock: RuntimeClock,
    engine: Engine,
    handle: Arc<MemoryNode>,
    runs: UnboundedReceiver<Run>,
}

async fn member_with(
    cluster: &MemoryCluster,
    config: EngineConfig,
    registry: Registry,
    runs: UnboundedReceiver<Run>,
) -> Member {
    let clock = RuntimeClock(Instant::now());
    member_by(cluster, config, registry, runs, clock).await
}

async fn member_by(
    cluster: &MemoryCluster,
    config: EngineConfig,
    registry: Registry,
    runs: UnboundedReceiver<Run>,
    clock: RuntimeClock,
) -> Member {
    let handle = Arc::new(cluster.handle());
    let mut node = ClusterConfig::new("http://node");
    node.lease_time = LEASE;
    let engine = Engine::open_shared(handle.clone(), registry, config, node, Arc::new(clock), 7)
        .await
        .unwrap();
    Member {
        clock,
        engine,
        handle,
        runs,
    }
}

/// A node that runs one job at a time.
async fn member(cluster: &MemoryCluster, options: RouteOptions) -> Member {
    let (registry, runs) = one("/held", options, true);
    member_with(cluster, config(|config| config.workers = 1), registry, runs).await
}

impl Member {
    async fn submit(&self, payload: &'static str) -> JobId {
        let accepted = self.engine.submit(call("/held", payload)).await;
        accepted.unwrap().id
    }

    async fn job(&self, id: JobId) -> Job {
        let caller = Caller::user(ann());
        let job = self.engine.get(&caller, &JobKey::Id(id)).await.unwrap();
        job.expect("the job exists")
    }

    async fn phase(&self, id: JobId) -> Phase {
        self.job(id).await.state.phase
    }

    async fn run(&mut self) -> Run {
        let run = tokio::time::timeout(LONG, self.runs.recv()).await;
        run.expect("a run begins").unwrap()
    }

    fn has_run(&mut self) -> bool {
        self.runs.try_recv().is_ok()
    }

    fn wait(&self, id: JobId) -> tokio::task::JoinHandle<Job> {
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let caller = Caller::user(ann());
            let job = engine.wait(&caller, &JobKey::Id(id), LONG).await.unwrap();
            job.unwrap()
        })
    }

    /// As if the process were killed: nothing of it is heard any more.
    fn kill(self) {
        self.handle.set_cut(true);
    }
}

fn once() -> RouteOptions {
    RouteOptions::default()
}

#[tokio::test(start_paused = true)]
async fn what_one_has_no_place_for_another_runs() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let mut b = member(&cluster, once()).await;
    let first = a.submit("1").await;
    let second = a.submit("2").await;
    let third = a.submit("3").await;
    let (on_a, on_b) = (a.run().await, b.run().await);
    assert_eq!((on_a.id(), on_b.id()), (first, second));
    assert_eq!(&on_b.payload.data[..], b"2");
    sleep(Duration::from_secs(2)).await;
    assert!(!a.has_run() && !b.has_run(), "both are busy");
    assert_eq!(b.phase(third).await, Phase::Queued);
    on_b.done();
    let next = b.run().await;
    assert_eq!(next.id(), third);
    next.done();
    on_a.done();
    for id in [first, second, third] {
        assert_eq!(a.wait(id).await.unwrap().state.phase, Phase::Done);
        assert_eq!(b.phase(id).await, Phase::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn any_node_waits_for_a_job_and_tells_of_its_news() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let b = member(&cluster, once()).await;
    let id = a.submit("1").await;
    let run = a.run().await;
    let end = b.wait(id);
    let seen = b.job(id).await.state.age();
    let engine = b.engine.clone();
    let news = tokio::spawn(async move {
        let caller = Caller::user(ann());
        engine.news(&caller, &JobKey::Id(id), seen, LONG).await
    });
    sleep(Duration::from_secs(1)).await;
    run.context.progress(40);
    let told = news.await.unwrap().unwrap().unwrap();
    assert_eq!(told.state.progress, 40);
    let begin = Instant::now();
    run.done();
    let told = end.await.unwrap();
    assert_eq!((told.state.phase, told.result_len()), (Phase::Done, 4));
    assert!(begin.elapsed() < Duration::from_secs(1), "soon");
    assert_eq!(b.engine.stats().live, 0, "nobody looks at it any more");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_is_not_looked_at() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let b = member(&cluster, once()).await;
    let id = a.submit("1").await;
    let _run = a.run().await;
    let caller = Caller::user(ann());
    let (key, patience) = (JobKey::Id(id), Duration::from_secs(3));
    let wait = b.engine.wait(&caller, &key, patience);
    assert_eq!(wait.await.unwrap().unwrap().state.phase, Phase::Running);
    let given_up = b.wait(id);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(b.engine.stats().live, 1);
    given_up.abort();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(b.engine.stats().live, 0);
}

#[tokio::test(start_paused = true)]
async fn what_one_node_has_told_another_never_takes_back() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let b = member(&cluster, once()).await;
    let id = a.submit("1").await;
    let run = a.run().await;
    // It is looked at from here, now and then.
    let engine = b.engine.clone();
    let watch = tokio::spawn(async move {
        let caller = Caller::user(ann());
        engine
            .news(&caller, &JobKey::Id(id), Age::LIVE_MAX, LONG)
            .await
    });
    sleep(Duration::from_secs(5)).await;
    run.done();
    assert_eq!(a.wait(id).await.unwrap().state.phase, Phase::Done);
    assert_eq!(b.phase(id).await, Phase::Done);
    watch.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_node_that_runs_the_job() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let b = member(&cluster, once()).await;
    let id = a.submit("1").await;
    let run = a.run().await;
    let waiting = a.submit("2").await;
    let running_on_b = b.handle.node();
    assert!(running_on_b.is_some());
    let begin = Instant::now();
    let caller = Caller::user(ann());
    let outcome = b.engine.cancel(&caller, &JobKey::Id(id)).await.unwrap();
    assert_eq!(outcome, CancelOutcome::Cancelling);
    run.context.cancelled().await;
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(b.wait(id).await.unwrap().state.phase, Phase::Cancelled);
    assert_ne!(a.phase(waiting).await, Phase::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_is_cancelled_from_anywhere() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let mut b = member(&cluster, once()).await;
    a.submit("1").await;
    a.submit("2").await;
    let runs = [a.run().await, b.run().await];
    let waits = a.submit("3").await;
    let end = a.wait(waits);
    sleep(Duration::from_secs(1)).await;
    let caller = Caller::user(ann());
    let outcome = b.engine.cancel(&caller, &JobKey::Id(waits)).await.unwrap();
    assert_eq!(outcome, CancelOutcome::Cancelled);
    assert_eq!(end.await.unwrap().state.phase, Phase::Cancelled);
    runs.into_iter().for_each(Run::done);
    sleep(Duration::from_secs(2)).await;
    assert!(!a.has_run() && !b.has_run());
    let stats = a.engine.stats();
    assert_eq!((stats.queued, stats.live, stats.running), (0, 0, 0));
}

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
async fn a_limit_of_a_route_is_kept_on_each_node() {
    let cluster = MemoryCluster::at(T0);
    let (narrow, mut narrow_runs) = held(true);
    let (mut registry, wide_runs) = one("/wide", once(), true);
    registry
        .route("/narrow/*", narrow, once().concurrency(2))
        .unwrap();
    let mut a = member_with(&cluster, config(|c| c.workers = 5), registry, wide_runs).await;
    for _ in 0..4 {
        a.engine.submit(call("/narrow/x", "")).await.unwrap();
    }
    for _ in 0..4 {
        a.engine.submit(call("/wide", "")).await.unwrap();
    }
    sleep(Duration::from_secs(2)).await;
    let mut running = Vec::new();
    while let Ok(run) = narrow_runs.try_recv() {
        running.push(run);
    }
    assert_eq!(running.len(), 2);
    let mut wide = 0;
    while a.has_run() {
        wide += 1;
    }
    assert_eq!(wide, 3, "five in all");
    running.pop().unwrap().done();
    sleep(Duration::from_secs(2)).await;
    assert!(narrow_runs.try_recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_transient_error_lets_any_node_try_again() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once().retry(3)).await;
    let id = a.submit("1").await;
    a.run().await.end(Err(HandlerError::transient("again")));
    let end = a.wait(id);
    let run = a.run().await;
    assert_eq!(run.context.job().attempt, 2);
    run.done();
    assert_eq!(end.await.unwrap().state.phase, Phase::Done);
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
async fn times_are_the_stores_whatever_a_node_takes_the_time_for() {
    let cluster = MemoryCluster::at(T0);
    let made = Instant::now();
    let hour = Duration::from_secs(3_600);
    sleep(2 * hour).await;
    let config = config(|config| config.workers = 1);
    let mut members = Vec::new();
    for clock in [Instant::now(), Instant::now() - hour] {
        let (registry, runs) = one("/held", once(), true);
        let clock = RuntimeClock(clock);
        members.push(member_by(&cluster, config.clone(), registry, runs, clock).await);
    }
    for (here, there) in [(0, 1), (1, 0)] {
        let now = T0.after(made.elapsed());
        let mut delayed = call("/held", "");
        delayed.delay = Duration::from_secs(30);
        delayed.retention = Some(Duration::from_secs(60));
        let id = members[here].engine.submit(delayed).await.unwrap().id;
        let job = members[there].job(id).await;
        assert_eq!(job.header.received_at, now);
        sleep(Duration::from_secs(29)).await;
        assert!(!members.iter_mut().any(Member::has_run));
        sleep(Duration::from_secs(2)).await;
        let run = members
            .iter_mut()
            .find_map(|member| member.runs.try_recv().ok());
        run.expect("its time has come").done();
        let ended = members[here].wait(id).await.unwrap();
        assert_eq!(ended.state.phase, Phase::Done);
        sleep(Duration::from_secs(58)).await;
        assert_eq!(members[there].phase(id).await, Phase::Done);
        sleep(Duration::from_secs(3)).await;
        for member in &members {
            let gone = member
                .engine
                .get(&Caller::user(ann()), &JobKey::Id(id))
                .await;
            assert!(gone.unwrap().is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_say_is_acted_upon_at_once() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let mut b = member(&cluster, once()).await;
    // By now they look no more often than they have to.
    sleep(Duration::from_secs(5)).await;
    let began = Instant::now();
    let runs = a.submit("1").await;
    let waits = a.submit("2").await;
    let (_on_a, on_b) = (a.run().await, b.run().await);
    assert_eq!(on_b.id(), waits);
    let end = a.wait(waits);
    tokio::task::yield_now().await;
    on_b.done();
    assert_eq!(end.await.unwrap().state.phase, Phase::Done);
    let caller = Caller::user(ann());
    let cancelled = b.engine.cancel(&caller, &JobKey::Id(runs)).await.unwrap();
    assert_eq!(cancelled, CancelOutcome::Cancelling);
    assert_eq!(a.wait(runs).await.unwrap().state.phase, Phase::Cancelled);
    assert!(
        began.elapsed() < Duration::from_millis(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_answered_when_the_job_has_ended_also_if_it_began_here_meanwhile() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    a.submit("1").await;
    let waits = a.submit("2").await;
    let tenths = |count: u32| Duration::from_millis(100) * count;
    a.handle.set_slow(tenths(2), tenths(4));
    // Its place is free once that is answered, and by then somebody waits for the next.
    a.run().await.done();
    sleep(tenths(3)).await;
    let end = a.wait(waits);
    // What the wait finds in the store has ended, and what it finds here has not.
    a.run().await.done();
    assert_eq!(end.await.unwrap().state.phase, Phase::Done);
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
async fn budgets_count_what_waits_anywhere() {
    let cluster = MemoryCluster::at(T0);
    let (registry, runs) = one("/held", once(), true);
    let few = config(|config| {
        config.workers = 1;
        config.max_queued = 2;
    });
    let mut a = member_with(&cluster, few.clone(), registry, runs).await;
    let (registry, runs) = one("/held", once(), true);
    let mut b = member_with(&cluster, few, registry, runs).await;
    for _ in 0..4 {
        a.engine.submit(call("/held", "")).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let _runs = [a.run().await, b.run().await];
    for engine in [&a.engine, &b.engine] {
        let refused = engine.submit(call("/held", "")).await;
        assert!(
            matches!(refused, Err(SubmitError::Busy { .. })),
            "{refused:?}"
        );
        assert_eq!(engine.stats().queued, 2);
    }
    let other = Owner::new("bob");
    assert_eq!(a.engine.usage(&other).total.jobs, 4);
}
