//! Reading everything that a segment has, as of one moment.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use kjob_core::{JobId, Owner, Parts, StoreError, Usage};
use rusqlite::{Connection, Row};

use super::callback_row;
use super::catalogue_rows::SegmentRecord;
use super::check::Finding;
use super::counts::{self, Meta};
use super::error::sql;
use super::job_row::Extent;
use super::layout::Layout;
use super::query::{Segment, Stored, TagRow};
use super::segment::{self, Access};
use super::summary::{Expiries, OwnerUsage};
use super::tags::{self, TagKey, tag_from};
use super::totals::{self, Sum, Totals};

/// Messages that SQLite's own check gives for a file at most.
const MESSAGES_MAX: u32 = 100;

const ALL: Parts = Parts {
    payload: true,
    result: true,
};

/// A segment, and what was found in it.
pub(crate) struct CheckedSegment<'a> {
    layout: &'a Layout,
    number: u32,
    path: PathBuf,
    pub(crate) jobs: u64,
    pub(crate) blobs: u64,
    pub(crate) max_id: i64,
    pub(crate) totals: Totals,
    /// The hashes of its tags.
    pub(crate) tags: Vec<u64>,
    pub(crate) findings: Vec<Finding>,
    /// As its jobs add up to.
    usage: OwnerUsage,
    expiries: Expiries,
}

impl<'a> CheckedSegment<'a> {
    pub(crate) fn new(layout: &'a Layout, record: &SegmentRecord) -> Self {
        Self {
            layout,
            number: record.number,
            path: layout.segment(record.number, record.generation),
            jobs: 0,
            blobs: 0,
            max_id: 0,
            totals: Totals::default(),
            tags: Vec::new(),
            findings: Vec::new(),
            usage: HashMap::new(),
            expiries: Expiries::default(),
        }
    }

    /// Reads it all. Fails with what is damaged so that there is nothing more to be read.
    pub(crate) fn read(&mut self) -> Result<(), StoreError> {
        let connection = segment::open(&self.path, Access::Check)?;
        let snapshot = connection
            .unchecked_transaction()
            .map_err(sql("read a segment"))?;
        self.pages(&snapshot)?;
        self.totals = Totals::read(&snapshot, self.number)?;
        self.sums(&snapshot)?;
        self.jobs(&snapshot)?;
        self.tags(&snapshot)?;
        self.counts(&snapshot)
    }

    /// SQLite's own check.
    fn pages(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let doing = || sql("check a segment's pages");
        let query = format!("PRAGMA integrity_check({MESSAGES_MAX})");
        let mut query = connection.prepare(&query).map_err(doing())?;
        let mut rows = query.query([]).map_err(doing())?;
        while let Some(row) = rows.next().map_err(doing())? {
            let message: String = row.get(0).map_err(doing())?;
            if message != "ok" {
                self.find(None, None, message);
            }
        }
        Ok(())
    }

    /// Whether each table has the rows that it should have.
    fn sums(&mut self, connection: &Connection) -> Result<(), StoreError> {
        for (table, right) in self.totals.tables() {
            let query = match table {
                "jobs" | "states" | "ends" | "expiries" | "callbacks" => {
                    format!("SELECT id, crc FROM {table}")
                }
                "callbacks_due" => callback_row::DUE_SUM.to_owned(),
                _ => continue,
            };
            let found = connection
                .prepare(&query)
                .and_then(|mut query| Sum::of(&mut query, []))
                .map_err(sql("add up a table"));
            self.hold(
                table,
                found.and_then(|found| totals::same(self.number, table, found, right)),
            )?;
        }
        Ok(())
    }

