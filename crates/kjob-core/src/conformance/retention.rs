//! Expiry, usage, and the end of the store.

use std::time::Duration;

use super::{Trial, at, complete};
use crate::{
    Filter, JobId, Lease, Owner, Parts, Status, StepError, StoreError, StoreUsage, Timestamp, Usage,
};

/// Long after everything here has expired.
fn end_of_time() -> Timestamp {
    at(1000 * 24 * 60 * 60 * 1000)
}

async fn kept_for(trial: &mut Trial, tag: &str, retention: Duration) -> JobId {
    let mut job = trial.job(tag).await;
    job.header.options.retention = retention;
    let id = job.header.id;
    trial.store.submit(job, true).await.unwrap();
    trial
        .store
        .finish(id, Lease(1), complete(b"result"), at(0))
        .await
        .unwrap();
    id
}

async fn is_there(trial: &Trial, id: JobId, tag: &str, now: Timestamp) -> bool {
    let got = trial
        .store
        .get(id, Parts::RESULT, now)
        .await
        .unwrap()
        .is_some();
    let tag = tag.parse().unwrap();
    let found = trial
        .store
        .find(&Owner::anonymous(), &tag, now)
        .await
        .unwrap()
        .is_some();
    let filter = Filter {
        statuses: vec![Status::Done],
        limit: 9,
        ..Filter::ALL
    };
    let listed = trial.store.list(&filter, now).await.unwrap().jobs;
    let listed = listed.iter().any(|job| job.header.id == id);
    assert_eq!((got, found), (listed, listed), "get, find and list agree");
    listed
}

pub async fn a_job_is_gone_at_the_moment_it_expires(trial: &mut Trial) {
    let id = kept_for(trial, "a", Duration::from_millis(1500)).await;
    let never = kept_for(trial, "b", Duration::ZERO).await;
    for _ in 0..2 {
        assert!(is_there(trial, id, "a", at(1499)).await);
        assert!(
            !is_there(trial, id, "a", at(1500)).await,
            "nothing has been deleted yet"
        );
        assert!(!is_there(trial, never, "b", at(0)).await);
        trial.store.expire(at(1499)).await.unwrap();
        assert!(is_there(trial, id, "a", at(1499)).await);
        trial.reopen().await;
    }
}

pub async fn a_live_job_never_expires(trial: &mut Trial) {
    let mut ids = Vec::new();
    for (tag, start) in [("queued", false), ("running", true)] {
        let mut job = trial.job(tag).await;
        job.header.options.retention = Duration::ZERO;
        ids.push(job.header.id);
        trial.store.submit(job, start).await.unwrap();
    }
    while trial.store.expire(end_of_time()).await.unwrap().more {}
    for id in ids {
        assert!(
            trial
                .store
                .get(id, Parts::NONE, end_of_time())
                .await
                .unwrap()
                .is_some()
        );
        assert!(trial.store.request_cancel(id, end_of_time()).await.is_ok());
    }
}

pub async fn an_expiry_only_comes_nearer(trial: &mut Trial) {
    let id = kept_for(trial, "a", Duration::from_millis(5000)).await;
    let expiry = |trial: &Trial| {
        let store = std::sync::Arc::clone(&trial.store);
        async move {
            store
                .get(id, Parts::NONE, at(0))
                .await
                .unwrap()
                .and_then(|j| j.expires_at)
        }
    };
    for (moved, expected) in [
        (9000, 5000),
        (3000, 3000),
        (4000, 3000),
        (3000, 3000),
        (10, 10),
    ] {
        trial.store.expire_at(id, at(moved)).await.unwrap();
        assert_eq!(expiry(trial).await, Some(at(expected)), "moved to {moved}");
    }
    assert!(is_there(trial, id, "a", at(9)).await);
    assert!(!is_there(trial, id, "a", at(10)).await);
    // A live job has no expiry to move.
    let live = trial.queued("live").await;
    trial.store.expire_at(live, at(0)).await.unwrap();
    let job = trial
        .store
        .get(live, Parts::NONE, end_of_time())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(job.expires_at, None);
}

pub async fn an_earlier_expiry_survives_reopening(trial: &mut Trial) {
    let id = kept_for(trial, "a", Duration::from_millis(60_000)).await;
    trial.store.expire_at(id, at(1)).await.unwrap();
    if trial.reopen().await {
        assert!(is_there(trial, id, "a", at(0)).await);
        assert!(!is_there(trial, id, "a", at(1)).await);
    }
}

fn usage(jobs: u64, bytes: u64) -> Usage {
    Usage { jobs, bytes }
}

/// Two jobs of the anonymous owner, one with a result of 6 bytes, and one of Ann's; 7 bytes of
/// payload each.
async fn some_jobs(trial: &mut Trial) -> [(Owner, StoreUsage); 3] {
    let ann = Owner::new("ann");
    trial.queued("a").await;
    trial.ended("b", complete(b"result")).await;
    let job = trial.job_of(&ann, "c").await;
    trial.submit(job).await;
    let total = usage(3, 27);
    [
        (
            Owner::anonymous(),
            StoreUsage {
                total,
                owner: usage(2, 20),
            },
        ),
        (
            ann,
            StoreUsage {
                total,
                owner: usage(1, 7),
            },
        ),
        (
            Owner::new("bob"),
            StoreUsage {
                total,
                owner: usage(0, 0),
            },
        ),
    ]
}

