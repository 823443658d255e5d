//! A row by its rowid, found in the pages of a table as SQLite keeps them in its files
//! (<https://www.sqlite.org/fileformat2.html#b_tree_pages>).
//!
//! Whatever is not as it has to be is `None`, and nothing here says what is wrong: whoever asks then asks SQLite.

use std::ops::Range;

use rusqlite::types::ValueRef;

/// Bytes of a page, in all files of a store.
pub(crate) const PAGE: usize = 4096;

/// A page of a file.
pub(crate) type Page = [u8; PAGE];

/// What a page has of a rowid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is in this page, if anywhere, or in one below that.
    Below(u32),
    /// The row: where in the page it is.
    Here(Range<usize>),
    /// No row has it.
    Nowhere,
}

/// The kinds of pages that tables have: inner ones, and leaves.
const INNER: u8 = 5;
const LEAF: u8 = 13;

/// More bytes of a row than these are partly in other pages, where none are reserved at a page's end.
const ROW_MAX: usize = PAGE - 35;

/// Looks for a rowid in a page of a table, which is not the first of its file.
pub(crate) fn find(page: &Page, rowid: i64) -> Option<Step> {
    let cells = usize::from(u16::from_be_bytes(bytes_at(page, 3)?));
    match page.first() {
        Some(&INNER) => {
            let cell = |index: usize| {
                let start = offset(page, 12 + 2 * index)?;
                let below = u32::from_be_bytes(bytes_at(page, start)?);
                // The highest rowid below.
                let (highest, _) = varint(page.get(start + 4..)?)?;
                Some((highest, below))
            };
            let at = first_at_least(cells, rowid, |index| cell(index).map(|(key, _)| key))?;
            if at < cells {
                return cell(at).map(|(_, below)| Step::Below(below));
            }
            Some(Step::Below(u32::from_be_bytes(bytes_at(page, 8)?)))
        }
        Some(&LEAF) => {
            let cell = |index: usize| {
                let start = offset(page, 8 + 2 * index)?;
                let (len, first) = varint(page.get(start..)?)?;
                let (key, second) = varint(page.get(start + first..)?)?;
                Some((key, start + first + second, len))
            };
            let at = first_at_least(cells, rowid, |index| cell(index).map(|(key, ..)| key))?;
            if at == cells {
                return Some(Step::Nowhere);
            }
            let (key, start, len) = cell(at)?;
            if key != rowid {
                return Some(Step::Nowhere);
            }
            let len = usize::try_from(len).ok().filter(|len| *len <= ROW_MAX)?;
            let row = start..start + len;
            (row.end <= PAGE).then_some(Step::Here(row))
        }
        _ => None,
    }
}

/// The values of a row, in the order of the table's columns; those of columns that were added after it was written stay as they are.
pub(crate) fn values<'a>(row: &'a [u8], into: &mut [ValueRef<'a>]) -> Option<()> {
    let (head_len, first) = varint(row)?;
    let (head, mut body) = row.split_at_checked(usize::try_from(head_len).ok()?)?;
    let mut kinds = head.get(first..)?;
    let mut into = into.iter_mut();
    while !kinds.is_empty() {
        let (kind, used) = varint(kinds)?;
        kinds = kinds.get(used..)?;
        let (value, rest) = value(kind, body)?;
        body = rest;
        *into.next()? = value;
    }
    body.is_empty().then_some(())
}

