//! What each owner has of the room, and how much of it one may have.

use std::collections::HashMap;
use std::time::Duration;

use crate::{Owner, Timestamp};

/// For how long after somebody else's submit an owner leaves some of the places to others.
const LEAVES_FOR: Duration = Duration::from_secs(60);

/// How many jobs of each owner wait and run.
#[derive(Debug)]
pub(super) struct Shares {
    of: HashMap<Owner, Share>,
    /// Who submitted last.
    newest: Option<Owner>,
    /// Until when several owners count as being there.
    several_until: Option<Timestamp>,
    /// All places.
    workers: usize,
    /// How many of these one owner may have while there are several.
    of_several: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    waiting: usize,
    running: usize,
}

impl Shares {
    /// Of so many places, so many of which one owner leaves to the others.
    pub(super) fn new(workers: usize, reserved: usize) -> Self {
        Self {
            of: HashMap::new(),
            newest: None,
            several_until: None,
            workers,
            of_several: workers.saturating_sub(reserved).max(1),
        }
    }

    pub(super) fn waiting(&self, owner: &Owner) -> usize {
        self.of.get(owner).map_or(0, |share| share.waiting)
    }

    /// One more job of `owner` waits.
    pub(super) fn waits(&mut self, owner: &Owner) {
        self.change(owner, |share| share.waiting += 1);
    }

    /// `owner` submits; says whether there have been several owners only since now.
    pub(super) fn submits(&mut self, owner: &Owner, now: Timestamp) -> bool {
        if self.newest.as_ref() == Some(owner) {
            return false;
        }
        let is_first = self.newest.replace(owner.clone()).is_none();
        if is_first || self.of_several == self.workers {
            return false;
        }
        let were_several = self.several_until(now).is_some();
        self.several_until = Some(now.after(LEAVES_FOR));
        !were_several
    }

    /// One that was counted as waiting does so no more.
    pub(super) fn leaves(&mut self, owner: &Owner) {
        self.change(owner, |share| {
            share.waiting = share.waiting.saturating_sub(1);
        });
    }

    pub(super) fn begins(&mut self, owner: &Owner) {
        self.change(owner, |share| share.running += 1);
    }

    pub(super) fn ends(&mut self, owner: &Owner) {
        self.change(owner, |share| {
            share.running = share.running.saturating_sub(1);
        });
    }

    /// Until when several owners count as being there, if they do.
    pub(super) fn several_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.several_until.filter(|until| now < *until)
    }

    /// How many places one owner may have, if that is not all of them.
    pub(super) fn limit(&self, now: Timestamp) -> Option<usize> {
        self.several_until(now).map(|_| self.of_several)
    }

    pub(super) fn has_fewer_than(&self, owner: &Owner, limit: usize) -> bool {
        self.of.get(owner).is_none_or(|share| share.running < limit)
    }

    fn change(&mut self, owner: &Owner, change: impl FnOnce(&mut Share)) {
        // By far most changes are of an owner who is known.
        let Some(share) = self.of.get_mut(owner) else {
            let mut share = Share::default();
            change(&mut share);
            if share != Share::default() {
                self.of.insert(owner.clone(), share);
            }
            return;
        };
        change(share);
        if *share == Share::default() {
            self.of.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_may_have_all_until_there_are_several() {
        let (ann, bob) = (Owner::new("ann"), Owner::new("bob"));
        let at = Timestamp::from_millis;
        let mut shares = Shares::new(8, 1);
        assert!(!shares.submits(&ann, at(0)) && !shares.submits(&ann, at(1)));
        assert_eq!(shares.limit(at(1)), None);
        assert!(shares.submits(&bob, at(2)), "news");
        assert!(!shares.submits(&ann, at(3)), "no news");
        assert_eq!(shares.limit(at(60_002)), Some(7));
        assert_eq!(
            shares.limit(at(60_003)),
            None,
            "a minute after ann came back"
        );
        assert!(!shares.submits(&ann, at(60_003)), "she is alone");
        assert!(shares.submits(&bob, at(60_004)), "news again");
    }

    #[test]
    fn only_owners_with_jobs_are_kept() {
        let ann = Owner::new("ann");
        let mut shares = Shares::new(8, 1);
        shares.waits(&ann);
        shares.begins(&ann);
        shares.leaves(&ann);
        assert!(!shares.has_fewer_than(&ann, 1) && shares.has_fewer_than(&ann, 2));
        shares.ends(&ann);
        assert!(shares.of.is_empty() && shares.has_fewer_than(&ann, 1));
    }

    #[test]
    fn one_place_is_left_to_whoever_comes_however_much_is_reserved() {
        let (ann, bob) = (Owner::new("ann"), Owner::new("bob"));
        for (workers, reserved, limit) in [(1, 0, None), (4, 9, Some(1)), (4, 0, None)] {
            let mut shares = Shares::new(workers, reserved);
            shares.submits(&ann, Timestamp::default());
            shares.submits(&bob, Timestamp::default());
            assert_eq!(
                shares.limit(Timestamp::default()),
                limit,
                "{workers} {reserved}"
            );
        }
    }
}