pub async fn usage_counts_jobs_and_bytes_by_owner(trial: &mut Trial) {
    assert_eq!(
        trial.store.usage(&Owner::anonymous()),
        StoreUsage::default()
    );
    for (owner, expected) in some_jobs(trial).await {
        assert_eq!(trial.store.usage(&owner), expected, "{owner}");
    }
    // A repeated submit, a refused end and a message count nothing.
    let again = trial.job("a").await;
    trial.submit(again).await;
    let (id, lease) = trial.running("d").await;
    trial
        .store
        .finish(id, lease, super::fail(), at(0))
        .await
        .unwrap();
    assert!(
        trial
            .store
            .finish(id, lease, complete(b"late"), at(0))
            .await
            .is_err()
    );
    assert_eq!(trial.store.usage(&Owner::anonymous()).owner, usage(3, 27));
}

pub async fn usage_survives_reopening(trial: &mut Trial) {
    let expected = some_jobs(trial).await;
    if trial.reopen().await {
        for (owner, expected) in expected {
            assert_eq!(trial.store.usage(&owner), expected, "{owner}");
        }
    }
}

pub async fn expiring_gives_back_what_it_says(trial: &mut Trial) {
    for number in 0..30 {
        trial
            .ended(&format!("tag-{number}"), complete(b"result"))
            .await;
    }
    assert_eq!(
        trial.store.usage(&Owner::anonymous()).owner,
        usage(30, 30 * 13)
    );
    let mut left = usage(30, 30 * 13);
    let mut calls = 0;
    loop {
        let expired = trial.store.expire(end_of_time()).await.unwrap();
        left = usage(left.jobs - expired.jobs, left.bytes - expired.bytes);
        let now = trial.store.usage(&Owner::anonymous());
        assert_eq!((now.owner, now.total), (left, left));
        calls += 1;
        assert!(calls < 1000, "expiring comes to an end");
        if !expired.more {
            break;
        }
    }
    assert_eq!(left, usage(0, 0), "nothing is needed, so all of it goes");
    if trial.reopen().await {
        assert_eq!(
            trial.store.usage(&Owner::anonymous()),
            StoreUsage::default()
        );
    }
}

pub async fn expiring_keeps_what_is_needed(trial: &mut Trial) {
    let mut kept = Vec::new();
    for number in 0..40 {
        let tag = format!("tag-{number}");
        match number % 20 {
            3 => kept.push((trial.queued(&tag).await, tag)),
            7 => kept.push((trial.running(&tag).await.0, tag)),
            11 => kept.push((
                kept_for(trial, &tag, Duration::from_secs(1_000_000)).await,
                tag,
            )),
            _ => drop(kept_for(trial, &tag, Duration::from_secs(1)).await),
        }
    }
    let mut before = Vec::new();
    for (id, _) in &kept {
        before.push(trial.get(*id).await);
    }
    while trial.store.expire(at(60_000)).await.unwrap().more {}
    for _ in 0..2 {
        for (job, (id, tag)) in before.iter().zip(&kept) {
            assert_eq!(trial.get(*id).await, *job);
            assert_eq!(trial.find(tag).await, Some(*id));
        }
        trial.reopen().await;
    }
    for job in before.iter().filter(|job| job.ending.is_none()) {
        let id = job.header.id;
        let state = trial.store.request_cancel(id, at(60_001)).await.unwrap();
        if !state.phase.is_terminal() {
            trial
                .store
                .finish(id, state.lease, complete(b"late"), at(60_002))
                .await
                .unwrap();
        }
    }
    while trial.store.expire(end_of_time()).await.unwrap().more {}
    assert_eq!(
        trial.store.usage(&Owner::anonymous()),
        StoreUsage::default()
    );
}

pub async fn a_closed_store_says_so(trial: &mut Trial) {
    let id = trial.queued("a").await;
    trial.store.close().await.unwrap();
    let job = super::new_job(id, "b".parse().unwrap());
    let store = &trial.store;
    let closed = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::Closed)), "{result:?}");
    };
    closed(store.reserve_ids(1).await.map(drop));
    closed(store.submit(job, false).await.map(drop));
    closed(store.get(id, Parts::NONE, at(0)).await.map(drop));
    closed(
        store
            .find(&Owner::anonymous(), &"a".parse().unwrap(), at(0))
            .await
            .map(drop),
    );
    closed(store.expire(at(0)).await.map(drop));
    closed(store.expire_at(id, at(0)).await);
    let step = store.start(id, at(0)).await;
    assert!(
        matches!(step, Err(StepError::Store(StoreError::Closed))),
        "{step:?}"
    );
}
