//! Jobs that wait for a time, claimed by several nodes.

use std::time::{Duration, Instant};

use kjob_core::{Finish, OnInterrupt, Store};
use kjob_proto::Text;

use crate::jobs::{at, id, job};
use crate::sharing::{AGEING, Cluster, MINUTE, claim, claim_at, ids};

#[tokio::test]
async fn a_delayed_job_is_claimed_when_its_time_has_come() {
    let cluster = Cluster::of(2).await;
    let [one, two] = &cluster.nodes[..] else {
        panic!()
    };
    let id = id(one).await;
    let mut later = job(id, "later", "ann");
    later.header.options.not_before = Some(at(100));
    one.submit(later, false).await.unwrap();
    assert_eq!(claim_at(one, 9, AGEING, at(99)).await, []);
    let claimed = claim_at(one, 9, AGEING, at(100)).await;
    assert_eq!(ids(&claimed), [id]);
    assert_eq!(claimed[0].state.not_before, None);
    // And again after it was interrupted, by whoever asks.
    let then = OnInterrupt::Retry {
        max_attempts: 9,
        not_before: at(200),
        charged: true,
    };
    let cut_off = Finish::Interrupt {
        reason: Text::from("cut off"),
        then,
    };
    one.finish(id, claimed[0].state.lease, cut_off, at(110))
        .await
        .unwrap();
    assert_eq!(claim_at(one, 9, AGEING, at(199)).await, []);
    let mut claimed = Vec::new();
    while claimed.is_empty() {
        claimed = claim_at(two, 9, AGEING, at(200)).await;
    }
    assert_eq!((ids(&claimed), claimed[0].state.attempt), (vec![id], 2));
}

#[tokio::test]
async fn claims_do_not_read_what_waits_for_tomorrow() {
    const JOBS: i64 = 200;
    const LOOKS: i64 = 5;
    let Cluster { schema, mut nodes } = Cluster::of(1).await;
    let node = &nodes[0];
    // The database makes its plans with the first claim, of a table in which nothing is.
    assert_eq!(claim(node, 9).await, []);
    for number in 0..JOBS {
        let mut later = job(id(node).await, &format!("later-{number}"), "ann");
        later.header.options.not_before = Some(at(86_400_000));
        node.submit(later, false).await.unwrap();
    }
    for _ in 0..LOOKS {
        // It is not looked each time whether others' jobs have become due.
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(claim(node, 9).await, []);
    }
    nodes.clear();
    let read = "SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes
        WHERE schemaname = current_schema() AND indexrelname = 'kjob_live_delayed'";
    // It counts once the connection has gone. How often it was looked is up to how fast this went.
    let mut count = 0;
    let deadline = Instant::now() + MINUTE;
    while count == 0 {
        assert!(Instant::now() < deadline, "nobody has looked");
        tokio::time::sleep(Duration::from_millis(10)).await;
        count = schema.number(read).await;
    }
    assert!(count < JOBS, "{count} rows were read");
}
