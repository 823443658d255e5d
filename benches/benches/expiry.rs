//! What giving back the space of expired jobs costs beside many that stay.
//!
//! `cargo bench -p kjob-benches --bench expiry -- 10000 10000000` fills a store under `target/tmp` with so many ended
//! jobs that are kept, then times calls of `expire` that find nothing to do; how long it takes until 10,000 further
//! jobs that have expired, and fill a segment, are gone with it; and how long until 6,000 of a segment are gone whose
//! other 4,000 stay, so that it is rewritten. It prints a line for each number. Ten million jobs need some 10 GB of disk,
//! and take minutes to an hour to store. Without numbers: 10,000 and 100,000. Segments are filled one by one, so numbers
//! are to be multiples of 10,000.
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

/// Of ten jobs of a mixed segment, those that expire: more than half, or else it would stay as it is.
const EXPIRING_OF_TEN: u64 = 6;

/// Jobs of a mixed segment that expire.
const EXPIRING: u64 = SEGMENT_JOBS / 10 * EXPIRING_OF_TEN;

/// How long jobs are kept that expire, and those that stay.
const SOON: Duration = Duration::from_secs(1);
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

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
        "staying jobs | segments | stored in | idle call, median | a segment of {SEGMENT_JOBS} gone in, each of \
         {ROUNDS} | {EXPIRING} of a segment gone in, each of {ROUNDS}"
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
    fill(&store, staying, |_| YEARS).await;
    let segments = store.statistics().segments;
    // Said at once: what comes now is to be measured on a machine that does nothing else.
    print!("{staying} | {segments} | {:.0?} | ", begin.elapsed());
    std::io::stdout().flush().expect("a terminal");

    let now = Timestamp::from_millis(BEGINNING).after(YEARS / 2);
    let mut idle = Vec::new();
    for _ in 0..IDLE_CALLS {
        let begin = Instant::now();
        let expired = store.expire(now).await.expect("looked at");
        idle.push(begin.elapsed());
        assert_eq!(expired.jobs, 0);
    }
    idle.sort();
    print!("{:.2?} | ", idle[IDLE_CALLS / 2]);
    let whole = rounds(&store, now, SEGMENT_JOBS, |_| SOON).await;
    print!("{whole:.2?} | ");
    let mixed = rounds(&store, now, EXPIRING, mixed_retention).await;
    println!("{mixed:.2?}");
}

/// Fills a segment, then times how long it takes until those of its jobs are gone that expire; as often as is told.
async fn rounds(
    store: &Arc<EmbeddedStore>,
    now: Timestamp,
    expiring: u64,
    retention: fn(JobId) -> Duration,
) -> Vec<Duration> {
    let mut gone = Vec::new();
    for _ in 0..ROUNDS {
        fill(store, SEGMENT_JOBS, retention).await;
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
        assert_eq!(jobs, expiring, "all that expired, and nothing else");
    }
    gone
}

/// Those that stay lie between those that expire.
fn mixed_retention(id: JobId) -> Duration {
    if id.get().unsigned_abs() % 10 < EXPIRING_OF_TEN {
        SOON
    } else {
        YEARS
    }
}

/// Submits jobs and ends them, by many callers at once.
async fn fill(store: &Arc<EmbeddedStore>, count: u64, retention: fn(JobId) -> Duration) {
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
                    live(&store, id, retention(id)).await;
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
