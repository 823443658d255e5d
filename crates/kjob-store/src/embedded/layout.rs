//! Which file is where (docs/store.md).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use kjob_core::StoreError;

use super::error;

/// The names inside a store's directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    /// Room for what has to go on when the disk is full.
    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("RESERVE")
    }

    pub(crate) fn catalogue(&self) -> PathBuf {
        self.root.join("catalogue.sqlite")
    }

    pub(crate) fn segments(&self) -> PathBuf {
        self.root.join("segments")
    }

    /// A segment's database. Each rewriting of a segment has a generation, so a file's name never
    /// means two different contents.
    pub(crate) fn segment(&self, number: u32, generation: u32) -> PathBuf {
        self.segments()
            .join(format!("{number:08}-{generation}.sqlite"))
    }

    /// The number and generation in the name of a segment's database.
    pub(crate) fn parse_segment(path: &Path) -> Option<(u32, u32)> {
        let (number, generation) = path.file_stem()?.to_str()?.split_once('-')?;
        Some((number.parse().ok()?, generation.parse().ok()?))
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn blobs_of(&self, number: u32) -> PathBuf {
        self.blobs().join(format!("{number:08}"))
    }
}

/// Makes a directory, and those above it that are not there. Nobody but the user who runs the process may look into them: they hold
/// everybody's payloads and results.
pub(crate) fn make_dirs(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(dir)
}

/// The log of a database.
pub(crate) fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Whether a database has no log, or one without anything in it: then its file has all of it.
pub(crate) fn is_without_log(path: &Path) -> bool {
    match fs::metadata(log_of(path)) {
        Ok(log) => log.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Makes the names in `dir` durable; `doing` is told if that fails.
pub(crate) fn sync_names(dir: &Path, doing: &'static str) -> Result<(), StoreError> {
    sync_dir(dir).map_err(error::sync(doing, dir))
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    // Elsewhere directories cannot be opened as files, and names are made durable by the system.
    if cfg!(unix) {
        File::open(dir)?.sync_all()
    } else {
        Ok(())
    }
}

/// What SQLite adds to a database's name for the files that belong to it; last, the database.
const SUFFIXES: [&str; 4] = ["-wal", "-shm", "-journal", ""];

/// Deletes a database with what belongs to it; what is not there is fine.
///
/// The database goes last: as long as it is there, the next open knows what else is left over.
pub(crate) fn remove_database(path: &Path) -> io::Result<()> {
    for suffix in SUFFIXES {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        ignore_missing(fs::remove_file(name))?;
    }
    Ok(())
}

/// The database that a file is, or is the log or such of.
pub(crate) fn database_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let mut suffixes = SUFFIXES.iter();
    let base = suffixes.find_map(|suffix| name.strip_suffix(suffix).filter(is_database))?;
    Some(path.with_file_name(base))
}

fn is_database(name: &&str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "sqlite")
}

/// Turns "not found" into success.
pub(crate) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
