//! Answers of HTTP/2 that wait for their client to take them.
//!
//! Its windows let a client take nothing of one answer while it asks for others and takes those, so that the
//! connection is at work for ever. So it is known of each answer when anything of it was last taken.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Activity;

/// Those of one connection.
#[derive(Debug, Default)]
pub(super) struct Untaken {
    next: AtomicU64,
    /// When anything of each was last taken, and its number.
    waiting: Mutex<BTreeSet<(u64, u64)>>,
}

/// An answer on its way to a client, until all of it was taken or given up. Each piece of it that may be kept
/// long keeps this.
#[derive(Debug)]
pub(crate) struct Answer {
    activity: Activity,
    number: u64,
    /// When anything of it was last taken; changes under the lock of all of them.
    since: AtomicU64,
}

impl Untaken {
    /// When anything was last taken of that answer of which nothing was taken for longest.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.waiting().first().map(|(since, _)| *since)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<(u64, u64)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    /// One of which nothing was taken yet, from now on.
    pub(super) fn new(activity: &Activity) -> Self {
        let number = activity.0.untaken.next.fetch_add(1, Ordering::Relaxed);
        let answer = Self {
            activity: activity.clone(),
            number,
            since: AtomicU64::new(0),
        };
        answer.on_taken();
        answer
    }

    /// Something of it was taken.
    pub(crate) fn on_taken(&self) {
        let now = self.activity.now();
        self.activity.0.sent_at.store(now, Ordering::Relaxed);
        let mut waiting = self.activity.0.untaken.waiting();
        let before = self.since.swap(now, Ordering::Relaxed);
        if before != now {
            waiting.remove(&(before, self.number));
        }
        waiting.insert((now, self.number));
    }

    /// All that there is of it yet was taken: whoever makes it has to go on.
    pub(super) fn on_all_taken(&self) {
        let mut waiting = self.activity.0.untaken.waiting();
        waiting.remove(&(self.since.load(Ordering::Relaxed), self.number));
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.on_all_taken();
    }
}
