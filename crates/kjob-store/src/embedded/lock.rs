//! One process a directory: an exclusive lock on a file, which ends with the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};

use super::OpenError;
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
                let mut text = String::new();
                // The id is a courtesy: where it cannot be read, the message goes without.
                let _ = file.take(16).read_to_string(&mut text);
                let pid = text.trim().parse().ok();
                return Err(OpenError::Locked {
                    dir: layout.root().to_owned(),
                    pid,
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
