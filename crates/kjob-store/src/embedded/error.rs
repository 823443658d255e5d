//! What goes wrong when a store is opened, and how SQLite's errors become the store's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kjob_core::StoreError;
use rusqlite::{ErrorCode, ffi};

use super::room;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another store in this one, has the directory open.
    #[error(
        "the data directory {dir} is in use by {holder}; stop that one, or give this one another directory",
        dir = dir.display(),
        holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")),
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, if the lock file says so.
        pid: Option<u32>,
    },
    /// The directory was written by a version with another format.
    #[error(
        "the data directory {dir} has format {found}, this version reads format {supported}; use the version that wrote it",
        dir = dir.display(),
    )]
    UnknownVersion {
        /// The directory.
        dir: PathBuf,
        /// The format found.
        found: i64,
        /// The only format this version reads.
        supported: i64,
    },
    /// The path is something else than a directory.
    #[error("{path} is not a directory; give a directory, or a path where one can be made", path = path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Files are missing, foreign or damaged.
    #[error("the store in {dir} is damaged: {what}; restore it from a backup", dir = dir.display())]
    Corrupt {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with which file.
        what: String,
    },
    /// A log is damaged in a way that no crash explains, and what was committed behind the damage
    /// would be lost by opening it. Nothing was changed.
    #[error(
        "the log {path} is damaged at byte {offset}: {what}, and what it holds from there on would be lost; restore the store from a backup, or accept the loss (accept_damaged_logs)",
        path = path.display(),
    )]
    DamagedLog {
        /// The log.
        path: PathBuf,
        /// Where the damaged header or frame begins.
        offset: u64,
        /// How it is known not to be a torn end.
        what: &'static str,
    },
    /// Reading or writing failed.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The database layer failed.
    #[error("cannot open the store in {dir}: {source}", dir = dir.display())]
    Store {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// A [`StoreError`] of a failed SQLite call.
pub(crate) fn sql(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        // There is no room for more of the index of a log, which is only ever memory: no reason to stop. A commit that
        // fails by it may be in the log all the same.
        _ if extended_code(&error) == Some(ffi::SQLITE_IOERR_SHMSIZE) => StoreError::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(doing, &error),
        // A value that its column cannot have.
        None if is_conversion(&error) => damaged(doing, &error),
        _ => StoreError::Io {
            doing,
            source: Arc::new(error),
        },
    }
}

/// As [`sql`], while a file is opened. What is asked then is the same for every file, so where SQLite
/// takes that for a mistake, it is by what the header or the tables of this one say.
pub(crate) fn opening(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| match extended_code(&error) {
        Some(ffi::SQLITE_ERROR) => damaged(doing, &error),
        _ => sql(doing)(error),
    }
}

fn damaged(doing: &'static str, error: &rusqlite::Error) -> StoreError {
    StoreError::Corrupt {
        what: format!("while trying to {doing}: {error}"),
    }
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

fn is_conversion(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
    )
}

/// As [`sql`], with the name of the record or file that it is about.
pub(crate) fn sql_of(
    doing: &'static str,
    name: impl FnOnce() -> String,
) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| named(name, sql(doing)(error))
}

/// As [`opening`], with the name of the file.
pub(crate) fn opening_of(
    doing: &'static str,
    name: impl FnOnce() -> String,
) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| named(name, opening(doing)(error))
}

/// Says of what went wrong in which segment it is, where that is not said already.
pub(crate) fn in_segment(number: u32) -> impl Fn(StoreError) -> StoreError {
    move |error| match error {
        StoreError::Corrupt { what } if what.starts_with("segment ") => {
            StoreError::Corrupt { what }
        }
        error => named(|| format!("segment {number}"), error),
    }
}

/// Says of what went wrong that it is in the catalogue.
pub(crate) fn in_catalogue(error: StoreError) -> StoreError {
    named(|| "catalogue.sqlite".to_owned(), error)
}

/// Gives a name to what is damaged, or to what SQLite could not work on.
fn named(name: impl FnOnce() -> String, error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt { what } => StoreError::Corrupt {
            what: format!("{}: {what}", name()),
        },
        StoreError::Io { doing, source } if source.is::<rusqlite::Error>() => {
            let name = name();
            let source = Arc::new(Named { name, source });
            StoreError::Io { doing, source }
        }
        other => other,
    }
}

/// An error of SQLite, with what it is about.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {source}")]
struct Named {
    name: String,
    source: Arc<dyn std::error::Error + Send + Sync>,
}

