//! Ended jobs of segments at rest, read on the spot: without SQLite, and without a thread to do it.
//!
//! Once a segment is sealed, hardly anything is written to it any more, and when its log is empty, its file is all there is of
//! it. What SQLite does for a job then, to find it as of one moment beside whoever writes, takes longer than all
//! else that is done for a request, and so does the way to a reader thread and back. Here a job's three rows are
//! [found](super::rows) in the pages of the file, as far as the system has these in memory: a read that would have to wait for the
//! disk is none. Rows are held against their checksums, as they are everywhere.
//!
//! It only ever answers with a job that is whole. In all other cases, whatever they are, a reader thread is asked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use kjob_core::{Ending, Job, JobId, Owner, Parts, Timestamp};
use rusqlite::types::ValueRef;

use super::error::sql;
use super::job_row;
use super::layout::is_without_log;
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

/// Segments that are read so at most, each by a file that stays open.
const FILES_MAX: usize = 64;

/// For how long nothing was written to a segment whose log is written back. Writing it back and opening it anew takes milliseconds.
const QUIET_FOR: Duration = Duration::from_secs(30);

/// What all segments have in common in this.
#[derive(Debug)]
pub(crate) struct OnTheSpot {
    /// One more of it for each file that is open.
    files: Arc<()>,
    /// Whether the system can read without waiting, as far as was seen: not all file systems do.
    is_possible: AtomicBool,
}

/// What is known of one generation of a segment.
#[derive(Debug, Default)]
pub(crate) struct AtRest {
    /// Odd while a transaction writes to it; each beginning and each end counts.
    epoch: AtomicU64,
    /// After the epoch as of which its log was written back last.
    rested_before: AtomicU64,
    file: Mutex<Kept>,
    /// As they are since an epoch in which there was no log.
    tables: RwLock<Option<Tables>>,
}

/// A segment's file, kept open for as long as the segment has it: with the first one that is closed, the process loses the locks on it that
/// SQLite has for its connections (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).
#[derive(Debug, Default)]
enum Kept {
    #[default]
    NotYet,
    Open(
        Arc<File>,
        #[expect(dead_code, reason = "it is counted")] Arc<()>,
    ),
    NoMore,
}

/// The tables of a segment that has no log, by their roots.
#[derive(Debug)]
struct Tables {
    epoch: u64,
    file: Arc<File>,
    jobs: Box<Page>,
    expiries: Box<Page>,
    ends: Box<Page>,
}

/// When the writer last saw a segment change, or had its log written back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    epoch: u64,
    at: Instant,
}

impl OnTheSpot {
    pub(crate) fn new() -> Self {
        Self {
            files: Arc::new(()),
            is_possible: AtomicBool::new(cfg!(target_os = "linux")),
        }
    }

    /// One more file, if there may be one.
    fn another(&self) -> Option<Arc<()>> {
        (Arc::strong_count(&self.files) <= FILES_MAX).then(|| Arc::clone(&self.files))
    }
}

