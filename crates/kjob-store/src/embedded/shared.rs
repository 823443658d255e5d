//! What the writer publishes and everyone reads: the segments there are, the live jobs, what is
//! stored of whom. Changed only after the commit that makes it true.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use bytes::Bytes;
use kjob_core::{CallbackQueue, Header, JobId, Owner, StoreError, StoreUsage, Usage};

use super::EmbeddedOptions;
use super::at_rest::{AtRest, OnTheSpot};
use super::cache::Cache;
use super::deletions::Deletions;
use super::error::{is_fatal, is_of_sync};
use super::filter::Filter;
use super::layout::Layout;
use super::lives::Lives;
use super::recent::Recent;
use super::room::{self, Room};
use super::summary::OwnerUsage;
use super::totals::Sum;
use crate::panics::panicked;

/// Shared by the handle, the writer and the readers.
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    pub(crate) options: EmbeddedOptions,
    table: RwLock<Arc<Table>>,
    live: RwLock<Lives>,
    headers: Mutex<HeaderCache>,
    /// Jobs that ended a short while ago.
    pub(crate) recent: Recent,
    /// Payloads of jobs that were submitted a short while ago, and wait. The writer alone puts them in
    /// and takes them out, after the commit that makes it so.
    pub(crate) waiting: Cache<Bytes>,
    pub(crate) on_the_spot: OnTheSpot,
    usage: Mutex<UsageBook>,
    callbacks: Mutex<CallbackQueue>,
    /// Whether the disk is full.
    pub(crate) room: Room,
    /// Of files that no longer belong to the store.
    pub(crate) deletions: Arc<Deletions>,
    /// Held from before a commit until what it changed is published.
    publishing: Mutex<()>,
    /// Jobs that had not ended when the store was opened, and cannot be read; and why.
    damaged: OnceLock<BTreeMap<JobId, String>>,
    closed: AtomicBool,
    failure: OnceLock<StoreError>,
}

/// The segments, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) segments: Vec<Arc<SegmentEntry>>,
}

/// A segment as readers know it.
#[derive(Debug)]
pub(crate) struct SegmentEntry {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) first_id: i64,
    /// Over its tags.
    pub(crate) filter: Arc<Filter>,
    pub(crate) tags_whole: TagsWhole,
    pub(crate) at_rest: Arc<AtRest>,
    /// What its jobs and their ends add up to for good, if none of them lives any more.
    pub(crate) settled: Option<(Sum, Sum)>,
}

/// Whether all tags that a segment had when the store was opened were read since, and none was lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct TagsWhole(Arc<AtomicBool>);

impl TagsWhole {
    pub(crate) fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set_known(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Usage of everyone.
#[derive(Debug, Default)]
struct UsageBook {
    total: Usage,
    owners: OwnerUsage,
}

/// The headers of recent live jobs; the oldest give way.
#[derive(Debug, Default)]
struct HeaderCache {
    headers: HashMap<JobId, Arc<Header>>,
    order: VecDeque<JobId>,
}

impl Shared {
    pub(crate) fn new(layout: Layout, options: EmbeddedOptions) -> Self {
        Self {
            layout,
            recent: Recent::new(options.recent_bytes),
            waiting: Cache::new(options.waiting_bytes),
            options,
            table: RwLock::default(),
            live: RwLock::default(),
            headers: Mutex::default(),
            on_the_spot: OnTheSpot::new(),
            usage: Mutex::default(),
            callbacks: Mutex::default(),
            room: Room::new(),
            deletions: Arc::new(Deletions::new()),
            publishing: Mutex::default(),
            damaged: OnceLock::new(),
            closed: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            Err(StoreError::Closed)
        } else {
            Ok(())
        }
    }

    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Why the writer acknowledges nothing any more.
    pub(crate) fn failure(&self) -> Option<StoreError> {
        self.failure.get().cloned()
    }

    /// Stops the writer from acknowledging anything. The first reason stays.
    pub(crate) fn set_failure(&self, error: StoreError) {
        // A second one changes nothing.
        let _ = self.failure.set(error);
    }

    /// Notes that there is no writer any more, though nobody has closed the store; and gives what that means for steps.
    pub(crate) fn writer_panicked(&self) -> StoreError {
        self.failure
            .get_or_init(|| panicked("write any more"))
            .clone()
    }

    /// Passes on what came of a change to a file; if that left the file in an unknown state,
    /// nothing is acknowledged from here on.
    pub(crate) fn noted<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        let done = done.map_err(|error| self.judged(error));
        if let Some(error) = done.as_ref().err().filter(|error| is_fatal(error)) {
            self.set_failure(error.clone());
        }
        done
    }

    /// Likewise of what is done beside the writer: only a failed sync leaves anything unknown, as it may have been of what others
    /// rely on. Whatever else fails, what was there stays as it is.
    pub(crate) fn noted_beside<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        match done {
            Err(error) if is_of_sync(&error) => self.noted(Err(error)),
            done => done,
        }
    }

