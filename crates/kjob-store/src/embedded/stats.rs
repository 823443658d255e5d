//! What a store holds and takes, by segment: for whoever looks after it.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use kjob_core::{Order, Phase, StoreError, Timestamp};
use rusqlite::Connection;

use super::EmbeddedStore;
use super::error::{file, in_segment, sql};
use super::layout::Layout;
use super::query::{Segment, Stored};
use super::requests::Request;
use super::schema::FORMAT;
use super::segment::{self, Access};
use super::shared::Shared;
use super::summary::Expiries;
use super::writer::Writer;

/// What a store holds, and what its files take on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// The format of the directory.
    pub format: i64,
    /// The next id that nobody has.
    pub next_id: i64,
    /// Jobs by where they stand.
    pub jobs: JobCounts,
    /// Bytes of payloads and results; those of expired jobs are in it until their space is given
    /// back.
    pub bytes: u64,
    /// Of these, bytes of expired jobs, as long as their rows can be read.
    pub expired_bytes: u64,
    /// Owners of stored jobs.
    pub owners: u64,
    /// When the oldest job that takes space was submitted.
    pub oldest_received_at: Option<Timestamp>,
    /// What the files take, the catalogue included.
    pub disk: DiskUse,
    /// The segments, oldest first.
    pub segments: Vec<SegmentStats>,
}

/// Jobs by where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct JobCounts {
    /// Waiting.
    pub queued: u64,
    /// Running.
    pub running: u64,
    /// Running, and asked to stop.
    pub cancelling: u64,
    /// Ended and kept.
    pub ended: u64,
    /// Expired: invisible, but still taking space.
    pub expired: u64,
}

/// Bytes on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiskUse {
    /// Of databases.
    pub databases: u64,
    /// Of their logs: what was committed and not yet moved into the databases.
    pub logs: u64,
    /// Of payloads and results that are in no row: in packs, and in files of their own.
    pub blobs: u64,
    /// How many of those files there are, packs among them.
    pub blob_files: u64,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStats {
    /// Its number.
    pub number: u32,
    /// How many times it was rewritten, or was about to be.
    pub generation: u32,
    /// Ids from here on, up to the next segment, are this one's.
    pub first_id: i64,
    /// Whether it gets no new jobs.
    pub is_sealed: bool,
    /// Jobs in it, the expired ones included.
    pub jobs: u64,
    /// Of these, those that have not ended.
    pub live: u64,
    /// Of these, those that have expired.
    pub expired: u64,
    /// Bytes of payloads and results.
    pub bytes: u64,
    /// Of these, bytes of expired jobs, as long as their rows can be read.
    pub expired_bytes: u64,
    /// What its files take.
    pub disk: DiskUse,
}

impl JobCounts {
    /// All that take space.
    pub fn total(&self) -> u64 {
        self.queued + self.running + self.cancelling + self.ended + self.expired
    }
}

impl DiskUse {
    /// Bytes of all files.
    pub fn total(&self) -> u64 {
        self.databases + self.logs + self.blobs
    }

    fn add(&mut self, other: Self) {
        self.databases += other.databases;
        self.logs += other.logs;
        self.blobs += other.blobs;
        self.blob_files += other.blob_files;
    }
}

impl EmbeddedStore {
    /// What the store holds at `now`, by its counts, and what its files take. Of segments with
    /// expired jobs it reads when each ended job expires; of others no job but the oldest. So the
    /// time it takes grows with those jobs, with segments, jobs that have not ended, and blob files.
    ///
    /// # Errors
    /// The store's.
    pub async fn stats(&self, now: Timestamp) -> Result<StoreStats, StoreError> {
        let stats = self.ask(|reply| Request::Stats { now, reply }).await?;
        let shared = Arc::clone(&self.shared);
        self.work(move || measure(&shared, stats, now)).await
    }
}

