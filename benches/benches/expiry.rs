//! What giving back the space of expired jobs costs beside many that stay.
//!
//! `cargo bench -p kjob-benches --bench expiry -- 10000 10000000` fills a store under `target/tmp` with so many ended
//! jobs that are kept, then times calls of `expire` that find nothing to do, and how long it takes until 10,000 further
//! jobs that have expired are gone. It prints a line for each number. Ten million jobs need some 10 GB of disk, and take
//! minutes to an hour to store. Without numbers: 10,000 and 100,000.
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kjob_core::{
    Finish, Header, JobId, JobOptions, Lease, NewJob, Output, Owner, QueryId, Store, TagReuse,
    Timestamp,
};
use kjob_proto::{Encoding, Text};
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// A segment; so ten million jobs are a thousand segments, a hundred times what a server makes of them.
const SEGMENT_JOBS: u64 = 10_000;

/// Jobs that expire together.
const EXPIRING: u64 = 10_000;

/// Callers at once.
const CALLERS: u64 = 256;

const ROUNDS: usize = 5;
const IDLE_CALLS: usize = 21;

const BEGINNING: i64 = 1_700_000_000_000;

/// Jobs that end in the same second of the store's time.
const JOBS_A_SECOND: i64 = 100;

fn main() {
    // Cargo adds flags of its own.
    let counts: Vec<u64> = std::env::args().filter_map(|it| it.parse().ok()).collect();
    let counts = if counts.is_empty() {
        vec![10_000, 100_000]
    } else {
        counts
    };
    let runtime = Runtime::new().expect("a runtime");
    println!(
        "staying jobs | segments | stored in | idle call, median | 10,000 gone in, each of {ROUNDS}"
    );
    for count in counts {
        runtime.block_on(measure(count));
    }
}

async fn measure(staying: u64) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let options = EmbeddedOptions {
        segment_jobs: SEGMENT_JOBS,
        segment_age: Duration::from_secs(u64::MAX / 4_000),
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::open(dir.path(), options).expect("a store");
    let store = Arc::new(store);
    let begin = Instant::now();
    let years = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    fill(&store, staying, years).await;
    let segments = store.statistics().segments;
    // Said at once: what comes now is to be measured on a machine that does nothing else.
    print!("{staying} | {segments} | {:.0?} | ", begin.elapsed());
    std::io::stdout().flush().expect("a terminal");

    let now = Timestamp::from_millis(BEGINNING).after(years / 2);
    let mut idle = Vec::new();
    for _ in 0..IDLE_CALLS {
        let begin = Instant::now();
        let expired = store.expire(now).await.expect("looked at");
        idle.push(begin.elapsed());
        assert_eq!(expired.jobs, 0);
    }
    idle.sort();
    let mut gone = Vec::new();
    for _ in 0..ROUNDS {
        fill(&store, EXPIRING, Duration::from_secs(1)).await;
        let begin = Instant::now();
        let mut jobs = 0;
        loop {
            let expired = store.expire(now).await.expect("expired");
            jobs += expired.jobs;
            if !expired.more {
                break;
            }
        }
        gone.push(begin.elapsed());
        assert_eq!(jobs, EXPIRING, "all that expired, and nothing else");
    }
    println!("{:.2?} | {gone:.2?}", idle[IDLE_CALLS / 2]);
}

/// Submits jobs and ends them, by many callers at once.
async fn fill(store: &Arc<EmbeddedStore>, count: u64, retention: Duration) {
    let mut left = count;
    while left > 0 {
        let block = left.min(SEGMENT_JOBS);
        left -= block;
        let ids = store.reserve_ids(block as u32).await.expect("ids");
        let mut ids = ids;
        let mut all: Vec<JobId> = std::iter::from_fn(|| ids.take()).collect();
        let mut callers = JoinSet::new();
        while !all.is_empty() {
            let own = all.split_off(all.len() - all.len().min((block / CALLERS + 1) as usize));
            let store = Arc::clone(store);
            callers.spawn(async move {
                for id in own {
                    live(&store, id, retention).await;
                }
            });
        }
        callers.join_all().await;
    }
}

async fn live(store: &EmbeddedStore, id: JobId, retention: Duration) {
    let second = id.get() / JOBS_A_SECOND;
    let now = Timestamp::from_millis(BEGINNING + second * 1000);
    let job = NewJob {
        header: Header {
            id,
            tag: format!("job-{id}").parse().expect("a tag"),
            owner: Owner::anonymous(),
            endpoint: Text::from("/demo/echo"),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).expect("a query id"),
            parent_span: 1,
            received_at: now,
            source_ip: Text::from("127.0.0.1"),
            options: JobOptions {
                retention,
                ..JobOptions::default()
            },
        },
        payload: Bytes::from_static(&[3; 64]),
        tag_reuse: TagReuse::Never,
    };
    store.submit(job, true).await.expect("stored");
    let finish = Finish::Complete(Output::binary(&[4; 64][..]));
    let ended = store.finish(id, Lease(1), finish, now).await;
    ended.expect("finished");
}