    /// Every job with all that belongs to it.
    fn jobs(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let doing = || sql("read the jobs");
        let low_water = Meta::read(connection, &format!("segment {}", self.number))?.low_water;
        let layout = self.layout;
        let segment = Segment {
            connection,
            layout,
            number: self.number,
        };
        let mut query = connection
            .prepare("SELECT id FROM jobs ORDER BY id")
            .map_err(doing())?;
        let mut rows = query.query([]).map_err(doing())?;
        loop {
            let row = match rows.next().map_err(doing()) {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) => return self.hold("jobs", Err(error)),
            };
            let id: i64 = row.get(0).map_err(doing())?;
            let Some(id) = JobId::new(id) else {
                self.find(
                    Some("jobs"),
                    Some(format!("job {id}")),
                    "is no id of a job".to_owned(),
                );
                continue;
            };
            self.jobs += 1;
            self.max_id = self.max_id.max(id.get());
            let read = segment.stored(id);
            let Some(stored) = self.hold_job(id, read)?.flatten() else {
                continue;
            };
            if stored.state.end.is_none() && id.get() < low_water {
                let what =
                    format!("lives below the mark of {low_water}, and would not be taken up");
                self.find(Some("meta"), Some(format!("job {id}")), what);
            }
            self.count(&stored);
            let read = segment.job(id, ALL);
            self.hold_job(id, read)?;
            let tag = &stored.job.header.tag;
            let owner = &stored.job.header.owner;
            if tag.carried_id() != Some(id) {
                let has = segment.tag(owner, tag).map(|row| row != TagRow::None);
                if self.hold_job(id, has)? == Some(false) {
                    let what = format!("job {id} has it, but it has no row");
                    self.find(Some("tags"), Some(format!("tag {tag}")), what);
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, stored: &Stored) {
        let end = stored.state.end.as_ref();
        let result = end.map_or(Extent::none(), |end| end.result);
        let usage = self
            .usage
            .entry(stored.job.header.owner.clone())
            .or_default();
        usage.jobs += 1;
        usage.bytes += stored.job.payload.len + result.len;
        if let Some(end) = end {
            self.expiries.add(Expiries::second_of(end.expires_at), 1);
        }
        let bytes = [stored.job.payload, result];
        self.blobs += bytes.iter().filter(|bytes| bytes.has_file()).count() as u64;
    }

    /// Every tag leads to a job that has it.
    fn tags(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let doing = || sql("read the tags");
        let segment = Segment {
            connection,
            layout: self.layout,
            number: self.number,
        };
        let mut query = connection
            .prepare("SELECT tag, owner, id, crc FROM tags")
            .map_err(doing())?;
        let mut rows = query.query([]).map_err(doing())?;
        let mut sum = Sum::default();
        loop {
            let row = match rows.next().map_err(doing()) {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) => return self.hold("tags", Err(error)),
            };
            let Some((tag, owner, id, crc)) = tag_row(row) else {
                self.find(Some("tags"), None, "a row is damaged".to_owned());
                continue;
            };
            sum.add(id, crc);
            self.tags.push(tags::hash_of(&tag, &owner));
            if id != 0
                && let Err(StoreError::Corrupt { what }) = segment.tagged(&owner, &tag)
            {
                self.find(Some("tags"), Some(format!("tag {tag}")), what);
            }
        }
        self.hold(
            "tags",
            totals::same(self.number, "tags", sum, self.totals.tags),
        )
    }

    /// What is counted, against what it counts.
    fn counts(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let (number, totals) = (self.number, self.totals);
        let read = counts::read_usage(connection, number);
        if let Some((usage, sum)) = self.take("usage", read)? {
            self.hold("usage", totals::same(number, "usage", sum, totals.usage))?;
            let mut owners: Vec<_> = usage.keys().chain(self.usage.keys()).cloned().collect();
            owners.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            owners.dedup();
            for owner in owners {
                let of = |usage: &OwnerUsage| usage.get(&owner).copied().unwrap_or_default();
                let (stored, counted): (Usage, Usage) = (of(&usage), of(&self.usage));
                if stored != counted {
                    let what = format!(
                        "{} jobs with {} bytes are counted, {} with {} are there",
                        stored.jobs, stored.bytes, counted.jobs, counted.bytes
                    );
                    self.find(
                        Some("usage"),
                        Some(format!("owner {}", owner.as_str())),
                        what,
                    );
                }
            }
        }
        let read = counts::read_seconds(connection, number);
        if let Some((seconds, sum)) = self.take("expiry_seconds", read)? {
            let right = totals.expiry_seconds;
            self.hold(
                "expiry_seconds",
                totals::same(number, "expiry_seconds", sum, right),
            )?;
            let stored: BTreeMap<i64, u64> = seconds.iter().collect();
            for (second, jobs) in stored {
                let counted = self.expiries.at(second);
                if jobs != counted {
                    let what = format!("{jobs} jobs are counted, {counted} are there");
                    self.find(
                        Some("expiry_seconds"),
                        Some(format!("second {second}")),
                        what,
                    );
                }
            }
        }
        Ok(())
    }

    fn hold(
        &mut self,
        table: &'static str,
        read: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.take(table, read).map(drop)
    }

    fn hold_job<T>(
        &mut self,
        id: JobId,
        read: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match read {
            Err(StoreError::Corrupt { what }) => {
                self.find(Some("jobs"), Some(format!("job {id}")), what);
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    fn take<T>(
        &mut self,
        table: &'static str,
        read: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match read {
            Err(StoreError::Corrupt { what }) => {
                self.find(Some(table), None, what);
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    fn find(&mut self, table: Option<&'static str>, record: Option<String>, what: String) {
        let path = self.path.strip_prefix(self.layout.root());
        self.findings.push(Finding {
            file: path.unwrap_or(&self.path).to_owned(),
            table,
            record,
            what,
        });
    }
}

/// A row of `tags`, if it is sound.
fn tag_row(row: &Row<'_>) -> Option<(kjob_core::JobTag, Owner, i64, u32)> {
    let tag = tag_from(row.get_ref(0).ok()?)?;
    let owner = row.get_ref(1).ok()?.as_str().ok()?;
    let (id, crc) = (row.get(2).ok()?, row.get(3).ok()?);
    let right = tags::checksum(&TagKey::of(&tag), owner, id) == crc;
    let owner = Owner::new(owner);
    right.then_some((tag, owner, id, crc))
}
