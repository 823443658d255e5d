//! A look at a directory that opens no database: what would be found there, and by whom it is held.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::OpenError;
use super::convert;
use super::layout::{self, Layout};
use super::lock;
use super::schema::{APPLICATION_ID, FORMAT};

/// How every SQLite file begins.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// The head of a SQLite file, and where in it are the two numbers that programs may set, each of four
/// bytes, the highest first (<https://www.sqlite.org/fileformat.html#the_database_header>).
const HEAD_BYTES: usize = 100;
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;

/// What is known of a store that was not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Glance {
    /// The format that it is written in.
    pub format: i64,
    /// Whether this version brings it to a newer format when it opens it; versions before cannot open
    /// it then.
    pub converts: bool,
    /// Segments there are.
    pub segments: usize,
    /// Who has it open, if somebody has.
    pub holder: Option<Holder>,
}

/// The process that has a store open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its id, if the lock file says so.
    pub pid: Option<u32>,
}

/// Looks at the store in `dir`, whether or not somebody has it open, and changes nothing. `None` if
/// there is none yet.
///
/// Whether somebody has it open is found by taking the lock, beside others that only look, and letting
/// go of it at once: a store that is opened at that very moment waits for that.
///
/// # Errors
/// What is there is no store, or one that this version cannot open, or cannot be read. That all of it
/// is whole is for [`check`](super::check) to say.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, glance};
///
/// let dir = tempfile::tempdir()?;
/// assert_eq!(glance(dir.path())?, None);
/// let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default())?;
/// let found = glance(dir.path())?.ok_or("there is a store")?;
/// assert_eq!(found.holder.and_then(|holder| holder.pid), Some(std::process::id()));
/// # drop(store);
/// # Ok(()) }
/// ```
pub fn glance(dir: impl AsRef<Path>) -> Result<Option<Glance>, OpenError> {
    let layout = Layout::new(dir.as_ref());
    let path = layout.catalogue();
    let failed = |source| OpenError::Io {
        doing: "read",
        path: path.clone(),
        source,
    };
    let Some(head) = read_head(&path).map_err(failed)? else {
        return Ok(None);
    };
    let foreign = || OpenError::Corrupt {
        dir: dir.as_ref().to_owned(),
        what: "catalogue.sqlite is not a kjob catalogue".to_owned(),
    };
    // Made, and not written to before the power went: it is opened as one that is not there.
    if head.is_empty() {
        return Ok(None);
    }
    if !head.starts_with(MAGIC) || number(&head, APPLICATION_ID_AT) != Some(APPLICATION_ID) {
        return Err(foreign());
    }
    let format = number(&head, USER_VERSION_AT).ok_or_else(foreign)?;
    if format != FORMAT && !convert::OLD_FORMATS.contains(&format) {
        return Err(OpenError::UnknownVersion {
            dir: dir.as_ref().to_owned(),
            found: format,
            supported: FORMAT,
        });
    }
    Ok(Some(Glance {
        format,
        converts: format != FORMAT,
        segments: segments(&layout).map_err(failed)?,
        holder: lock::holder(&layout)?,
    }))
}

/// The first bytes of a file; fewer if it is shorter.
fn read_head(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    match File::open(path) {
        Ok(file) => {
            file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
            Ok(Some(head))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn number(head: &[u8], at: usize) -> Option<i64> {
    let bytes = head.get(at..)?.first_chunk::<4>()?;
    Some(i64::from(u32::from_be_bytes(*bytes)))
}

fn segments(layout: &Layout) -> io::Result<usize> {
    let entries = match fs::read_dir(layout.segments()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut count = 0;
    for entry in entries {
        let path = entry?.path();
        count += usize::from(layout::database_of(&path).is_some_and(|database| database == path));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::super::{EmbeddedOptions, EmbeddedStore};
    use super::*;

    fn changed(dir: &Path, at: usize, byte: u8) {
        let path = dir.join("catalogue.sqlite");
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = byte;
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_store_is_told_with_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(glance(dir.path()).unwrap(), None);
        assert_eq!(glance(dir.path().join("none")).unwrap(), None);
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let found = glance(dir.path()).unwrap().unwrap();
        let pid = Some(std::process::id());
        assert_eq!(found.holder, Some(Holder { pid }));
        assert_eq!(
            (found.format, found.converts, found.segments),
            (FORMAT, false, 1)
        );
        drop(store);
        let found = glance(dir.path()).unwrap().unwrap();
        assert_eq!(found.holder, None);
        // Nobody was kept out by it.
        EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
    }

    #[test]
    fn what_this_version_cannot_open_is_refused_as_it_would_be() {
        let dir = tempfile::tempdir().unwrap();
        drop(EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap());
        changed(dir.path(), USER_VERSION_AT + 3, 2);
        assert!(glance(dir.path()).unwrap().unwrap().converts);
        changed(dir.path(), USER_VERSION_AT + 3, 77);
        let newer = glance(dir.path()).unwrap_err();
        assert!(
            matches!(newer, OpenError::UnknownVersion { found: 77, .. }),
            "{newer}"
        );
        changed(dir.path(), APPLICATION_ID_AT, 0);
        let foreign = glance(dir.path()).unwrap_err();
        assert!(matches!(foreign, OpenError::Corrupt { .. }), "{foreign}");
        fs::write(dir.path().join("catalogue.sqlite"), "no database").unwrap();
        let nothing = glance(dir.path()).unwrap_err();
        assert!(matches!(nothing, OpenError::Corrupt { .. }), "{nothing}");
    }

    #[test]
    fn a_catalogue_that_was_made_and_not_written_to_is_none_yet() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("catalogue.sqlite"), "").unwrap();
        assert_eq!(glance(dir.path()).unwrap(), None);
        EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
    }
}
