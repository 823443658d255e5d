//! Tests of reads on the spot.

use std::sync::atomic::AtomicI64;

use bytes::Bytes;
use kjob_core::{Finish, Lease, Output, Store};
use kjob_proto::Text;

use super::super::query::Found;
use super::super::shared::SegmentEntry;
use super::super::store::tests::{NOW, inspect, job};
use super::super::{EmbeddedOptions, EmbeddedStore};
use super::*;

const LIVE: u64 = 6;
const PACKED: u64 = 7;
const CALLED_BACK: u64 = 8;
const CANCELLED: u64 = 9;
const LARGE: u64 = 11;

const ALL: [Parts; 4] = [
    Parts::NONE,
    parts(true, false),
    parts(false, true),
    parts(true, true),
];

const fn parts(payload: bool, result: bool) -> Parts {
    Parts { payload, result }
}

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        segment_jobs: 200,
        readers: 1,
        recent_bytes: 0,
        waiting_bytes: 0,
        ..EmbeddedOptions::default()
    }
}

/// A store that reads everything from its files, whose oldest segment has jobs of all kinds, and their ids.
async fn store() -> (tempfile::TempDir, EmbeddedStore, Vec<JobId>) {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    let mut ids = store.reserve_ids(400).await.unwrap();
    let mut first = Vec::new();
    for number in 0..210_u64 {
        let id = ids.take().unwrap();
        let tag = if number % 2 == 0 {
            format!("tag-{number}")
        } else {
            uuid::Uuid::from_u128(number.into()).to_string()
        };
        let bytes = |len: u64| Bytes::from(vec![number as u8; len as usize]);
        let mut new = job(id, &tag, bytes(number * 7));
        new.header.options.user_data = Text::from("x".repeat(number as usize % 5));
        new.header.options.timeout = (number % 3 == 0).then_some(Duration::from_secs(number));
        if number == CALLED_BACK {
            new.header.options.callback_url = Some(Text::from("http://127.0.0.1:1/"));
        }
        store.submit(new, true).await.unwrap();
        let mut output = Output::binary(bytes(match number {
            PACKED => 20_000,
            LARGE => 5_000,
            _ => number,
        }));
        if number % 4 == 1 {
            output.info.insert("said", number.to_string()).unwrap();
        }
        let finish = match number {
            LIVE => None,
            CANCELLED => {
                store.request_cancel(id, NOW).await.unwrap();
                Some(Finish::Stop)
            }
            _ if number % 5 == 0 => Some(Finish::Fail(Text::from("it did not work"))),
            _ => Some(Finish::Complete(output)),
        };
        if let Some(finish) = finish {
            store.finish(id, Lease(1), finish, NOW).await.unwrap();
        }
        first.push(id);
    }
    first.truncate(200);
    (dir, store, first)
}

fn oldest(store: &EmbeddedStore) -> Arc<SegmentEntry> {
    Arc::clone(&store.shared.table().segments[0])
}

fn path_of(store: &EmbeddedStore) -> std::path::PathBuf {
    let entry = oldest(store);
    store.shared.layout.segment(entry.number, entry.generation)
}

/// Waits until the oldest segment's log is empty.
async fn put_to_rest(store: &EmbeddedStore) {
    for _ in 0..10_000 {
        inspect(store, |writer| writer.put_to_rest_after(Duration::ZERO)).await;
        store.reserve_ids(1).await.unwrap();
        // After what the writer asked for, on the same thread.
        store.work(|| Ok(())).await.unwrap();
        if is_without_log(&path_of(store)) {
            return;
        }
    }
    panic!("its log is never written back");
}

fn directly(store: &EmbeddedStore, id: JobId, parts: Parts) -> Option<Job> {
    oldest(store).at_rest.job(id, None, parts, NOW)
}

async fn by_reader(store: &EmbeddedStore, id: JobId, parts: Parts) -> Found {
    let read = store.read(move |reader| reader.get_within(id, parts, NOW, Length::Long));
    read.await.unwrap().unwrap()
}

/// Whether anything can be read on the spot where tests have their files; told by the store, which has been read from.
fn is_possible(store: &EmbeddedStore) -> bool {
    store.shared.on_the_spot.is_possible.load(Ordering::Relaxed)
}

