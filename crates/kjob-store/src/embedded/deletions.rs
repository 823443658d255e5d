//! Deleting files that the store has let go of: beside the writer, and not while a backup may still
//! copy them.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What deletes some files.
pub(crate) type Delete = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Which deletions are under way, and which are put off.
pub(crate) struct Deletions {
    inner: Mutex<Inner>,
    released: Condvar,
    under_way: watch::Sender<usize>,
}

#[derive(Default)]
struct Inner {
    is_held: bool,
    put_off: Vec<Delete>,
}

/// A deletion that is under way, until this is dropped: also where it panics, or is never run.
struct UnderWay(Arc<Deletions>);

/// While this lives, no file goes that the store has let go of. What was put off is carried out
/// when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    deletions: Arc<Deletions>,
}

impl Deletions {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            released: Condvar::new(),
            under_way: watch::Sender::new(0),
        }
    }

    /// Takes a deletion up: gives what is to be run now, or nothing where it is put off.
    pub(crate) fn admit(
        self: &Arc<Self>,
        delete: Delete,
    ) -> Option<impl FnOnce() + Send + 'static> {
        let mut inner = self.lock();
        if inner.is_held {
            inner.put_off.push(delete);
            return None;
        }
        self.under_way.send_modify(|count| *count += 1);
        let under_way = UnderWay(Arc::clone(self));
        Some(move || {
            // What is left over is deleted at the next open.
            let _ = delete();
            drop(under_way);
        })
    }

    /// Puts deletions off from here on; `None` if somebody else does already.
    pub(crate) fn hold(self: &Arc<Self>) -> Option<Held> {
        let mut inner = self.lock();
        if inner.is_held {
            return None;
        }
        inner.is_held = true;
        let deletions = Arc::clone(self);
        Some(Held { deletions })
    }

    /// Waits until nobody puts deletions off.
    pub(crate) fn wait_released(&self) {
        let mut inner = self.lock();
        while inner.is_held {
            inner = self
                .released
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Completes when those are done that are under way; those that are put off are not waited for.
    pub(crate) async fn done(&self) {
        // The sender is ours, so it is there for as long as this waits.
        let _ = self
            .under_way
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let deletions = &self.0;
        deletions
            .under_way
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let put_off = std::mem::take(&mut self.deletions.lock().put_off);
        for delete in put_off {
            // What is left over is deleted at the next open.
            let _ = delete();
        }
        let mut inner = self.deletions.lock();
        // Those that came between the two locks.
        let late = std::mem::take(&mut inner.put_off);
        inner.is_held = false;
        drop(inner);
        for delete in late {
            let _ = delete();
        }
        self.deletions.released.notify_all();
    }
}

impl fmt::Debug for Deletions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deletions").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_deletion_that_panics_or_is_never_run_is_not_waited_for() {
        let deletions = Arc::new(Deletions::new());
        let under_way = || *deletions.under_way.borrow();
        let panics = deletions.admit(Box::new(|| panic!("as it is meant to")));
        let never_run = deletions.admit(Box::new(|| Ok(())));
        assert_eq!(under_way(), 2);
        catch_unwind(AssertUnwindSafe(panics.unwrap())).unwrap_err();
        assert_eq!(under_way(), 1);
        drop(never_run);
        assert_eq!(under_way(), 0);
    }
}
