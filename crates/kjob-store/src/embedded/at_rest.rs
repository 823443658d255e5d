//! Ended jobs of segments at rest, read on the spot: without SQLite, and without a thread to do it.
//!
//! Once a segment is sealed, hardly anything is written to it any more, and when its log is empty, its file is all there is of
//! it. What SQLite does for a job then, to find it as of one moment beside whoever writes, takes longer than all
//! else that is done for a request, and so does the way to a reader thread and back. Here a job's three rows are
//! [found](super::rows) in the pages of the file, as far as the system has these in memory: a read that would have to wait for the
//! disk is none. Rows are held against their checksums, as they are everywhere.
//!
//! It only ever answers with a job that is whole. In all other cases, whatever they are, a reader thread is asked.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use kjob_core::{Ending, Job, JobId, Owner, Parts, Timestamp};
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::error::sql;
use super::job_row;
use super::layout::log_of;
use super::pages::{PAGE, Page};
use super::pool::Length;
use super::query::Stored;
use super::rows;
use super::segment::{self, Access};
use super::state_row;
use super::write_back::note;
use super::writer::Writer;

/// Columns of `jobs`, `expiries` and `ends`.
const JOB_COLUMNS: usize = 22;
const EXPIRY_COLUMNS: usize = 4;
const END_COLUMNS: usize = 16;

/// Of the columns of `jobs` the owner, and those that do not stand where [`job_row::COLUMNS`] has them.
const OWNER: usize = 2;
const PAYLOAD: usize = 20;
const CALLBACK_URL: usize = 21;

/// The column of `expiries` with the row in `ends`.
const SEQ: usize = 2;

/// Of the columns of `ends` the job, then those that [`state_row::columns`] has in the same order, from the first to the last,
/// and the one that comes after them there.
const END_ID: usize = 1;
const END_FIRST: usize = 2;
const END_LAST: usize = 13;
const RESULT: usize = 14;
const INFO: usize = 15;

/// All columns that a job is read from.
const COLUMNS: usize = job_row::COLUMN_COUNT + state_row::COLUMN_COUNT;

/// What is known of one generation of a segment.
#[derive(Debug, Default)]
pub(crate) struct AtRest {
    /// Odd while a transaction writes to it; each beginning and each end counts.
    epoch: AtomicU64,
    /// Kept open for as long as the segment has this file: with the first one that is closed, the process loses the locks on it
    /// that SQLite has for its connections (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).
    file: OnceLock<File>,
    /// As they are since an epoch in which there was no log.
    tables: RwLock<Option<Tables>>,
    /// Whether its log was written back, or is about to be, since the epoch that was [looked at](Writer::put_to_rest) last.
    is_put_to_rest: AtomicBool,
}

/// The tables of a segment that has no log, by their roots.
#[derive(Debug)]
struct Tables {
    epoch: u64,
    jobs: Box<Page>,
    expiries: Box<Page>,
    ends: Box<Page>,
}