#[tokio::test]
async fn jobs_are_read_as_sqlite_reads_them() {
    let (_dir, store, ids) = store().await;
    by_reader(&store, ids[0], Parts::NONE).await;
    assert_eq!(directly(&store, ids[0], Parts::NONE), None, "it has a log");
    put_to_rest(&store).await;
    assert_eq!(directly(&store, ids[0], Parts::NONE), None, "not yet noted");
    by_reader(&store, ids[0], Parts::NONE).await;
    for (number, id) in ids.iter().enumerate() {
        for parts in ALL {
            let number = number as u64;
            let is_read = match number {
                LIVE | CALLED_BACK | LARGE => false,
                PACKED => !parts.result,
                _ => true,
            };
            let found = directly(&store, *id, parts);
            if is_read && is_possible(&store) {
                let right = by_reader(&store, *id, parts).await.job;
                assert_eq!(found, Some(right), "{number} {parts:?}");
            } else {
                assert_eq!(found, None, "{number} {parts:?}");
            }
        }
    }
    // Nor is one that is another's, or has expired, or is not there.
    let entry = oldest(&store);
    let job = |owner: &str, id, now| {
        let owner = Owner::new(owner);
        let job = entry.at_rest.job(id, Some(&owner), Parts::NONE, now);
        job.is_some()
    };
    let own = Owner::anonymous();
    assert_eq!(job(own.as_str(), ids[1], NOW), is_possible(&store));
    assert!(!job("another", ids[1], NOW));
    assert!(!job(
        own.as_str(),
        ids[1],
        NOW.after(Duration::from_secs(1 << 40))
    ));
    assert!(!job(own.as_str(), JobId::new(1 << 50).unwrap(), NOW));
}

#[tokio::test]
async fn what_is_written_is_seen() {
    let (_dir, store, ids) = store().await;
    put_to_rest(&store).await;
    let id = ids[1];
    // An expiry is only ever moved to an earlier time.
    for hours in [3, 2, 1] {
        by_reader(&store, id, Parts::NONE).await;
        let is_possible = is_possible(&store);
        assert_eq!(directly(&store, id, Parts::NONE).is_some(), is_possible);
        let at = NOW.after(Duration::from_secs(3600 * hours));
        store.expire_at(id, at).await.unwrap();
        // What is in the file is not what is so.
        assert_eq!(directly(&store, id, Parts::NONE), None);
        let seen = store.get(id, Parts::NONE, NOW).await.unwrap().unwrap();
        assert_eq!(seen.expires_at, Some(at));
        assert_eq!(directly(&store, id, Parts::NONE), None, "it has a log");
        put_to_rest(&store).await;
        by_reader(&store, id, Parts::NONE).await;
        let found = directly(&store, id, Parts::NONE);
        assert_eq!(found.is_some(), is_possible);
        assert!(found.is_none_or(|job| job.expires_at == Some(at)));
    }
}

#[tokio::test]
async fn what_is_read_while_something_is_written_counts_for_nothing() {
    let (_dir, store, ids) = store().await;
    put_to_rest(&store).await;
    by_reader(&store, ids[1], Parts::NONE).await;
    if !is_possible(&store) {
        return;
    }
    let at_rest = Arc::clone(&oldest(&store).at_rest);
    assert_eq!(at_rest.read(|_| Some(1)), Some(1));
    let written = at_rest.read(|_| {
        at_rest.begin_write();
        Some(1)
    });
    assert_eq!(written, None, "before its end");
    at_rest.end_write();
    assert_eq!(at_rest.read(|_| Some(1)), None, "after it");
}

#[tokio::test]
async fn nothing_is_noted_while_something_is_written() {
    let (_dir, store, ids) = store().await;
    put_to_rest(&store).await;
    let (begun, begins) = tokio::sync::oneshot::channel();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let number = oldest(&store).number;
    inspect(&store, move |writer| {
        writer.writing(number).unwrap();
        let _ = begun.send(());
        let _ = wait.recv();
        // Nothing has come of it, and its end counts as any other.
        if let Some(pending) = writer.pending.get_mut(&number) {
            pending.failed = Some(kjob_core::StoreError::Closed);
        }
    })
    .await;
    begins.await.unwrap();
    by_reader(&store, ids[1], Parts::NONE).await;
    assert_eq!(directly(&store, ids[1], Parts::NONE), None);
    drop(go_on);
    // The next step's batch comes after it.
    store.reserve_ids(1).await.unwrap();
    store.reserve_ids(1).await.unwrap();
    by_reader(&store, ids[1], Parts::NONE).await;
    let found = directly(&store, ids[1], Parts::NONE);
    assert_eq!(found.is_some(), is_possible(&store));
}

