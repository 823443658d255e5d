//! The checksum of a row: each column in its place, so that neither a changed value nor a shifted
//! border between two of them goes unseen.

/// Builds a row's checksum, column by column.
#[derive(Debug, Default)]
pub(crate) struct Checksum(crc32fast::Hasher);

impl Checksum {
    pub(crate) fn int(mut self, value: impl Into<i64>) -> Self {
        self.0.update(&value.into().to_le_bytes());
        self
    }

    pub(crate) fn maybe(self, value: Option<i64>) -> Self {
        match value {
            Some(value) => self.int(1).int(value),
            None => self.int(0),
        }
    }

    pub(crate) fn bytes(self, value: &[u8]) -> Self {
        let mut this = self.int(i64::try_from(value.len()).unwrap_or(i64::MAX));
        this.0.update(value);
        this
    }

    /// As it is stored.
    pub(crate) fn end(self) -> u32 {
        self.0.finalize()
    }
}
