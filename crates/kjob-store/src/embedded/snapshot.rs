//! The whole store at one moment: a read transaction on every database, all begun between two
//! batches of the writer, and held while the writer goes on.

use std::collections::BTreeMap;

use kjob_core::StoreError;
use rusqlite::Connection;

use super::catalogue_view;
use super::error::{in_catalogue, in_segment, sql};
use super::layout::Layout;
use super::segment::{self, Access};
use super::shared::Table;
use super::writer::Writer;

/// Connections with a read transaction each: they all see the moment at which it was taken.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) catalogue: Connection,
    /// The newest first: it is the one whose log grows for as long as it is held.
    pub(crate) segments: Vec<HeldSegment>,
    /// Jobs stored, the expired ones that are still there included.
    pub(crate) jobs: u64,
}

/// A segment as it was.
#[derive(Debug)]
pub(crate) struct HeldSegment {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) connection: Connection,
}

/// Connections that were opened ahead, so that the writer need not: by number and generation.
#[derive(Debug)]
pub(crate) struct Prepared {
    catalogue: Connection,
    segments: BTreeMap<(u32, u32), Connection>,
}

impl Prepared {
    /// Opens the catalogue and all segments that there are now.
    pub(crate) fn open(layout: &Layout, table: &Table) -> Result<Self, StoreError> {
        let catalogue = catalogue_view::open_to_read(&layout.catalogue())?;
        let mut segments = BTreeMap::new();
        for entry in &table.segments {
            let path = layout.segment(entry.number, entry.generation);
            // One that went since is not needed, and is told from a damaged one by the writer.
            if let Ok(connection) = segment::open(&path, Access::Read) {
                segments.insert((entry.number, entry.generation), connection);
            }
        }
        Ok(Self {
            catalogue,
            segments,
        })
    }
}

impl Writer {
    /// Begins a read transaction on every database; there is nothing uncommitted then.
    pub(crate) fn snapshot(&mut self, mut prepared: Prepared) -> Result<Snapshot, StoreError> {
        self.commit();
        if let Some(error) = self.shared.failure() {
            return Err(error);
        }
        let mut segments = Vec::with_capacity(self.segments.len());
        for ledger in self.segments.values().rev() {
            let (number, generation) = (ledger.number, ledger.generation);
            let connection = match prepared.segments.remove(&(number, generation)) {
                Some(connection) => connection,
                // It has begun, or was rewritten, since the others were opened.
                None => segment::open(
                    &self.shared.layout.segment(number, generation),
                    Access::Read,
                )?,
            };
            hold(&connection).map_err(in_segment(number))?;
            segments.push(HeldSegment {
                number,
                generation,
                connection,
            });
        }
        hold(&prepared.catalogue).map_err(in_catalogue)?;
        Ok(Snapshot {
            catalogue: prepared.catalogue,
            segments,
            jobs: self.segments.values().map(|ledger| ledger.jobs).sum(),
        })
    }
}

/// Begins a read transaction: with its first read, not with its `BEGIN`.
fn hold(connection: &Connection) -> Result<(), StoreError> {
    let read = "SELECT count(*) FROM sqlite_master";
    connection
        .execute_batch("BEGIN")
        .and_then(|()| connection.query_row(read, [], |_| Ok(())))
        .map_err(sql("hold a snapshot"))
}
