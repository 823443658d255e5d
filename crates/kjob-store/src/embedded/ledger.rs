//! A segment as the writer knows it, and what a batch is about to change in it: built beside the
//! old, and taken over only once it is committed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kjob_core::{Header, Job, JobId, Owner, StoreError, Timestamp};
use rusqlite::Connection;

use super::at_rest::{AtRest, Seen};
use super::blobs::NewBlob;
use super::counts;
use super::filter::{Filter, FilterOf};
use super::live::Live;
use super::requests::Ack;
use super::shared::{SegmentEntry, TagsWhole, add};
use super::summary::{Expiries, OwnerUsage};
use super::tag_moves::HeldTag;
use super::totals::Totals;

/// How far the low-water mark may lag behind, in ids: it saves a write a commit, and costs the
/// next open at most this many rows.
const LOW_WATER_LAG: i64 = 1024;

/// A segment's counts, as committed.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) first_id: i64,
    pub(crate) sealed: bool,
    pub(crate) jobs: u64,
    pub(crate) max_id: i64,
    pub(crate) live: u64,
    pub(crate) usage: OwnerUsage,
    pub(crate) expiries: Expiries,
    /// Over all rows.
    pub(crate) totals: Totals,
    pub(crate) low_water: i64,
    /// The time of its first submit, in milliseconds.
    pub(crate) opened_at: Option<i64>,
    /// Over its tags.
    pub(crate) filter: Arc<Filter>,
    /// What comes after it was seen is the writer's own.
    pub(crate) tags_whole: TagsWhole,
    /// Whether rows were found missing or damaged: then the file is not rewritten.
    pub(crate) damaged: bool,
    /// Whether the catalogue has the filter as it is.
    pub(crate) filter_stored: bool,
    /// Whether the catalogue has the counts, and so the segment is not opened at start.
    pub(crate) summary_stored: bool,
    /// Whether the stored counts are behind. They err on the side of keeping jobs.
    pub(crate) summary_stale: bool,
    /// Counts late submits and tags given away: what was copied from the segment before one is
    /// not as it should be.
    pub(crate) changes: u64,
    /// Expiries that were moved since a rewriting was last planned, which its copy may have missed.
    /// `None` if none was.
    pub(crate) moved: Option<Vec<(JobId, Timestamp)>>,
    /// Jobs whose callbacks changed since then.
    pub(crate) noted: Vec<JobId>,
    /// Of this generation.
    pub(crate) at_rest: Arc<AtRest>,
    pub(crate) seen: Option<Seen>,
}

/// What a batch changes in one segment.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Live jobs as they will be; `None` for those that end.
    pub(crate) states: HashMap<JobId, Option<Live>>,
    pub(crate) usage: HashMap<Owner, (i64, i64)>,
    pub(crate) expiries: BTreeMap<i64, i64>,
    /// By how much the totals change, but for those of the counts, which are not written yet.
    pub(crate) totals: Totals,
    pub(crate) moved: Vec<(JobId, Timestamp)>,
    /// When the callbacks that changed are due now, if they still are.
    pub(crate) callbacks: Vec<(JobId, Option<Timestamp>)>,
    pub(crate) jobs: u64,
    pub(crate) live: i64,
    pub(crate) max_id: i64,
    pub(crate) min_new_id: Option<i64>,
    pub(crate) opened_at: Option<i64>,
    pub(crate) headers: Vec<Arc<Header>>,
    /// Payloads of new jobs that wait, where they are kept in memory for a while.
    pub(crate) payloads: Vec<(JobId, Bytes)>,
    /// Jobs that end, where they are kept in memory for a while.
    pub(crate) ended: Vec<Arc<Job>>,
    pub(crate) blobs: Vec<NewBlob>,
    /// Tags that the new jobs take from jobs of older segments.
    pub(crate) taken: Vec<HeldTag>,
    pub(crate) acks: Vec<Ack>,
    /// Why the transaction was given up; then nothing of this is so.
    pub(crate) failed: Option<StoreError>,
}

/// What was written beside a batch's rows.
#[derive(Debug)]
pub(crate) struct Written {
    /// The low-water mark, if it moved.
    low_water: Option<i64>,
    totals: Totals,
}

impl Ledger {
    /// An empty segment.
    pub(crate) fn new(number: u32, first_id: i64) -> Self {
        Self {
            number,
            generation: 0,
            first_id,
            sealed: false,
            jobs: 0,
            max_id: 0,
            live: 0,
            usage: OwnerUsage::new(),
            expiries: Expiries::default(),
            totals: Totals::default(),
            low_water: 0,
            opened_at: None,
            filter: Arc::new(Filter::new(0)),
            tags_whole: TagsWhole::default(),
            damaged: false,
            filter_stored: false,
            summary_stored: false,
            summary_stale: false,
            changes: 0,
            moved: None,
            noted: Vec::new(),
            at_rest: Arc::default(),
            seen: None,
        }
    }

