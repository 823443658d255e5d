//! What is broken off in the middle: callers who go away, and work that panics.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use kjob_core::{Parts, Phase, Store, StoreError};
use kjob_store::postgres::{PostgresOptions, PostgresStore};
use kjob_store::{CommitObserver, Observed};

use crate::jobs::{at, done, id, job};
use crate::support::Schema;

/// When all jobs have expired, and their partitions with them.
const LATE: i64 = 10 * 365 * 86_400_000;

/// Looks at a future so often and no more; whether it has come to its end.
async fn is_done_by(polls: usize, future: impl Future<Output = ()>) -> bool {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| {
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Pending if polled < polls => Poll::Pending,
            polled => Poll::Ready(polled.is_ready()),
        }
    })
    .await
}

async fn expire_all(store: &PostgresStore) {
    while store.expire(at(LATE)).await.unwrap().more {}
}

/// As nodes do that are told to end while they sweep.
#[tokio::test]
async fn a_sweep_that_is_dropped_anywhere_counts_nothing_twice() {
    const COUNTED: &str = "SELECT COALESCE(sum(jobs), 0)::bigint FROM kjob_usage";
    const COUNTED_OF: &str = "SELECT COALESCE(sum(jobs), 0)::bigint FROM kjob_usage_of";
    let schema = Schema::new();
    schema.prepare(true);
    for polls in 1.. {
        let store = schema.open(PostgresOptions::default()).await;
        for tag in ["a", "b"] {
            let id = id(&store).await;
            let tag = format!("{tag}{polls}");
            let state = store.submit(job(id, &tag, "ann"), true).await.unwrap();
            let kjob_core::Submitted::Created(state) = state else {
                panic!("{state:?}");
            };
            store.finish(id, state.lease, done(), at(1)).await.unwrap();
        }
        let is_done = is_done_by(polls, expire_all(&store)).await;
        // Nothing that it had locked stays so, though nobody uses its connection any more.
        let lock = "SET lock_timeout = '30s'; UPDATE kjob_usage SET jobs = jobs; UPDATE kjob_parts SET number = number";
        schema.execute(lock).await;
        store.close().await.unwrap();
        let store = schema.open(PostgresOptions::default()).await;
        expire_all(&store).await;
        store.close().await.unwrap();
        assert_eq!(schema.number(COUNTED).await, 0, "after {polls} looks");
        assert_eq!(schema.number(COUNTED_OF).await, 0, "after {polls} looks");
        assert_eq!(schema.number("SELECT count(*) FROM kjob_parts").await, 0);
        if is_done {
            assert!(polls > 10, "it is of more steps than {polls}");
            break;
        }
    }
}

/// Panics as often as it is told to.
#[derive(Debug, Default)]
struct Panics(AtomicBool);

impl CommitObserver for Panics {
    fn committed(&self, _: usize, _: Duration, _: bool) {
        assert!(!self.0.swap(false, Ordering::Relaxed), "as it is meant to");
    }
}

fn assert_panicked<T: std::fmt::Debug>(done: Result<T, StoreError>) {
    let error = done.unwrap_err();
    assert!(error.leaves_unknown(), "{error}");
    assert!(error.to_string().contains("it panicked"), "{error}");
}

#[tokio::test]
async fn a_batch_that_panics_ends_no_lane() {
    let schema = Schema::new();
    schema.prepare(true);
    let panics = Arc::new(Panics::default());
    let options = PostgresOptions {
        lanes: 1,
        observer: Observed::by(Arc::clone(&panics) as _),
        ..PostgresOptions::default()
    };
    let store = schema.open(options).await;
    let id = id(&store).await;
    for _ in 0..2 {
        panics.0.store(true, Ordering::Relaxed);
        assert_panicked(store.submit(job(id, "a", "ann"), true).await);
    }
    // It was done before the panic, which its caller could not know.
    let found = store.get(id, Parts::NONE, at(0)).await.unwrap().unwrap();
    assert_eq!(found.state.phase, Phase::Running);
    let ended = store.finish(id, found.state.lease, done(), at(1)).await;
    assert_eq!(ended.unwrap().phase, Phase::Done);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_read_that_panics_ends_no_lane() {
    let schema = Schema::new();
    schema.prepare(true);
    let store = schema.open(PostgresOptions::default()).await;
    let id = id(&store).await;
    store.submit(job(id, "a", "ann"), true).await.unwrap();
    // The driver panics where a column is not of the type that is asked for.
    let changed = |kind| format!("ALTER TABLE kjob_live ALTER COLUMN retention_ms TYPE {kind}");
    schema.execute(&changed("numeric")).await;
    for _ in 0..2 {
        let get = store.get(id, Parts::NONE, at(0));
        let got = tokio::time::timeout(Duration::from_secs(60), get).await;
        assert_panicked(got.unwrap());
    }
    schema.execute(&changed("bigint")).await;
    let found = store.get(id, Parts::NONE, at(0)).await.unwrap().unwrap();
    assert_eq!(found.state.phase, Phase::Running);
}
