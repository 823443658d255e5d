//! One process a directory: an exclusive lock on a file, which ends with the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use super::OpenError;
use super::glance::Holder;
use super::layout::Layout;

/// How long a lock may be held by somebody who does not keep it: a child that was just made has this process's until it
/// becomes another program, and whoever only looks who has it holds it for a moment. The id in the file tells neither,
/// as nobody takes it out.
const MOMENT_MAX: Duration = Duration::from_millis(200);

/// The lock; let go when dropped.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock and writes this process's id into it, for the message of whoever comes next.
    pub(crate) fn take(layout: &Layout) -> Result<Self, OpenError> {
        let began = Instant::now();
        Self::take_while(layout, || {
            std::thread::sleep(MOMENT_MAX / 20);
            began.elapsed() < MOMENT_MAX
        })
    }

    /// Tries as long as somebody holds it and `wait`, which waits a little, says to go on.
    fn take_while(layout: &Layout, mut wait: impl FnMut() -> bool) -> Result<Self, OpenError> {
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
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(io("lock", error)),
            }
            if !wait() {
                let dir = layout.root().to_owned();
                let pid = pid_in(&mut file);
                return Err(OpenError::Locked { dir, pid });
            }
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
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open the lock file", error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(Holder {
            pid: pid_in(&mut file),
        })),
        Err(TryLockError::Error(error)) => Err(io("lock", error)),
    }
}

/// The id that whoever has the lock wrote. It is a courtesy: where it cannot be read, messages go
/// without.
fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// Has somebody let go after it was found held, and takes it then.
    fn take_after(layout: &Layout, held: File) -> Result<DirLock, OpenError> {
        let mut held = Some(held);
        let taken = DirLock::take_while(layout, || held.take().is_some());
        assert!(held.is_none(), "it was not found held");
        taken
    }

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let lock = DirLock::take(&layout).unwrap();
        let other = DirLock::take(&layout).map(drop);
        assert!(matches!(other, Err(OpenError::Locked { .. })), "{other:?}");
        // As a child has it between its making and the start of its program.
        let copy = lock._file.try_clone().unwrap();
        drop(lock);
        drop(take_after(&layout, copy).unwrap());

        // As another process that looks who has it, long after whose id is in the file.
        std::fs::write(layout.lock(), "1\n").unwrap();
        let looking = File::open(layout.lock()).unwrap();
        looking.try_lock_shared().unwrap();
        take_after(&layout, looking).unwrap();
    }
}
