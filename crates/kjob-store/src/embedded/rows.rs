//! Rows by their rowids, read from the file of a database that has no log, as far as the system has it in memory.

use std::fs::File;
use std::io;

use rusqlite::types::ValueRef;

use super::pages::{self, PAGE, Page, Step};

/// Pages from the root of a table to a row at most: those of a million rows are three.
const DEPTH_MAX: usize = 16;

/// Where a file's head has the size of its pages, and how many bytes of each are reserved
/// (<https://www.sqlite.org/fileformat2.html#the_database_header>).
const PAGE_SIZE_AT: usize = 16;
const RESERVED_AT: usize = 20;

/// Some pages of a database's file, by their numbers; `None` where the file is not as all are, or the system has them not in memory.
pub(crate) fn pages<const N: usize>(file: &File, numbers: [u32; N]) -> Option<[Box<Page>; N]> {
    let page = |number: u32| {
        let mut page = Box::new([0; PAGE]);
        read_now(file, number, &mut page).map(|()| page)
    };
    let head = page(1)?;
    let page_size = head.get(PAGE_SIZE_AT..)?.first_chunk().copied()?;
    if usize::from(u16::from_be_bytes(page_size)) != PAGE || head.get(RESERVED_AT) != Some(&0) {
        return None;
    }
    let found: Option<Vec<_>> = numbers.into_iter().map(page).collect();
    found?.try_into().ok()
}

/// Finds a row below the root of its table, and its values; they refer to `page`, or to the root.
pub(crate) fn row<'a>(
    file: &File,
    root: &'a Page,
    rowid: i64,
    page: &'a mut Page,
    into: &mut [ValueRef<'a>],
) -> Option<()> {
    let mut step = pages::find(root, rowid)?;
    let mut is_in_root = true;
    for _ in 0..DEPTH_MAX {
        match step {
            Step::Below(number) => {
                read_now(file, number, page)?;
                is_in_root = false;
                step = pages::find(page, rowid)?;
            }
            Step::Here(range) => {
                let page = if is_in_root { root } else { page };
                pages::values(page.get(range)?, into)?;
                // In the row itself nothing stands for it.
                *into.first_mut()? = ValueRef::Integer(rowid);
                return Some(());
            }
            Step::Nowhere => return None,
        }
    }
    None
}

/// Whether the system can say of a file that reading it would wait: tmpfs and overlayfs, for two, cannot (Linux 6.18).
pub(crate) fn can_read_now(file: &File) -> bool {
    match read(file, 0, &mut [0; PAGE]) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Reads a page, by its number from 1 on, if the system has it in memory.
fn read_now(file: &File, number: u32, into: &mut Page) -> Option<()> {
    let offset = u64::from(number.checked_sub(1)?) * PAGE as u64;
    let read = read(file, offset, into).ok()?;
    (read == PAGE).then_some(())
}

#[cfg(target_os = "linux")]
fn read(file: &File, offset: u64, into: &mut Page) -> io::Result<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};

    let into = &mut [io::IoSliceMut::new(into)];
    Ok(preadv2(file, into, offset, ReadWriteFlags::NOWAIT)?)
}

/// Elsewhere nothing says so.
#[cfg(not(target_os = "linux"))]
fn read(_: &File, _: u64, _: &mut Page) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}
