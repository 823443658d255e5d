//! How the writer puts into packs what is too big for a row.

use kjob_core::StoreError;

use super::blobs::Content;
use super::packs::{PACK_BYTES, Pack, Packed};
use super::room::Lacking;
use super::writer::Writer;

/// Packs that are kept open between batches, one for each segment.
const PACKS_OPEN_MAX: usize = 16;

impl Writer {
    /// Appends bytes that are too big for a row of this segment to its pack, for the segment's transaction to name them. Fails as
    /// [`writing`](Self::writing) does, before anything is appended.
    pub(crate) fn pack(&mut self, number: u32, content: &mut Content) -> Result<(), StoreError> {
        let Content::Inline(data) = content else {
            return Ok(());
        };
        if data.len() <= self.shared.options.row_bytes_max || data.len() > PACK_BYTES as usize {
            return Ok(());
        }
        self.writing(number)?;
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
        let create = || Pack::create(&self.shared.layout, number);
        let packs = self.packs.entry(number).or_default();
        packs.append(data, create)
    }

    /// Closes packs beyond those worth keeping, those of the oldest segments first.
    pub(crate) fn trim_packs(&mut self) {
        while self.packs.len() > PACKS_OPEN_MAX {
            self.packs.pop_first();
        }
    }
}
