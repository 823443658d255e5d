//! Sets of databases that are opened while one of them cannot be reached.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use kjob_core::{Hint, JobId, Lease, Owner, Parts, StepError, Store, StoreError, Usage};
use kjob_store::postgres::{OpenError, ShardsError};
use kjob_test_postgres::{Cluster, LOCKED_USER, PASSWORD, Settings, Stop};
use tokio::time::{sleep, timeout};

use crate::jobs::at;
use crate::shards::{Databases, listed, open, submit};
use crate::sharing::MINUTE;
use crate::support::Schema;

/// A set of two, of which that with this number is on a server of its own.
async fn set_with(number: usize) -> (Cluster, Databases) {
    let cluster = Cluster::start(&Settings::for_tests()).unwrap();
    let schema = Schema::on(&cluster.url());
    schema.make().await;
    let mut databases = Databases::new(1).await;
    databases.0.insert(number, schema);
    assert_eq!(databases.migrate(2).await.unwrap(), (0, 2));
    (cluster, databases)
}

/// Asks until the answer is right.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begin.elapsed() < MINUTE, "it does not come");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A server that is down.
fn down() -> String {
    "postgresql://postgres@127.0.0.1:1/postgres?sslmode=disable".to_owned()
}

#[tokio::test]
async fn a_database_that_is_down_comes_to_its_set_when_it_is_back() {
    for away in [0, 1] {
        let (mut cluster, databases) = set_with(away).await;
        let other = databases.open(2).await.unwrap();
        let mut jobs: Vec<(JobId, String)> = Vec::new();
        for number in 0..20 {
            let tag = format!("tag-{number}");
            jobs.push((submit(&other, &tag).await, tag));
        }
        cluster.stop(Stop::Immediate).unwrap();

        let store = databases.open(2).await.unwrap();
        let is_away = |id: JobId| store.placement().shard_of_id(id).number() == away;
        for (id, tag) in &jobs {
            let got = store.get(*id, Parts::NONE, at(0)).await;
            match got {
                Ok(job) => assert!(job.is_some() && !is_away(*id)),
                Err(error @ StoreError::Io { .. }) => {
                    let said = error.to_string();
                    let names = said.contains(&format!("given as shard {away}: "));
                    assert!(names && said.contains("has not been reached yet"), "{said}");
                    assert!(is_away(*id));
                }
                other => panic!("{tag}: {other:?}"),
            }
        }
        let (gone, ann) = (&store.shards()[away], Owner::new("ann"));
        let of_gone = jobs.iter().find(|(id, _)| is_away(*id)).unwrap().0;
        let progress = gone.progress(of_gone, Lease(1), 1, at(0)).await;
        assert!(matches!(
            progress,
            Err(StepError::Store(StoreError::Io { .. }))
        ));
        assert!(gone.serve(&["/demo/*".into()]).await.is_err());
        assert!(gone.join(&"http://1".into(), MINUTE).await.is_err());
        assert!(gone.failure().is_none(), "another try may find it");
        assert_eq!(gone.usage(&ann).total, Usage::default());
        assert_eq!(gone.waiting(&ann).total, 0);
        assert!(store.usage(&ann).total.jobs > 0, "those of the other");
        let mut hint = std::pin::pin!(gone.hint(Hint::Work));
        let early = timeout(Duration::from_millis(100), &mut hint).await;
        assert!(early.is_err(), "there is nobody to say anything");

        cluster.resume().unwrap();
        let all = until(async || {
            let ready = store.list(&kjob_core::Filter::ALL, at(0)).await;
            ready.ok().map(|_| ())
        });
        all.await;
        let ids = jobs.iter().map(|(id, _)| *id).collect();
        assert_eq!(listed(&store).await, ids);
        gone.serve(&["/demo/*".into()]).await.unwrap();
        gone.join(&"http://1".into(), MINUTE).await.unwrap();
        assert_eq!(gone.nodes().await.unwrap().len(), 1);
        until(async || (gone.waiting(&ann).total > 0).then_some(())).await;
        assert!(gone.usage(&ann).total.jobs > 0);
        // Who waited all the time hears it; who speaks has to find the others first.
        let mut number = 0;
        until(async || {
            number += 1;
            let said = format!("new-{number}");
            let shard = store
                .placement()
                .shard_of(&Owner::new("ann"), &said.parse().unwrap());
            if shard.number() == away && submitted(&other, &said).await.is_err() {
                return None;
            }
            let heard = timeout(Duration::from_millis(100), &mut hint).await;
            heard.ok()
        })
        .await;
        store.close().await.unwrap();
        assert!(matches!(gone.beat().await, Err(StoreError::Closed)));
    }
}

/// As [`submit`], where a connection may have been lost.
async fn submitted(store: &dyn Store, tag: &str) -> Result<(), StoreError> {
    let (owner, tag) = (Owner::new("ann"), tag.to_owned());
    let parsed = tag.parse().unwrap();
    let shard = store.shard_for(&owner, &parsed, at(0)).await?;
    let id = store.reserve_ids_in(shard, 1).await?.take().unwrap();
    let job = crate::jobs::job(id, &tag, "ann");
    store.submit(job, false).await.map(drop)
}

