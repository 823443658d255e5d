//! Engines on a store of several shards: each shard has its own leases, and takes no other along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{LEASE, LONG, RuntimeClock, once};
use crate::observer::Scribe;
use crate::support::*;
use kjob_core::engine::{
    Caller, CancelOutcome, ClusterConfig, Engine, EngineConfig, Interrupted, JobKey, RouteOptions,
    SubmitError, SystemClock,
};
use kjob_core::{
    CallbackOutcome, CallbackTry, Filter, Job, JobId, MemoryCluster, MemoryNode, Phase, Placement,
    Shard, ShardedStore, Store, StoreError,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep};

struct Member {
    engine: Engine,
    handles: Vec<Arc<MemoryNode>>,
    runs: UnboundedReceiver<Run>,
    placement: Placement,
}

/// Clusters whose clocks are a minute apart.
fn clusters(count: i64) -> Vec<MemoryCluster> {
    let apart = |number| MemoryCluster::at(T0.after(Duration::from_secs(60 * number as u64)));
    (0..count).map(apart).collect()
}

fn store(clusters: &[MemoryCluster], sizes: &[usize]) -> (ShardedStore, Vec<Arc<MemoryNode>>) {
    let handles: Vec<_> = clusters.iter().map(|it| Arc::new(it.handle())).collect();
    let shards = handles.iter().map(|it| it.clone() as _).collect();
    let placement = Placement::new(sizes, 0).unwrap();
    (ShardedStore::new(placement, shards).unwrap(), handles)
}

