//! Giving back all the space that can be given back, at once and whatever it costs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kjob_core::{Expired, StoreError, Timestamp};

use super::EmbeddedStore;
use super::error::{in_segment, sql};
use super::layout::is_without_log;
use super::requests::Thoroughness;
use super::segment::{self, Access};
use super::shared::Shared;

/// How long moving a log back may keep the writer waiting for a reader.
const READER_WAIT: Duration = Duration::from_millis(100);

/// What compacting a store gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Expired jobs deleted.
    pub jobs: u64,
    /// Bytes of their payloads and results.
    pub bytes: u64,
    /// Bytes of all files before.
    pub disk_before: u64,
    /// And after. While jobs come in, these are in it.
    pub disk_after: u64,
}

impl EmbeddedStore {
    /// Deletes every job that has expired by `now`: also from segments that are mostly needed, which
    /// [`expire`](kjob_core::Store::expire) leaves alone as it would copy more than it frees. Then
    /// moves the logs into their databases. Steps go on meanwhile; each segment with expired jobs is
    /// copied once, and takes its space twice for that time.
    ///
    /// Files that a backup under way may still copy go at its end.
    ///
    /// # Errors
    /// The store's. What was compacted until then stays so.
    pub async fn compact(&self, now: Timestamp) -> Result<Compacted, StoreError> {
        let before = self.stats(now).await?;
        // Pieces of work that rewriting everything three times would take: segments that change
        // while they are copied are begun anew, but not for ever.
        let pieces = before.jobs.total() / self.shared.options.sweep_jobs.max(1);
        let pieces_max = 3 * (pieces + 2 * before.segments.len() as u64 + 2);
        let mut sum = Expired::default();
        for _ in 0..pieces_max {
            let done = self.give_back(now, Thoroughness::All).await?;
            sum.jobs += done.jobs;
            sum.bytes += done.bytes;
            if !done.more {
                break;
            }
        }
        let shared = Arc::clone(&self.shared);
        self.work(move || shorten_logs(&shared)).await?;
        self.shared.deletions.done().await;
        let after = self.stats(now).await?;
        Ok(Compacted {
            jobs: sum.jobs,
            bytes: sum.bytes,
            disk_before: before.disk.total(),
            disk_after: after.disk.total(),
        })
    }
}

/// Moves what is in the logs into the databases, and makes the logs empty where no reader is in the
/// way.
fn shorten_logs(shared: &Shared) -> Result<(), StoreError> {
    for entry in &shared.table().segments {
        let path = shared.layout.segment(entry.number, entry.generation);
        let done = shorten_log(&path);
        if done.is_err() && !path.exists() {
            continue;
        }
        shared.noted(done.map_err(in_segment(entry.number)))?;
    }
    Ok(())
}

fn shorten_log(path: &Path) -> Result<(), StoreError> {
    if is_without_log(path) {
        return Ok(());
    }
    let connection = segment::open(path, Access::Older)?;
    connection
        .busy_timeout(READER_WAIT)
        .and_then(|()| segment::checkpoint(&connection))
        .map_err(sql("shorten a log"))
}
