//! Payloads and results too big for a row and too small for a file of their own: they are appended to packs, files of many.
//!
//! In a row they would be written twice, page by page: to the log, and from there to their place. In a pack they are written once,
//! and all of a commit are synced together, before the commit that names them.
//!
//! What no commit names stays behind in a pack until that goes: when its segment does, or when a rewriting of the segment has
//! moved what is still needed to a pack of its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use kjob_core::StoreError;
use rusqlite::Connection;

use super::blobs::{Place, make_dir, names_in};
use super::error::{self, sql};
use super::layout::{Layout, ignore_missing, sync_names};
use super::room;
use super::totals::{self, Sum, Totals};

const WRITING: &str = "write a pack";
const READING: &str = "read a pack";
const LOOKING: &str = "find out which packs are needed";

/// A pack that has so many bytes gets no more. A larger one is seldom made, and seldom goes; its name takes two syncs.
pub(crate) const PACK_BYTES: u32 = 256 << 20;

const NUMBER_MAX: u32 = i32::MAX.cast_unsigned();

/// A file with a higher number is none of ours, as so many were never made.
const NUMBER_KNOWN_MAX: u32 = NUMBER_MAX / 2;

/// Above the numbers of all packs that were seen: none is given again, as what is to delete the pack that had it may still be at
/// work.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Where in the packs of their segment bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// The number of the pack.
    pub(crate) pack: u32,
    pub(crate) offset: u32,
}

impl Packed {
    /// As a number of 63 bits.
    pub(crate) fn to_bits(self) -> i64 {
        i64::from(self.pack) << 32 | i64::from(self.offset)
    }

    /// What [`to_bits`](Self::to_bits) makes of it; of any number that is not negative.
    pub(crate) fn from_bits(bits: i64) -> Option<Self> {
        Some(Self {
            pack: u32::try_from(bits >> 32).ok()?,
            offset: u32::try_from(bits & i64::from(u32::MAX)).ok()?,
        })
    }
}

/// A pack that is being written.
#[derive(Debug)]
pub(crate) struct Pack {
    number: u32,
    path: PathBuf,
    file: File,
    /// What is appended next begins here.
    end: u32,
    /// What begins below was committed.
    committed: u32,
    is_synced: bool,
    /// Somewhere it could not be written to.
    is_bad: bool,
}