impl Writer {
    /// What the counts say; what the files take is for another thread.
    pub(crate) fn stats(&self, now: Timestamp) -> StoreStats {
        let mut jobs = JobCounts::default();
        let mut bytes = 0;
        let segments = self.segments.values().map(|ledger| {
            let kept = ledger.expiries.unexpired(now);
            let expired = ledger.jobs.saturating_sub(ledger.live + kept);
            jobs.ended += kept;
            jobs.expired += expired;
            bytes += ledger.bytes();
            SegmentStats {
                number: ledger.number,
                generation: ledger.generation,
                first_id: ledger.first_id,
                is_sealed: ledger.sealed,
                jobs: ledger.jobs,
                live: ledger.live,
                expired,
                bytes: ledger.bytes(),
                expired_bytes: 0,
                disk: DiskUse::default(),
            }
        });
        let segments = segments.collect();
        for live in self.shared.live().iter() {
            match live.state().phase {
                Phase::Queued => jobs.queued += 1,
                Phase::Cancelling => jobs.cancelling += 1,
                _ => jobs.running += 1,
            }
        }
        StoreStats {
            format: FORMAT,
            next_id: self.catalogue.next_id(),
            jobs,
            bytes,
            expired_bytes: 0,
            owners: self.shared.owners(),
            oldest_received_at: None,
            disk: DiskUse::default(),
            segments,
        }
    }
}

/// Fills in what is seen in the files. A segment that goes meanwhile takes nothing.
fn measure(
    shared: &Shared,
    mut stats: StoreStats,
    now: Timestamp,
) -> Result<StoreStats, StoreError> {
    let layout = &shared.layout;
    stats.disk = database(&layout.catalogue()).map_err(file("measure the catalogue"))?;
    for segment in &mut stats.segments {
        segment.disk = segment_on_disk(layout, segment.number, segment.generation)?;
        stats.disk.add(segment.disk);
    }
    for segment in &mut stats.segments {
        let is_oldest_known = stats.oldest_received_at.is_some();
        if is_oldest_known && segment.expired == 0 {
            continue;
        }
        let path = layout.segment(segment.number, segment.generation);
        let connection = match segment::open(&path, Access::Read) {
            Err(_) if !path.exists() => continue,
            other => other?,
        };
        if segment.expired > 0 {
            segment.expired_bytes =
                expired_bytes(&connection, now).map_err(in_segment(segment.number))?;
            stats.expired_bytes += segment.expired_bytes;
        }
        if !is_oldest_known {
            stats.oldest_received_at = oldest(Segment {
                connection: &connection,
                layout,
                number: segment.number,
            })
            .map_err(in_segment(segment.number))?;
        }
    }
    Ok(stats)
}

/// Bytes of the payloads and results of a segment's expired jobs: those that count as expired.
fn expired_bytes(connection: &Connection, now: Timestamp) -> Result<u64, StoreError> {
    let query = "SELECT CAST(total(j.payload_len + e.result_len) AS INTEGER) FROM expiries x \
         CROSS JOIN ends e ON e.seq = x.seq CROSS JOIN jobs j ON j.id = x.id \
         WHERE x.expires_at <= ?1";
    let cutoff = Expiries::cutoff(now).as_millis();
    let bytes: i64 = connection
        .query_row(query, [cutoff], |row| row.get(0))
        .map_err(sql("add up the bytes of expired jobs"))?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// What a segment's files take.
pub(crate) fn segment_on_disk(
    layout: &Layout,
    number: u32,
    generation: u32,
) -> Result<DiskUse, StoreError> {
    let measure = || -> io::Result<DiskUse> {
        let mut found = database(&layout.segment(number, generation))?;
        let entries = match fs::read_dir(layout.blobs_of(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            other => other?,
        };
        for entry in entries {
            found.blobs += len(&entry?.path())?;
            found.blob_files += 1;
        }
        Ok(found)
    };
    measure().map_err(file("measure a segment"))
}

/// What a database and its log take.
fn database(path: &Path) -> io::Result<DiskUse> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Ok(DiskUse {
        databases: len(path)?,
        logs: len(log.as_ref())?,
        ..DiskUse::default()
    })
}

/// The length of a file; none if it is not there.
fn len(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        other => Ok(other?.len()),
    }
}

/// When the first job of a segment was submitted.
fn oldest(segment: Segment<'_>) -> Result<Option<Timestamp>, StoreError> {
    let mut oldest = None;
    let found = segment.scan((0, i64::MAX), Order::OldestFirst, |row| {
        oldest = Some(Stored::read(row)?.job.header.received_at);
        Ok(ControlFlow::Break(()))
    });
    match found {
        // A damaged row does not keep the rest from being told.
        Err(StoreError::Corrupt { .. }) => Ok(None),
        other => other.map(|()| oldest),
    }
}
