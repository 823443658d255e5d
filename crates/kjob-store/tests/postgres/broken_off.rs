//! What is broken off in the middle: by callers who go away.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use kjob_core::Store;
use kjob_store::postgres::{PostgresOptions, PostgresStore};

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
