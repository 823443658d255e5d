//! Payloads and results too big for a row: files of their own, durable before the commit that
//! names them.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kjob_core::{JobId, StoreError};

use super::error;
use super::layout::{Layout, ignore_missing, sync_names};
use super::packs::Packed;

const WRITING: &str = "write a blob file";
const MOVING: &str = "move a blob file";

/// What a blob file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobKind {
    /// A payload.
    Payload,
    /// A result.
    Result,
}

/// A blob file's name in the blob directory of its job's segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobName {
    pub(crate) id: JobId,
    pub(crate) kind: BlobKind,
    /// Tells apart the files that concurrent steps on one job write, of which one wins.
    pub(crate) number: u32,
}

impl BlobName {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let id = JobId::new(parts.next()?.parse().ok()?)?;
        let number = parts.next()?.parse().ok()?;
        let kind = match parts.next()? {
            "payload" => BlobKind::Payload,
            "result" => BlobKind::Result,
            _ => return None,
        };
        parts.next().is_none().then_some(Self { id, kind, number })
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            BlobKind::Payload => "payload",
            BlobKind::Result => "result",
        };
        write!(f, "{}.{}.{kind}", self.id, self.number)
    }
}

/// Where bytes are that are not in their row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the blob file of this number.
    File(u32),
    Pack(Packed),
}

impl Place {
    /// As its column has it: the number of a file, or a negative one.
    pub(crate) fn to_column(self) -> i64 {
        match self {
            Place::File(number) => number.into(),
            Place::Pack(at) => -1 - at.to_bits(),
        }
    }

    pub(crate) fn from_column(value: i64) -> Option<Self> {
        if value < 0 {
            Packed::from_bits(-1 - value).map(Place::Pack)
        } else {
            u32::try_from(value).ok().map(Place::File)
        }
    }
}

/// Bytes on their way into the store.
#[derive(Debug)]
pub(crate) enum Content {
    /// For the row, or where it is too big for that, for a pack.
    Inline(Bytes),
    /// In a pack.
    Packed { at: Packed, data: Bytes },
    /// In a file already.
    File {
        blob: NewBlob,
        /// The same bytes: a repeated submit is compared without reading the file again.
        data: Bytes,
    },
}

impl Content {
    pub(crate) fn data(&self) -> &Bytes {
        match self {
            Content::Inline(data) | Content::Packed { data, .. } | Content::File { data, .. } => {
                data
            }
        }
    }

    /// Those for the row.
    pub(crate) fn inline(&self) -> Option<&[u8]> {
        match self {
            Content::Inline(data) => Some(data),
            Content::Packed { .. } | Content::File { .. } => None,
        }
    }

    /// Where it is, if it is in a file.
    pub(crate) fn place(&self) -> Option<Place> {
        match self {
            Content::Inline(_) => None,
            Content::Packed { at, .. } => Some(Place::Pack(*at)),
            Content::File { blob, .. } => Some(Place::File(blob.name.number)),
        }
    }
}

/// A durable blob file that no commit names yet: deleted when dropped, unless it is kept.
#[derive(Debug)]
pub(crate) struct NewBlob {
    name: BlobName,
    path: PathBuf,
    kept: bool,
}

impl NewBlob {
    /// Writes and syncs a blob file for `segment`.
    pub(crate) fn write(
        layout: &Layout,
        segment: u32,
        id: JobId,
        kind: BlobKind,
        data: &[u8],
    ) -> Result<Self, StoreError> {
        let io = || error::file(WRITING);
        let dir = layout.blobs_of(segment);
        make_dir(layout, &dir, WRITING)?;
        let (blob, mut file) = Self::create(&dir, id, kind).map_err(io())?;
        file.write_all(data).map_err(io())?;
        file.sync_all().map_err(error::sync(WRITING, &blob.path))?;
        sync_names(&dir, WRITING)?;
        Ok(blob)
    }

