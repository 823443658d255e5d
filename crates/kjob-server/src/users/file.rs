//! The users file on disk: read, and changed whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::{TextError, Users};
use crate::file_mode::too_open;

/// The largest users file, in bytes: some 50,000 users.
const LEN_MAX: u64 = 16 << 20;

/// A users file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is not there.
    #[error("{path} is not there; make it with: kjob-server user add NAME --role admin", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read, written or locked.
    #[error("{path} cannot be {doing}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was to be done to it.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others may read it, or write to it.
    #[error(
        "{path} has the mode {mode:03o}: others than its owner and group may read it, or others than its owner write to it; chmod 600 it",
        path = path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is too large.
    #[error("{path} has more than {limit} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that it may have.
        limit: u64,
    },
    /// Its text is not right.
    #[error("{path}: {source}", path = path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TextError,
    },
}

/// Reads a users file. Its owner alone may have the right to write to it, and others than its group
/// none at all.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path) -> Result<Users, FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing {
            path: path.to_owned(),
        },
        _ => failed(path, "read")(source),
    };
    let file = File::open(path).map_err(failed)?;
    check_mode(path, &file.metadata().map_err(failed)?)?;
    let mut text = String::new();
    let read = file.take(LEN_MAX + 1).read_to_string(&mut text);
    if read.map_err(failed)? as u64 > LEN_MAX {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            limit: LEN_MAX,
        });
    }
    Users::from_toml(&text).map_err(|source| FileError::Text {
        path: path.to_owned(),
        source,
    })
}

/// Changes a users file, which is made with the mode 600 if it is not there. Readers see the old file
/// or the new one, whole, also after a crash. Changes at the same time come one after the other, by a
/// lock on a file beside it, which stays there.
///
/// # Errors
/// [`FileError`], and those of `change`, after which the file is as it was.
pub fn edit<T, E: From<FileError>>(
    path: &Path,
    change: impl FnOnce(&mut Users) -> Result<T, E>,
) -> Result<T, E> {
    let lock = lock_path(path);
    let file = private(OpenOptions::new().create(true).truncate(false).write(true)).open(&lock);
    let locked = file.and_then(|file| file.lock().map(|()| file));
    let _locked = locked.map_err(failed(&lock, "locked"))?;
    let mut users = match read(path) {
        Ok(users) => users,
        Err(FileError::Missing { .. }) => Users::default(),
        Err(error) => return Err(error.into()),
    };
    let done = change(&mut users)?;
    replace(path, &users.to_toml()).map_err(failed(path, "written"))?;
    Ok(done)
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    // What a link leads to is replaced, not the link.
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // Made with the mode 600.
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(text.as_bytes())?;
    keep_owner(&path, new.as_file())?;
    new.as_file().sync_all()?;
    new.persist(&path)?;
    sync_dir(dir)
}

fn failed<'a>(path: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> FileError + 'a {
    move |source| FileError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

fn check_mode(path: &Path, metadata: &fs::Metadata) -> Result<(), FileError> {
    match too_open(metadata, 0o027) {
        None => Ok(()),
        Some(mode) => Err(FileError::Mode {
            path: path.to_owned(),
            mode,
        }),
    }
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

#[cfg(not(unix))]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// The new file is given to whom the old one belongs, and stays readable for the group if that was:
/// root may change the users of a server that is not root.
#[cfg(unix)]
fn keep_owner(old: &Path, new: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let old = match fs::metadata(old) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let ours = new.metadata()?;
    if (old.uid(), old.gid()) != (ours.uid(), ours.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    new.set_permissions(old.permissions())
}

#[cfg(not(unix))]
fn keep_owner(_: &Path, _: &File) -> io::Result<()> {
    Ok(())
}

/// The new name is to survive a power cut, too.
#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{EditError, Role};
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Error {
        #[error(transparent)]
        File(#[from] FileError),
        #[error(transparent)]
        Edit(#[from] EditError),
    }

    fn add(path: &Path, name: &str) -> Result<(), Error> {
        let name = name.parse().unwrap();
        edit(path, |users| Ok(users.add(name, Role::User)?))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(path: &Path) -> Vec<String> {
        let users = read(path).unwrap();
        users.iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn a_new_file_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        assert!(matches!(read(&path), Err(FileError::Missing { .. })));
        add(&path, "ann").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&lock_path(&path)), 0o600);
        assert_eq!(names(&path), ["ann"]);
        // Nothing else is left beside it.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        add(&path, "ann").unwrap();
        for (bits, is_good) in [
            (0o400, true),
            (0o600, true),
            (0o640, true),
            (0o660, false),
            (0o604, false),
            (0o602, false),
            (0o601, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            let outcome = read(&path);
            assert_eq!(outcome.is_ok(), is_good, "{bits:o}: {outcome:?}");
        }
    }

    #[test]
    fn an_edit_keeps_the_mode_and_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("real.toml"), dir.path().join("users.toml"));
        add(&path, "ann").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        add(&link, "bob").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(mode(&path), 0o640);
        assert_eq!(names(&path), ["ann", "bob"]);
    }

    #[test]
    fn an_edit_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        add(&path, "ann").unwrap();
        let before = fs::read(&path).unwrap();
        let error = add(&path, "ann").unwrap_err();
        assert!(matches!(error, Error::Edit(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);

        fs::write(&path, "broken").unwrap();
        let error = add(&path, "bob").unwrap_err();
        assert!(
            matches!(error, Error::File(FileError::Text { .. })),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"broken");
    }

    #[test]
    fn edits_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || add(path, &format!("user{number}")).unwrap());
            }
        });
        assert_eq!(read(&path).unwrap().len(), 8);
    }

    #[test]
    fn a_file_without_an_end_is_not_read_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        add(&path, "ann").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(LEN_MAX + 1).unwrap();
        assert!(matches!(read(&path), Err(FileError::TooLarge { .. })));
    }
}
