//! What handles tell each other.

use std::time::Duration;

use kjob_core::{Finish, Hint, SharedStore, Store};
use kjob_store::postgres::PostgresStore;

use crate::jobs::{at, id, job};
use crate::sharing::{Cluster, MINUTE, running};

/// Heard from another handle in good time.
async fn hears(node: &PostgresStore, hint: Hint) {
    let heard = tokio::time::timeout(MINUTE, node.hint(hint)).await;
    heard.unwrap_or_else(|_| panic!("{hint:?} is not heard"));
}

#[tokio::test]
async fn handles_tell_each_other_of_work_of_ends_and_of_cancels() {
    let cluster = Cluster::of(2).await;
    let [one, two] = &cluster.nodes[..] else {
        panic!()
    };
    // Whether the other listens yet is not to be seen: the first word may come too early.
    let mut number = 0;
    let is_heard = async {
        loop {
            number += 1;
            let tag = format!("first-{number}");
            one.submit(job(id(one).await, &tag, "ann"), false)
                .await
                .unwrap();
            let soon = Duration::from_millis(100);
            if tokio::time::timeout(soon, two.hint(Hint::Work))
                .await
                .is_ok()
            {
                break;
            }
        }
    };
    tokio::time::timeout(MINUTE, is_heard).await.unwrap();
    let (runs, lease) = running(one, "runs").await;
    two.request_cancel(runs, at(2)).await.unwrap();
    hears(one, Hint::Cancels).await;
    one.finish(runs, lease, Finish::Stop, at(3)).await.unwrap();
    hears(two, Hint::Ends).await;
    let own = tokio::time::timeout(Duration::ZERO, one.hint(Hint::Ends)).await;
    assert!(own.is_err(), "what one said itself is no news");
}
