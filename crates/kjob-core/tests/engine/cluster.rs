//! Several engines on one store: each runs what it can, any answers for all, and none speaks for another.
//!
//! Time is that of the runtime, and paused: it moves when everything waits for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::observer::Scribe;
use crate::support::*;
use kjob_core::engine::{
    Caller, CancelOutcome, ClusterConfig, Engine, EngineConfig, HandlerError, JobKey, Registry,
    RouteOptions, SubmitError,
};
use kjob_core::{
    Age, Clock, Filter, Job, JobId, MemoryCluster, MemoryNode, Owner, Phase, Timestamp,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep};

pub(crate) const LEASE: Duration = Duration::from_secs(10);
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// The runtime's time, which a test may pause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuntimeClock(Instant);

impl RuntimeClock {
    pub(crate) fn at(zero: Instant) -> Self {
        Self(zero)
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        T0.after(self.0.elapsed())
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(sleep(at.since(self.now())))
    }
}

pub(crate) struct Member {
    pub(crate) clock: RuntimeClock,
    pub(crate) engine: Engine,
    pub(crate) handle: Arc<MemoryNode>,
    pub(crate) runs: UnboundedReceiver<Run>,
}

pub(crate) async fn member_with(
    cluster: &MemoryCluster,
    config: EngineConfig,
    registry: Registry,
    runs: UnboundedReceiver<Run>,
) -> Member {
    let clock = RuntimeClock(Instant::now());
    member_by(cluster, config, registry, runs, clock).await
}

pub(crate) async fn member_by(
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
pub(crate) async fn member(cluster: &MemoryCluster, options: RouteOptions) -> Member {
    let (registry, runs) = one("/held", options, true);
    member_with(cluster, config(|config| config.workers = 1), registry, runs).await
}

/// One whose observer writes down what it is told.
pub(crate) async fn observed_member(
    cluster: &MemoryCluster,
    options: RouteOptions,
) -> (Member, Scribe) {
    let scribe = Scribe::default();
    let (registry, runs) = one("/held", options, true);
    let observed = config(|config| config.observer = Some(Arc::new(scribe.clone())));
    let member = member_with(cluster, observed, registry, runs).await;
    (member, scribe)
}

impl Member {
    pub(crate) async fn submit(&self, payload: &'static str) -> JobId {
        let accepted = self.engine.submit(call("/held", payload)).await;
        accepted.unwrap().id
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        let caller = Caller::user(ann());
        let job = self.engine.get(&caller, &JobKey::Id(id)).await.unwrap();
        job.expect("the job exists")
    }

    pub(crate) async fn phase(&self, id: JobId) -> Phase {
        self.job(id).await.state.phase
    }

    pub(crate) async fn run(&mut self) -> Run {
        let run = tokio::time::timeout(LONG, self.runs.recv()).await;
        run.expect("a run begins").unwrap()
    }

    pub(crate) fn has_run(&mut self) -> bool {
        self.runs.try_recv().is_ok()
    }

    pub(crate) fn wait(&self, id: JobId) -> tokio::task::JoinHandle<Job> {
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let caller = Caller::user(ann());
            let job = engine.wait(&caller, &JobKey::Id(id), LONG).await.unwrap();
            job.unwrap()
        })
    }

    /// As if the process were killed: nothing of it is heard any more.
    pub(crate) fn kill(self) {
        self.handle.set_cut(true);
    }
}

pub(crate) fn once() -> RouteOptions {
    RouteOptions::default()
}

/// A store whose nodes tell each other at once, and one whose nodes have to look.
fn told_and_deaf() -> impl Iterator<Item = MemoryCluster> {
    [false, true].into_iter().map(|are_deaf| {
        let cluster = MemoryCluster::at(T0);
        match are_deaf {
            true => cluster.without_hints(),
            false => cluster,
        }
    })
}

#[tokio::test(start_paused = true)]
async fn what_one_has_no_place_for_another_runs() {
    for cluster in told_and_deaf() {
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
}

#[tokio::test(start_paused = true)]
async fn any_node_waits_for_a_job_and_tells_of_its_news() {
    for cluster in told_and_deaf() {
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
    for cluster in told_and_deaf() {
        let (mut a, scribe) = observed_member(&cluster, once()).await;
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
        let told = scribe.jobs();
        let stops = told.iter().filter(|line| *line == "cancelling 1");
        assert_eq!(stops.count(), 1, "{told:?}");
        assert_ne!(a.phase(waiting).await, Phase::Cancelled);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_is_cancelled_from_anywhere() {
    for cluster in told_and_deaf() {
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
    let (mut a, scribe) = observed_member(&cluster, once().retry(3)).await;
    let id = a.submit("1").await;
    a.run().await.end(Err(HandlerError::transient("again")));
    let end = a.wait(id);
    let run = a.run().await;
    assert_eq!(run.context.job().attempt, 2);
    assert!(scribe.jobs().contains(&"queued again 1".to_owned()));
    run.done();
    assert_eq!(end.await.unwrap().state.phase, Phase::Done);
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

#[tokio::test(start_paused = true)]
async fn what_others_have_heard_of_an_end_its_own_node_does_not_deny() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    let b = member(&cluster, once()).await;
    let id = a.submit("1").await;
    // The end gets to the store, and its answer does not come back for a while.
    a.handle.set_slow(Duration::ZERO, Duration::from_secs(2));
    a.run().await.done();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(b.phase(id).await, Phase::Done);
    let caller = Caller::user(ann());
    assert_eq!(a.phase(id).await, Phase::Done);
    assert!(a.job(id).await.ending.is_some());
    let key = JobKey::Id(id);
    let news = a.engine.news(&caller, &key, Age::LIVE_MAX, LONG);
    let news = tokio::time::timeout(Duration::from_millis(500), news).await;
    assert_eq!(news.unwrap().unwrap().unwrap().state.phase, Phase::Done);
    let listed = a.engine.list(&caller, Filter::ALL).await.unwrap();
    assert_eq!(listed.jobs[0].state.phase, Phase::Done);
}
