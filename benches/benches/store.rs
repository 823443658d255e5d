//! Whole lives of jobs in the embedded store on disk: submit and start, finish, get by id, find by tag. Beside it,
//! what the machine gives at most: the same rows through bare SQLite, and bare writes with as many syncs.
//!
//! All of it: `cargo bench -p kjob-benches --bench store`; one of them: the same with `-- 256/random`. An iteration is
//! a round of lives by a number of concurrent callers; each sample begins with a new directory under `target/tmp`.
//! The peers do in one batch what as many callers would ask for at once: a commit for the submits, one for the ends.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use kjob_core::{
    Finish, Header, JobId, JobOptions, JobTag, NewJob, Output, Owner, Parts, QueryId, State, Store,
    Submitted, TagReuse, Timestamp,
};
use kjob_proto::{Encoding, Text};
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};
use rusqlite::{Connection, params};
use tempfile::TempDir;
use tokio::runtime::Runtime;

criterion_group! {
    name = store;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(5));
    targets = lives
}
criterion_main!(store);

/// Bytes of each payload and of each result.
const DATA_LEN: usize = 256;

/// Callers at once, and the lives that they live together in a round.
const ROUNDS: [(usize, usize); 3] = [(1, 64), (16, 1024), (256, 8192)];

/// How tags follow each other.
#[derive(Clone, Copy)]
enum Tags {
    /// UUIDs of version 7: each sorts behind the last.
    Ordered,
    /// UUIDs of version 4: each touches another page.
    Random,
}

fn lives(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("lives");
    group.sampling_mode(SamplingMode::Flat);
    for (callers, round) in ROUNDS {
        group.throughput(Throughput::Elements(round as u64));
        for (name, tags) in [("ordered", Tags::Ordered), ("random", Tags::Random)] {
            group.bench_function(
                BenchmarkId::new("store", format!("{callers}/{name}")),
                |b| {
                    b.iter_custom(|rounds| {
                        in_store(&runtime, callers, round * rounds as usize, tags)
                    });
                },
            );
            group.bench_function(
                BenchmarkId::new("sqlite", format!("{callers}/{name}")),
                |b| {
                    b.iter_custom(|rounds| in_sqlite(callers, round * rounds as usize, tags));
                },
            );
        }
        group.bench_function(BenchmarkId::new("syncs", callers), |b| {
            b.iter_custom(|rounds| in_syncs(callers, round * rounds as usize));
        });
    }
    group.finish();
}

fn dir() -> TempDir {
    // The system's own place for temporary files may be in memory.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn data() -> Bytes {
    (0..DATA_LEN).map(|at| (at * 31 % 251) as u8).collect()
}

impl Tags {
    /// The tag of a job; the same each time.
    fn of(self, id: i64) -> u128 {
        let random = |seed: u64| {
            let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^ (bits >> 31)
        };
        let id = id.cast_unsigned();
        let high = match self {
            Tags::Ordered => id,
            Tags::Random => random(id),
        };
        u128::from(high) << 64 | u128::from(random(!id))
    }

    fn tag(self, id: JobId) -> JobTag {
        let digits = format!("{:032x}", self.of(id.get()));
        let (a, b, c, d, e) = (
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            &digits[16..20],
            &digits[20..],
        );
        format!("{a}-{b}-{c}-{d}-{e}").parse().expect("a tag")
    }
}

fn in_store(runtime: &Runtime, callers: usize, lives: usize, tags: Tags) -> Duration {
    let dir = dir();
    let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).expect("a store");
    let store = Arc::new(store);
    let each = lives / callers;
    runtime.block_on(async {
        let mut blocks = Vec::new();
        for _ in 0..callers {
            blocks.push(store.reserve_ids(each as u32).await.expect("ids"));
        }
        // Callers take turns with the ids, as those of one server do.
        let mut ids: Vec<Vec<JobId>> = vec![Vec::new(); callers];
        let all = blocks
            .into_iter()
            .flat_map(|mut block| std::iter::from_fn(move || block.take()));
        for (number, id) in all.enumerate() {
            ids[number % callers].push(id);
        }
        let begin = Instant::now();
        let callers = ids.into_iter().map(|ids| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for id in ids {
                    live(&store, id, tags).await;
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.expect("a caller");
        }
        begin.elapsed()
    })
}

