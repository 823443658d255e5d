//! Which jobs have changed, for those who look at a list of them: kept only while somebody does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kjob_core::{JobId, Owner};
use tokio::sync::Notify;

/// How many changes are kept for those who are slow; whoever is slower has missed something.
const KEPT_MAX: usize = 4096;

/// Notes changes while somebody listens.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    listeners: AtomicUsize,
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    jobs: VecDeque<(JobId, Owner)>,
    /// How many there were before the first that is kept.
    gone: u64,
}

/// Whoever listens, and how far they have come.
#[derive(Debug)]
pub(crate) struct Listener<'a> {
    changes: &'a Changes,
    seen: u64,
}

/// What has changed since somebody looked last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The jobs, each once, those that changed last at the end.
    pub(crate) jobs: Vec<JobId>,
    /// Whether there were more.
    pub(crate) is_cut: bool,
}

impl Changes {
    /// A job of this owner has changed.
    pub(crate) fn note(&self, id: JobId, owner: &Owner) {
        if self.listeners.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut kept = self.lock();
        if kept.jobs.len() == KEPT_MAX {
            kept.jobs.pop_front();
            kept.gone += 1;
        }
        kept.jobs.push_back((id, owner.clone()));
        drop(kept);
        self.news.notify_waiters();
    }

    /// From now on changes are kept, until what this gives is dropped.
    pub(crate) fn listen(&self) -> Listener<'_> {
        self.listeners.fetch_add(1, Ordering::SeqCst);
        Listener {
            changes: self,
            seen: self.count(),
        }
    }

    /// How many there were.
    fn count(&self) -> u64 {
        let kept = self.lock();
        kept.gone + kept.jobs.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // No panic leaves it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener<'_> {
    /// Waits until something has changed.
    pub(crate) async fn changed(&self) {
        let mut news = std::pin::pin!(self.changes.news.notified());
        // Before it is looked, so that nothing is missed in between.
        news.as_mut().enable();
        if self.changes.count() == self.seen {
            news.await;
        }
    }

    /// Takes up to so many of the jobs that changed last; of one owner alone, if that is told.
    pub(crate) fn take(&mut self, limit: usize, own: Option<&Owner>) -> Batch {
        let kept = self.changes.lock();
        let mut is_cut = kept.gone > self.seen;
        let first = usize::try_from(self.seen.saturating_sub(kept.gone)).unwrap_or(usize::MAX);
        self.seen = kept.gone + kept.jobs.len() as u64;
        let mut jobs = Vec::new();
        for (id, owner) in kept.jobs.iter().skip(first).rev() {
            let is_others = own.is_some_and(|own| owner != own);
            if is_others || jobs.contains(id) {
                continue;
            }
            if jobs.len() == limit {
                is_cut = true;
                break;
            }
            jobs.push(*id);
        }
        jobs.reverse();
        Batch { jobs, is_cut }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        if self.changes.listeners.fetch_sub(1, Ordering::SeqCst) == 1 {
            let mut kept = self.changes.lock();
            kept.gone += kept.jobs.len() as u64;
            kept.jobs = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: i64) -> JobId {
        JobId::new(number).unwrap()
    }

    fn ann() -> Owner {
        Owner::new("ann")
    }

    fn ids(numbers: &[i64]) -> Vec<JobId> {
        numbers.iter().copied().map(id).collect()
    }

    #[test]
    fn nothing_is_kept_while_nobody_listens() {
        let changes = Changes::default();
        changes.note(id(1), &ann());
        let mut listener = changes.listen();
        changes.note(id(2), &ann());
        assert_eq!(listener.take(10, None).jobs, ids(&[2]));
        assert_eq!(listener.take(10, None), Batch::default());
        drop(listener);
        changes.note(id(3), &ann());
        assert!(changes.lock().jobs.is_empty());
        assert_eq!(changes.listen().take(10, None), Batch::default());
    }

    #[test]
    fn each_job_is_told_once_and_the_newest_are_told_if_there_are_too_many() {
        let changes = Changes::default();
        let mut listener = changes.listen();
        for number in [1, 2, 3, 2, 2, 4] {
            changes.note(id(number), &ann());
        }
        let batch = listener.take(3, None);
        assert_eq!((batch.jobs, batch.is_cut), (ids(&[3, 2, 4]), true));
        for number in [1, 1, 1] {
            changes.note(id(number), &ann());
        }
        let batch = listener.take(1, None);
        assert_eq!((batch.jobs, batch.is_cut), (ids(&[1]), false));
    }

    #[test]
    fn memory_is_bounded_and_whoever_is_slow_is_told() {
        let changes = Changes::default();
        let mut listener = changes.listen();
        for number in 1..=KEPT_MAX as i64 + 1 {
            changes.note(id(number), &ann());
        }
        assert_eq!(changes.lock().jobs.len(), KEPT_MAX);
        let batch = listener.take(usize::MAX, None);
        assert_eq!((batch.jobs.len(), batch.is_cut), (KEPT_MAX, true));
        assert_eq!(listener.take(1, None), Batch::default());
    }

    #[test]
    fn others_jobs_are_left_out_and_take_no_place() {
        let changes = Changes::default();
        let bob = Owner::new("bob");
        let mut listener = changes.listen();
        changes.note(id(1), &ann());
        for number in 2..9 {
            changes.note(id(number), &bob);
        }
        let batch = listener.take(1, Some(&ann()));
        assert_eq!((batch.jobs, batch.is_cut), (ids(&[1]), false));
    }

    #[tokio::test]
    async fn a_change_wakes_also_if_it_came_before_anybody_waited() {
        let changes = Changes::default();
        let mut listener = changes.listen();
        changes.note(id(1), &ann());
        listener.changed().await;
        listener.take(1, None);
        let ((), ()) = tokio::join!(listener.changed(), async {
            tokio::task::yield_now().await;
            changes.note(id(2), &ann());
        });
    }
}