    /// What readers need to know.
    pub(crate) fn entry(&self) -> SegmentEntry {
        SegmentEntry {
            number: self.number,
            generation: self.generation,
            first_id: self.first_id,
            filter: Arc::clone(&self.filter),
            tags_whole: self.tags_whole.clone(),
            at_rest: Arc::clone(&self.at_rest),
            settled: self
                .summary_stored
                .then_some((self.totals.jobs, self.totals.ends)),
        }
    }

    /// What its filter is a filter of, as long as nothing of it is pending.
    pub(crate) fn filter_of(&self) -> FilterOf {
        FilterOf {
            number: self.number,
            generation: self.generation,
            tags: self.totals.tags,
        }
    }

    /// Whether a tag that its filter knows and its file does not show may be lost, and not the filter's doing: not
    /// all of them were read since the store was opened.
    pub(crate) fn may_lack_tags(&self) -> bool {
        !self.tags_whole.is_known()
    }

    /// Bytes of payloads and results.
    pub(crate) fn bytes(&self) -> u64 {
        self.usage.values().map(|usage| usage.bytes).sum()
    }

    /// Writes the counts as they will be. `first_live` is the lowest live id before the batch.
    pub(crate) fn write(
        &self,
        connection: &Connection,
        pending: &Pending,
        first_live: Option<i64>,
    ) -> rusqlite::Result<Written> {
        let mut totals = self.totals.plus(&pending.totals);
        for (owner, (jobs, bytes)) in &pending.usage {
            let old = self.usage.get(owner).copied();
            if let Some(old) = &old {
                let crc = counts::usage_checksum(owner, old);
                totals.usage.remove(0, crc);
            }
            let mut usage = old.unwrap_or_default();
            add(&mut usage, *jobs, *bytes);
            let crc = counts::put_usage(connection, owner, &usage)?;
            totals.usage.add(0, crc);
        }
        for (second, change) in &pending.expiries {
            let old = self.expiries.at(*second);
            if old > 0 {
                let crc = counts::second_checksum(*second, old);
                totals.expiry_seconds.remove(*second, crc);
            }
            let jobs = old.saturating_add_signed(*change);
            if jobs > 0 {
                let crc = counts::put_second(connection, *second, jobs)?;
                totals.expiry_seconds.add(*second, crc);
            } else {
                counts::remove_second(connection, *second)?;
            }
        }
        if let Some(opened_at) = pending.opened_at {
            counts::put_meta(connection, "opened_at", opened_at)?;
        }
        let lowest = [first_live, pending.min_new_id].into_iter().flatten().min();
        let low_water = lowest.unwrap_or_else(|| self.max_id.max(pending.max_id) + 1);
        // A live job that cannot be read is not known to the caller; the mark stays below it.
        let moved = low_water < self.low_water
            || (low_water >= self.low_water + LOW_WATER_LAG && !self.damaged);
        if moved {
            counts::put_meta(connection, "low_water", low_water)?;
        }
        totals.write(connection, Some(&self.totals))?;
        Ok(Written {
            low_water: moved.then_some(low_water),
            totals,
        })
    }

    /// Takes over what was committed.
    pub(crate) fn take(&mut self, pending: &mut Pending, written: &Written) {
        for (owner, (jobs, bytes)) in &pending.usage {
            add(self.usage.entry(owner.clone()).or_default(), *jobs, *bytes);
        }
        for (second, change) in &pending.expiries {
            self.expiries.add(*second, *change);
        }
        self.jobs += pending.jobs;
        self.live = self.live.saturating_add_signed(pending.live);
        self.max_id = self.max_id.max(pending.max_id);
        self.opened_at = self.opened_at.or(pending.opened_at);
        self.low_water = written.low_water.unwrap_or(self.low_water);
        self.totals = written.totals;
        if let Some(moved) = &mut self.moved {
            moved.append(&mut pending.moved);
            self.noted
                .extend(pending.callbacks.iter().map(|(id, _)| *id));
        }
        self.summary_stale |= self.summary_stored;
    }
}

impl Pending {
    pub(crate) fn count(&mut self, owner: &Owner, jobs: i64, bytes: i64) {
        let usage = self.usage.entry(owner.clone()).or_default();
        usage.0 = usage.0.saturating_add(jobs);
        usage.1 = usage.1.saturating_add(bytes);
    }

    pub(crate) fn count_expiry(&mut self, second: i64, change: i64) {
        *self.expiries.entry(second).or_default() += change;
    }
}
