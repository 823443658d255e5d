//! What goes wrong: servers that end, connections that are cut, passwords, standbys, statements that are given
//! up, rows that are not taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kjob_core::{JobId, Lease, Parts, Phase, State, Store, StoreError, Submitted};
use kjob_store::postgres::{OpenError, PostgresOptions, PostgresStore};
use kjob_test_postgres::{Cluster, LOCKED_USER, PASSWORD, Settings, Stop};
use tokio::task::JoinSet;

use crate::jobs::{at, done, id, job};
use crate::support::Schema;

fn cluster() -> Cluster {
    Cluster::start(&Settings::for_tests()).unwrap()
}

/// A cluster that tests may stop, and a schema there.
fn own() -> (Cluster, Schema) {
    let cluster = cluster();
    let schema = Schema::on(&cluster.url());
    schema.prepare(true);
    (cluster, schema)
}

async fn ids(store: &PostgresStore, count: u32) -> Vec<JobId> {
    let mut block = store.reserve_ids(count).await.unwrap();
    std::iter::from_fn(|| block.take()).collect()
}

/// What was acknowledged is there after the server crashed in the middle of it; whoever was not answered is told
/// that it is not known whether their job is there; and the handle goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_in_the_middle_of_batches_keeps_what_was_acknowledged() {
    let (mut cluster, schema) = own();
    let store = Arc::new(schema.open(PostgresOptions::default()).await);
    for round in 0..3 {
        let mut tasks = JoinSet::new();
        let (acknowledged, mut first) = tokio::sync::mpsc::channel(1);
        for (number, id) in ids(&store, 2_000).await.into_iter().enumerate() {
            let (store, acknowledged) = (Arc::clone(&store), acknowledged.clone());
            tasks.spawn(async move {
                let tag = format!("r{round}-{number}");
                let done = store.submit(job(id, &tag, "ann"), true).await;
                let _ = acknowledged.try_send(());
                (id, done)
            });
        }
        first.recv().await.unwrap();
        let stopping = tokio::task::spawn_blocking(move || {
            cluster.stop(Stop::Immediate).unwrap();
            cluster
        });
        let mut answers = Vec::new();
        while let Some(answer) = tasks.join_next().await {
            answers.push(answer.unwrap());
        }
        cluster = stopping.await.unwrap();
        cluster.resume().unwrap();
        let mut kept = 0;
        for (id, answer) in answers {
            match answer {
                Ok(Submitted::Created(state)) => {
                    let job = store.get(id, Parts::NONE, at(0)).await.unwrap();
                    assert_eq!(job.map(|job| job.state), Some(state));
                    kept += 1;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(error.leaves_unknown(), "{error}"),
            }
        }
        assert!(kept > 0, "some were answered before");
    }
}

/// Connections that were cut while nothing was under way cost nobody anything.
#[tokio::test]
async fn connections_that_were_cut_are_made_anew() {
    let schema = Schema::new();
    schema.prepare(true);
    let url = format!("{}&application_name=cut", schema.url());
    let store = PostgresStore::open(&url, PostgresOptions::default())
        .await
        .unwrap();
    let id = id(&store).await;
    store.submit(job(id, "a", "ann"), true).await.unwrap();
    let client = schema.client().await;
    let all = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cut'";
    let rows = client.query(all, &[]).await.unwrap();
    let cut: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert!(cut.len() >= 2);
    let end = "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS of(pid)";
    client.query(end, &[&cut]).await.unwrap();
    // It may be told to wait for the end itself from PostgreSQL 14 on only.
    let left = "SELECT pid FROM pg_stat_activity WHERE pid = ANY ($1)";
    let deadline = Instant::now() + Duration::from_secs(60);
    while !client.query(left, &[&cut]).await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "{cut:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The driver may hear of it a moment later, and then a step is in doubt.
    loop {
        match store.finish(id, Lease(1), done(), at(1)).await {
            Ok(state) => break assert_eq!(state.phase, Phase::Done),
            Err(kjob_core::StepError::Store(error)) => assert!(error.leaves_unknown(), "{error}"),
            // It was in doubt, and was done.
            Err(kjob_core::StepError::Refused(kjob_core::Refused::Ended(Phase::Done))) => break,
            Err(other) => panic!("{other}"),
        }
    }
    let found = loop {
        match store.get(id, Parts::NONE, at(1)).await {
            Ok(found) => break found,
            Err(error) => assert!(error.leaves_unknown(), "{error}"),
        }
    };
    assert_eq!(found.unwrap().state.phase, Phase::Done);
}