impl Pack {
    /// A new one for `segment`.
    pub(crate) fn create(layout: &Layout, segment: u32) -> Result<Self, StoreError> {
        let dir = layout.blobs_of(segment);
        make_dir(layout, &dir, WRITING)?;
        numbers(&dir)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = path(&dir, number);
        let make = || {
            if number > NUMBER_MAX {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            File::create_new(&path)
        };
        let file = make().map_err(error::file(WRITING))?;
        sync_names(&dir, WRITING)?;
        Ok(Self {
            number,
            path,
            file,
            end: 0,
            committed: 0,
            is_synced: true,
            is_bad: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is not to get so many bytes more.
    fn is_full(&self, len: usize) -> bool {
        self.is_bad
            || u32::try_from(len).map_or(true, |len| len > PACK_BYTES.saturating_sub(self.end))
    }

    /// Appends bytes, for which there is [room](Self::is_full); durable with the next [`sync`](Self::sync).
    fn append(&mut self, data: &[u8]) -> Result<Packed, StoreError> {
        let (pack, offset) = (self.number, self.end);
        let write = |mut file: &File| {
            file.seek(SeekFrom::Start(offset.into()))?;
            file.write_all(data)
        };
        self.is_synced = false;
        write(&self.file).map_err(|failed| {
            // A part may be there. It harms nobody, but takes room where there may be none.
            let _ = self.file.set_len(offset.into());
            self.is_bad = !room::is_full(&failed);
            error::file(WRITING)(failed)
        })?;
        self.end += u32::try_from(data.len()).unwrap_or(u32::MAX - offset);
        Ok(Packed { pack, offset })
    }

    /// Makes durable what was appended.
    fn sync(&mut self) -> Result<(), StoreError> {
        if !self.is_synced {
            let synced = self.file.sync_data();
            synced.map_err(error::sync(WRITING, &self.path))?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// A commit names what was appended.
    fn commit(&mut self) {
        self.committed = self.end;
    }

    /// What was appended since the last commit is not wanted, and nothing can come to name it; its room comes back.
    fn roll_back(&mut self) {
        if self.end > self.committed {
            // Where that fails, it is written over.
            let _ = self.file.set_len(self.committed.into());
            self.end = self.committed;
        }
    }
}

/// The packs of a segment that somebody writes to.
#[derive(Debug, Default)]
pub(crate) struct Packs {
    current: Option<Pack>,
    /// Those that were full since the last commit; what was appended to them is synced.
    full: Vec<Pack>,
}

impl Packs {
    /// Appends bytes, to a new pack if they have no room in the current one. The old one is synced first, as the next commit
    /// may name what was appended to it.
    pub(crate) fn append(
        &mut self,
        data: &[u8],
        create: impl FnOnce() -> Result<Pack, StoreError>,
    ) -> Result<Packed, StoreError> {
        if let Some(mut old) = self.current.take_if(|pack| pack.is_full(data.len())) {
            let synced = old.sync();
            self.full.push(old);
            synced?;
        }
        let pack = match &mut self.current {
            Some(pack) => pack,
            none => none.insert(create()?),
        };
        pack.append(data)
    }

    /// Makes durable what was appended.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.current.as_mut().map_or(Ok(()), Pack::sync)
    }

    /// A commit names what was appended.
    pub(crate) fn commit(&mut self) {
        self.full.clear();
        self.current.iter_mut().for_each(Pack::commit);
    }

    /// Nothing will ever name what was appended since the last commit.
    pub(crate) fn roll_back(&mut self) {
        self.current.iter_mut().for_each(Pack::roll_back);
        self.full.drain(..).for_each(|mut pack| pack.roll_back());
    }
}

/// Reads bytes that must be so many and have this checksum; `whose` are told in errors.
pub(crate) fn read(
    layout: &Layout,
    segment: u32,
    at: Packed,
    len: u64,
    crc: u32,
    whose: impl FnOnce() -> String,
) -> Result<Bytes, StoreError> {
    let Packed { pack, offset } = at;
    let corrupt = |how: &str| StoreError::Corrupt {
        what: format!(
            "{}, {len} bytes from {offset} on in pack {pack}: {how}",
            whose()
        ),
    };
    let mut file = match File::open(path(&layout.blobs_of(segment), pack)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(corrupt("missing")),
        file => file.map_err(error::file(READING))?,
    };
    // What a damaged row says is nothing to make room by.
    let has = file.metadata().map_err(error::file(READING))?.len();
    if u64::from(offset).saturating_add(len) > has {
        return Err(corrupt(&format!("it ends after {has}")));
    }
    let mut data = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    file.seek(SeekFrom::Start(offset.into()))
        .and_then(|_| file.take(len).read_to_end(&mut data))
        .map_err(error::file(READING))?;
    if crc32fast::hash(&data) != crc {
        return Err(corrupt("their checksum is wrong"));
    }
    Ok(data.into())
}

/// The numbers of the packs in a segment's directory; later ones get others, also when these are gone.
pub(crate) fn numbers(dir: &Path) -> Result<BTreeSet<u32>, StoreError> {
    let numbers: BTreeSet<u32> = names_in(dir, parse)?;
    if let Some(last) = numbers.last() {
        NEXT.fetch_max(last + 1, Ordering::Relaxed);
    }
    Ok(numbers)
}

/// The numbers of the packs that a segment's rows name, and what its rows of `jobs` and of `ends` add up to.
pub(crate) fn named(connection: &Connection) -> Result<(BTreeSet<u32>, [Sum; 2]), StoreError> {
    let mut numbers = BTreeSet::new();
    let mut read = |query| {
        let mut query = connection.prepare(query)?;
        let mut rows = query.query([])?;
        let mut sum = Sum::default();
        while let Some(row) = rows.next()? {
            sum.add(row.get(0)?, row.get(1)?);
            if let Some(Place::Pack(at)) =
                row.get::<_, Option<i64>>(2)?.and_then(Place::from_column)
            {
                numbers.insert(at.pack);
            }
        }
        Ok(sum)
    };
    let queries = [
        "SELECT id, crc, payload_file FROM jobs",
        "SELECT id, crc, result_file FROM ends",
    ];
    let [jobs, ends] = queries.map(|query| read(query).map_err(sql(LOOKING)));
    let sums = [jobs?, ends?];
    Ok((numbers, sums))
}

/// Deletes those of these packs that the rows of a segment do not name; none if any row is out of reach.
pub(crate) fn prune(
    dir: &Path,
    packs: &BTreeSet<u32>,
    connection: &Connection,
    segment: u32,
) -> Result<(), StoreError> {
    let snapshot = connection.unchecked_transaction().map_err(sql(LOOKING))?;
    let right = Totals::read(&snapshot, segment)?;
    let (named, [jobs, ends]) = named(&snapshot)?;
    totals::same(segment, "jobs", jobs, right.jobs)?;
    totals::same(segment, "ends", ends, right.ends)?;
    for number in packs.difference(&named) {
        let removed = ignore_missing(fs::remove_file(path(dir, *number)));
        removed.map_err(error::file("remove a pack that nobody needs"))?;
    }
    Ok(())
}

pub(crate) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number}.pack"))
}

fn parse(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".pack")?.parse().ok()?;
    (number <= NUMBER_KNOWN_MAX && format!("{number}.pack") == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lead_back() {
        let last = Packed {
            pack: NUMBER_MAX,
            offset: u32::MAX,
        };
        let places =
            [(0, 0), (0, 1), (1, 0), (5, 77)].map(|(pack, offset)| Packed { pack, offset });
        for at in places.into_iter().chain([last]) {
            let place = Place::Pack(at);
            assert!(place.to_column() < 0);
            assert_eq!(Place::from_column(place.to_column()), Some(place));
        }
        assert_eq!(Place::Pack(last).to_column(), i64::MIN);
        for number in [0, 7, u32::MAX] {
            let place = Place::File(number);
            assert_eq!(Place::from_column(place.to_column()), Some(place));
        }
        assert_eq!(Place::from_column(i64::from(u32::MAX) + 1), None);
        for (name, number) in [
            ("0.pack", Some(0)),
            ("12.pack", Some(12)),
            ("012.pack", None),
            ("2147483648.pack", None),
            ("1.0.payload", None),
            (".pack", None),
        ] {
            assert_eq!(parse(name), number, "{name}");
        }
    }

    #[test]
    fn what_is_rolled_back_is_written_over_and_what_is_committed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let mut pack = Pack::create(&layout, 1).unwrap();
        let read = |at, len, of| read(&layout, 1, at, len, crc32fast::hash(of), String::new);
        let first = pack.append(b"first").unwrap();
        pack.sync().unwrap();
        pack.commit();
        let lost = pack.append(b"lost").unwrap();
        pack.roll_back();
        let second = pack.append(b"second").unwrap();
        assert_eq!(lost, second);
        assert_eq!(read(first, 5, b"first").unwrap(), "first");
        assert_eq!(read(second, 6, b"second").unwrap(), "second");
        assert!(matches!(
            read(lost, 4, b"lost"),
            Err(StoreError::Corrupt { .. })
        ));
        let past = Packed {
            offset: u32::MAX,
            ..second
        };
        assert!(matches!(
            read(past, u64::MAX, b""),
            Err(StoreError::Corrupt { .. })
        ));
    }

    #[test]
    fn a_full_pack_is_synced_and_followed_by_one_with_a_number_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let mut packs = Packs::default();
        let create = || Pack::create(&layout, 1);
        packs.append(&[], create).unwrap();
        let pack = packs.current.as_mut().unwrap();
        pack.end = PACK_BYTES - 10;
        pack.commit();
        let last = packs.append(&[1; 10], create).unwrap();
        assert_eq!(packs.append(&[], create).unwrap().pack, last.pack);
        let next = packs.append(&[2], create).unwrap();
        assert!(next.pack > last.pack && next.offset == 0);
        assert!(packs.full[0].is_synced);
        let found = numbers(&layout.blobs_of(1)).unwrap();
        assert_eq!(found, BTreeSet::from([last.pack, next.pack]));
        // Both give back what is not wanted, and no more.
        let len = |at: Packed| {
            fs::metadata(path(&layout.blobs_of(1), at.pack))
                .unwrap()
                .len()
        };
        assert_eq!((len(last), len(next)), (PACK_BYTES.into(), 1));
        packs.roll_back();
        assert_eq!((len(last), len(next)), (u64::from(PACK_BYTES) - 10, 0));
        // Also once the later ones are gone.
        fs::remove_file(path(&layout.blobs_of(1), next.pack)).unwrap();
        assert!(Pack::create(&layout, 1).unwrap().number > next.pack);
    }

    #[test]
    fn what_cannot_be_written_to_is_followed_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let mut packs = Packs::default();
        let create = || Pack::create(&layout, 1);
        let first = packs.append(b"kept", create).unwrap();
        let pack = packs.current.as_mut().unwrap();
        // A file that is open for reading alone takes nothing.
        pack.file = File::open(&pack.path).unwrap();
        packs.append(b"refused", create).unwrap_err();
        let next = packs.append(b"taken", create).unwrap();
        assert!(next.pack > first.pack && packs.full.len() == 1);
    }
}