/// SQLite's own error, if a failure comes from it.
fn sqlite_error(error: &StoreError) -> Option<&rusqlite::Error> {
    let StoreError::Io { source, .. } = error else {
        return None;
    };
    let source = match source.downcast_ref::<Named>() {
        Some(named) => &named.source,
        None => source,
    };
    source.downcast_ref()
}

/// A [`StoreError`] of a failed file operation.
pub(crate) fn file(doing: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    move |error| match error {
        error if room::is_full(&error) => StoreError::Full,
        error => StoreError::Io {
            doing,
            source: Arc::new(error),
        },
    }
}

/// A sync that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sync {path}: {source}", path = path.display())]
pub(crate) struct SyncFailed {
    path: PathBuf,
    source: io::Error,
}

/// A [`StoreError`] of a failed sync of `path`; whatever the system's reason, it is fatal.
pub(crate) fn sync(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        doing,
        source: Arc::new(SyncFailed { path, source }),
    }
}

/// Whether there may have been no room for what failed, and SQLite does not say so: a write that
/// failed, or a file that could not be made.
pub(crate) fn may_lack_room(error: &StoreError) -> bool {
    let write = Some(ffi::SQLITE_IOERR_WRITE);
    sqlite_error(error).is_some_and(|error| {
        extended_code(error) == write || error.sqlite_error_code() == Some(ErrorCode::CannotOpen)
    })
}

/// After a failed commit or sync: whether the file's state is unknown, so that nothing may be
/// acknowledged any more. A failed write leaves the old state; a failed sync may have dropped
/// dirty pages, and asking again would wrongly succeed.
pub(crate) fn is_fatal(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.is::<SyncFailed>())
        || sqlite_error(error)
            .and_then(rusqlite::Error::sqlite_error_code)
            .is_some_and(|code| code == ErrorCode::SystemIoFailure)
}

/// Whether a log could not be written for want of room or otherwise, so that a commit which failed by it is not in it as a whole.
pub(crate) fn is_of_write(error: &rusqlite::Error) -> bool {
    let write = Some(ffi::SQLITE_IOERR_WRITE);
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || extended_code(error) == write
}

/// Whether something could not be synced, which is another thing than that it could not be read or written.
pub(crate) fn is_of_sync(error: &StoreError) -> bool {
    let of_sync = [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC];
    if matches!(error, StoreError::Io { source, .. } if source.is::<SyncFailed>()) {
        return true;
    }
    sqlite_error(error)
        .and_then(extended_code)
        .is_some_and(|code| of_sync.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: i32) -> StoreError {
        let message = Some("no more".to_owned());
        sql("commit")(rusqlite::Error::SqliteFailure(
            ffi::Error::new(code),
            message,
        ))
    }

    #[test]
    fn what_went_wrong_in_a_database_is_said_with_its_name_once() {
        let in_seven = |error| in_segment(7)(in_segment(7)(error)).to_string();
        assert_eq!(
            in_seven(failed(ffi::SQLITE_CORRUPT)),
            "the store is damaged: segment 7: while trying to commit: no more"
        );
        assert_eq!(
            in_seven(failed(ffi::SQLITE_READONLY)),
            "the store cannot commit: segment 7: no more"
        );
        assert_eq!(
            in_catalogue(failed(ffi::SQLITE_READONLY)).to_string(),
            "the store cannot commit: catalogue.sqlite: no more"
        );
        assert_eq!(in_seven(StoreError::Full), StoreError::Full.to_string());
    }

    #[test]
    fn a_file_of_which_sqlite_does_not_know_the_format_is_damaged() {
        let error = || rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ERROR), None);
        let opened = opening_of("open a segment", || "segment file 1".to_owned())(error());
        assert!(
            matches!(&opened, StoreError::Corrupt { what } if what.starts_with("segment file 1: "))
        );
        assert!(matches!(sql("commit")(error()), StoreError::Io { .. }));
    }

    #[test]
    fn a_failure_with_a_name_is_judged_as_without() {
        for (code, fatal, may_lack) in [
            (ffi::SQLITE_IOERR_FSYNC, true, false),
            (ffi::SQLITE_IOERR_WRITE, true, true),
            (ffi::SQLITE_CANTOPEN, false, true),
            (ffi::SQLITE_READONLY, false, false),
        ] {
            for error in [failed(code), in_segment(7)(failed(code))] {
                assert_eq!(is_fatal(&error), fatal, "{error}");
                assert_eq!(may_lack_room(&error), may_lack, "{error}");
            }
        }
        let path = Path::new("catalogue.sqlite");
        let unsynced = sync("commit", path)(io::Error::other("it failed"));
        assert!(is_fatal(&in_catalogue(unsynced)));
    }
}
