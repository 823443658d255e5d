//! Whole jobs a second on one database, and spread over several, each of which has a small part of a processor.
//!
//! Two engines share the databases, as two nodes do. Callers, so many for each database, submit a job with a tag of
//! its own to one of them, wait for its end, and submit the next. Each database is a PostgreSQL server of its own, with the settings that it comes
//! with but for its buffers, in a group that the kernel gives so much of a processor: so that what is short is the
//! databases, as it is where each has a machine, and not this machine. Without such groups (Linux, as root) they share what
//! there is, and more of them give nothing.
//!
//! `cargo bench -p kjob-benches --bench shards -- [--percent P] [--seconds S] [--callers N] [--databases 1,2,4]`

#![allow(clippy::print_stdout, reason = "it prints a table")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kjob_benches::processes;
use kjob_core::engine::{
    Caller, ClusterConfig, Engine, EngineConfig, HandlerError, JobContext, JobKey, Registry,
    RouteOptions, Submission, SystemClock,
};
use kjob_core::{Owner, Payload, Phase};
use kjob_store::postgres::{PostgresOptions, PostgresStore};
use kjob_test_postgres::{Cluster, Settings};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Bytes of each payload and of each result.
const DATA_LEN: usize = 256;

/// Engines over the databases.
const NODES: usize = 2;

/// Of the kernel's accounting of groups, in microseconds.
const PERIOD: u64 = 10_000;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let after = |name: &str| {
        let place = words.iter().position(|word| word == name)?;
        words.get(place + 1)
    };
    let number = |name: &str, default: u64| {
        after(name).map_or(default, |word| word.parse().expect("a number"))
    };
    let percent = number("--percent", 12);
    let seconds = number("--seconds", 10);
    let callers = number("--callers", 256) as usize;
    let default = "1,2,4".to_owned();
    let counts = after("--databases").unwrap_or(&default).split(',');
    let counts: Vec<usize> = counts.map(|it| it.parse().expect("a number")).collect();

    println!(
        "| databases | jobs/s | × one | p50 ms | p99 ms | µs of a database's | µs of ours | bytes of log | bytes stored |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut one = None;
    for count in counts {
        let databases: Vec<Database> = (0..count).map(|_| Database::start(percent)).collect();
        let runtime = Runtime::new().expect("a runtime");
        let found = runtime.block_on(measure(
            &databases,
            callers * count,
            Duration::from_secs(seconds),
        ));
        let first = *one.get_or_insert(found.rate);
        println!(
            "| {count} | {:.0} | {:.2} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} |",
            found.rate,
            found.rate / first,
            found.p50 * 1e3,
            found.p99 * 1e3,
            found.of_databases,
            found.of_ours,
            found.logged,
            found.stored
        );
    }
    if databases_are_free() {
        println!("\nThe databases were not in groups of their own: they shared what there was.");
    }
}

struct Found {
    rate: f64,
    p50: f64,
    p99: f64,
    of_databases: f64,
    of_ours: f64,
    logged: f64,
    stored: f64,
}

async fn measure(databases: &[Database], callers: usize, time: Duration) -> Found {
    let urls: Vec<String> = databases.iter().map(|it| it.cluster.url()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let options = PostgresOptions::default();
    PostgresStore::migrate_shards(&urls, &options)
        .await
        .expect("a set");
    let mut engines = Vec::new();
    for number in 0..NODES {
        let store = PostgresStore::open_shards(&urls, &options)
            .await
            .expect("a store");
        let mut registry = Registry::default();
        let routed = registry.route("/echo", echo, RouteOptions::default());
        routed.expect("a route");
        let mut config = EngineConfig::default();
        config.workers = callers;
        let node = ClusterConfig::new(format!("http://{number}"));
        let (clock, seed) = (Arc::new(SystemClock), number as u64);
        let engine = Engine::open_sharded(store, registry, config, node, clock, seed).await;
        engines.push(engine.expect("an engine"));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let is_counted = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let engine = engines[caller % NODES].clone();
        let (is_over, is_counted, next) = (is_over.clone(), is_counted.clone(), next.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                life(&engine, next.fetch_add(1, Ordering::Relaxed)).await;
                if is_counted.load(Ordering::Relaxed) {
                    times.push(began.elapsed().as_secs_f64());
                }
            }
            times
        });
    }
    tokio::time::sleep(time / 5).await;
    let before = spent(databases);
    let log_before = sum(databases, LOG).await;
    is_counted.store(true, Ordering::Relaxed);
    let began = Instant::now();
    tokio::time::sleep(time).await;
    is_counted.store(false, Ordering::Relaxed);
    let took = began.elapsed().as_secs_f64();
    let after = spent(databases);
    let log_after = sum(databases, LOG).await;
    is_over.store(true, Ordering::Relaxed);
    let mut times: Vec<f64> = tasks.join_all().await.into_iter().flatten().collect();
    for engine in engines {
        engine
            .shut_down(Duration::from_secs(10))
            .await
            .expect("closed");
    }
    let all = next.load(Ordering::Relaxed) as f64;
    let stored = sum(databases, STORED).await / all;
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied();
    let each = |before: f64, after: f64| 1e6 * (after - before) / times.len() as f64;
    Found {
        rate: times.len() as f64 / took,
        p50: at(0.5).unwrap_or_default(),
        p99: at(0.99).unwrap_or_default(),
        of_databases: each(before.0, after.0),
        of_ours: each(before.1, after.1),
        logged: (log_after - log_before) / times.len() as f64,
        stored,
    }
}