/// The value of a kind at the start of what is left (<https://www.sqlite.org/fileformat2.html#record_format>), but for
/// floating-point ones, of which no table has any.
fn value(kind: i64, body: &[u8]) -> Option<(ValueRef<'_>, &[u8])> {
    let integer = |len: usize| {
        let (bytes, rest) = body.split_at_checked(len)?;
        let is_negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
        let mut whole = if is_negative { [0xff; 8] } else { [0; 8] };
        whole.get_mut(8 - len..)?.copy_from_slice(bytes);
        Some((ValueRef::Integer(i64::from_be_bytes(whole)), rest))
    };
    match kind {
        0 => Some((ValueRef::Null, body)),
        1..=4 => integer(kind as usize),
        5 => integer(6),
        6 => integer(8),
        8 | 9 => Some((ValueRef::Integer(kind - 8), body)),
        12.. => {
            let (bytes, rest) = body.split_at_checked(usize::try_from((kind - 12) / 2).ok()?)?;
            let is_text = kind % 2 == 1;
            let value = if is_text {
                ValueRef::Text(bytes)
            } else {
                ValueRef::Blob(bytes)
            };
            Some((value, rest))
        }
        _ => None,
    }
}

/// The first of so many rising keys that is at least this one; how many there are if none is.
fn first_at_least(cells: usize, rowid: i64, key: impl Fn(usize) -> Option<i64>) -> Option<usize> {
    let (mut low, mut high) = (0, cells);
    while low < high {
        let middle = low.midpoint(high);
        if key(middle)? < rowid {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Some(low)
}

/// Where a cell begins, by its entry.
fn offset(page: &Page, at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(bytes_at(page, at)?)))
}

fn bytes_at<const N: usize>(page: &Page, at: usize) -> Option<[u8; N]> {
    page.get(at..)?.first_chunk().copied()
}