/// One life.
async fn live(store: &EmbeddedStore, id: JobId, tags: Tags) {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let tag = tags.tag(id);
    let job = NewJob {
        header: Header {
            id,
            tag: tag.clone(),
            owner: Owner::anonymous(),
            endpoint: Text::from("/demo/echo"),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).expect("a query id"),
            parent_span: 1,
            received_at: now,
            source_ip: Text::from("127.0.0.1"),
            options: JobOptions::default(),
        },
        payload: data(),
        tag_reuse: TagReuse::Never,
    };
    let submitted = store.submit(job, true).await.expect("stored");
    let Submitted::Created(State { lease, .. }) = submitted else {
        panic!("a tag came twice");
    };
    let finish = Finish::Complete(Output::binary(data()));
    store
        .finish(id, lease, finish, now)
        .await
        .expect("finished");
    let job = store.get(id, Parts::RESULT, now).await.expect("read");
    assert!(job.is_some_and(|job| job.ending.is_some()));
    let found = store.find(&Owner::anonymous(), &tag, now).await;
    assert_eq!(found.expect("looked up"), Some(id));
}

/// The same in bare SQLite, by one thread: the rows of the store without their columns, and none of its rules.
fn in_sqlite(batch: usize, lives: usize, tags: Tags) -> Duration {
    let dir = dir();
    let connection = Connection::open(dir.path().join("jobs.sqlite")).expect("a database");
    let settings = "PRAGMA page_size = 4096; PRAGMA journal_mode = wal; PRAGMA synchronous = full;
        PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 16384;
        CREATE TABLE jobs (id INTEGER PRIMARY KEY, tag BLOB NOT NULL, header BLOB NOT NULL, payload BLOB NOT NULL);
        CREATE TABLE tags (tag BLOB PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE ends (seq INTEGER PRIMARY KEY, id INTEGER NOT NULL, ended BLOB NOT NULL, result BLOB NOT NULL);
        CREATE UNIQUE INDEX ends_id ON ends (id);";
    connection.execute_batch(settings).expect("tables");
    let prepare = |query| connection.prepare(query).expect("a statement");
    let mut job = prepare("INSERT INTO jobs VALUES (?1, ?2, ?3, ?4)");
    let mut tag = prepare("INSERT INTO tags VALUES (?1, ?2)");
    let mut end = prepare("INSERT INTO ends VALUES (NULL, ?1, ?2, ?3)");
    let mut get = prepare(
        "SELECT j.header, e.result FROM jobs j LEFT JOIN ends e ON e.id = j.id WHERE j.id = ?1",
    );
    let mut find = prepare(
        "SELECT j.id, e.ended FROM tags t JOIN jobs j ON j.id = t.id LEFT JOIN ends e ON e.id = j.id WHERE t.tag = ?1",
    );
    // What the store keeps beside payload and result, in bytes.
    let (header, ended, data) = ([1_u8; 80], [2_u8; 40], data());
    let begin = Instant::now();
    for first in (1..=lives as i64).step_by(batch) {
        let ids = first..(first + batch as i64).min(lives as i64 + 1);
        connection.execute_batch("BEGIN IMMEDIATE").expect("begun");
        for id in ids.clone() {
            let key = tags.of(id).to_be_bytes();
            job.execute(params![id, key, header, &data[..]])
                .expect("stored");
            tag.execute(params![key, id]).expect("stored");
        }
        connection
            .execute_batch("COMMIT; BEGIN IMMEDIATE")
            .expect("committed");
        for id in ids.clone() {
            end.execute(params![id, ended, &data[..]]).expect("stored");
        }
        connection.execute_batch("COMMIT").expect("committed");
        for id in ids {
            let result = get.query_row([id], |row| row.get::<_, Vec<u8>>(1));
            black_box(result.expect("read"));
            let found = find.query_row([tags.of(id).to_be_bytes()], |row| row.get::<_, i64>(0));
            assert_eq!(found.expect("looked up"), id);
        }
    }
    begin.elapsed()
}

/// As many bytes appended to a file, with a sync where the others commit.
fn in_syncs(batch: usize, lives: usize) -> Duration {
    let dir = dir();
    let mut file = File::create_new(dir.path().join("log")).expect("a file");
    let bytes = vec![3_u8; batch * (DATA_LEN + 80)];
    let begin = Instant::now();
    for _ in 0..lives.div_ceil(batch) * 2 {
        file.write_all(&bytes).expect("written");
        file.sync_data().expect("synced");
    }
    begin.elapsed()
}
