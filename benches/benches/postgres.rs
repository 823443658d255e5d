//! The store in PostgreSQL: submits, claims and ends a second, by callers at once and by two handles on one
//! database, also with a backlog; beside plain inserts of the same rows, many by one statement, which is what the
//! database gives at most.
//!
//! `cargo bench -p kjob-benches --bench postgres -- [--quick] [--backlog N]`. It starts a cluster of its own with the
//! settings that PostgreSQL comes with, so each commit is synced, in a directory below `target/`.

#![allow(clippy::print_stdout, reason = "it prints a table")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kjob_benches::processes;
use kjob_core::{
    Claimed, Finish, Header, IdBlock, JobId, JobOptions, JobTag, Lease, NewJob, Output, Owner,
    QueryId, SharedStore, Store, Submitted, TagReuse, Timestamp, Wanted,
};
use kjob_proto::{Encoding, Text};
use kjob_store::postgres::{PostgresOptions, PostgresStore};
use kjob_test_postgres::{Cluster, Settings};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Bytes of each payload and of each result.
const DATA_LEN: usize = 256;

/// Jobs that run at once on a handle, and that a claim asks for at most.
const WORKERS: usize = 256;

const PATTERN: &str = "/demo/*";

const ROUNDS: [(usize, usize); 6] = [(1, 1), (32, 1), (256, 1), (1, 2), (32, 2), (256, 2)];

type Handle = Arc<PostgresStore>;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let is_quick = words.iter().any(|word| word == "--quick");
    let after = |name: &str| {
        let place = words.iter().position(|word| word == name)?;
        words.get(place + 1)?.parse::<usize>().ok()
    };
    let backlog = after("--backlog").unwrap_or(if is_quick { 100_000 } else { 1_000_000 });
    let jobs = after("--jobs").unwrap_or(if is_quick { 10_000 } else { 60_000 });
    let runtime = Runtime::new().expect("a runtime");
    let settings = Settings {
        // As much as a small server of its own would have.
        settings: vec!["shared_buffers=512MB".into(), "max_wal_size=4GB".into()],
        home: Some(env!("CARGO_TARGET_TMPDIR").into()),
        ..Settings::default()
    };
    let cluster = Cluster::start(&settings).expect("a cluster");
    let bench = Bench {
        cluster,
        runtime,
        lanes: 0,
    };
    head();
    let lanes = after("--lanes").unwrap_or(PostgresOptions::default().lanes);
    let bench = Bench { lanes, ..bench };
    let is_one = words.iter().any(|word| word == "--one");
    for (callers, handles) in ROUNDS.into_iter().skip(if is_one { 5 } else { 0 }) {
        // One caller at a time is a round trip at a time.
        let jobs = if callers == 1 { jobs / 50 } else { jobs };
        bench.row(callers, handles, jobs, 0);
    }
    if is_one && backlog == 0 {
        return;
    }
    println!("\nWith {backlog} jobs that wait before:\n");
    head();
    bench.row(256, 1, jobs, backlog);
    bench.row(256, 2, jobs, backlog);
    println!("\nPlain inserts of the same rows:\n");
    println!("| rows a statement | connections | rows/s |");
    println!("|---|---|---|");
    for (batch, connections) in [(1, 1), (32, 1), (256, 1), (256, 2), (256, 4)] {
        let rows = if batch == 1 { jobs / 50 } else { jobs };
        let rate = bench.floor(batch, connections, rows);
        println!("| {batch} | {connections} | {rate:.0} |");
    }
}

