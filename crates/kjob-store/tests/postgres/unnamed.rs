//! Jobs whose tags carry their ids, and which so have no rows among the names.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use kjob_core::{
    JobTag, NewJob, Owner, Parts, Phase, SharedStore, Store, StoreUsage, Submitted, Usage,
};
use kjob_store::postgres::{PostgresOptions, PostgresStore};

use crate::jobs::{at, job};
use crate::support::Schema;

const OWNERS: [&str; 3] = ["ann", "bob", "carl"];

/// Submits of a round.
const JOBS: u32 = 100;

/// What is stored of somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    jobs: u64,
    bytes: u64,
    waiting: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.jobs += other.jobs;
        self.bytes += other.bytes;
        self.waiting += other.waiting;
    }

    fn usage(self) -> Usage {
        Usage {
            jobs: self.jobs,
            bytes: self.bytes,
        }
    }
}

/// Jobs of all owners, and whether each is started with its submit. Those have names whose numbers say so.
async fn planned(store: &PostgresStore, is_named: impl Fn(usize) -> bool) -> Vec<(NewJob, bool)> {
    let mut block = store.reserve_ids(JOBS).await.unwrap();
    let ids = std::iter::from_fn(|| block.take());
    ids.enumerate()
        .map(|(number, id)| {
            let tag = match is_named(number) {
                true => format!("named-{id}"),
                false => JobTag::generate(id, &mut rand::rng()).as_str().to_owned(),
            };
            (job(id, &tag, OWNERS[number % 3]), number % 2 == 0)
        })
        .collect()
}

/// Submits them all at once, and looks whether each is there as it is to be.
async fn submit(store: &PostgresStore, jobs: &[(NewJob, bool)]) {
    let submits = jobs
        .iter()
        .map(|(job, start)| store.submit(job.clone(), *start));
    let answers = try_join_all(submits).await.unwrap();
    for ((job, start), answer) in jobs.iter().zip(answers) {
        let Submitted::Created(state) = answer else {
            panic!("{answer:?}");
        };
        let (id, owner, tag) = (job.header.id, &job.header.owner, &job.header.tag);
        let phase = if *start {
            Phase::Running
        } else {
            Phase::Queued
        };
        assert_eq!(state.phase, phase, "{tag}");
        let parts = Parts {
            payload: true,
            result: false,
        };
        let found = store.get(id, parts, at(0)).await.unwrap().unwrap();
        assert_eq!((&found.header, found.state), (&job.header, state));
        assert_eq!(found.payload.as_ref(), Some(&job.payload));
        assert_eq!(store.find(owner, tag, at(0)).await.unwrap(), Some(id));
    }
}

/// What these jobs come to, by their owners.
fn counted(jobs: &[(NewJob, bool)]) -> BTreeMap<String, Counts> {
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    for (job, start) in jobs {
        let owner = job.header.owner.as_str().to_owned();
        counts.entry(owner).or_default().add(Counts {
            jobs: 1,
            bytes: job.payload.len() as u64,
            waiting: u64::from(!start),
        });
    }
    counts
}

/// Holds what a handle says and what the tables say against what was stored.
async fn compare(schema: &Schema, store: &PostgresStore, wanted: &BTreeMap<String, Counts>) {
    let mut total = Counts::default();
    wanted.values().for_each(|of| total.add(*of));
    for (name, of) in wanted {
        let owner = Owner::new(name);
        let usage = StoreUsage {
            total: total.usage(),
            owner: of.usage(),
        };
        assert_eq!(store.usage(&owner), usage, "{name}");
        let waiting = store.waiting(&owner);
        assert_eq!((waiting.total, waiting.owner), (total.waiting, of.waiting));
        let rows = format!("kjob_usage_of WHERE owner = '{name}'::bytea");
        assert_eq!(sums(schema, &rows).await, *of, "{name}");
    }
    assert_eq!(sums(schema, "kjob_usage").await, total);
    assert_eq!(sums(schema, "kjob_usage_of").await, total);
}

async fn sums(schema: &Schema, rows: &str) -> Counts {
    let sums = format!(
        "SELECT coalesce(sum(jobs), 0)::bigint, coalesce(sum(bytes), 0)::bigint,
            coalesce(sum(waiting), 0)::bigint FROM {rows}"
    );
    let client = schema.client().await;
    let row = client.query_one(&sums, &[]).await.unwrap();
    let number = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap();
    Counts {
        jobs: number(0),
        bytes: number(1),
        waiting: number(2),
    }
}

#[tokio::test]
async fn jobs_without_names_are_stored_and_counted_in_batches() {
    let schema = Schema::new();
    schema.prepare(true);
    let store = schema.open(PostgresOptions::default()).await;
    let names = "SELECT count(*) FROM kjob_tags";

    let mut jobs = planned(&store, |_| false).await;
    submit(&store, &jobs).await;
    assert!(
        store.batches() < u64::from(JOBS),
        "no statement was of more than one job"
    );
    assert_eq!(schema.number(names).await, 0);
    compare(&schema, &store, &counted(&jobs)).await;

    // The same beside others that have names.
    let mixed = planned(&store, |number| number % 5 < 2).await;
    submit(&store, &mixed).await;
    assert_eq!(schema.number(names).await, i64::from(JOBS) * 2 / 5);
    jobs.extend(mixed);
    let all = counted(&jobs);
    compare(&schema, &store, &all).await;
    // Who comes later knows of it by the tables alone.
    let later = schema.open(PostgresOptions::default()).await;
    compare(&schema, &later, &all).await;
}
