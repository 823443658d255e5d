//! A standby that takes the place of a server which is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kjob_core::{Job, JobId, Parts, Store, Submitted};
use kjob_store::postgres::{PostgresOptions, PostgresStore};
use kjob_test_postgres::{Cluster, Settings, Stop};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::jobs::{at, id, job};
use crate::sharing::MINUTE;
use crate::support::Schema;

/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs a statement on a server, by itself: some are allowed in no transaction.
async fn tell(server: &Cluster, statement: &str) {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap();
}

/// A standby, for which each commit waits from now on.
async fn in_step(primary: Cluster, schema: &Schema) -> (Cluster, Cluster) {
    let copying = tokio::task::spawn_blocking(move || (primary.standby().unwrap(), primary));
    let (standby, primary) = copying.await.unwrap();
    tell(&primary, "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    tell(&primary, "SELECT pg_reload_conf()").await;
    let look = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    let deadline = Instant::now() + MINUTE;
    while schema.number(look).await != 1 {
        assert!(Instant::now() < deadline, "the standby takes no part");
        tokio::time::sleep(PAUSE).await;
    }
    (primary, standby)
}

/// A job, as soon as the store can be asked for it.
async fn look(store: &PostgresStore, id: JobId) -> Option<Job> {
    let deadline = Instant::now() + MINUTE;
    loop {
        match store.get(id, Parts::NONE, at(0)).await {
            Ok(found) => return found,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What was acknowledged before is there, and the handle goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_goes_on_with_the_standby_that_is_promoted() {
    let primary = Cluster::start(&Settings::for_tests()).unwrap();
    let schema = Schema::on(&primary.url());
    schema.prepare(true);
    let (mut primary, standby) = in_step(primary, &schema).await;
    let host = |server: &Cluster| format!("127.0.0.1:{}", server.port());
    let (first, both) = (
        host(&primary),
        format!("{},{}", host(&primary), host(&standby)),
    );
    let url = schema.url().replace(&first, &both);
    let store = PostgresStore::open(&url, PostgresOptions::default())
        .await
        .unwrap();
    let store = Arc::new(store);
    let next = id(&*store).await;

    let mut tasks = JoinSet::new();
    let (acknowledged, mut some) = tokio::sync::mpsc::channel(1);
    let mut block = store.reserve_ids(1_000).await.unwrap();
    for id in std::iter::from_fn(|| block.take()) {
        let (store, acknowledged) = (Arc::clone(&store), acknowledged.clone());
        tasks.spawn(async move {
            let answer = store.submit(job(id, &format!("t{id}"), "ann"), true).await;
            let _ = acknowledged.try_send(());
            (id, answer)
        });
    }
    some.recv().await.unwrap();
    let stopping = tokio::task::spawn_blocking(move || {
        primary.stop(Stop::Immediate).unwrap();
        primary
    });
    let answers = tasks.join_all().await;
    let _primary = stopping.await.unwrap();
    tell(&standby, "SELECT pg_promote(true, 60)").await;

    let deadline = Instant::now() + MINUTE;
    loop {
        match store.submit(job(next, "after", "ann"), false).await {
            // The second where an answer was lost.
            Ok(Submitted::Created(_) | Submitted::Existing(_)) => break,
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    assert!(look(&store, next).await.is_some());
    let mut kept = 0;
    for (id, answer) in answers {
        match answer {
            Ok(Submitted::Created(state)) => {
                let found = look(&store, id).await;
                assert_eq!(found.map(|job| job.state), Some(state));
                kept += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(error.leaves_unknown(), "{error}"),
        }
    }
    assert!(kept > 0, "some were answered before");
}
