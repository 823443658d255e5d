//! What a rewriting takes along of packs: the bytes of the jobs that stay, to packs of their own, so that the old ones can go.

use std::fs;
use std::path::PathBuf;

use kjob_core::{JobId, StoreError};
use rusqlite::Connection;

use super::blobs::Place;
use super::error::sql;
use super::job_row;
use super::layout::Layout;
use super::packs::{self, Pack, Packed, Packs};
use super::query::Segment;
use super::state_row;

/// Moves bytes to new packs, which are deleted when this is dropped, unless they are [kept](Self::keep).
#[derive(Debug)]
pub(crate) struct Moving {
    layout: Layout,
    number: u32,
    /// Whether there were packs when it began.
    is_needed: bool,
    packs: Packs,
    made: Vec<PathBuf>,
}

impl Moving {
    pub(crate) fn new(layout: &Layout, number: u32) -> Result<Self, StoreError> {
        Ok(Self {
            layout: layout.clone(),
            number,
            is_needed: !packs::numbers(&layout.blobs_of(number))?.is_empty(),
            packs: Packs::default(),
            made: Vec::new(),
        })
    }

    /// Moves what is in packs of the jobs above the first id, up to the second, whose rows were just copied to `new`. What is
    /// damaged, or cannot be read, stays where it is, and what its row says of it.
    pub(crate) fn advance(
        &mut self,
        new: &Connection,
        (above, last): (i64, i64),
    ) -> Result<(), StoreError> {
        if !self.is_needed {
            return Ok(());
        }
        let layout = self.layout.clone();
        for id in in_packs(new, (above, last)).map_err(sql("find what is in packs"))? {
            let segment = Segment {
                connection: new,
                layout: &layout,
                number: self.number,
            };
            // Callbacks that are pending are copied at the end.
            let stored = match segment.stored_but_for_callbacks(id) {
                Err(StoreError::Corrupt { .. }) => continue,
                stored => stored?,
            };
            let Some(stored) = stored else {
                continue;
            };
            if let Some(place) = self.moved(&stored.job.payload)? {
                job_row::put_place(new, &stored.job, place).map_err(sql("move a payload"))?;
            }
            if let (Some(state), Some(end)) = (&stored.state.state, &stored.state.end)
                && let Some(place) = self.moved(&end.result)?
            {
                state_row::put_place(new, id, state, end, place).map_err(sql("move a result"))?;
            }
        }
        // They go with the rewriting, or not at all.
        self.packs.commit();
        Ok(())
    }

    /// Where the bytes are now, if they were in a pack and are sound.
    fn moved(&mut self, bytes: &job_row::Extent) -> Result<Option<Place>, StoreError> {
        let Some(Place::Pack(at)) = bytes.place else {
            return Ok(None);
        };
        let (len, crc) = (bytes.len, bytes.crc);
        match packs::read(&self.layout, self.number, at, len, crc, String::new) {
            Err(StoreError::Corrupt { .. } | StoreError::Io { .. }) => Ok(None),
            data => Ok(Some(Place::Pack(self.append(&data?)?))),
        }
    }

    fn append(&mut self, data: &[u8]) -> Result<Packed, StoreError> {
        self.packs.append(data, || {
            let pack = Pack::create(&self.layout, self.number)?;
            self.made.push(pack.path().to_owned());
            Ok(pack)
        })
    }

    /// Makes durable what was moved.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.packs.sync()
    }

    /// The rows that name the new packs may be in use from now on.
    pub(crate) fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        for path in &self.made {
            // What is left over goes when the store is opened next.
            let _ = fs::remove_file(path);
        }
    }
}

fn in_packs(new: &Connection, (above, last): (i64, i64)) -> rusqlite::Result<Vec<JobId>> {
    let query = "SELECT j.id FROM main.jobs j LEFT JOIN main.expiries x ON x.id = j.id \
                 LEFT JOIN main.ends e ON e.seq = x.seq \
                 WHERE j.id > ?1 AND j.id <= ?2 AND (j.payload_file < 0 OR e.result_file < 0)";
    let mut query = new.prepare_cached(query)?;
    let ids = query.query_map([above, last], |row| row.get(0).map(JobId::new))?;
    ids.filter_map(Result::transpose).collect()
}