fn head() {
    println!(
        "| callers | handles | submits/s | claims/s | ends/s | whole jobs/s | µs of the database's | µs of ours | \
         started at once/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
}

struct Bench {
    cluster: Cluster,
    runtime: Runtime,
    lanes: usize,
}

impl Bench {
    /// A schema with a backlog, and handles on it.
    async fn handles(&self, count: usize, backlog: usize) -> Vec<Handle> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("bench_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let client = self.client(&self.cluster.url()).await;
        let make = format!("CREATE SCHEMA {name}");
        client.batch_execute(&make).await.expect("a schema");
        let url = format!("{}&options=-csearch_path%3D{name}", self.cluster.url());
        let options = PostgresOptions {
            lanes: self.lanes,
            ..PostgresOptions::default()
        };
        PostgresStore::migrate(&url, &options)
            .await
            .expect("tables");
        if backlog > 0 {
            let client = self.client(&url).await;
            let fill = format!(
                "INSERT INTO kjob_live SELECT n, n, 0, 0, NULL, 1700000000000, NULL, NULL, 86400000,
                    0, 0, 5, 0, false, false, '{PATTERN}', 'ann', '/demo/echo',
                    ('backlog-' || n)::bytea, decode(repeat('07', 16) || repeat('00', 17), 'hex'),
                    decode(repeat('ab', {DATA_LEN}), 'hex')
                FROM generate_series(1, {backlog}) n;
                INSERT INTO kjob_tags SELECT ('backlog-' || n || '/ann')::bytea, n
                FROM generate_series(1, {backlog}) n;
                INSERT INTO kjob_usage VALUES (0, {backlog}, {backlog} * {DATA_LEN}, {backlog}, now());
                INSERT INTO kjob_usage_of VALUES ('ann', 0, {backlog}, {backlog} * {DATA_LEN}, {backlog});
                UPDATE kjob_counters SET next = {backlog} + 1 WHERE name = 'job';"
            );
            client.batch_execute(&fill).await.expect("a backlog");
            client
                .batch_execute("VACUUM ANALYZE")
                .await
                .expect("vacuumed");
            client
                .batch_execute("CHECKPOINT")
                .await
                .expect("a checkpoint");
        }
        let mut handles = Vec::new();
        for number in 0..count {
            let handle = PostgresStore::open(&url, options.clone())
                .await
                .expect("a handle");
            handle.serve(&[PATTERN.into()]).await.expect("patterns");
            let url = Text::from(format!("http://{number}"));
            handle
                .join(&url, Duration::from_secs(600))
                .await
                .expect("a node");
            handles.push(Arc::new(handle));
        }
        handles
    }

    async fn client(&self, url: &str) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("a connection");
        tokio::spawn(connection);
        client
    }

    fn row(&self, callers: usize, handles: usize, jobs: usize, backlog: usize) {
        let rates = self.runtime.block_on(async {
            let stores = self.handles(handles, backlog).await;
            let apart = apart(&stores, callers, jobs).await;
            let before = self.processor();
            let whole = whole(&stores, callers, jobs).await;
            let (database, ours) = self.processor();
            let each = |spent: f64| 1e6 * spent / jobs as f64;
            let (database, ours) = (each(database - before.0), each(ours - before.1));
            let at_once = at_once(&stores, callers, jobs).await;
            for store in &stores {
                store.close().await.expect("closed");
            }
            [apart[0], apart[1], apart[2], whole, database, ours, at_once]
        });
        let cells: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
        println!("| {callers} | {handles} | {} |", cells.join(" | "));
    }

    /// Seconds that the database's processes and this one had of the processors so far.
    fn processor(&self) -> (f64, f64) {
        processes::spent(&[self.cluster.id().expect("a server")])
    }

    /// Rows of the two tables that a job goes through, without their indexes but for the key.
    fn floor(&self, batch: usize, connections: usize, rows: usize) -> f64 {
        self.runtime.block_on(async {
            let client = self.client(&self.cluster.url()).await;
            let make = "DROP TABLE IF EXISTS floor; CREATE TABLE floor (id bigint PRIMARY KEY, a bigint, b bigint,
                c bigint, d bigint, phase smallint, lane bytea, owner bytea, endpoint bytea, tag bytea,
                details bytea, payload bytea)";
            client.batch_execute(make).await.expect("a table");
            let next = Arc::new(AtomicUsize::new(0));
            let began = Instant::now();
            let mut tasks = JoinSet::new();
            for _ in 0..connections {
                let client = self.client(&self.cluster.url()).await;
                let next = Arc::clone(&next);
                tasks.spawn(async move {
                    let insert = client
                        .prepare(
                            "INSERT INTO floor SELECT n, n, n, n, n, 0, '/demo/*', 'ann', '/demo/echo', tag,
                                details, payload
                            FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[])
                            AS r(n, tag, details, payload)",
                        )
                        .await
                        .expect("a statement");
                    let (data, details) = (data(), [7_u8; 48]);
                    loop {
                        let first = next.fetch_add(batch, Ordering::Relaxed);
                        if first >= rows {
                            break;
                        }
                        let ids: Vec<i64> = (first..first + batch).map(|n| n as i64).collect();
                        let tags: Vec<Vec<u8>> = ids.iter().map(|n| tag(*n).into_bytes()).collect();
                        let details = vec![&details[..]; batch];
                        let payloads = vec![&data[..]; batch];
                        client
                            .execute(&insert, &[&ids, &tags, &details, &payloads])
                            .await
                            .expect("inserted");
                    }
                });
            }
            while tasks.join_next().await.is_some() {}
            rows as f64 / began.elapsed().as_secs_f64()
        })
    }
}

/// Submits, then claims, then ends: each by itself.
async fn apart(stores: &[Handle], callers: usize, jobs: usize) -> [f64; 3] {
    let submits = submit_all(stores, callers, jobs, false).await;
    let began = Instant::now();
    let mut claiming = JoinSet::new();
    let left = Arc::new(Semaphore::new(jobs));
    for (store, limit) in stores.iter().zip(std::iter::repeat(callers.min(WORKERS))) {
        let (store, left) = (Arc::clone(store), Arc::clone(&left));
        claiming.spawn(async move {
            let mut all = Vec::new();
            loop {
                let limit = limit.min(left.available_permits());
                let Ok(permits) = left.try_acquire_many(limit as u32) else {
                    continue;
                };
                if limit == 0 {
                    return all;
                }
                let some = claim(&store, limit).await;
                permits.forget();
                left.add_permits(limit - some.len());
                all.extend(some);
            }
        });
    }
    let mut claimed = Vec::new();
    while let Some(some) = claiming.join_next().await {
        claimed.push(some.expect("a claimer"));
    }
    let claims = jobs as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    let mut ending = JoinSet::new();
    for (store, jobs) in stores.iter().zip(claimed) {
        let jobs = Arc::new(std::sync::Mutex::new(jobs));
        for _ in 0..callers.div_ceil(stores.len()) {
            let (store, jobs) = (Arc::clone(store), Arc::clone(&jobs));
            ending.spawn(async move {
                let next = || jobs.lock().expect("jobs").pop();
                while let Some(job) = next() {
                    end(&store, job.header.id, job.state.lease).await;
                }
            });
        }
    }
    while ending.join_next().await.is_some() {}
    [submits, claims, jobs as f64 / began.elapsed().as_secs_f64()]
}