/// One of SQLite's integers of one to nine bytes, the highest bits first, and how many bytes it takes.
#[inline]
fn varint(bytes: &[u8]) -> Option<(i64, usize)> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        if at == 8 {
            return Some(((value << 8 | u64::from(*byte)).cast_signed(), 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if *byte < 0x80 {
            return Some((value.cast_signed(), at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;
    use rusqlite::types::Value;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            (any::<i64>(), 0..64_u32).prop_map(|(value, shift)| Value::Integer(value >> shift)),
            "[a-zé]{0,80}".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..1500).prop_map(Value::Blob),
        ]
    }

    /// The pages of a database with a table of these rows, and the root of the table.
    fn written(rows: &[(i64, Value, Value)]) -> (Vec<Page>, u32) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.sqlite");
        let connection = Connection::open(&path).unwrap();
        connection
            .pragma_update(None, "page_size", PAGE as i64)
            .unwrap();
        let table = "CREATE TABLE rows (id INTEGER PRIMARY KEY, a, b)";
        connection.execute_batch(table).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        for row in rows {
            let insert = "INSERT OR REPLACE INTO rows VALUES (?1, ?2, ?3)";
            let mut insert = connection.prepare_cached(insert).unwrap();
            insert.execute((row.0, &row.1, &row.2)).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        // It was written before rows of two more columns could be.
        let added = "ALTER TABLE rows ADD COLUMN c; ALTER TABLE rows ADD COLUMN d";
        connection.execute_batch(added).unwrap();
        let root = "SELECT rootpage FROM sqlite_master WHERE name = 'rows'";
        let root = connection.query_row(root, [], |row| row.get(0)).unwrap();
        drop(connection);
        let bytes = std::fs::read(path).unwrap();
        let pages = bytes.chunks_exact(PAGE);
        (pages.map(|page| page.try_into().unwrap()).collect(), root)
    }

    /// The page that has a row, and where.
    fn search(pages: &[Page], root: u32, rowid: i64) -> (&Page, Option<Step>) {
        let mut page = &pages[root as usize - 1];
        loop {
            match find(page, rowid) {
                Some(Step::Below(number)) => page = &pages[number as usize - 1],
                found => return (page, found),
            }
        }
    }

    /// Where a row is, as it stands in a page of which the first cell is this row.
    fn leaf_of(cell: &[u8]) -> Page {
        let mut page = [0; PAGE];
        page[0] = LEAF;
        page[4] = 1;
        let start = PAGE - cell.len();
        page[8..10].copy_from_slice(&(start as u16).to_be_bytes());
        page[start..].copy_from_slice(cell);
        page
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn rows_are_found_as_sqlite_wrote_them(
            rows in proptest::collection::vec(
                ((any::<i64>(), 0..64_u32).prop_map(|(id, shift)| id >> shift), value(), value()),
                0..400,
            ),
            others in proptest::collection::vec(any::<i64>(), 100),
        ) {
            let (pages, root) = written(&rows);
            let mut last = std::collections::BTreeMap::new();
            for (id, a, b) in &rows {
                last.insert(*id, (a, b));
            }
            for (id, (a, b)) in &last {
                let (page, step) = search(&pages, root, *id);
                let Some(Step::Here(range)) = step else {
                    panic!("{id}: {step:?}");
                };
                let mut found = [ValueRef::Null; 5];
                values(&page[range], &mut found).unwrap();
                let [_, a, b] = [ValueRef::Null, ValueRef::from(*a), ValueRef::from(*b)];
                prop_assert_eq!(found, [ValueRef::Null, a, b, ValueRef::Null, ValueRef::Null]);
                prop_assert_eq!(values(&page[..], &mut []), None);
            }
            let ids = last.keys().flat_map(|id| [id.saturating_sub(1), id.saturating_add(1)]);
            for other in others.into_iter().chain(ids) {
                if !last.contains_key(&other) {
                    prop_assert_eq!(search(&pages, root, other).1, Some(Step::Nowhere));
                }
            }
        }

        /// Whatever a page has, it is read without a panic, and no row is found that is not in it.
        #[test]
        fn pages_of_anything_are_read(
            bytes in proptest::collection::vec(any::<u8>(), PAGE),
            kind in prop_oneof![Just(INNER), Just(LEAF), any::<u8>()],
            rowid: i64,
            start in 0..PAGE,
        ) {
            let mut page: Page = bytes.try_into().unwrap();
            page[0] = kind;
            if let Some(Step::Here(range)) = find(&page, rowid) {
                let _ = values(&page[range], &mut [ValueRef::Null; 5]);
            }
            let _ = values(&page[start..], &mut [ValueRef::Null; 5]);
        }
    }

    #[test]
    fn rows_that_go_on_in_other_pages_are_not_read() {
        let blob = |len| (7, Value::Blob(vec![1; len]), Value::Null);
        // Five bytes of head.
        let (pages, root) = written(&[blob(ROW_MAX - 5)]);
        assert!(matches!(search(&pages, root, 7).1, Some(Step::Here(_))));
        let (pages, root) = written(&[blob(ROW_MAX - 4)]);
        assert_eq!(search(&pages, root, 7).1, None);
    }

    #[test]
    fn what_is_not_as_it_has_to_be_is_none() {
        // A row of two bytes, with rowid 7: the head's length, and a null.
        let page = leaf_of(&[2, 7, 2, 0]);
        assert_eq!(find(&page, 7), Some(Step::Here(PAGE - 2..PAGE)));
        assert_eq!(find(&page, 8), Some(Step::Nowhere));
        assert_eq!(values(&[2, 0], &mut [ValueRef::Integer(1)]), Some(()));
        // It goes on past the page.
        assert_eq!(find(&leaf_of(&[3, 7, 2, 0]), 7), None);
        // A kind of page that no table has.
        let mut index = page;
        index[0] = 10;
        assert_eq!(find(&index, 7), None);
        // Cells that are not there.
        let mut more = page;
        more[3] = 0xff;
        assert_eq!(find(&more, i64::MAX), None);
        // A head that is longer than the row, a value of an unknown kind, bytes that no value has, too many values.
        for row in [&[3, 0][..], &[2, 10], &[2, 0, 0], &[3, 0, 0]] {
            assert_eq!(values(row, &mut [ValueRef::Null]), None, "{row:?}");
        }
    }

    #[test]
    fn integers_of_one_to_nine_bytes() {
        for (bytes, value) in [
            (&[0x7f][..], 127),
            (&[0x81, 0x00], 128),
            (&[0xff; 9], -1),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x05], 5),
        ] {
            assert_eq!(varint(bytes), Some((value, bytes.len())));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), None);
        }
    }
}
