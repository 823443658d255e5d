//! Jobs that wait for their time, small: there may be millions.

use std::collections::BTreeMap;

use crate::{JobId, NameKey, Names, Owner, Priority, RouteId, Timestamp, Waiting};

/// Jobs by the moment before which they are not to be started.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    jobs: BTreeMap<(Timestamp, JobId), Slot>,
    owners: Names<Owner>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    since: Timestamp,
    owner: NameKey,
    route: RouteId,
    priority: Priority,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// The time of this job has come.
    Due(Waiting),
    /// Come again at this moment, if there is one.
    At(Option<Timestamp>),
}

impl Delayed {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Adds a job; says whether it is the next.
    pub(super) fn insert(&mut self, at: Timestamp, job: &Waiting) -> bool {
        let key = (at, job.id);
        let slot = Slot {
            since: job.since,
            owner: self.owners.enter(&job.owner),
            route: job.route,
            priority: job.priority,
        };
        if let Some(before) = self.jobs.insert(key, slot) {
            self.owners.leave(before.owner);
        }
        self.jobs.first_key_value().map(|(first, _)| *first) == Some(key)
    }

    /// Takes a job out; says whether it was there.
    pub(super) fn remove(&mut self, at: Timestamp, id: JobId) -> bool {
        let slot = self.jobs.remove(&(at, id));
        if let Some(slot) = slot {
            self.owners.leave(slot.owner);
        }
        slot.is_some()
    }

    /// Lets a job wait for another route.
    pub(super) fn reroute(&mut self, at: Timestamp, id: JobId, to: RouteId) {
        if let Some(slot) = self.jobs.get_mut(&(at, id)) {
            slot.route = to;
        }
    }

    /// Takes out a job whose time has come.
    pub(super) fn next(&mut self, now: Timestamp) -> Next {
        let Some(entry) = self.jobs.first_entry() else {
            return Next::At(None);
        };
        let (at, id) = *entry.key();
        let slot = *entry.get();
        let due = (at <= now).then(|| self.owners.name(slot.owner).cloned());
        let Some(Some(owner)) = due else {
            return Next::At(Some(at));
        };
        entry.remove();
        self.owners.leave(slot.owner);
        Next::Due(Waiting {
            id,
            owner,
            route: slot.route,
            priority: slot.priority,
            since: slot.since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_small() {
        assert_eq!(size_of::<Slot>(), 16);
    }

    #[test]
    fn jobs_come_by_their_time_and_as_they_were_put_in() {
        let at = Timestamp::from_millis;
        let job = |id, owner| Waiting {
            id: JobId::new(id).unwrap(),
            owner: Owner::new(owner),
            route: RouteId(3),
            priority: Priority::new(7).unwrap(),
            since: at(id),
        };
        let mut delayed = Delayed::default();
        let (ann, bob, eve) = (job(1, "ann"), job(2, "bob"), job(3, "eve"));
        assert!(delayed.insert(at(200), &ann));
        assert!(!delayed.insert(at(300), &eve));
        assert!(delayed.insert(at(100), &bob));
        delayed.reroute(at(200), ann.id, RouteId(4));
        assert!(delayed.remove(at(300), eve.id) && !delayed.remove(at(300), eve.id));
        assert!(matches!(delayed.next(at(99)), Next::At(Some(next)) if next == at(100)));
        assert!(matches!(delayed.next(at(200)), Next::Due(job) if job == bob));
        let ann = Waiting {
            route: RouteId(4),
            ..ann
        };
        assert!(matches!(delayed.next(at(200)), Next::Due(job) if job == ann));
        assert!(matches!(delayed.next(at(900)), Next::At(None)));
        assert!(delayed.owners.is_empty());
    }
}