impl AtRest {
    /// The writer is about to write.
    pub(crate) fn begin_write(&self) {
        if !is_written(self.epoch()) {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// What it wrote is committed, or will never be.
    pub(crate) fn end_write(&self) {
        if is_written(self.epoch()) {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether a file is kept open for it.
    pub(crate) fn has_file(&self) -> bool {
        self.file.get().is_some()
    }

    /// Whether [`Self::note`] might find something new.
    pub(crate) fn is_to_be_noted(&self) -> bool {
        let epoch = self.epoch();
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        !is_written(epoch) && tables.as_ref().is_none_or(|tables| tables.epoch != epoch)
    }

    /// Notes where its tables are, if nothing is being written to it and it has no log. `connection` is one to `path`, and
    /// `may_open` whether another file may be kept open.
    pub(crate) fn note(&self, path: &Path, connection: &Connection, may_open: bool) {
        // Another thread that does the same is not waited for.
        let Ok(mut tables) = self.tables.try_write() else {
            return;
        };
        let epoch = self.epoch();
        if is_written(epoch) || !is_without_log(path) {
            return;
        }
        // Nobody else sets it meanwhile.
        if self.file.get().is_none()
            && may_open
            && let Ok(file) = File::open(path)
        {
            let _ = self.file.set(file);
        }
        let names = ["jobs", "expiries", "ends"];
        let found = self
            .file
            .get()
            .and_then(|file| rows::roots(file, connection, names));
        if let (Some([jobs, expiries, ends]), true) = (found, self.epoch() == epoch) {
            *tables = Some(Tables {
                epoch,
                jobs,
                expiries,
                ends,
            });
        }
    }

    /// A job of this owner, if one is named, that has ended and not expired, with the bytes that `parts` asks for, if all of
    /// it is at hand.
    pub(crate) fn job(
        &self,
        id: JobId,
        owner: Option<&Owner>,
        parts: Parts,
        now: Timestamp,
    ) -> Option<Job> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let (tables, file) = (tables.as_ref()?, self.file.get()?);
        if self.epoch.load(Ordering::Acquire) != tables.epoch {
            return None;
        }
        let job = tables.job(file, id, owner, parts)?;
        // The log is copied to the file only after the beginning of a write: had any of that been read, this would show it.
        fence(Ordering::Acquire);
        let is_as_then = self.epoch.load(Ordering::Relaxed) == tables.epoch;
        Some(job).filter(|job| is_as_then && job.expires_at.is_some_and(|at| at > now))
    }
}

impl Tables {
    fn job(&self, file: &File, id: JobId, owner: Option<&Owner>, parts: Parts) -> Option<Job> {
        let (mut job_page, mut expiry_page, mut end_page) = ([0; PAGE], [0; PAGE], [0; PAGE]);
        let mut job = [ValueRef::Null; JOB_COLUMNS];
        let id = id.get();
        rows::row(file, &self.jobs, id, &mut job_page, &mut job)?;
        // Another's is as quickly none as one that is not there. And a callback is in yet another table.
        let is_of = |owner: &Owner| job[OWNER] == ValueRef::Text(owner.as_str().as_bytes());
        if !owner.is_none_or(is_of) || job[CALLBACK_URL] != ValueRef::Null {
            return None;
        }
        let mut expiry = [ValueRef::Null; EXPIRY_COLUMNS];
        rows::row(file, &self.expiries, id, &mut expiry_page, &mut expiry)?;
        let mut end = [ValueRef::Null; END_COLUMNS];
        let seq = expiry[SEQ].as_i64().ok()?;
        rows::row(file, &self.ends, seq, &mut end_page, &mut end)?;
        if end[END_ID] != ValueRef::Integer(id) {
            return None;
        }
        let none = [ValueRef::Null; COLUMNS];
        let columns = job[..PAYLOAD]
            .iter()
            .chain(&job[CALLBACK_URL..])
            // No state of one that lives; then its end, and no callback.
            .chain(&none[..state_row::EXPIRY])
            .chain(&expiry[1..])
            .chain(&end[END_FIRST..=END_LAST])
            .chain(&end[INFO..]);
        let mut values = none;
        for (to, from) in values.iter_mut().zip(columns) {
            *to = *from;
        }

        let stored = Stored::read(&values[..]).ok()?;
        let (payload, result) = (stored.job.payload, stored.state.end.as_ref()?.result);
        let mut found = stored.into_job();
        let in_row = |value, bytes: &job_row::Extent| match bytes.place {
            None => job_row::inline(value, bytes, String::new).ok(),
            Some(_) => None,
        };
        if parts.payload {
            found.payload = Some(in_row(job[PAYLOAD], &payload)?);
        }
        if let (true, Some(Ending::Done(done))) = (parts.result, &mut found.ending) {
            done.payload.data = in_row(end[RESULT], &result)?;
        }
        Some(found)
    }
}

impl Writer {
    /// Has the logs of sealed segments written back to which nothing was written since this was asked for the last time, a
    /// minute ago where the engine asks. Nothing is uncommitted then.
    pub(crate) fn put_to_rest(&mut self) {
        // Nothing may build on what was not synced, and where room is short, it is not for this.
        if self.shared.failure().is_some() || self.shared.room.is_short() {
            return;
        }
        for ledger in self.segments.values_mut().filter(|ledger| ledger.sealed) {
            let at_rest = Arc::clone(&ledger.at_rest);
            let epoch = at_rest.epoch();
            if ledger.seen_epoch.replace(epoch) != Some(epoch) {
                at_rest.is_put_to_rest.store(false, Ordering::Relaxed);
                continue;
            }
            let path = self.shared.layout.segment(ledger.number, ledger.generation);
            if at_rest.is_put_to_rest.swap(true, Ordering::Relaxed) || is_without_log(&path) {
                continue;
            }
            self.connections.remove(&ledger.number);
            let shared = Arc::clone(&self.shared);
            self.background.submit(Length::Long, move |()| {
                if shared.check_open().is_err() {
                    return;
                }
                let written = segment::connect(&path, Access::Read)
                    .and_then(|connection| segment::empty_log(&connection))
                    .map_err(sql("write a log back"));
                let is_done = note(&shared, written);
                at_rest.is_put_to_rest.store(is_done, Ordering::Relaxed);
            });
        }
    }
}

fn is_written(epoch: u64) -> bool {
    epoch % 2 == 1
}

/// Whether a database has no log, or one without anything in it: then its file has all of it.
fn is_without_log(path: &Path) -> bool {
    match fs::metadata(log_of(path)) {
        Ok(log) => log.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use std::sync::atomic::AtomicI64;
    use std::time::Duration;

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

    const ALL: [Parts; 4] = [
        Parts::NONE,
        parts(true, false),
        parts(false, true),
        parts(true, true),
    ];

    const fn parts(payload: bool, result: bool) -> Parts {
        Parts { payload, result }
    }

    /// A store that reads everything from its files, whose oldest segment has jobs of all kinds, and their ids.
    async fn store() -> (tempfile::TempDir, EmbeddedStore, Vec<JobId>) {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            segment_jobs: 200,
            readers: 1,
            recent_bytes: 0,
            waiting_bytes: 0,
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
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
            let finish = match number {
                LIVE => None,
                PACKED => Some(Finish::Complete(Output::binary(bytes(20_000)))),
                _ if number % 5 == 0 => Some(Finish::Fail(Text::from("it did not work"))),
                _ => Some(Finish::Complete(Output::binary(bytes(number)))),
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

    /// Waits until the oldest segment's log is empty.
    async fn put_to_rest(store: &EmbeddedStore) {
        let path = store.shared.layout.segment(oldest(store).number, 0);
        for _ in 0..10_000 {
            store.expire(NOW).await.unwrap();
            if is_without_log(&path) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
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
                    LIVE | CALLED_BACK => false,
                    PACKED => !parts.result,
                    _ => true,
                };
                let found = directly(&store, *id, parts);
                if is_read && cfg!(target_os = "linux") {
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
        let linux = cfg!(target_os = "linux");
        assert_eq!(job(own.as_str(), ids[1], NOW), linux);
        assert!(!job("another", ids[1], NOW));
        assert!(!job(
            own.as_str(),
            ids[1],
            NOW.after(Duration::from_secs(1 << 40))
        ));
        assert!(!job(own.as_str(), JobId::new(1 << 50).unwrap(), NOW));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_written_is_seen() {
        let (_dir, store, ids) = store().await;
        put_to_rest(&store).await;
        let id = ids[1];
        // An expiry is only ever moved to an earlier time.
        for hours in [3, 2, 1] {
            by_reader(&store, id, Parts::NONE).await;
            assert!(directly(&store, id, Parts::NONE).is_some());
            let at = NOW.after(Duration::from_secs(3600 * hours));
            store.expire_at(id, at).await.unwrap();
            // What is in the file is not what is so.
            assert_eq!(directly(&store, id, Parts::NONE), None);
            let seen = store.get(id, Parts::NONE, NOW).await.unwrap().unwrap();
            assert_eq!(seen.expires_at, Some(at));
            assert_eq!(directly(&store, id, Parts::NONE), None, "it has a log");
            put_to_rest(&store).await;
            by_reader(&store, id, Parts::NONE).await;
            let found = directly(&store, id, Parts::NONE).unwrap();
            assert_eq!(found.expires_at, Some(at));
        }
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
        })
        .await;
        begins.await.unwrap();
        let at_rest = Arc::clone(&oldest(&store).at_rest);
        assert!(!at_rest.is_to_be_noted());
        by_reader(&store, ids[0], Parts::NONE).await;
        assert_eq!(directly(&store, ids[0], Parts::NONE), None);
        drop(go_on);
        // The next step comes after its end.
        store.reserve_ids(1).await.unwrap();
        for _ in 0..1000 {
            if at_rest.is_to_be_noted() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the transaction never ends");
    }

    /// A file is opened for each, and none once there are enough.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_file_is_opened_only_if_it_may_be() {
        let (_dir, store, ids) = store().await;
        put_to_rest(&store).await;
        let entry = oldest(&store);
        let path = store.shared.layout.segment(entry.number, 0);
        let connection = segment::open(&path, Access::Read).unwrap();
        let note = |may_open| entry.at_rest.note(&path, &connection, may_open);
        note(false);
        assert!(!entry.at_rest.has_file());
        assert_eq!(directly(&store, ids[1], Parts::NONE), None);
        note(true);
        assert!(entry.at_rest.has_file());
        assert!(directly(&store, ids[1], Parts::NONE).is_some());
    }

    /// While expiries are moved, and the log is written back in between: whoever asks after a move was acknowledged sees it.
    #[cfg(target_os = "linux")]
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
                let mut on_the_spot = 0;
                loop {
                    let acknowledged = moved.load(Ordering::SeqCst);
                    on_the_spot += u32::from(directly(&store, id, Parts::NONE).is_some());
                    let job = store.get(id, Parts::NONE, NOW).await.unwrap().unwrap();
                    let found = seconds(job.expires_at.unwrap());
                    assert!(found <= acknowledged, "{found} after {acknowledged}");
                    if found == 1 {
                        return on_the_spot;
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
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        let on_the_spot: u32 = readers.join_all().await.into_iter().sum();
        assert!(on_the_spot > 0);
    }
}
