//! Whether there is room on the disk, as everyone in the store sees it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use kjob_core::{StepError, StoreError};
use tokio::sync::watch;

use super::error::{self, may_lack_room};

/// What is written to see whether a write failed for lack of room: more than a new segment takes,
/// which is gone again by then if it is what found none.
const PROBE_BYTES: u64 = 1024 * 1024;

/// What is told of the disk.
#[derive(Debug)]
pub(crate) struct Room {
    /// Whether submits are refused until there is room again.
    short: watch::Sender<bool>,
    /// How many times room was made for what is to go on.
    releases: AtomicU64,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self {
            short: watch::Sender::new(false),
            releases: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_short(&self) -> bool {
        *self.short.borrow()
    }

    pub(crate) fn set_short(&self, short: bool) {
        self.short
            .send_if_modified(|was| std::mem::replace(was, short) != short);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.short.subscribe()
    }

    /// A step that was begun before this grew, and found no room, may find some now.
    pub(crate) fn releases(&self) -> u64 {
        self.releases.load(Ordering::Acquire)
    }

    pub(crate) fn note_release(&self) {
        self.releases.fetch_add(1, Ordering::AcqRel);
    }
}

/// An error that may say that there was no room.
pub(crate) trait Lacking {
    /// Whether it says so.
    fn is_full(&self) -> bool;
}

impl Lacking for StoreError {
    fn is_full(&self) -> bool {
        matches!(self, Self::Full)
    }
}

impl Lacking for StepError {
    fn is_full(&self) -> bool {
        matches!(self, Self::Store(StoreError::Full))
    }
}

/// Tells a write that failed for lack of room from one of a disk that fails. SQLite knows only one
/// of the reasons that systems have for that, a full disk, and calls a quota that is used up an I/O
/// error; nor does it say why a file cannot be made. A failed write leaves the old state either
/// way, so a mistake does no harm.
pub(crate) fn judged(dir: &Path, error: StoreError) -> StoreError {
    if may_lack_room(&error) && matches!(probe(dir, PROBE_BYTES), Err(StoreError::Full)) {
        StoreError::Full
    } else {
        error
    }
}

/// Fails if so many bytes have no room in `dir` now.
pub(crate) fn probe(dir: &Path, bytes: u64) -> Result<(), StoreError> {
    let path = dir.join("PROBE");
    let file = File::create(&path).map_err(error::file("look for room"))?;
    // Where a file may lose its name while it is open, a crash leaves nothing behind.
    let is_gone = fs::remove_file(&path).is_ok();
    let written = fill(&file, bytes).and_then(|()| file.sync_all());
    // At once, and not when the last handle goes.
    let _ = file.set_len(0);
    drop(file);
    if !is_gone {
        let _ = fs::remove_file(&path);
    }
    written.map_err(error::file("look for room"))
}

/// Writes so many bytes that no file system makes fewer of.
pub(crate) fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = bytes;
    let mut piece = Vec::with_capacity(64 * 1024);
    while left > 0 {
        piece.clear();
        while piece.len() < 64 * 1024 {
            // Xorshift: all that matters is that it cannot be compressed.
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            piece.extend(word.to_ne_bytes());
        }
        let now = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        file.write_all(&piece[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Whether the system says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}