#[tokio::test]
async fn a_wrong_password_is_told() {
    let cluster = cluster();
    let schema = Schema::on(&cluster.url());
    let role = format!("CREATE ROLE {LOCKED_USER} LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
    schema.execute(&role).await;
    let url = |password: &str| {
        let user = format!("{LOCKED_USER}:{}@", password.replace(' ', "%20"));
        schema.url().replace("postgres@", &user)
    };
    schema.prepare(true);
    let wrong = PostgresStore::open(&url("sesame"), PostgresOptions::default()).await;
    let said = wrong.unwrap_err().to_string();
    assert!(said.contains("password authentication failed"), "{said}");
    PostgresStore::open(&url(PASSWORD), PostgresOptions::default())
        .await
        .unwrap();
}

/// A standby that comes first in the URL is passed over; alone it is no database to work with.
#[tokio::test]
async fn a_standby_is_passed_over() {
    let (primary, schema) = own();
    let standby = tokio::task::spawn_blocking(move || (primary.standby().unwrap(), primary));
    let (standby, primary) = standby.await.unwrap();
    let (one, other) = (standby.port(), primary.port());
    let both = schema.url().replace(
        &format!("127.0.0.1:{other}"),
        &format!("127.0.0.1:{one},127.0.0.1:{other}"),
    );
    let store = PostgresStore::open(&both, PostgresOptions::default())
        .await
        .unwrap();
    let id = id(&store).await;
    store.submit(job(id, "a", "ann"), false).await.unwrap();
    let alone = schema
        .url()
        .replace(&format!(":{other}"), &format!(":{one}"));
    let refused = PostgresStore::open(&alone, PostgresOptions::default()).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("cannot connect to the database"), "{said}");
}

/// Makes the first inserts of jobs fail by this state; sequences do not go back with what is given up.
fn failing(times: u32, state: &str) -> String {
    format!(
        "CREATE SEQUENCE failures;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('failures') <= {times} THEN RAISE EXCEPTION 'given up' USING ERRCODE = '{state}';
            END IF; RETURN NEW; END $$;
        CREATE TRIGGER fail BEFORE INSERT ON kjob_live FOR EACH STATEMENT EXECUTE FUNCTION fail()"
    )
}

#[tokio::test]
async fn what_the_database_gives_up_is_tried_again() {
    for state in ["40001", "40P01"] {
        let schema = Schema::new();
        schema.prepare(true);
        schema.execute(&failing(3, state)).await;
        let store = schema.open(PostgresOptions::default()).await;
        let id = id(&store).await;
        let created = store.submit(job(id, "a", "ann"), false).await.unwrap();
        assert_eq!(created, Submitted::Created(State::queued(None)));
        let tries = schema.number("SELECT last_value FROM failures").await;
        assert_eq!(tries, 4);
    }
}

#[tokio::test]
async fn what_the_database_gives_up_again_and_again_is_told() {
    let schema = Schema::new();
    schema.prepare(true);
    schema.execute(&failing(1_000, "40001")).await;
    let options = PostgresOptions {
        tries_max: 3,
        ..PostgresOptions::default()
    };
    let store = schema.open(options).await;
    let id = id(&store).await;
    let error = store.submit(job(id, "a", "ann"), false).await.unwrap_err();
    assert!(error.to_string().contains("given up"), "{error}");
    assert_eq!(schema.number("SELECT last_value FROM failures").await, 3);
}

/// Lives at the highest isolation, where statements that meet are given up all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lives_go_on_where_the_database_serialises() {
    let schema = Schema::new();
    schema.prepare(true);
    let url = schema.url().replace(
        "options=-c",
        "options=-cdefault_transaction_isolation%3Dserializable%20-c",
    );
    let mut handles = Vec::new();
    for _ in 0..2 {
        let store = PostgresStore::open(&url, PostgresOptions::default())
            .await
            .unwrap();
        handles.push(Arc::new(store));
    }
    let mut tasks = JoinSet::new();
    for (number, id) in ids(&handles[0], 200).await.into_iter().enumerate() {
        let store = Arc::clone(&handles[number % 2]);
        tasks.spawn(async move {
            // Two of each tag.
            let mut job = job(id, &format!("t{}", number / 2), "ann");
            job.payload = "the same".into();
            match store.submit(job, true).await.unwrap() {
                Submitted::Created(state) => {
                    store.progress(id, state.lease, 7, at(1)).await.unwrap();
                    store.finish(id, state.lease, done(), at(2)).await.unwrap();
                    1
                }
                Submitted::Existing(_) => 0,
                other => panic!("{other:?}"),
            }
        });
    }
    let created: i32 = tasks.join_all().await.into_iter().sum();
    assert_eq!(created, 100);
    let rows = "SELECT count(*) FROM kjob_ended";
    assert_eq!(schema.number(rows).await, 100);
}

