//! Reading everything that a store has, to find what is damaged before somebody needs it.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use kjob_core::StoreError;

use super::OpenError;
use super::catalogue_rows::SegmentRecord;
use super::catalogue_view;
use super::check_segment::CheckedSegment;
use super::filter::Filter;
use super::header;
use super::layout::{self, Layout};
use super::ledger::Ledger;
use super::lock::DirLock;
use super::log_file;
use super::summary;

/// What a check looked at, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Segments read.
    pub segments: u64,
    /// Jobs read, with payloads and results.
    pub jobs: u64,
    /// Blob files read; what is in packs counts with its job.
    pub blobs: u64,
    /// Whether somebody had the store open. Logs and what headers say of them are not looked at then:
    /// they are written to, and were looked at when the store was opened.
    pub in_use: bool,
    /// What is wrong. Empty if all is well.
    pub findings: Vec<Finding>,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The file, below the store's directory.
    pub file: PathBuf,
    /// The table, if it is in one.
    pub table: Option<&'static str>,
    /// The record, if it is known: a job by its id, a tag, an owner.
    pub record: Option<String>,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(table) = self.table {
            write!(f, ", {table}")?;
        }
        if let Some(record) = &self.record {
            write!(f, ", {record}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Reads everything in the store in `dir`, whether or not somebody has it open, and changes nothing.
///
/// Every row of every table is held against its checksum, each table against what its rows added up
/// to when they were written, tables against each other, payloads and results against their
/// checksums, also in files of their own; and SQLite checks its pages. Blocks, and takes as long as
/// reading all files does.
///
/// # Errors
/// If there is no store, or it cannot be read at all. What is damaged is in the report.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, check};
///
/// let dir = tempfile::tempdir()?;
/// let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default())?;
/// assert!(check(dir.path())?.findings.is_empty());
/// # drop(store);
/// # Ok(()) }
/// ```
pub fn check(dir: impl AsRef<Path>) -> Result<CheckReport, OpenError> {
    let layout = Layout::new(dir.as_ref());
    if !layout.catalogue().is_file() {
        return Err(OpenError::Corrupt {
            dir: dir.as_ref().to_owned(),
            what: "there is no catalogue.sqlite, so no store".to_owned(),
        });
    }
    let lock = match DirLock::take(&layout) {
        Ok(lock) => Some(lock),
        Err(OpenError::Locked { .. }) => None,
        Err(error) => return Err(error),
    };
    let mut check = Check {
        report: CheckReport {
            in_use: lock.is_none(),
            ..CheckReport::default()
        },
        layout,
    };
    check.run().map_err(|source| OpenError::Store {
        dir: dir.as_ref().to_owned(),
        source,
    })?;
    drop(lock);
    Ok(check.report)
}

struct Check {
    layout: Layout,
    report: CheckReport,
}

impl Check {
    fn run(&mut self) -> Result<(), StoreError> {
        let path = self.layout.catalogue();
        if !self.may_open(&path)? {
            return Ok(());
        }
        let read = catalogue_view::inspect(&path);
        let Some(inspected) = self.take(&path, None, read)? else {
            return Ok(());
        };
        let layout = self.layout.clone();
        for record in inspected.segments {
            let path = layout.segment(record.number, record.generation);
            if !self.may_open(&path)? {
                continue;
            }
            let mut segment = CheckedSegment::new(&layout, &record);
            let read = segment.read();
            let mut next_id = inspected.next_id;
            let mut as_then = true;
            if let (true, Ok(now)) = (
                self.report.in_use,
                catalogue_view::inspect(&self.layout.catalogue()),
            ) {
                let now_of = now.segments.iter().find(|s| s.number == record.number);
                // It was dropped or rewritten meanwhile.
                if now_of.map(|now| now.generation) != Some(record.generation) {
                    continue;
                }
                as_then = now_of == Some(&record);
                next_id = now.next_id;
            }
            self.report.segments += 1;
            self.report.jobs += segment.jobs;
            self.report.blobs += segment.blobs;
            self.report.findings.append(&mut segment.findings);
            if self.take(&path, None, read)?.is_some() && as_then {
                self.catalogue_of(&record, &segment, &inspected.blobs);
            }
            if segment.max_id >= next_id {
                let what = format!("job {} is above the next id", segment.max_id);
                self.find(&layout.catalogue(), Some("ids"), None, what);
            }
        }
        Ok(())
    }

    /// What the catalogue says of a segment's contents.
    fn catalogue_of(
        &mut self,
        record: &SegmentRecord,
        segment: &CheckedSegment<'_>,
        blobs: &HashMap<u32, catalogue_view::Blobs>,
    ) {
        let path = self.layout.catalogue();
        let of = Some(format!("segment {}", record.number));
        let stored = blobs.get(&record.number);
        if let Some(crc) = record.summary {
            let mut ledger = Ledger {
                generation: record.generation,
                ..Ledger::new(record.number, record.first_id)
            };
            let summary = stored.and_then(|blobs| blobs.summary.as_deref());
            let summary = summary.filter(|bytes| crc32fast::hash(bytes) == crc);
            let is_sound = summary.is_some_and(|s| summary::decode(s, &mut ledger).is_some());
            let (there, right) = (ledger.totals, segment.totals);
            if !is_sound {
                let what = "is damaged, and counted anew when the store is opened".to_owned();
                self.find(&path, Some("summaries"), of.clone(), what);
            } else if (there.jobs, there.ends) != (right.jobs, right.ends) {
                let what = format!(
                    "counts {} jobs and {} ends, the segment's file has {} and {}",
                    there.jobs.rows, there.ends.rows, right.jobs.rows, right.ends.rows
                );
                self.find(&path, Some("summaries"), of.clone(), what);
            }
        }
        let Some(filter) = stored.and_then(|blobs| blobs.filter.as_deref()) else {
            return;
        };
        match Filter::decode(filter) {
            None => {
                let what = "is damaged, and built anew when the store is opened".to_owned();
                self.find(&path, Some("filters"), of, what);
            }
            // One that is behind is known to be so.
            Some((filter, about)) if about.tags == segment.totals.tags => {
                if let Some(lost) = segment.tags.iter().find(|hash| !filter.may_hold(**hash)) {
                    let what = format!("denies a tag that is there (hash {lost:x})");
                    self.find(&path, Some("filters"), of, what);
                }
            }
            Some(_) => {}
        }
    }

    /// Looks at a database before SQLite does: at its log, and at its header, with which SQLite would
    /// change a file that is damaged there.
    fn may_open(&mut self, database: &Path) -> Result<bool, StoreError> {
        if self.report.in_use {
            return Ok(true);
        }
        let path = layout::log_of(database);
        let damage = log_file::verify(&path).map_err(super::error::file("read a log"))?;
        if let Some(damage) = damage {
            let what = format!("damaged at byte {}: {}", damage.offset, damage.how);
            self.find(&path, None, None, what);
        }
        let header = header::verify(database);
        Ok(self.take(database, None, header)?.is_some())
    }

    /// Turns damage into a finding.
    fn take<T>(
        &mut self,
        file: &Path,
        table: Option<&'static str>,
        read: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Corrupt { what }) => {
                self.find(file, table, None, what);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn find(
        &mut self,
        file: &Path,
        table: Option<&'static str>,
        record: Option<String>,
        what: String,
    ) {
        let file = file.strip_prefix(self.layout.root()).unwrap_or(file);
        self.report.findings.push(Finding {
            file: file.to_owned(),
            table,
            record,
            what,
        });
    }
}