/// A log that somebody reads from stays, nobody waits for that, and it is tried again.
#[tokio::test]
async fn a_log_that_is_read_from_is_written_back_later() {
    let (_dir, store, ids) = store().await;
    let reader = segment::open(&path_of(&store), Access::Read).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM jobs")
        .unwrap();
    for _ in 0..5 {
        inspect(&store, |writer| writer.put_to_rest_after(Duration::ZERO)).await;
        store.reserve_ids(1).await.unwrap();
        store.work(|| Ok(())).await.unwrap();
    }
    assert!(!is_without_log(&path_of(&store)));
    by_reader(&store, ids[1], Parts::NONE).await;
    assert_eq!(directly(&store, ids[1], Parts::NONE), None);
    reader.execute_batch("COMMIT").unwrap();
    put_to_rest(&store).await;
}

#[tokio::test]
async fn a_segment_that_was_written_to_lately_is_left_alone() {
    let (_dir, store, _) = store().await;
    for _ in 0..3 {
        inspect(&store, Writer::put_to_rest).await;
        store.reserve_ids(1).await.unwrap();
        store.work(|| Ok(())).await.unwrap();
    }
    assert!(!is_without_log(&path_of(&store)));
}

/// A file is opened for each, and none once there are enough.
#[tokio::test]
async fn so_many_files_are_kept_open() {
    let (dir, store, ids) = store().await;
    put_to_rest(&store).await;
    let common = &store.shared.on_the_spot;
    let others: Vec<_> = std::iter::from_fn(|| common.another()).collect();
    assert_eq!(others.len(), FILES_MAX);
    by_reader(&store, ids[1], Parts::NONE).await;
    assert_eq!(directly(&store, ids[1], Parts::NONE), None);
    drop(others);
    by_reader(&store, ids[1], Parts::NONE).await;
    let found = directly(&store, ids[1], Parts::NONE);
    assert_eq!(found.is_some(), is_possible(&store));
    // And until the store is closed.
    let at_rest = Arc::clone(&oldest(&store).at_rest);
    store.close().await.unwrap();
    assert!(matches!(*at_rest.file.lock().unwrap(), Kept::NoMore));
    assert_eq!(directly(&store, ids[1], Parts::NONE), None);
    drop(store);
    // What was left without a log is read so from the first read on.
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    by_reader(&store, ids[1], Parts::NONE).await;
    let found = directly(&store, ids[1], Parts::NONE);
    assert_eq!(found.is_some(), is_possible(&store));
}

/// The file that a rewriting puts in its place is another, of which nothing is known yet.
#[tokio::test]
async fn a_segment_that_was_rewritten_is_read_from_its_new_file() {
    let (_dir, store, ids) = store().await;
    put_to_rest(&store).await;
    by_reader(&store, ids[1], Parts::NONE).await;
    let old = oldest(&store);
    // Most of it expires.
    for id in &ids[50..] {
        store.expire_at(*id, NOW).await.unwrap();
    }
    let later = NOW.after(Duration::from_secs(60 * 60));
    while store.expire(later).await.unwrap().more {}
    assert_eq!(oldest(&store).generation, old.generation + 1);
    put_to_rest(&store).await;
    assert_eq!(directly(&store, ids[1], Parts::NONE), None);
    let right = by_reader(&store, ids[1], parts(true, true)).await.job;
    let found = directly(&store, ids[1], parts(true, true));
    assert_eq!(found, is_possible(&store).then_some(right));
}

/// While expiries are moved, and the log is written back in between: whoever asks after a move was acknowledged sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_is_seen_beside_writes() {
    const MOVES: i64 = 300;
    let (_dir, store, ids) = store().await;
    let store = Arc::new(store);
    let id = ids[1];
    // Seconds to the expiry, as acknowledged.
    let moved = Arc::new(AtomicI64::new(i64::MAX));
    let seconds = |at: Timestamp| (at.as_millis() - NOW.as_millis()) / 1000;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (store, moved) = (Arc::clone(&store), Arc::clone(&moved));
        readers.spawn(async move {
            loop {
                let acknowledged = moved.load(Ordering::SeqCst);
                let job = store.get(id, Parts::NONE, NOW).await.unwrap().unwrap();
                let found = seconds(job.expires_at.unwrap());
                assert!(found <= acknowledged, "{found} after {acknowledged}");
                if found == 1 {
                    return;
                }
            }
        });
    }
    for left in (1..=MOVES).rev() {
        let at = NOW.after(Duration::from_secs(left.cast_unsigned()));
        store.expire_at(id, at).await.unwrap();
        moved.store(left, Ordering::SeqCst);
        if left % 3 == 0 {
            put_to_rest(&store).await;
            // It is read on the spot when the next move comes, where that is possible and no reader was asked meanwhile.
            by_reader(&store, id, Parts::NONE).await;
        }
    }
    readers.join_all().await;
}