    /// An error of SQLite, or that there is no room where that is what it means.
    pub(crate) fn judged(&self, error: StoreError) -> StoreError {
        room::judged(self.layout.root(), error)
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_table(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    pub(crate) fn live(&self) -> RwLockReadGuard<'_, Lives> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live_mut(&self) -> RwLockWriteGuard<'_, Lives> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The callbacks that are pending.
    pub(crate) fn callbacks(&self) -> MutexGuard<'_, CallbackQueue> {
        self.callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held, everything that is committed is published.
    pub(crate) fn publishing(&self) -> MutexGuard<'_, ()> {
        self.publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs that had not ended when the store was opened, and cannot be read; and why.
    pub(crate) fn damaged(&self) -> &BTreeMap<JobId, String> {
        static NONE: BTreeMap<JobId, String> = BTreeMap::new();
        self.damaged.get().unwrap_or(&NONE)
    }

    /// Once, while the store is opened.
    pub(crate) fn set_damaged(&self, jobs: BTreeMap<JobId, String>) {
        let _ = self.damaged.set(jobs);
    }

    /// The error for a job that is stored as if it lived, but does not.
    pub(crate) fn lost_end(&self, id: JobId) -> StoreError {
        let known = self.damaged().get(&id).cloned();
        let what = known.unwrap_or_else(|| format!("the end of job {id} is out of reach"));
        StoreError::Corrupt { what }
    }

    /// Passes on that a job is not there, unless it has to be.
    pub(crate) fn absent(&self, id: JobId) -> Result<(), StoreError> {
        let what = match self.damaged().get(&id) {
            Some(what) => what.clone(),
            None if self.live().contains(id) => format!("the row of job {id} is out of reach"),
            None => return Ok(()),
        };
        Err(StoreError::Corrupt { what })
    }

    /// A live job's header, if it is at hand.
    pub(crate) fn header(&self, id: JobId) -> Option<Arc<Header>> {
        self.headers().headers.get(&id).cloned()
    }

    pub(crate) fn keep_header(&self, header: Arc<Header>) {
        let mut cache = self.headers();
        cache.order.push_back(header.id);
        cache.headers.insert(header.id, header);
        // Jobs that ended left their ids in the queue, so it is the queue that is bounded.
        while cache.order.len() > self.options.cached_headers {
            let Some(oldest) = cache.order.pop_front() else {
                break;
            };
            cache.headers.remove(&oldest);
        }
    }

    pub(crate) fn drop_header(&self, id: JobId) {
        self.headers().headers.remove(&id);
    }

    pub(crate) fn usage(&self, owner: &Owner) -> StoreUsage {
        let book = self.book();
        StoreUsage {
            total: book.total,
            owner: book.owners.get(owner).copied().unwrap_or_default(),
        }
    }

    /// How many owners have stored jobs.
    pub(crate) fn owners(&self) -> u64 {
        self.book().owners.len() as u64
    }

    /// Adds to what is stored of an owner; negative numbers take away.
    pub(crate) fn count(&self, owner: &Owner, jobs: i64, bytes: i64) {
        let mut book = self.book();
        add(&mut book.total, jobs, bytes);
        add(book.owners.entry(owner.clone()).or_default(), jobs, bytes);
        if book.owners.get(owner) == Some(&Usage::default()) {
            book.owners.remove(owner);
        }
    }

    fn headers(&self) -> MutexGuard<'_, HeaderCache> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, UsageBook> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Where an id's job is, if anywhere: in the newest segment that does not begin after it.
    /// A late submit of an id below all of them goes to the oldest.
    pub(crate) fn of(&self, id: JobId) -> Option<&Arc<SegmentEntry>> {
        let after = self
            .segments
            .partition_point(|segment| segment.first_id <= id.get());
        self.segments.get(after.saturating_sub(1))
    }

    pub(crate) fn by_number(&self, number: u32) -> Option<&Arc<SegmentEntry>> {
        self.segments
            .iter()
            .find(|segment| segment.number == number)
    }
}

/// Adds signed numbers to a usage.
pub(crate) fn add(usage: &mut Usage, jobs: i64, bytes: i64) {
    usage.jobs = usage.jobs.saturating_add_signed(jobs);
    usage.bytes = usage.bytes.saturating_add_signed(bytes);
}