/// Bytes that were written to the log since the server was made.
const LOG: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";

/// Bytes of the tables that have a row for each job, and of their indexes.
const STORED: &str = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
    WHERE relkind = 'r' AND (relname LIKE 'kjob_ended%' OR relname = 'kjob_tags')";

async fn sum(databases: &[Database], query: &str) -> f64 {
    let mut sum = 0;
    for database in databases {
        let url = database.cluster.url();
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .expect("a connection");
        tokio::spawn(connection);
        let row = client.query_one(query, &[]).await.expect("a number");
        sum += row.get::<_, i64>(0);
    }
    sum as f64
}

async fn echo(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    Ok(payload)
}

/// A job from its submit to its result.
async fn life(engine: &Engine, number: usize) {
    static DATA: [u8; DATA_LEN] = [0xab; DATA_LEN];
    let owner = Owner::new("ann");
    let payload = Payload::binary(Bytes::from_static(&DATA));
    let mut submission = Submission::new(owner.clone(), "/echo", payload);
    submission.tag = Some(format!("tag-{number}").parse().expect("a tag"));
    let id = engine.submit(submission).await.expect("accepted").id;
    let (caller, patience) = (Caller::user(owner), Duration::from_secs(60));
    let job = engine.wait(&caller, &JobKey::Id(id), patience).await;
    let phase = job.expect("told").map(|job| job.state.phase);
    assert_eq!(phase, Some(Phase::Done));
}

/// A server, and the group that it is in, which has to outlive it.
struct Database {
    cluster: Cluster,
    _group: Option<Group>,
}

impl Database {
    fn start(percent: u64) -> Self {
        let settings = Settings {
            settings: vec!["shared_buffers=128MB".into(), "max_wal_size=2GB".into()],
            home: Some(env!("CARGO_TARGET_TMPDIR").into()),
            ..Settings::default()
        };
        let cluster = Cluster::start(&settings).expect("a database");
        let server = cluster.id().expect("a server");
        let _group = Group::of(server, percent);
        Self { cluster, _group }
    }
}

static FREE: AtomicBool = AtomicBool::new(false);

fn databases_are_free() -> bool {
    FREE.load(Ordering::Relaxed)
}

/// A control group that has so much of a processor; gone when this is dropped, as far as it is empty then.
struct Group(PathBuf);

impl Group {
    /// Puts a server and its children into one of their own. What they start later is in it as well.
    fn of(server: u32, percent: u64) -> Option<Self> {
        let name = format!("kjob-bench-{server}");
        let quota = PERIOD * percent / 100;
        let old = Path::new("/sys/fs/cgroup/cpu");
        let made = if old.join("cpu.cfs_quota_us").exists() {
            let limits = [
                ("cpu.cfs_period_us", PERIOD.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ];
            Self::make(old.join(name), &limits)
        } else {
            let limits = [("cpu.max", format!("{quota} {PERIOD}"))];
            Self::make(Path::new("/sys/fs/cgroup").join(name), &limits)
        };
        let Ok(group) = made else {
            FREE.store(true, Ordering::Relaxed);
            return None;
        };
        for id in family(server) {
            // One that has just ended needs no group.
            let _ = fs::write(group.0.join("cgroup.procs"), id.to_string());
        }
        Some(group)
    }

    fn make(path: PathBuf, limits: &[(&str, String)]) -> std::io::Result<Self> {
        fs::create_dir(&path)?;
        let group = Self(path);
        for (name, limit) in limits {
            fs::write(group.0.join(name), limit)?;
        }
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes end a moment after they were told to.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process and its children.
fn family(server: u32) -> Vec<u32> {
    let all = processes::all().into_iter();
    let kin = all.filter(|it| it.id == server || it.parent == server);
    kin.map(|it| it.id).collect()
}

/// As [`processes::spent`], of the databases.
fn spent(databases: &[Database]) -> (f64, f64) {
    let servers = databases.iter().filter_map(|it| it.cluster.id().ok());
    processes::spent(&servers.collect::<Vec<u32>>())
}
