//! What a backup copies: databases page by page, other files as they are.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::backup::{Backup as PageCopy, StepResult};

use super::backup::{BackupError, BackupReport, LOOKED_AT_EVERY, io_error};
use super::blobs;
use super::catalogue::Catalogue;
use super::layout::{Layout, sync_dir};
use super::packs;
use super::query::Segment;
use super::snapshot::{HeldSegment, Snapshot};

/// Ids that a backup leaves out. Jobs that were submitted after it have ids that clients hold; the
/// restored store must not give them again. This is as many as a store takes in a year at 34,000
/// jobs a second, and a directory may be restored from its own backups 8,191 times.
pub(crate) const IDS_LEFT_OUT: i64 = 1 << 40;

/// Pages that are copied before it is looked whether anybody still wants the backup: 4 MiB.
const PAGES_AT_ONCE: i32 = 1024;

/// Copies a snapshot; `wanted` says whether to go on.
pub(crate) fn copy(
    from: &Layout,
    snapshot: Snapshot,
    to: &Layout,
    wanted: &impl Fn() -> bool,
) -> Result<BackupReport, BackupError> {
    let mut report = BackupReport {
        jobs: snapshot.jobs,
        segments: snapshot.segments.len() as u64,
        blobs: 0,
        bytes: 0,
        next_id: 0,
    };
    for held in snapshot.segments {
        let path = to.segment(held.number, held.generation);
        report.bytes += copy_database(&held.connection, &path, wanted)?;
        copy_blobs(from, &held, to, &mut report, wanted)?;
    }
    let path = to.catalogue();
    copy_database(&snapshot.catalogue, &path, wanted)?;
    drop(snapshot.catalogue);
    report.next_id = leave_ids_out(&path)?;
    report.bytes += sync(&path)?;
    Ok(report)
}

/// Copies a database page by page, and syncs it. Gives its size in bytes.
fn copy_database(
    from: &Connection,
    path: &Path,
    wanted: &impl Fn() -> bool,
) -> Result<u64, BackupError> {
    let failed = |error: rusqlite::Error| BackupError::Copy {
        path: path.to_owned(),
        source: Arc::new(error),
    };
    let mut to = Connection::open(path).map_err(failed)?;
    // Nothing names the file before it is synced as a whole.
    let settings = "PRAGMA journal_mode = off; PRAGMA synchronous = off";
    to.execute_batch(settings).map_err(failed)?;
    let pages = PageCopy::new(from, &mut to).map_err(failed)?;
    loop {
        if !wanted() {
            return Err(BackupError::GivenUp);
        }
        match pages.step(PAGES_AT_ONCE).map_err(failed)? {
            StepResult::Done => break,
            StepResult::More => {}
            // Nobody else has the new file, and nobody locks readers of the old one out for long.
            _ => std::thread::sleep(LOOKED_AT_EVERY),
        }
    }
    drop(pages);
    to.close().map_err(|(_, error)| failed(error))?;
    sync(path)
}

/// Copies the blob files and packs that the rows of a segment name.
fn copy_blobs(
    from: &Layout,
    held: &HeldSegment,
    to: &Layout,
    report: &mut BackupReport,
    wanted: &impl Fn() -> bool,
) -> Result<(), BackupError> {
    let segment = Segment {
        connection: &held.connection,
        layout: from,
        number: held.number,
    };
    let (old, new) = (from.blobs_of(held.number), to.blobs_of(held.number));
    for name in blobs::names(&old)? {
        // Others belong to steps that were not yet committed.
        if !segment.names_blob(name)? {
            continue;
        }
        if !wanted() {
            return Err(BackupError::GivenUp);
        }
        make_dir(&new)?;
        let (old, new) = (old.join(name.to_string()), new.join(name.to_string()));
        copy_file(&old, &new, report)?;
    }
    let packs = packs::numbers(&old)?;
    if !packs.is_empty() {
        // To the newest something may be appended while it is copied, which no row in the copy names.
        for number in packs.intersection(&packs::named(&held.connection)?.0) {
            if !wanted() {
                return Err(BackupError::GivenUp);
            }
            make_dir(&new)?;
            let paths = [&old, &new].map(|dir| packs::path(dir, *number));
            copy_file(&paths[0], &paths[1], report)?;
        }
    }
    if new.is_dir() {
        sync_dir(&new).map_err(io_error("sync", &new))?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), BackupError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir(dir).map_err(io_error("make", dir))
}

/// Copies a blob file or a pack, and syncs it but for its name.
fn copy_file(old: &Path, new: &Path, report: &mut BackupReport) -> Result<(), BackupError> {
    fs::copy(old, new).map_err(io_error("copy", old))?;
    report.bytes += sync(new)?;
    report.blobs += 1;
    Ok(())
}

/// Gives the first id that the copy will give.
fn leave_ids_out(path: &Path) -> Result<i64, BackupError> {
    let mut catalogue = Catalogue::open_copy(path)?;
    let next_id = catalogue.leave_out(IDS_LEFT_OUT)?;
    catalogue.close()?;
    Ok(next_id)
}

/// Makes a file durable but for its name; gives its size in bytes.
fn sync(path: &Path) -> Result<u64, BackupError> {
    let sync = || {
        let file = File::open(path)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    };
    sync().map_err(io_error("sync", path))
}