/// A node on these shards, once something was done to their handles.
async fn member_after(
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

async fn member_with(
    clusters: &[MemoryCluster],
    options: RouteOptions,
    config: EngineConfig,
) -> Member {
    let member = member_after(clusters, options, config, |_| {}).await;
    member.unwrap()
}

async fn member(clusters: &[MemoryCluster], options: RouteOptions, workers: usize) -> Member {
    member_with(clusters, options, config(|it| it.workers = workers)).await
}

fn retried() -> RouteOptions {
    let mut options = once();
    options.on_interrupt = Interrupted::Retry { max_attempts: 3 };
    options
}

impl Member {
    /// Submits jobs with tags until each shard has one; gives them by their shards.
    async fn submit_to_each(&self) -> Vec<JobId> {
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

    async fn end(&self, id: JobId) -> Phase {
        let caller = Caller::user(ann());
        let ended = self.engine.wait(&caller, &JobKey::Id(id), LONG).await;
        ended.unwrap().expect("the job exists").state.phase
    }

    fn shard_of(&self, id: JobId) -> usize {
        self.placement.shard_of_id(id).number()
    }

    /// By how many seconds its clock is ahead of that of the first shard, which was made at `begin`.
    fn ahead(&self, begin: Instant) -> i64 {
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
async fn a_shard_that_is_cut_off_takes_its_own_jobs_along_and_no_others() {
    let clusters = clusters(2);
    let mut a = member(&clusters, retried(), 64).await;
    let ids = a.submit_to_each().await;
    let mut runs = BTreeMap::new();
    for _ in 0..2 {
        let run = a.run().await;
        runs.insert(a.shard_of(run.id()), run);
    }
    a.handles[1].set_cut(true);
    sleep(2 * LEASE).await;
    assert_eq!(a.engine.leases(), [true, false]);
    assert!(a.engine.has_lease(), "of one, which is enough to work");
    assert!(runs[&1].is_gone() && !runs[&0].is_gone());
    assert_eq!(a.phase(ids[0]).await, Phase::Running);
    let caller = Caller::user(ann());
    assert!(a.engine.get(&caller, &JobKey::Id(ids[1])).await.is_err());
    let list = a.engine.list(&caller, Filter::ALL).await;
    assert!(
        list.is_err(),
        "a part of the list would be taken for all of it"
    );
    // Jobs for which any shard will do go on as ever.
    for _ in 0..4 {
        let id = a.engine.submit(call("/held", "z")).await.unwrap().id;
        assert_eq!(a.shard_of(id), 0);
        let run = a.run().await;
        assert_eq!(run.id(), id);
        run.done();
        assert_eq!(a.end(id).await, Phase::Done);
    }
    runs.remove(&0).unwrap().done();
    assert_eq!(a.end(ids[0]).await, Phase::Done);

    a.handles[1].set_cut(false);
    let again = a.run().await;
    assert_eq!(again.id(), ids[1]);
    assert_eq!(a.engine.leases(), [true, true]);
    again.done();
    assert_eq!(a.end(ids[1]).await, Phase::Done);
    assert_eq!(a.job(ids[1]).await.state.attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn another_node_takes_over_what_one_cannot_hold_in_one_shard() {
    let clusters = clusters(2);
    let mut a = member(&clusters, retried(), 64).await;
    let ids = a.submit_to_each().await;
    let runs = [a.run().await, a.run().await];
    let mut b = member(&clusters, retried(), 64).await;
    a.handles[0].set_cut(true);
    let taken = b.run().await;
    assert_eq!(taken.id(), ids[0]);
    assert_eq!(b.phase(ids[1]).await, Phase::Running);
    taken.done();
    for run in runs {
        if run.id() == ids[1] {
            run.done();
        }
    }
    for id in ids {
        assert_eq!(b.end(id).await, Phase::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_node_ran_in_any_shard_is_taken_over() {
    let clusters = clusters(3);
    let mut a = member(&clusters, retried(), 64).await;
    let ids = a.submit_to_each().await;
    for _ in 0..3 {
        drop(a.run().await.context);
    }
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
            let idle = member(&clusters, once(), 0).await;
            let ids = idle.submit_to_each().await;
            idle.engine.shut_down(Duration::ZERO).await.unwrap();
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
async fn runs_of_a_shard_that_is_away_leave_their_places_to_the_others() {
    let clusters = clusters(2);
    for is_silent in [false, true] {
        let mut a = member(&clusters, retried(), 2).await;
        let name = format!("silent-{is_silent}");
        let mut ids = Vec::new();
        for number in 0.. {
            let tag = format!("{name}-{number}").parse().unwrap();
            if a.placement.shard_of(&ann(), &tag).number() == 1 {
                let submission = tagged("/held", "x", tag.as_str());
                ids.push(a.engine.submit(submission).await.unwrap().id);
            }
            if ids.len() == 2 {
                break;
            }
        }
        let runs = [a.run().await, a.run().await];
        match is_silent {
            true => a.handles[1].set_silent(true),
            false => a.handles[1].set_cut(true),
        }
        // Their ends cannot be stored.
        for run in runs {
            run.done();
        }
        sleep(2 * LEASE).await;
        for _ in 0..4 {
            let id = a.engine.submit(call("/held", "y")).await.unwrap().id;
            let run = a.run().await;
            assert_eq!((run.id(), a.shard_of(id)), (id, 0));
            run.done();
            assert_eq!(a.end(id).await, Phase::Done);
        }
        a.handles[1].set_silent(false);
        a.handles[1].set_cut(false);
        for id in ids {
            while a.phase(id).await != Phase::Done {
                match tokio::time::timeout(LEASE, a.runs.recv()).await {
                    Ok(Some(run)) => run.done(),
                    _ => sleep(LEASE).await,
                }
            }
        }
        a.engine.shut_down(Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_does_not_answer_keeps_no_places_and_holds_up_no_callbacks() {
    let clusters = clusters(2);
    let mut a = member(&clusters, once(), 1).await;
    a.handles[1].set_silent(true);
    sleep(2 * LEASE).await;
    for _ in 0..4 {
        let mut submission = call("/held", "y");
        submission.callback_url = Some("http://a/b".into());
        let id = a.engine.submit(submission).await.unwrap().id;
        let run = a.run().await;
        assert_eq!(run.id(), id);
        run.done();
        assert_eq!(a.end(id).await, Phase::Done);
        let due = a.engine.due_callbacks(9, LEASE);
        let due = tokio::time::timeout(LEASE, due).await;
        assert_eq!(due.expect("in time").unwrap()[0].header.id, id);
        let told = CallbackTry {
            http_status: Some(204),
            outcome: CallbackOutcome::Delivered,
        };
        a.engine.note_callback(id, told).await.unwrap();
    }
    let begin = Instant::now();
    let ended = tokio::time::timeout(10 * LEASE, a.engine.shut_down(Duration::ZERO)).await;
    assert!(ended.is_ok() && begin.elapsed() < 4 * LEASE, "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn submits_to_a_shard_without_a_lease_are_refused_at_once_and_keep_no_places() {
    let clusters = clusters(2);
    let mut a = member(&clusters, once(), 4).await;
    let placement = a.placement.clone();
    let of = |shard: usize| {
        let tags = (0..).map(|it| format!("tag-{it}"));
        let placement = placement.clone();
        tags.filter(move |tag| {
            let tag = tag.parse().unwrap();
            placement.shard_of(&ann(), &tag).number() == shard
        })
    };
    a.handles[1].set_cut(true);
    // It has a lease for a while yet, and every one of these may have been stored.
    for tag in of(1).take(20) {
        assert!(a.engine.submit(tagged("/held", "x", &tag)).await.is_err());
    }
    let tag = of(0).next().unwrap();
    let id = a
        .engine
        .submit(tagged("/held", "x", &tag))
        .await
        .unwrap()
        .id;
    let run = a.run().await;
    assert_eq!(run.id(), id);
    run.done();
    sleep(2 * LEASE).await;
    let asked = a.engine.stats().queued;
    for tag in of(1).take(20) {
        let error = a
            .engine
            .submit(tagged("/held", "x", &tag))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no lease on shard 1"), "{error}");
    }
    assert_eq!(a.engine.stats().queued, asked);
    a.handles[1].set_cut(false);
    sleep(2 * LEASE).await;
    assert_eq!(a.engine.stats().queued, 0);
    let tag = of(1).next().unwrap();
    let id = a
        .engine
        .submit(tagged("/held", "x", &tag))
        .await
        .unwrap()
        .id;
    assert_eq!(a.run().await.id(), id);
}

#[tokio::test(start_paused = true)]
async fn one_place_is_found_at_once_by_the_shard_that_has_work() {
    let clusters = clusters(3);
    let mut a = member(&clusters, once(), 1).await;
    let mut waiting = Vec::new();
    for number in 0..200 {
        let tag = format!("tag-{number}");
        if a.placement.shard_of(&ann(), &tag.parse().unwrap()).number() == 2 {
            waiting.push(
                a.engine
                    .submit(tagged("/held", "x", &tag))
                    .await
                    .unwrap()
                    .id,
            );
        }
    }
    let begin = Instant::now();
    for _ in &waiting {
        a.run().await.done();
    }
    for id in &waiting {
        assert_eq!(a.end(*id).await, Phase::Done);
    }
    // Time is only that of polls, of which none is needed but now and then.
    let each = begin.elapsed() / u32::try_from(waiting.len()).unwrap();
    assert!(each < Duration::from_millis(15), "{each:?}");
}
