//! A segment as the writer knows it, and what a batch is about to change in it: built beside the
//! old, and taken over only once it is committed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kjob_core::{Header, JobId, Owner, StoreError};
use rusqlite::{Connection, params};

use super::blobs::NewBlob;
use super::filter::Filter;
use super::live::Live;
use super::requests::Ack;
use super::shared::{SegmentEntry, add};
use super::summary::{Expiries, OwnerUsage};

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
    pub(crate) low_water: i64,
    /// The time of its first submit, in milliseconds.
    pub(crate) opened_at: Option<i64>,
    pub(crate) filter: Option<Arc<Filter>>,
    /// Whether the filter is being built.
    pub(crate) filter_asked: bool,
    /// Whether the catalogue has the filter.
    pub(crate) filter_stored: bool,
    /// Whether the catalogue has the counts, and so the segment is not opened at start.
    pub(crate) summary_stored: bool,
    /// Whether the stored counts are behind. They err on the side of keeping jobs.
    pub(crate) summary_stale: bool,
    /// Counts late submits and tags given away: what was copied from the segment before one is
    /// not as it should be.
    pub(crate) changes: u64,
}

/// What a batch changes in one segment.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Live jobs as they will be; `None` for those that end.
    pub(crate) states: HashMap<JobId, Option<Live>>,
    pub(crate) usage: HashMap<Owner, (i64, i64)>,
    pub(crate) expiries: BTreeMap<i64, i64>,
    pub(crate) jobs: u64,
    pub(crate) live: i64,
    pub(crate) max_id: i64,
    pub(crate) min_new_id: Option<i64>,
    pub(crate) opened_at: Option<i64>,
    pub(crate) headers: Vec<Arc<Header>>,
    pub(crate) blobs: Vec<NewBlob>,
    pub(crate) acks: Vec<Ack>,
    /// Why the transaction was given up; then nothing of this is so.
    pub(crate) failed: Option<StoreError>,
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
            low_water: 0,
            opened_at: None,
            filter: None,
            filter_asked: false,
            filter_stored: false,
            summary_stored: false,
            summary_stale: false,
            changes: 0,
        }
    }

    /// What readers need to know.
    pub(crate) fn entry(&self) -> SegmentEntry {
        SegmentEntry {
            number: self.number,
            generation: self.generation,
            first_id: self.first_id,
            filter: self.filter.clone(),
        }
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
    ) -> rusqlite::Result<Option<i64>> {
        let mut put =
            connection.prepare_cached("INSERT OR REPLACE INTO usage VALUES (?1, ?2, ?3)")?;
        for (owner, (jobs, bytes)) in &pending.usage {
            let mut usage = self.usage.get(owner).copied().unwrap_or_default();
            add(&mut usage, *jobs, *bytes);
            let (jobs, bytes) = (usage.jobs.cast_signed(), usage.bytes.cast_signed());
            put.execute(params![owner.as_str(), jobs, bytes])?;
        }
        let mut add = connection.prepare_cached(
            "INSERT INTO expiry_seconds VALUES (?1, ?2) \
             ON CONFLICT (second) DO UPDATE SET jobs = jobs + excluded.jobs",
        )?;
        for (second, change) in &pending.expiries {
            add.execute([second, change])?;
        }
        let mut meta = connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
        if let Some(opened_at) = pending.opened_at {
            meta.execute(params!["opened_at", opened_at])?;
        }
        let lowest = [first_live, pending.min_new_id].into_iter().flatten().min();
        let low_water = lowest.unwrap_or_else(|| self.max_id.max(pending.max_id) + 1);
        let moved = low_water < self.low_water || low_water >= self.low_water + LOW_WATER_LAG;
        if moved {
            meta.execute(params!["low_water", low_water])?;
        }
        Ok(moved.then_some(low_water))
    }

    /// Takes over what was committed.
    pub(crate) fn take(&mut self, pending: &Pending, low_water: Option<i64>) {
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
        self.low_water = low_water.unwrap_or(self.low_water);
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
