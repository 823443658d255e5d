//! Several nodes on one database.

use std::collections::HashSet;
use std::time::Duration;

use kjob_core::{
    Beat, Claimed, Ending, Finish, JobId, JobTag, Lease, OnInterrupt, Orphan, Output, Owner, Parts,
    Phase, Priority, Refused, SharedStore, State, StepError, Store, Submitted, Timestamp, Wanted,
};
use kjob_proto::Text;
use kjob_store::postgres::PostgresStore;

use crate::jobs::{at, done, id, job};
use crate::support::Schema;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Long enough that nothing ages.
pub(crate) const AGEING: Duration = Duration::from_secs(1_000_000);

/// A database with nodes on it.
pub(crate) struct Cluster {
    pub(crate) schema: Schema,
    pub(crate) nodes: Vec<PostgresStore>,
}

impl Cluster {
    /// So many nodes, joined, whose leases last.
    pub(crate) async fn of(count: usize) -> Self {
        let schema = Schema::new();
        schema.prepare(true);
        let mut nodes = Vec::new();
        for number in 0..count {
            let node = schema.open(Default::default()).await;
            node.serve(&["/demo/*".into()]).await.unwrap();
            join(&node, number).await;
            nodes.push(node);
        }
        Self { schema, nodes }
    }

    /// Lets the lease of a node be over now, as the database sees it.
    async fn end_lease(&self, url: usize) {
        let end = format!(
            "UPDATE kjob_nodes SET alive_until = now() - interval '1 ms' WHERE url = 'http://{url}'"
        );
        self.schema.execute(&end).await;
    }
}

#[tokio::test]
async fn what_the_first_said_all_agree_on() {
    let cluster = Cluster::of(2).await;
    let [one, two] = &cluster.nodes[..] else {
        panic!("there are two")
    };
    assert_eq!(one.agree("colour", b"red").await.unwrap(), "red");
    assert_eq!(two.agree("colour", b"blue").await.unwrap(), "red");
    assert_eq!(two.agree("size", b"large").await.unwrap(), "large");
    let (one, two) = tokio::join!(one.agree("shape", b"a"), two.agree("shape", b"b"));
    assert_eq!(one.unwrap(), two.unwrap());
}

/// What a beat says is to stop.
async fn stopping(node: &PostgresStore) -> Vec<(JobId, Lease)> {
    match node.beat().await.unwrap() {
        Beat::Alive { cancelling, .. } => cancelling,
        Beat::Lost => panic!("the lease is lost"),
    }
}

pub(crate) async fn join(node: &PostgresStore, number: usize) -> i64 {
    let url = Text::from(format!("http://{number}"));
    node.join(&url, MINUTE).await.unwrap().0
}

async fn queued(node: &PostgresStore, tag: &str, owner: &str, priority: u8) -> JobId {
    let id = id(node).await;
    let mut job = job(id, tag, owner);
    job.header.options.priority = Priority::new(priority).unwrap();
    let done = node.submit(job, false).await.unwrap();
    assert_eq!(done, Submitted::Created(State::queued(None)));
    id
}

pub(crate) async fn running(node: &PostgresStore, tag: &str) -> (JobId, Lease) {
    let id = id(node).await;
    let done = node.submit(job(id, tag, "ann"), true).await.unwrap();
    let Submitted::Created(State { lease, .. }) = done else {
        panic!("{done:?}");
    };
    (id, lease)
}

pub(crate) async fn claim(node: &PostgresStore, limit: usize) -> Vec<Claimed> {
    claim_at(node, limit, AGEING, at(1)).await
}

pub(crate) async fn claim_at(
    node: &PostgresStore,
    limit: usize,
    ageing: Duration,
    now: Timestamp,
) -> Vec<Claimed> {
    let wanted = Wanted {
        pattern: Text::from("/demo/*"),
        limit: 1_000,
    };
    node.claim(&[wanted], limit, ageing, now).await.unwrap()
}

pub(crate) fn ids(claimed: &[Claimed]) -> Vec<JobId> {
    claimed.iter().map(|job| job.header.id).collect()
}

