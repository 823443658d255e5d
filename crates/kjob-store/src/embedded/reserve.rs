//! Room for what has to go on when the disk is full: a file that holds it, and is let go then.
//!
//! Jobs that were taken have to be started, finished and cancelled, which takes a little room each.
//! So as soon as one of these finds none, the writer deletes the reserve, it is done once more, and
//! no submit is taken until the reserve is whole again and there is room beside it.

use std::fs::{self, File, Metadata};
use std::time::{Duration, Instant};

use kjob_core::StoreError;

use super::EmbeddedOptions;
use super::error;
use super::layout::Layout;
use super::room::{self, probe};
use super::segment;
use super::writer::Writer;

const MAKING: &str = "make the reserve";

/// Before submits are taken again, there has to be room for one in this many of the reserve's bytes
/// beside it: else the first would find the disk full once more.
const MARGIN_SHARE: u64 = 4;

/// The file.
#[derive(Debug)]
pub(crate) struct Reserve {
    layout: Layout,
    bytes: u64,
    retry: Duration,
    /// When it was last seen that there is no room.
    missed: Option<Instant>,
}

impl Reserve {
    pub(crate) fn new(layout: &Layout, options: &EmbeddedOptions) -> Self {
        Self {
            layout: layout.clone(),
            bytes: options.reserve_bytes,
            retry: options.reserve_retry,
            missed: None,
        }
    }

    /// Makes the file, where it is not there as a whole.
    pub(crate) fn make(&self) -> Result<(), StoreError> {
        let path = self.layout.reserve();
        let is_whole = |found: Metadata| found.len() == self.bytes && holds(&found) >= self.bytes;
        if self.bytes == 0 || fs::metadata(&path).is_ok_and(is_whole) {
            return Ok(());
        }
        let make = || {
            let file = File::create(&path).map_err(error::file(MAKING))?;
            room::fill(&file, self.bytes).map_err(error::file(MAKING))?;
            // Some systems see only then that there is no room. Nothing that matters is in it.
            file.sync_all().map_err(|source| match source {
                source if room::is_full(&source) => StoreError::Full,
                source => error::sync(MAKING, &path)(source),
            })
        };
        let made = make();
        if made.is_err() {
            // Part of it is of no use, and what is left belongs to the steps.
            let _ = fs::remove_file(&path);
        }
        made
    }

    /// Deletes the file; whether it was there.
    pub(crate) fn let_go(&self) -> bool {
        fs::remove_file(self.layout.reserve()).is_ok()
    }

    fn miss(&mut self) {
        self.missed = Some(Instant::now());
    }

    fn is_due(&self) -> bool {
        let missed = self.missed;
        missed.is_none_or(|missed| missed.elapsed() >= self.retry)
    }

    /// Makes the file, and sees that there is room beside it.
    fn make_with_margin(&self) -> Result<(), StoreError> {
        self.make()?;
        probe(self.layout.root(), self.bytes / MARGIN_SHARE)
    }
}

impl Writer {
    /// Makes room for a step that found none, asked for when `seen` was the number of
    /// [releases](room::Room::releases). Whether it is worth trying again.
    pub(crate) fn release(&mut self, seen: u64) -> bool {
        // Others may have had the same trouble.
        if self.shared.room.releases() != seen {
            return true;
        }
        self.note_full();
        if self.reserve.let_go() || self.reuse_logs() {
            self.shared.room.note_release();
            return true;
        }
        false
    }

    /// Something found no room: no submit is taken until there is some.
    pub(crate) fn note_full(&mut self) {
        self.reserve.miss();
        self.shared.room.set_short(true);
    }

    /// Fails if there is no room for a new job; looks anew now and then.
    pub(crate) fn check_room(&mut self) -> Result<(), StoreError> {
        if !self.shared.room.is_short() {
            return Ok(());
        }
        if !self.reserve.is_due() {
            return Err(StoreError::Full);
        }
        match self.shared.noted(self.reserve.make_with_margin()) {
            Ok(()) => {
                self.shared.room.set_short(false);
                Ok(())
            }
            Err(error) => {
                self.reserve.miss();
                Err(error)
            }
        }
    }

    /// Copies what is in the logs into the databases, where that takes no room, so that the next
    /// commits overwrite it. Whether that went well for any.
    fn reuse_logs(&mut self) -> bool {
        // Nothing is copied past a transaction that is open.
        self.commit();
        let mut any = false;
        for connection in self.connections.values() {
            let reusable = self.shared.noted(segment::reuse_log(connection));
            any |= reusable.unwrap_or(false);
        }
        any
    }
}

/// The bytes that a file takes on the disk.
#[cfg(unix)]
fn holds(file: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.blocks().saturating_mul(512)
}

#[cfg(not(unix))]
fn holds(file: &Metadata) -> u64 {
    file.len()
}
