//! Ended jobs are dropped before their time: those that are asked for, and no others.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use bytes::Bytes;
use kjob_core::purge::{Purge, purge};
use kjob_core::{
    Finish, Header, JobId, JobOptions, Lease, MemoryStore, NewJob, Output, Owner, Parts, QueryId,
    Status, Store, Submitted, TagReuse, Timestamp, Usage,
};
use kjob_proto::{Encoding, Text};

const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + seconds * 1000)
}

/// Seven hundred jobs, more than are looked at together: number n is ann's or bob's in turn, calls
/// one of three endpoints in turn, ended at second n, in one of four ways in turn (or not yet).
async fn store() -> (Arc<MemoryStore>, Vec<JobId>) {
    let store = Arc::new(MemoryStore::new());
    let mut block = store.reserve_ids(700).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..700_u32 {
        let id = block.take().unwrap();
        let header = Header {
            id,
            tag: format!("job-{number}").parse().unwrap(),
            owner: Owner::new(["ann", "bob"][number as usize % 2]),
            endpoint: Text::from(["/a/b", "/a/c", "/ab"][number as usize % 3]),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).unwrap(),
            parent_span: 0,
            received_at: at(0),
            source_ip: Text::new(),
            options: JobOptions::default(),
        };
        let new = NewJob {
            header,
            payload: Bytes::from_static(b"0123456789"),
            tag_reuse: TagReuse::Never,
        };
        let start = number % 4 != 2;
        let stored = store.submit(new, start).await.unwrap();
        assert!(matches!(stored, Submitted::Created(_)));
        let now = at(number.into());
        let finish = match number % 4 {
            0 => Finish::Complete(Output::binary("12345")),
            1 => Finish::Fail("no".into()),
            2 => {
                store.request_cancel(id, now).await.unwrap();
                ids.push(id);
                continue;
            }
            _ => {
                ids.push(id);
                continue;
            }
        };
        store.finish(id, Lease(1), finish, now).await.unwrap();
        ids.push(id);
    }
    (store, ids)
}

/// The numbers of the jobs that are there.
async fn left(store: &MemoryStore, ids: &[JobId]) -> Vec<usize> {
    let mut left = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        let job = store.get(*id, Parts::NONE, at(1000)).await.unwrap();
        left.extend(job.map(|_| number));
    }
    left
}

#[tokio::test]
async fn each_condition_narrows_what_is_dropped() {
    type Condition = (Purge, fn(usize) -> bool);
    let conditions: [Condition; 7] = [
        (Purge::default(), |_| true),
        (
            Purge {
                owner: Some(Owner::new("bob")),
                ..Purge::default()
            },
            |n| n % 2 == 1,
        ),
        (
            Purge {
                statuses: vec![Status::Error, Status::Cancelled],
                ..Purge::default()
            },
            |n| n % 4 == 1 || n % 4 == 2,
        ),
        (
            Purge {
                endpoint: Some("/a/c".parse().unwrap()),
                ..Purge::default()
            },
            |n| n % 3 == 1,
        ),
        (
            Purge {
                endpoint: Some("/a/*".parse().unwrap()),
                ..Purge::default()
            },
            |n| n % 3 != 2,
        ),
        (
            Purge {
                ended_by: Some(at(100)),
                ..Purge::default()
            },
            |n| n <= 100,
        ),
        (
            Purge {
                owner: Some(Owner::new("ann")),
                statuses: vec![Status::Done],
                endpoint: Some("/ab".parse().unwrap()),
                ended_by: Some(at(600)),
                dry_run: false,
            },
            |n| n % 4 == 0 && n % 3 == 2 && n <= 600,
        ),
    ];
    for (condition, is_meant) in conditions {
        let (store, ids) = store().await;
        let is_meant = |n: &usize| *n % 4 != 3 && is_meant(*n);
        let dry = Purge {
            dry_run: true,
            ..condition.clone()
        };
        let found = purge(store.clone(), &dry, at(1000)).await.unwrap();
        assert_eq!(
            left(&store, &ids).await.len(),
            700,
            "a dry run drops nothing"
        );

        let done = purge(store.clone(), &condition, at(1000)).await.unwrap();
        assert_eq!(done, found, "a dry run tells what would be dropped");
        let expected: Vec<usize> = (0..700).filter(|n| !is_meant(n)).collect();
        assert_eq!(left(&store, &ids).await, expected, "{condition:?}");
        let count = |rest: usize, bytes: u64| {
            let jobs = (0..700).filter(|n| n % 4 == rest && is_meant(n)).count() as u64;
            Usage {
                jobs,
                bytes: jobs * bytes,
            }
        };
        assert_eq!(done.done, count(0, 15), "{condition:?}");
        assert_eq!((done.error, done.cancelled), (count(1, 10), count(2, 10)));
        assert_eq!(done.total().jobs as usize, 700 - expected.len());
        // Their space was given back, and their tags are free.
        let used = store.usage(&Owner::new("ann")).total.jobs;
        assert_eq!(used as usize, expected.len());
        let again = purge(store.clone(), &condition, at(1000)).await.unwrap();
        assert_eq!(again.total(), Usage::default());
    }
}

#[tokio::test]
async fn jobs_that_have_not_ended_are_never_dropped() {
    let (store, ids) = store().await;
    let running = Purge {
        statuses: vec![Status::Running],
        ..Purge::default()
    };
    let done = purge(store.clone(), &running, at(1000)).await.unwrap();
    assert_eq!(done.total(), Usage::default());
    assert_eq!(left(&store, &ids).await.len(), 700);
}
