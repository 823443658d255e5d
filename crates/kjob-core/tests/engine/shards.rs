//! Engines on a store of several shards: each shard has its own leases, and takes no other along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{LEASE, LONG, RuntimeClock, once};
use crate::support::*;
use kjob_core::engine::{
    Caller, CancelOutcome, ClusterConfig, Engine, EngineConfig, Interrupted, JobKey, RouteOptions,
    SubmitError, SystemClock,
};
use kjob_core::{
    Filter, Job, JobId, MemoryCluster, MemoryNode, Phase, Placement, Shard, ShardedStore,
    StoreError,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep};

pub(crate) struct Member {
    pub(crate) engine: Engine,
    pub(crate) handles: Vec<Arc<MemoryNode>>,
    pub(crate) runs: UnboundedReceiver<Run>,
    pub(crate) placement: Placement,
}

/// Clusters whose clocks are a minute apart.
pub(crate) fn clusters(count: i64) -> Vec<MemoryCluster> {
    let apart = |number| MemoryCluster::at(T0.after(Duration::from_secs(60 * number as u64)));
    (0..count).map(apart).collect()
}

pub(crate) fn store(
    clusters: &[MemoryCluster],
    sizes: &[usize],
) -> (ShardedStore, Vec<Arc<MemoryNode>>) {
    let handles: Vec<_> = clusters.iter().map(|it| Arc::new(it.handle())).collect();
    let shards = handles.iter().map(|it| it.clone() as _).collect();
    let placement = Placement::new(sizes, 0).unwrap();
    (ShardedStore::new(placement, shards).unwrap(), handles)
}

/// A node on these shards, once something was done to their handles.
pub(crate) async fn member_after(
    clusters: &[MemoryCluster],
    options: RouteOptions,
    config: EngineConfig,
    prepare: impl FnOnce(&[Arc<MemoryNode>]),
) -> Result<Member, StoreError> {
    let (store, handles) = store(clusters, &[clusters.len()]);
    prepare(&handles);
    let placement = store.placement().clone();
    let mut node = ClusterConfig::new("http://node");
    node.lease_time = LEASE;
    let (registry, runs) = one("/held", options, true);
    let clock = Arc::new(RuntimeClock::at(Instant::now()));
    let engine = Engine::open_sharded(store, registry, config, node, clock, 7).await?;
    Ok(Member {
        engine,
        handles,
        runs,
        placement,
    })
}

pub(crate) async fn member_with(
    clusters: &[MemoryCluster],
    options: RouteOptions,
    config: EngineConfig,
) -> Member {
    let member = member_after(clusters, options, config, |_| {}).await;
    member.unwrap()
}

pub(crate) async fn member(
    clusters: &[MemoryCluster],
    options: RouteOptions,
    workers: usize,
) -> Member {
    member_with(clusters, options, config(|it| it.workers = workers)).await
}

pub(crate) fn retried() -> RouteOptions {
    let mut options = once();
    options.on_interrupt = Interrupted::Retry { max_attempts: 3 };
    options
}