    /// A new file under the first free number.
    fn create(dir: &Path, id: JobId, kind: BlobKind) -> io::Result<(Self, File)> {
        for number in 0..u32::MAX {
            let name = BlobName { id, kind, number };
            let path = dir.join(name.to_string());
            match File::create_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => {
                    return Ok((
                        Self {
                            name,
                            path,
                            kept: false,
                        },
                        file?,
                    ));
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Sees to it that the file is in the directory of `segment`: a new one may have begun since
    /// the file was written.
    pub(crate) fn move_to(&mut self, layout: &Layout, segment: u32) -> Result<(), StoreError> {
        let dir = layout.blobs_of(segment);
        if self.path.parent() == Some(dir.as_path()) {
            return Ok(());
        }
        make_dir(layout, &dir, MOVING)?;
        let target = dir.join(self.path.file_name().unwrap_or_default());
        fs::rename(&self.path, &target).map_err(error::file(MOVING))?;
        self.path = target;
        sync_names(&dir, MOVING)
    }

    /// A commit names the file now.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

/// Makes the directory for a segment's blobs, durably. One that is there may be of another thread
/// that has not synced it yet, or could not; so it is synced each time, which costs little where
/// nothing changed.
pub(crate) fn make_dir(layout: &Layout, dir: &Path, doing: &'static str) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(error::file(doing))?;
    sync_names(&layout.blobs(), doing)
}

impl Drop for NewBlob {
    fn drop(&mut self) {
        if !self.kept {
            // What is left over is removed at the next open, or with its segment.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads a blob that must have `len` bytes with this checksum.
pub(crate) fn read(
    layout: &Layout,
    segment: u32,
    name: BlobName,
    len: u64,
    crc: u32,
) -> Result<Bytes, StoreError> {
    let path = layout.blobs_of(segment).join(name.to_string());
    let corrupt = |how: &str| StoreError::Corrupt {
        what: format!("blob file {name}: {how}"),
    };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(corrupt("missing")),
        other => other.map_err(error::file("open a blob file"))?,
    };
    let found = file
        .metadata()
        .map_err(error::file("read a blob file"))?
        .len();
    if found != len {
        return Err(corrupt(&format!("{found} bytes instead of {len}")));
    }
    let mut data = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    file.take(len)
        .read_to_end(&mut data)
        .map_err(error::file("read a blob file"))?;
    if crc32fast::hash(&data) != crc {
        return Err(corrupt("its checksum is wrong"));
    }
    Ok(data.into())
}

/// Deletes the blobs of a segment for which `is_needed` is false.
pub(crate) fn prune(
    dir: &Path,
    mut is_needed: impl FnMut(BlobName) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    for name in names(dir)? {
        if !is_needed(name)? {
            let removed = ignore_missing(fs::remove_file(dir.join(name.to_string())));
            removed.map_err(error::file("remove left-over blob files"))?;
        }
    }
    Ok(())
}

/// The blobs in a segment's directory. A file that is not ours stays until its directory goes.
pub(crate) fn names(dir: &Path) -> Result<Vec<BlobName>, StoreError> {
    names_in(dir, BlobName::parse)
}

/// The names in a segment's directory of which `parse` makes something; none where there is no directory.
pub(crate) fn names_in<N, C: Default + Extend<N>>(
    dir: &Path,
    parse: impl Fn(&str) -> Option<N>,
) -> Result<C, StoreError> {
    let io = || error::file("read a directory of blob files");
    let mut names = C::default();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        other => other.map_err(io())?,
    };
    for entry in entries {
        let name = entry.map_err(io())?.file_name();
        names.extend(name.to_str().and_then(&parse));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        let id = JobId::new(77).unwrap();
        for kind in [BlobKind::Payload, BlobKind::Result] {
            let name = BlobName {
                id,
                kind,
                number: 3,
            };
            assert_eq!(BlobName::parse(&name.to_string()), Some(name));
        }
        for other in [
            "",
            "x.0.payload",
            "0.0.payload",
            "7.result",
            "7.x.result",
            "7.0.payload.tmp",
        ] {
            assert_eq!(BlobName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_blob_that_no_commit_names_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let id = JobId::new(1).unwrap();
        let kind = BlobKind::Payload;
        let write = |data| NewBlob::write(&layout, 1, id, kind, data).unwrap();
        let read = |number, len, crc| read(&layout, 1, BlobName { id, kind, number }, len, crc);
        let crc = crc32fast::hash(b"abc");
        write(b"abc").keep();
        // A second writer gets a file of its own, and losing it takes nothing from the first.
        drop(write(b"abcd"));
        assert_eq!(read(0, 3, crc).unwrap(), "abc");
        assert!(matches!(read(1, 4, 0), Err(StoreError::Corrupt { .. })));
        assert!(matches!(read(0, 4, crc), Err(StoreError::Corrupt { .. })));
        assert!(matches!(
            read(0, 3, crc ^ 1),
            Err(StoreError::Corrupt { .. })
        ));
    }
}