impl AtRest {
    /// The writer is about to write.
    pub(crate) fn begin_write(&self) {
        if !is_written(self.epoch()) {
            self.epoch.fetch_add(1, Ordering::SeqCst);
            // Before anything that it writes.
            fence(Ordering::SeqCst);
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

    /// Closes its file, for good: whoever opens the store next has locks of its own.
    pub(crate) fn close(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = None;
        *file = Kept::NoMore;
    }

    /// Notes where its tables are, if nothing is being written to it and it has no log, and that is not noted yet. SQLite has opened
    /// the file at `path`.
    pub(crate) fn note(&self, path: impl FnOnce() -> PathBuf, common: &OnTheSpot) {
        let epoch = self.epoch();
        let is_noted =
            |tables: &Option<Tables>| tables.as_ref().is_some_and(|it| it.epoch == epoch);
        if !common.is_possible.load(Ordering::Relaxed)
            || is_written(epoch)
            || self.tables.try_read().is_ok_and(|tables| is_noted(&tables))
        {
            return;
        }
        // Another thread that does the same is not waited for, and nobody who reads waits for this one.
        let Ok(mut file) = self.file.try_lock() else {
            return;
        };
        let path = path();
        let Some(file) = file.open(&path, common) else {
            return;
        };
        if !is_without_log(&path) {
            return;
        }
        let roots = ["jobs", "expiries", "ends"].map(segment::page_of);
        let [Some(jobs), Some(expiries), Some(ends)] = roots else {
            return;
        };
        let Some([jobs, expiries, ends]) = rows::pages(&file, [jobs, expiries, ends]) else {
            return;
        };
        let found = Tables {
            epoch,
            file,
            jobs,
            expiries,
            ends,
        };
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if self.epoch() == epoch {
            *tables = Some(found);
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
        let job = self.read(|tables| tables.job(id, owner, parts))?;
        job.expires_at.is_some_and(|at| at > now).then_some(job)
    }

    /// Reads what nobody has written to meanwhile.
    fn read<T>(&self, read: impl FnOnce(&Tables) -> Option<T>) -> Option<T> {
        // Whoever notes them is not waited for.
        let tables = self.tables.try_read().ok()?;
        let tables = tables.as_ref()?;
        if self.epoch.load(Ordering::Acquire) != tables.epoch {
            return None;
        }
        let found = read(tables)?;
        // The log is copied to the file only after the beginning of a write: had any of that been read, this would show it.
        fence(Ordering::Acquire);
        (self.epoch.load(Ordering::Relaxed) == tables.epoch).then_some(found)
    }
}

impl Kept {
    /// The file, opened if it may be.
    fn open(&mut self, path: &Path, common: &OnTheSpot) -> Option<Arc<File>> {
        if let Self::NotYet = self
            && let Some(counted) = common.another()
            && let Ok(file) = File::open(path)
        {
            if !rows::can_read_now(&file) {
                common.is_possible.store(false, Ordering::Relaxed);
            }
            *self = Self::Open(Arc::new(file), counted);
        }
        match self {
            Self::Open(file, _) if common.is_possible.load(Ordering::Relaxed) => {
                Some(Arc::clone(file))
            }
            _ => None,
        }
    }
}

impl Writer {
    /// Has the logs of sealed segments written back to which nothing was written for a while. Nothing is uncommitted then.
    pub(crate) fn put_to_rest(&mut self) {
        self.put_to_rest_after(QUIET_FOR);
    }

    fn put_to_rest_after(&mut self, quiet_for: Duration) {
        // Nothing may build on what was not synced, and where room is short, it is not for this.
        if self.shared.failure().is_some() || self.shared.room.is_short() {
            return;
        }
        let now = Instant::now();
        for ledger in self.segments.values_mut().filter(|ledger| ledger.sealed) {
            let at_rest = &ledger.at_rest;
            let epoch = at_rest.epoch();
            let seen = ledger.seen.get_or_insert(Seen { epoch, at: now });
            if seen.epoch != epoch {
                *seen = Seen { epoch, at: now };
            }
            let is_rested = at_rest.rested_before.load(Ordering::Relaxed) > epoch;
            if is_rested || now.duration_since(seen.at) < quiet_for {
                continue;
            }
            let (number, generation) = (ledger.number, ledger.generation);
            let path = self.shared.layout.segment(number, generation);
            if is_without_log(&path) {
                at_rest.rested_before.store(epoch + 1, Ordering::Relaxed);
                continue;
            }
            // If it comes to nothing, as somebody reads, it is tried again.
            seen.at = now;
            let (at_rest, shared) = (Arc::clone(at_rest), Arc::clone(&self.shared));
            self.background.submit(Length::Long, move |()| {
                if shared.check_open().is_err() || shared.failure().is_some() {
                    return;
                }
                // The writer's connection stays open beside it: closing the last one would have the writer do this.
                let written = segment::connect(&path, Access::Read)
                    .and_then(|connection| segment::empty_log(&connection))
                    .map_err(sql("write a log back"));
                if note(&shared, written) {
                    at_rest.rested_before.store(epoch + 1, Ordering::Relaxed);
                }
            });
        }
    }
}

impl Tables {
    fn job(&self, id: JobId, owner: Option<&Owner>, parts: Parts) -> Option<Job> {
        let (mut job_page, mut expiry_page, mut end_page) = ([0; PAGE], [0; PAGE], [0; PAGE]);
        let mut job = [ValueRef::Null; JOB_COLUMNS];
        let (file, id) = (&*self.file, id.get());
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

fn is_written(epoch: u64) -> bool {
    epoch % 2 == 1
}

#[cfg(test)]
mod tests;