fn refused<T: std::fmt::Debug>(result: Result<T, StepError>) -> Refused {
    match result {
        Err(StepError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_claim_hands_out_whole_jobs_each_once() {
    let cluster = Cluster::of(2).await;
    let [one, two] = &cluster.nodes[..] else {
        panic!()
    };
    let mut stored = Vec::new();
    for number in 0..10 {
        stored.push(queued(one, &format!("t{number}"), "ann", 5).await);
    }
    assert_eq!(one.waiting(&Owner::new("ann")).owner, 10);
    let (first, second) = tokio::join!(claim(one, 4), claim(two, 4));
    let rest = claim(two, 100).await;
    let all: Vec<Claimed> = [first, second, rest].concat();
    let found: HashSet<JobId> = ids(&all).into_iter().collect();
    assert_eq!((all.len(), &found), (10, &stored.iter().copied().collect()));
    for job in &all {
        let payload = format!("payload of {}", job.header.tag);
        assert_eq!(job.payload.as_deref(), Some(payload.as_bytes()));
        assert_eq!(
            (job.state.phase, job.state.lease),
            (Phase::Running, Lease(1))
        );
        assert_eq!(job.state.started_at, Some(at(1)));
        let whole = one
            .get(job.header.id, Parts::NONE, at(1))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((&whole.header, whole.state), (&job.header, job.state));
    }
    assert_eq!(claim(one, 100).await, []);
    for node in [one, two] {
        node.refresh_usage().await.unwrap();
        assert_eq!(node.waiting(&Owner::new("ann")).total, 0);
    }
}

#[tokio::test]
async fn claims_go_by_priority_then_by_fair_turns_then_by_id() {
    let cluster = Cluster::of(2).await;
    let [one, two] = &cluster.nodes[..] else {
        panic!()
    };
    let mut ann = Vec::new();
    for number in 0..4 {
        ann.push(queued(one, &format!("t{number}"), "ann", 5).await);
    }
    let bob = queued(one, "bob", "bob", 5).await;
    let high = queued(one, "high", "ann", 9).await;
    let low = queued(two, "low", "zoe", 0).await;
    assert_eq!(ids(&claim(two, 4).await), [high, ann[0], bob, ann[1]]);
    // Those who come now do not come before those of the present turn.
    let carl = queued(two, "carl", "carl", 5).await;
    assert_eq!(ids(&claim(two, 9).await), [ann[2], carl, ann[3], low]);
}

#[tokio::test]
async fn who_waits_for_long_is_lifted() {
    let cluster = Cluster::of(1).await;
    let node = &cluster.nodes[0];
    let low = queued(node, "low", "ann", 3).await;
    let id = id(node).await;
    let mut high = job(id, "high", "ann");
    high.header.received_at = at(1_000);
    node.submit(high, false).await.unwrap();
    let ageing = Duration::from_millis(100);
    let claimed = claim_at(node, 1, ageing, at(1_001)).await;
    assert_eq!(ids(&claimed), [low], "thirteen is more than five");
    assert_eq!(ids(&claim_at(node, 5, ageing, at(1_001)).await), [id]);
}

#[tokio::test]
async fn a_claim_keeps_to_patterns_and_what_is_wanted_of_each() {
    let cluster = Cluster::of(1).await;
    let node = &cluster.nodes[0];
    node.serve(&["/demo/*".into(), "/other".into()])
        .await
        .unwrap();
    let mut others = Vec::new();
    for number in 0..3 {
        queued(node, &format!("t{number}"), "ann", 9).await;
        let id = id(node).await;
        let mut job = job(id, &format!("o{number}"), "ann");
        job.header.endpoint = Text::from("/other");
        node.submit(job, false).await.unwrap();
        others.push(id);
    }
    let wanted = |pattern: &'static str, limit| Wanted {
        pattern: Text::from(pattern),
        limit,
    };
    let claim = async |wanted: &[Wanted], limit| {
        ids(&node.claim(wanted, limit, AGEING, at(1)).await.unwrap())
    };
    assert_eq!(claim(&[wanted("/other", 1)], 9).await, others[..1]);
    let both = [wanted("/demo/*", 2), wanted("/other", 1)];
    let found = claim(&both, 9).await;
    assert_eq!((found.len(), found[2]), (3, others[1]));
    assert_eq!(
        claim(&[wanted("/nothing", 9), wanted("/other", 0)], 9).await,
        []
    );
    // Another engine has other routes, and takes what waits for those that nobody has any more.
    node.serve(&["/*".into()]).await.unwrap();
    assert_eq!(claim(&both, 9).await, []);
    assert_eq!(claim(&[wanted("/*", 9)], 9).await.len(), 2);
}

/// Once it is known where the queue begins, what is more urgent and comes after that is found beside it.
#[tokio::test]
async fn what_is_wanted_of_a_pattern_holds_over_its_priorities() {
    let cluster = Cluster::of(1).await;
    let node = &cluster.nodes[0];
    queued(node, "first", "ann", 5).await;
    assert_eq!(claim(node, 1).await.len(), 1);
    let mut high = Vec::new();
    for number in 0..3 {
        queued(node, &format!("l{number}"), "ann", 5).await;
        high.push(queued(node, &format!("h{number}"), "ann", 9).await);
    }
    let wanted = [Wanted {
        pattern: Text::from("/demo/*"),
        limit: 2,
    }];
    let some = node.claim(&wanted, 9, AGEING, at(1)).await.unwrap();
    assert_eq!(ids(&some), high[..2]);
    let zero = queued(node, "zero", "ann", 0).await;
    let rest = claim(node, 9).await;
    assert_eq!(
        (rest.len(), rest[0].header.id, rest[4].header.id),
        (5, high[2], zero)
    );
}

#[tokio::test]
async fn one_tag_submitted_through_many_nodes_at_once_is_one_job() {
    let cluster = Cluster::of(3).await;
    for round in 0..10 {
        let tag = format!("same-{round}");
        let mut submits = Vec::new();
        for number in 0..30 {
            let node = &cluster.nodes[number % 3];
            let id = id(node).await;
            let mut job = job(id, &tag, "ann");
            job.payload = "the same".into();
            submits.push(node.submit(job, number % 2 == 0));
        }
        let answers = futures_util::future::join_all(submits).await;
        let mut created = 0;
        let tag: JobTag = tag.parse().unwrap();
        let winner = cluster.nodes[0]
            .find(&Owner::new("ann"), &tag, at(0))
            .await
            .unwrap();
        for answer in answers {
            match answer.unwrap() {
                Submitted::Created(_) => created += 1,
                Submitted::Existing(job) => assert_eq!(Some(job.header.id), winner),
                conflict => panic!("{conflict:?}"),
            }
        }
        assert_eq!(created, 1);
    }
    let rows = cluster
        .schema
        .number("SELECT count(*) FROM kjob_live")
        .await;
    assert_eq!(rows, 10);
}

#[tokio::test]
async fn a_cancel_on_another_node_comes_with_the_next_beat() {
    let cluster = Cluster::of(2).await;
    let [one, two] = &cluster.nodes[..] else {
        panic!()
    };
    let (id, lease) = running(one, "a").await;
    let (_, _) = running(one, "b").await;
    assert_eq!(stopping(one).await, []);
    let state = two.request_cancel(id, at(2)).await.unwrap();
    assert_eq!(state.phase, Phase::Cancelling);
    assert_eq!(stopping(one).await, [(id, lease)]);
    assert_eq!(stopping(two).await, []);
    assert_eq!(two.watch(&[id], at(3)).await.unwrap(), [(id, state)]);
    let ended = one.finish(id, lease, Finish::Stop, at(3)).await.unwrap();
    assert_eq!(two.watch(&[id], at(3)).await.unwrap(), [(id, ended)]);
    assert_eq!(stopping(one).await, []);
}

#[tokio::test]
async fn a_zombie_can_say_nothing_of_what_was_taken_over() {
    let cluster = Cluster::of(2).await;
    let [zombie, other] = &cluster.nodes[..] else {
        panic!()
    };
    let (id, old) = running(zombie, "a").await;
    assert_eq!(other.take_over(9).await.unwrap(), [], "it lives");
    cluster.end_lease(0).await;
    let orphans = other.take_over(9).await.unwrap();
    let [Orphan { header, state }] = &orphans[..] else {
        panic!("{orphans:?}")
    };
    assert_eq!(
        (header.id, state.phase, state.attempt),
        (id, Phase::Running, 1)
    );
    assert_eq!(state.lease, Lease(old.0 + 1));
    let stale = Refused::StaleLease {
        found: old,
        current: state.lease,
    };
    assert_eq!(refused(zombie.progress(id, old, 50, at(2)).await), stale);
    assert_eq!(refused(zombie.finish(id, old, done(), at(2)).await), stale);
    assert_eq!(zombie.beat().await.unwrap(), Beat::Lost);
    assert_eq!(
        other.take_over(9).await.unwrap(),
        [],
        "it has a node that lives"
    );
    assert_eq!(other.running().await.unwrap(), orphans);
    // Its route retries; the zombie comes last, under another name, and finds it started anew.
    let then = OnInterrupt::Retry {
        max_attempts: 2,
        not_before: at(3),
        charged: true,
    };
    let reason = Text::from("interrupted");
    let again = Finish::Interrupt { reason, then };
    let queued = other.finish(id, state.lease, again, at(3)).await.unwrap();
    assert_eq!((queued.phase, queued.attempt), (Phase::Queued, 1));
    let late = zombie.finish(id, old, done(), at(3)).await;
    assert_eq!(refused(late), Refused::NotRunning(Phase::Queued));
    let claimed = claim(other, 1).await;
    assert_eq!(
        (claimed[0].state.attempt, claimed[0].state.lease),
        (2, Lease(3))
    );
    let late = refused(zombie.finish(id, old, done(), at(4)).await);
    assert_eq!(
        late,
        Refused::StaleLease {
            found: old,
            current: Lease(3)
        }
    );
    other.finish(id, Lease(3), done(), at(5)).await.unwrap();
    let job = zombie.get(id, Parts::RESULT, at(5)).await.unwrap().unwrap();
    assert_eq!(job.ending, Some(Ending::Done(Output::binary(&b"done"[..]))));
}

#[tokio::test]
async fn a_lost_node_starts_nothing_and_takes_nothing_over() {
    let cluster = Cluster::of(2).await;
    let [zombie, other] = &cluster.nodes[..] else {
        panic!()
    };
    let waiting = queued(other, "waiting", "ann", 5).await;
    let _ = running(other, "running").await;
    cluster.end_lease(0).await;
    assert_eq!(claim(zombie, 9).await, [], "it does not know yet");
    cluster.end_lease(1).await;
    assert_eq!(zombie.take_over(9).await.unwrap(), []);
    assert_eq!(zombie.beat().await.unwrap(), Beat::Lost);
    assert_eq!(zombie.take_over(9).await.unwrap(), [], "it is nobody");
    let before = cluster
        .schema
        .number("SELECT max(id) FROM kjob_nodes")
        .await;
    assert!(join(zombie, 0).await > before, "it is another now");
    assert_eq!(zombie.take_over(9).await.unwrap().len(), 1);
    assert_eq!(ids(&claim(zombie, 9).await), [waiting]);
}

#[tokio::test]
async fn an_ended_lease_does_not_come_back_with_the_clock() {
    let cluster = Cluster::of(2).await;
    cluster.end_lease(0).await;
    cluster.nodes[1].take_over(9).await.unwrap();
    let back = "UPDATE kjob_nodes SET alive_until = now() + interval '1 hour'";
    cluster.schema.execute(back).await;
    assert_eq!(cluster.nodes[0].beat().await.unwrap(), Beat::Lost);
}

#[tokio::test]
async fn a_beat_makes_the_lease_as_long_as_it_was() {
    let cluster = Cluster::of(1).await;
    let left = "SELECT EXTRACT(epoch FROM alive_until - now())::bigint FROM kjob_nodes";
    let shorten = "UPDATE kjob_nodes SET alive_until = now() + interval '5 s'";
    cluster.schema.execute(shorten).await;
    assert!(cluster.schema.number(left).await <= 5);
    cluster.nodes[0].beat().await.unwrap();
    // As many seconds as a machine may take for two statements.
    assert!(cluster.schema.number(left).await > 30);
}

#[tokio::test]
async fn every_orphan_goes_to_one_node() {
    let cluster = Cluster::of(4).await;
    let [gone, others @ ..] = &cluster.nodes[..] else {
        panic!()
    };
    let mut all = HashSet::new();
    for number in 0..40 {
        all.insert(running(gone, &format!("t{number}")).await.0);
    }
    cluster.end_lease(0).await;
    let each = others.iter().map(async |node| {
        let mut found = Vec::new();
        loop {
            let orphans = node.take_over(3).await.unwrap();
            if orphans.is_empty() {
                return found;
            }
            for Orphan { header, state } in orphans {
                assert_eq!(state.lease, Lease(2));
                node.finish(header.id, state.lease, Finish::Fail("gone".into()), at(9))
                    .await
                    .unwrap();
                found.push(header.id);
            }
        }
    });
    let found: Vec<JobId> = futures_util::future::join_all(each).await.concat();
    assert_eq!(found.len(), 40);
    assert_eq!(found.into_iter().collect::<HashSet<_>>(), all);
}

#[tokio::test]
async fn what_a_node_leaves_behind_is_for_others_at_once() {
    let cluster = Cluster::of(2).await;
    let [one, two] = &cluster.nodes[..] else {
        panic!()
    };
    let (id, _) = running(one, "a").await;
    let known = async |node: &PostgresStore| {
        let nodes = node.nodes().await.unwrap();
        nodes.into_iter().map(|it| it.url).collect::<Vec<_>>()
    };
    assert_eq!(known(two).await, ["http://0", "http://1"]);
    one.leave().await.unwrap();
    assert_eq!(known(two).await, ["http://1"]);
    let orphans = two.take_over(9).await.unwrap();
    assert_eq!(orphans.len(), 1);
    assert_eq!(orphans[0].header.id, id);
}

#[tokio::test]
async fn what_was_started_without_a_node_is_nobodys_to_take_over() {
    let cluster = Cluster::of(1).await;
    let engine = cluster.schema.open(Default::default()).await;
    let (id, lease) = running(&engine, "a").await;
    assert_eq!(cluster.nodes[0].take_over(9).await.unwrap(), []);
    engine.finish(id, lease, done(), at(1)).await.unwrap();
}