async fn submit_all(stores: &[Handle], callers: usize, jobs: usize, start: bool) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let ids = Arc::new(ids(&stores[0], jobs).await);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let store = Arc::clone(&stores[caller % stores.len()]);
        let (next, ids) = (Arc::clone(&next), Arc::clone(&ids));
        tasks.spawn(async move {
            while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                let lease = submit(&store, *id, start).await;
                if start {
                    end(&store, *id, lease).await;
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    jobs as f64 / began.elapsed().as_secs_f64()
}

/// Jobs that are started by their submit, and end.
async fn at_once(stores: &[Handle], callers: usize, jobs: usize) -> f64 {
    submit_all(stores, callers, jobs, true).await
}

/// Submits, claims and ends all at the same time, as on servers that work: submitters are held up by who works.
async fn whole(stores: &[Handle], callers: usize, jobs: usize) -> f64 {
    let ids = Arc::new(ids(&stores[0], jobs).await);
    let next = Arc::new(AtomicUsize::new(0));
    let ended = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let store = Arc::clone(&stores[caller % stores.len()]);
        let (next, ids) = (Arc::clone(&next), Arc::clone(&ids));
        tasks.spawn(async move {
            while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                submit(&store, *id, false).await;
            }
        });
    }
    for store in stores {
        let (store, ended) = (Arc::clone(store), Arc::clone(&ended));
        tasks.spawn(async move {
            let workers = Arc::new(Semaphore::new(WORKERS));
            while ended.load(Ordering::Relaxed) < jobs {
                let Ok(one) = Arc::clone(&workers).acquire_owned().await else {
                    return;
                };
                let free = workers.available_permits();
                let mut all = Arc::clone(&workers)
                    .try_acquire_many_owned(free as u32)
                    .expect("they are free");
                all.merge(one);
                let some = claim(&store, free + 1).await;
                let is_idle = some.is_empty();
                for job in some {
                    let (store, ended) = (Arc::clone(&store), Arc::clone(&ended));
                    let place = all.split(1).expect("as many as were asked for");
                    tokio::spawn(async move {
                        end(&store, job.header.id, job.state.lease).await;
                        ended.fetch_add(1, Ordering::Relaxed);
                        drop(place);
                    });
                }
                drop(all);
                if is_idle {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    jobs as f64 / began.elapsed().as_secs_f64()
}

async fn claim(store: &PostgresStore, limit: usize) -> Vec<Claimed> {
    let wanted = Wanted {
        pattern: Text::from(PATTERN),
        limit,
    };
    let ageing = Duration::from_secs(60);
    store
        .claim(&[wanted], limit, ageing, now())
        .await
        .expect("claimed")
}

async fn ids(store: &PostgresStore, count: usize) -> Vec<JobId> {
    let mut block: IdBlock = store.reserve_ids(count as u32).await.expect("ids");
    std::iter::from_fn(|| block.take()).collect()
}

async fn submit(store: &PostgresStore, id: JobId, start: bool) -> Lease {
    let job = NewJob {
        header: Header {
            id,
            tag: tag(id.get()).parse::<JobTag>().expect("a tag"),
            owner: Owner::new("ann"),
            endpoint: Text::from("/demo/echo"),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).expect("a query id"),
            parent_span: 1,
            received_at: now(),
            source_ip: Text::from("127.0.0.1"),
            options: JobOptions::default(),
        },
        payload: data(),
        tag_reuse: TagReuse::Never,
    };
    match store.submit(job, start).await.expect("stored") {
        Submitted::Created(state) => state.lease,
        other => panic!("{other:?}"),
    }
}

async fn end(store: &PostgresStore, id: JobId, lease: Lease) {
    let finish = Finish::Complete(Output::binary(data()));
    store.finish(id, lease, finish, now()).await.expect("ended");
}

/// A UUID of version 7, more or less: each sorts behind the last.
fn tag(id: i64) -> String {
    let bits = id.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "{:08x}-{:04x}-7{:03x}-8{:03x}-{:012x}",
        id >> 16,
        id & 0xffff,
        bits >> 52,
        bits >> 40 & 0xfff,
        bits & 0xffff_ffff_ffff
    )
}

fn data() -> Bytes {
    static DATA: [u8; DATA_LEN] = [0xab; DATA_LEN];
    Bytes::from_static(&DATA)
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000)
}