impl Member {
    /// Submits jobs with tags until each shard has one; gives them by their shards.
    pub(crate) async fn submit_to_each(&self) -> Vec<JobId> {
        let mut ids = BTreeMap::new();
        for number in 0.. {
            let tag = format!("tag-{number}").parse().unwrap();
            let shard = self.placement.shard_of(&ann(), &tag);
            if ids.contains_key(&shard) {
                continue;
            }
            let mut submission = call("/held", "x");
            submission.tag = Some(tag);
            let id = self.engine.submit(submission).await.unwrap().id;
            assert_eq!(self.placement.shard_of_id(id), shard);
            ids.insert(shard, id);
            if ids.len() == self.placement.size() {
                break;
            }
        }
        ids.into_values().collect()
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

    pub(crate) async fn end(&self, id: JobId) -> Phase {
        let caller = Caller::user(ann());
        let ended = self.engine.wait(&caller, &JobKey::Id(id), LONG).await;
        ended.unwrap().expect("the job exists").state.phase
    }

    pub(crate) fn shard_of(&self, id: JobId) -> usize {
        self.placement.shard_of_id(id).number()
    }

    /// By how many seconds its clock is ahead of that of the first shard, which was made at `begin`.
    pub(crate) fn ahead(&self, begin: Instant) -> i64 {
        let shown = self.engine.now().as_millis() - T0.after(begin.elapsed()).as_millis();
        (shown as f64 / 1000.0).round() as i64
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_of_all_shards_run_and_are_found_by_id_and_tag_on_any_node() {
    let clusters = clusters(3);
    let mut a = member(&clusters, once(), 64).await;
    let b = member(&clusters, once(), 1).await;
    let mut shards = BTreeSet::new();
    let mut ids = Vec::new();
    for number in 0..40 {
        // Half of them have tags that the server makes.
        let mut submission = call("/held", "x");
        if number % 2 == 0 {
            submission.tag = Some(format!("tag-{number}").parse().unwrap());
        }
        let accepted = a.engine.submit(submission.clone()).await.unwrap();
        shards.insert((number % 2, a.shard_of(accepted.id)));
        ids.push(accepted.id);
        let caller = Caller::user(ann());
        let found = b
            .engine
            .get(&caller, &JobKey::Tag(accepted.tag.clone()))
            .await;
        assert_eq!(found.unwrap().unwrap().header.id, accepted.id);
        submission.tag = Some(accepted.tag);
        let again = b.engine.submit(submission).await.unwrap();
        assert!(again.existing && again.id == accepted.id, "{number}");
    }
    assert_eq!(shards.len(), 6, "each shard has jobs of both kinds");
    for _ in 0..40 {
        a.run().await.done();
    }
    for id in &ids {
        assert_eq!(b.end(*id).await, Phase::Done);
    }
    let listed = b.engine.list(&Caller::user(ann()), Filter::ALL).await;
    let listed: Vec<JobId> = listed.unwrap().jobs.iter().map(|it| it.header.id).collect();
    ids.sort();
    assert_eq!(listed, ids);
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_any_shard_finds_the_places_of_any_node() {
    let clusters = clusters(2);
    let mut a = member(&clusters, once(), 1).await;
    let mut ids = a.submit_to_each().await;
    for _ in 0..10 {
        ids.push(a.engine.submit(call("/held", "y")).await.unwrap().id);
    }
    let mut b = member(&clusters, once(), 3).await;
    let mut ended = BTreeSet::new();
    while ended.len() < ids.len() {
        let run = tokio::select! {
            run = a.run() => run,
            run = b.run() => run,
        };
        ended.insert(run.id());
        run.done();
    }
    for id in &ids {
        assert_eq!(a.end(*id).await, Phase::Done);
    }
    assert_eq!((a.engine.stats().running, b.engine.stats().running), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_node_ran_in_any_shard_is_taken_over() {
    let clusters = clusters(3);
    let mut a = member(&clusters, retried(), 64).await;
    let ids = a.submit_to_each().await;
    let _runs = [a.run().await, a.run().await, a.run().await];
    for handle in &a.handles {
        handle.set_cut(true);
    }
    let mut b = member(&clusters, retried(), 64).await;
    let mut taken = BTreeSet::new();
    for _ in 0..3 {
        let run = b.run().await;
        taken.insert(run.id());
        run.done();
    }
    assert_eq!(taken, ids.iter().copied().collect());
    for id in ids {
        assert_eq!(b.end(id).await, Phase::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_on_one_node_reaches_another_in_any_shard() {
    let clusters = clusters(2);
    let mut a = member(&clusters, once(), 64).await;
    let b = member(&clusters, once(), 64).await;
    let ids = a.submit_to_each().await;
    let _runs = [a.run().await, a.run().await];
    let caller = Caller::user(ann());
    for id in ids {
        let asked = Instant::now();
        let cancelled = b.engine.cancel(&caller, &JobKey::Id(id)).await.unwrap();
        assert_eq!(cancelled, CancelOutcome::Cancelling);
        assert_eq!(a.end(id).await, Phase::Cancelled);
        assert!(asked.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_set_that_has_grown_finds_what_was_submitted_before() {
    let clusters = clusters(3);
    let (before, _) = store(&clusters[..1], &[1]);
    let tags: Vec<_> = (0..30).map(|it| format!("tag-{it}")).collect();
    let mut old = Vec::new();
    {
        let (registry, _runs) = one("/held", once(), true);
        let node = ClusterConfig::new("http://node");
        let shared = before.shards()[0].clone();
        let limits = config(|it| it.workers = 0);
        let clock = Arc::new(RuntimeClock::at(Instant::now()));
        let engine = Engine::open_shared(shared, registry, limits, node, clock, 7).await;
        let engine = engine.unwrap();
        for tag in &tags {
            old.push(engine.submit(tagged("/held", "x", tag)).await.unwrap().id);
        }
        engine.shut_down(Duration::ZERO).await.unwrap();
    }
    let last = old.iter().max().unwrap().get();

    let (grown, handles) = store(&clusters, &[1, 3]);
    drop(grown);
    let shards = handles.iter().map(|it| it.clone() as _).collect();
    let placement = Placement::new(&[1, 3], last).unwrap();
    let grown = ShardedStore::new(placement.clone(), shards).unwrap();
    let (registry, _runs) = one("/held", once(), true);
    let node = ClusterConfig::new("http://node");
    let clock = Arc::new(RuntimeClock::at(Instant::now()));
    let limits = config(|it| it.workers = 1);
    let engine = Engine::open_sharded(grown, registry, limits, node, clock, 8).await;
    let engine = engine.unwrap();
    let mut shards = BTreeSet::new();
    for (tag, id) in tags.iter().zip(&old) {
        let again = engine.submit(tagged("/held", "x", tag)).await.unwrap();
        assert!(again.existing && again.id == *id, "{tag}");
        let other = engine.submit(tagged("/held", "other", tag)).await;
        assert!(matches!(other, Err(SubmitError::TagConflict { .. })));
        let new = engine
            .submit(tagged("/held", "x", &format!("new-{tag}")))
            .await;
        shards.insert(placement.shard_of_id(new.unwrap().id));
    }
    assert_eq!(shards.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_clock_is_that_of_the_first_shard_also_while_that_is_away() {
    let clusters = clusters(2);
    let begin = Instant::now();
    let a = member(&clusters, once(), 1).await;
    assert_eq!(a.ahead(begin), 0);
    a.handles[0].set_cut(true);
    sleep(2 * LEASE).await;
    assert_eq!(a.engine.leases(), [false, true]);
    assert_eq!(a.ahead(begin), 0, "that of the second is a minute ahead");
    a.handles[0].set_cut(false);
    sleep(2 * LEASE).await;
    assert_eq!((a.engine.leases(), a.ahead(begin)), (vec![true, true], 0));
}

#[tokio::test]
async fn ids_of_no_shard_are_of_no_job() {
    let (store, _handles) = store(&clusters(2), &[2]);
    let placement = store.placement().clone();
    let id = placement.first_id(Shard::new(9).unwrap(), 1).unwrap();
    let engine = {
        let (registry, _runs) = one("/held", once(), true);
        let node = ClusterConfig::new("http://node");
        let limits = config(|_| {});
        let clock = Arc::new(SystemClock);
        Engine::open_sharded(store, registry, limits, node, clock, 7)
            .await
            .unwrap()
    };
    let caller = Caller::user(ann());
    assert!(
        engine
            .get(&caller, &JobKey::Id(id))
            .await
            .unwrap()
            .is_none()
    );
    let cancelled = engine.cancel(&caller, &JobKey::Id(id)).await.unwrap();
    assert_eq!(cancelled, CancelOutcome::NotFound);
    engine.shut_down(Duration::ZERO).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jobs_without_tags_go_to_all_shards_alike() {
    let clusters = clusters(3);
    let mut a = member(&clusters, once(), 1).await;
    let mut counts = [0; 3];
    for _ in 0..30 {
        let id = a.engine.submit(call("/held", "x")).await.unwrap().id;
        counts[a.shard_of(id)] += 1;
        a.run().await.done();
        assert_eq!(a.end(id).await, Phase::Done);
        // Places that were free again had shards look for jobs meanwhile.
        sleep(LEASE / 50).await;
    }
    assert_eq!(counts, [10; 3]);
}
