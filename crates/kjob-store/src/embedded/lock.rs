//! One process a directory: an exclusive lock on a file, which ends with the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};

use super::OpenError;
use super::glance::Holder;
use super::layout::Layout;

/// The lock; let go when dropped.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock and writes this process's id into it, for the message of whoever comes next.
    pub(crate) fn take(layout: &Layout) -> Result<Self, OpenError> {
        let path = layout.lock();
        let io = |doing, source| OpenError::Io {
            doing,
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| io("open the lock file", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked {
                    dir: layout.root().to_owned(),
                    pid: pid_in(file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", error)),
        }
        // Not needed for the lock, and a full disk is no reason not to open.
        let _ = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

/// Who has the lock. It is held for a moment to find out, beside others that do the same; nothing is
/// written.
pub(crate) fn holder(layout: &Layout) -> Result<Option<Holder>, OpenError> {
    let path = layout.lock();
    let io = |doing, source| OpenError::Io {
        doing,
        path: path.clone(),
        source,
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open the lock file", error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(Holder { pid: pid_in(file) })),
        Err(TryLockError::Error(error)) => Err(io("lock", error)),
    }
}

/// The id that whoever has the lock wrote. It is a courtesy: where it cannot be read, messages go
/// without.
fn pid_in(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
