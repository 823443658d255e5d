//! The header of a database file, before SQLite sees it: what no checksum covers, and SQLite believes.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use kjob_core::StoreError;

use super::error;

/// Where the header says how the file may be written to, and how it is read.
const VERSIONS_AT: usize = 18;

/// Without a log ahead of it, as other programs may have left it, and with one.
const VERSIONS: [u8; 2] = [1, 2];

/// Fails if the header has versions that no file has: SQLite would never write to it, and say so
/// only when it is asked to, or take it for one without a log, and wait for all others to let go of it.
///
/// Only for files that nothing in this process has open: the system takes away the locks that a
/// process has on a file as soon as it closes that file once.
pub(crate) fn verify(path: &Path) -> Result<(), StoreError> {
    let Some(versions) = versions(path).map_err(error::file("read the header of a file"))? else {
        return Ok(());
    };
    if versions.iter().all(|version| VERSIONS.contains(version)) {
        return Ok(());
    }
    let [write, read] = versions;
    let what = format!("its header has versions {write} and {read}, which no file has");
    Err(StoreError::Corrupt { what })
}

/// `None` for a file that is missing or has no header: whoever opens it has to say of it what is to
/// be said.
fn versions(path: &Path) -> io::Result<Option<[u8; 2]>> {
    let mut header = [0; VERSIONS_AT + 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Ok(()) => Ok(header.last_chunk().copied()),
        Err(error) if [ErrorKind::NotFound, ErrorKind::UnexpectedEof].contains(&error.kind()) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_header_with_a_flipped_bit_is_told_from_those_that_sqlite_makes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.sqlite");
        for mode in ["delete", "wal"] {
            let made = Connection::open(&path).unwrap();
            made.execute_batch(&format!(
                "PRAGMA journal_mode = {mode}; CREATE TABLE \"{mode}\" (id)"
            ))
            .unwrap();
            drop(made);
            verify(&path).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        for bit in 0..16 {
            let mut bytes = whole.clone();
            bytes[VERSIONS_AT + bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let error = verify(&path).unwrap_err().to_string();
            assert!(error.contains("its header"), "{error}");
        }
        fs::write(&path, &whole[..10]).unwrap();
        verify(&path).unwrap();
        fs::remove_file(&path).unwrap();
        verify(&path).unwrap();
    }
}