#[tokio::test]
async fn a_database_that_comes_late_and_does_not_fit_stays_away_until_it_does() {
    let (mut cluster, databases) = set_with(1).await;
    let schema = &databases.0[1];
    schema
        .execute("UPDATE kjob_shards SET set_id = 'another'")
        .await;
    cluster.stop(Stop::Immediate).unwrap();
    let store = databases.open(2).await.unwrap();
    let late = &store.shards()[1];
    cluster.resume().unwrap();
    let why = until(async || {
        let error = late.nodes().await.unwrap_err().to_string();
        error.contains("another set").then_some(error)
    });
    assert!(why.await.contains("given as shard 1 is of another set"));
    submit(&store, "a").await;
    let right = databases.0[0].client().await;
    let right = right.query_one("SELECT set_id FROM kjob_shards", &[]).await;
    let right: Vec<u8> = right.unwrap().get(0);
    let client = schema.client().await;
    let update = "UPDATE kjob_shards SET set_id = $1";
    client.execute(update, &[&right]).await.unwrap();
    until(async || late.nodes().await.ok()).await;
}

#[tokio::test]
async fn what_is_wrong_is_told_at_once_also_where_a_database_is_down() {
    let (cluster, databases) = set_with(1).await;
    let urls = databases.urls(2);
    let told = async |urls: &[&String]| {
        let urls: Vec<String> = urls.iter().map(|url| (*url).clone()).collect();
        open(&urls).await.unwrap_err()
    };
    let down = &down();
    // None of them.
    let error = told(&[down, down]).await;
    assert!(
        matches!(error, ShardsError::Open { number: 0, .. }),
        "{error}"
    );
    // There are as many as there are, each in its place.
    let error = told(&[down, &urls[0]]).await;
    let is_told = matches!(error, ShardsError::Order { number: 1, .. });
    assert!(is_told, "{error}");
    let error = told(&[&urls[0], down, down]).await;
    let is_told = matches!(error, ShardsError::Missing { wanted: 2, .. });
    assert!(is_told, "{error}");
    // One says no, by itself or by what it has.
    let bare = Schema::new();
    bare.make().await;
    let error = told(&[&urls[0], &bare.url()]).await;
    let is_told = matches!(
        error,
        ShardsError::Open {
            number: 1,
            source: OpenError::NoSchema
        }
    );
    assert!(is_told, "{error}");
    let role = format!("CREATE ROLE {LOCKED_USER} LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
    databases.0[1].execute(&role).await;
    let (wrong, unknown) = (
        urls[1].replace("postgres@", &format!("{LOCKED_USER}:sesame@")),
        urls[1].replace("/postgres?", "/nothing?"),
    );
    for (url, why) in [
        (&wrong, "password authentication failed"),
        (&unknown, "does not exist"),
        (&"postgresql://?sslmode=maybe".to_owned(), "sslmode"),
    ] {
        let error = told(&[&urls[0], url]).await;
        assert!(
            matches!(error, ShardsError::Open { number: 1, .. }),
            "{error}"
        );
        assert!(error.to_string().contains(why), "{error}");
    }
    drop(cluster);
}

#[tokio::test]
async fn a_server_that_is_silent_or_takes_no_writes_is_away() {
    let (primary, databases) = set_with(1).await;
    let port = primary.port();
    let standby = tokio::task::spawn_blocking(move || (primary.standby().unwrap(), primary));
    let (standby, _primary) = standby.await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|it| (it.port(), silent)).unwrap();
    let urls = databases.urls(2);
    for port_now in [standby.port(), silent.0] {
        let url = urls[1].replace(&format!(":{port}/"), &format!(":{port_now}/"));
        let begin = Instant::now();
        let store = open(&[urls[0].clone(), format!("{url}&connect_timeout=1")]).await;
        let store = store.unwrap();
        assert!(begin.elapsed() < MINUTE / 2);
        assert!(store.shards()[0].nodes().await.is_ok());
        assert!(store.shards()[1].nodes().await.is_err());
    }
}

/// Who comes meanwhile is let in and shown out at once, and counted.
struct Doorkeeper {
    port: u16,
    visits: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Doorkeeper {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let visits = std::sync::Arc::<std::sync::atomic::AtomicU64>::default();
        let counted = visits.clone();
        // It ends with the process.
        std::thread::spawn(move || {
            for _ in listener.incoming() {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        Self { port, visits }
    }

    fn visits(&self) -> u64 {
        self.visits.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_set_that_is_closed_or_dropped_waits_for_no_database() {
    let databases = Databases::new(2).await;
    databases.migrate(2).await.unwrap();
    for is_closed in [true, false] {
        let keeper = Doorkeeper::new();
        let url = down().replace(":1/", &format!(":{}/", keeper.port));
        let store = open(&[databases.urls(1)[0].clone(), url]).await.unwrap();
        let first = keeper.visits();
        until(async || (keeper.visits() >= first + 2).then_some(())).await;
        if is_closed {
            store.close().await.unwrap();
            let step = store.shards()[1].nodes().await;
            assert!(matches!(step, Err(StoreError::Closed)), "{step:?}");
        }
        drop(store);
        // What is under way may come to its end.
        sleep(Duration::from_millis(200)).await;
        let last = keeper.visits();
        sleep(Duration::from_millis(2_500)).await;
        assert_eq!(keeper.visits(), last);
    }
}
