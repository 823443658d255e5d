//! How the writer puts into packs what is too big for a row.

use kjob_core::StoreError;

use super::blobs::Content;
use super::packs::{self, PACK_BYTES, Pack, Packed};
use super::room::Lacking;
use super::writer::Writer;

/// Packs that are kept open between batches, one for each segment.
const PACKS_OPEN_MAX: usize = 16;

/// The packs of a segment that are written to.
#[derive(Debug, Default)]
pub(crate) struct Packs {
    current: Option<Pack>,
    /// Those that this batch found full; what it appended to them is synced.
    full: Vec<Pack>,
}

impl Packs {
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.current.as_mut().map_or(Ok(()), Pack::sync)
    }

    /// A commit names what the batch appended.
    pub(crate) fn commit(&mut self) {
        self.full.clear();
        self.current.iter_mut().for_each(Pack::commit);
    }

    /// Nothing will ever name what the batch appended.
    pub(crate) fn roll_back(&mut self) {
        self.current.iter_mut().for_each(Pack::roll_back);
        self.full.drain(..).for_each(|mut pack| pack.roll_back());
    }
}

impl Writer {
    /// Appends bytes that are too big for a row of this segment to its pack. The segment's transaction is to be open, and to
    /// name them.
    pub(crate) fn pack(&mut self, number: u32, content: &mut Content) -> Result<(), StoreError> {
        let Content::Inline(data) = content else {
            return Ok(());
        };
        if data.len() <= self.shared.options.row_bytes_max || data.len() > PACK_BYTES as usize {
            return Ok(());
        }
        let appended = self.append(number, data);
        let appended = self.shared.noted(appended);
        if appended.as_ref().is_err_and(Lacking::is_full) {
            self.note_full();
        }
        *content = Content::Packed {
            at: appended?,
            data: std::mem::take(data),
        };
        Ok(())
    }

    fn append(&mut self, number: u32, data: &[u8]) -> Result<Packed, StoreError> {
        let Packs { current, full } = self.packs.entry(number).or_default();
        let create = || Pack::create(&self.shared.layout, number);
        packs::with_room(current, full, data.len(), create)?.append(data)
    }

    /// Closes packs beyond those worth keeping, those of the oldest segments first.
    pub(crate) fn trim_packs(&mut self) {
        while self.packs.len() > PACKS_OPEN_MAX {
            self.packs.pop_first();
        }
    }
}
