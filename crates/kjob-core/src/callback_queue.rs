//! Which callbacks are due: kept in memory by a store, beside what it has on disk.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::{JobId, Timestamp};

/// Pending callbacks by the time at which they are to be handed out. For implementers of
/// [`Store`](crate::Store).
///
/// ```
/// use kjob_core::{CallbackQueue, JobId, Timestamp};
///
/// let at = Timestamp::from_millis;
/// let mut queue = CallbackQueue::default();
/// queue.set(JobId::FIRST, Some(at(5)));
/// assert_eq!(queue.claim(at(4), at(100)), None);
/// assert_eq!(queue.claim(at(5), at(100)), Some(JobId::FIRST));
/// assert_eq!(queue.claim(at(99), at(200)), None, "it is claimed");
/// assert_eq!(queue.claim(at(100), at(200)), Some(JobId::FIRST), "the claim was over");
/// ```
#[derive(Clone, Debug, Default)]
pub struct CallbackQueue {
    by_time: BTreeSet<(Timestamp, JobId)>,
    times: HashMap<JobId, Timestamp>,
}

impl CallbackQueue {
    /// Puts a callback to this time; with `None` it is pending no more.
    pub fn set(&mut self, id: JobId, at: Option<Timestamp>) {
        let old = match at {
            Some(at) => {
                self.by_time.insert((at, id));
                self.times.insert(id, at)
            }
            None => self.times.remove(&id),
        };
        if let Some(old) = old.filter(|old| Some(*old) != at) {
            self.by_time.remove(&(old, id));
        }
    }

    /// Hands out the callback that is due for longest at `now`, and puts it to `until`; in any
    /// case to a moment after `now`.
    pub fn claim(&mut self, now: Timestamp, until: Timestamp) -> Option<JobId> {
        let (at, id) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.set(id, Some(until.max(now.after(Duration::from_millis(1)))));
        Some(id)
    }

    /// When there is something to be handed out next.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// How many callbacks are pending.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain list, by any sequence of changes.
        #[test]
        fn it_hands_out_what_is_due_for_longest(
            changes in proptest::collection::vec((1..6i64, proptest::option::of(0..20i64), 0..25i64), 0..60),
        ) {
            let at = Timestamp::from_millis;
            let mut queue = CallbackQueue::default();
            let mut model: Vec<(Timestamp, JobId)> = Vec::new();
            for (id, time, now) in changes {
                let id = JobId::new(id).unwrap();
                queue.set(id, time.map(at));
                model.retain(|(_, known)| *known != id);
                model.extend(time.map(|time| (at(time), id)));
                model.sort();
                let due = model.first().copied().filter(|(time, _)| *time <= at(now));
                prop_assert_eq!(queue.claim(at(now), at(7)), due.map(|(_, id)| id));
                if due.is_some() {
                    model[0].0 = at(7.max(now + 1));
                    model.sort();
                }
                prop_assert_eq!(queue.next_at(), model.first().map(|(time, _)| *time));
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