/// One row that the database does not take fails alone.
#[tokio::test]
async fn a_row_that_is_not_taken_harms_itself_alone() {
    let schema = Schema::new();
    schema.prepare(true);
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.tag = 'bad'::bytea THEN RAISE EXCEPTION 'not taken' USING ERRCODE = '22023';
            END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON kjob_live FOR EACH ROW EXECUTE FUNCTION refuse()";
    schema.execute(refuse).await;
    let store = schema.open(PostgresOptions::default()).await;
    let ids = ids(&store, 40).await;
    let submits = ids.iter().enumerate().map(|(number, id)| {
        let tag = if number == 20 {
            "bad".to_owned()
        } else {
            format!("t{number}")
        };
        store.submit(job(*id, &tag, "ann"), false)
    });
    let answers = futures_util::future::join_all(submits).await;
    for (number, answer) in answers.into_iter().enumerate() {
        match (number, answer) {
            (20, Err(error)) => assert!(error.to_string().contains("not taken"), "{error}"),
            (20, done) => panic!("{done:?}"),
            (_, done) => assert_eq!(done.unwrap(), Submitted::Created(State::queued(None))),
        }
    }
    assert_eq!(store.usage(&kjob_core::Owner::new("ann")).owner.jobs, 39);
}

/// Steps that come at once go together.
#[tokio::test]
async fn steps_that_wait_at_the_same_moment_share_statements() {
    let schema = Schema::new();
    schema.prepare(true);
    let store = schema.open(PostgresOptions::default()).await;
    let ids = ids(&store, 500).await;
    let submits = ids
        .iter()
        .enumerate()
        .map(|(number, id)| store.submit(job(*id, &format!("t{number}"), "ann"), true));
    futures_util::future::try_join_all(submits).await.unwrap();
    // 256 go together at most; the first went alone, and a lane may have been quick.
    assert!(store.batches() <= 20, "{}", store.batches());
}

#[tokio::test]
async fn a_full_disk_is_called_that() {
    let schema = Schema::new();
    schema.prepare(true);
    schema.execute(&failing(1, "53100")).await;
    let store = schema.open(PostgresOptions::default()).await;
    let id = id(&store).await;
    let error = store.submit(job(id, "a", "ann"), false).await.unwrap_err();
    assert!(matches!(error, StoreError::Full), "{error}");
}

#[tokio::test]
async fn nobody_there_is_told_soon() {
    let mut cluster = cluster();
    cluster.stop(Stop::Fast).unwrap();
    let options = PostgresOptions {
        connect_timeout: Duration::from_secs(2),
        ..PostgresOptions::default()
    };
    let error = PostgresStore::open(&cluster.url(), options)
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Store(_)), "{error}");
    assert!(error.to_string().contains("cannot connect"), "{error}");
}

/// What a process counted that was killed is added to what all have, once, by whoever looks first.
#[tokio::test]
async fn the_counts_of_a_process_that_was_killed_are_not_lost() {
    let schema = Schema::new();
    schema.prepare(true);
    let killed = schema.open(PostgresOptions::default()).await;
    let id = id(&killed).await;
    killed.submit(job(id, "a", "ann"), false).await.unwrap();
    drop(killed);
    let ann = kjob_core::Owner::new("ann");
    let quick = PostgresOptions {
        usage_refresh: Duration::from_millis(1),
        ..PostgresOptions::default()
    };
    let (one, two) = (schema.open(quick.clone()).await, schema.open(quick).await);
    let rows = "SELECT count(*) FROM kjob_usage WHERE shard <> 0";
    assert_eq!(schema.number(rows).await, 1);
    schema
        .execute("UPDATE kjob_usage SET touched_at = now() - interval '61 min'")
        .await;
    while schema.number(rows).await > 0 {}
    for store in [&one, &two] {
        store.refresh_usage().await.unwrap();
        let usage = store.usage(&ann);
        assert_eq!((usage.total.jobs, usage.owner.jobs), (1, 1));
        assert_eq!(usage.owner.bytes, "payload of a".len() as u64);
    }
    let owners = "SELECT count(*) FROM kjob_usage_of WHERE shard <> 0";
    assert_eq!(schema.number(owners).await, 0);
}
