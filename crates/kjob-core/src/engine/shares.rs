//! What each owner has of the room, and who may have its last places.

use std::collections::HashMap;
use std::time::Duration;

use crate::{Owner, Timestamp};

/// For how long after somebody else's submit an owner leaves the last places to those who run nothing.
const LEAVES_FOR: Duration = Duration::from_secs(60);

/// How many jobs of each owner wait and run, and who has submitted of late.
#[derive(Debug, Default)]
pub(super) struct Shares {
    of: HashMap<Owner, Share>,
    /// Owners of whom some wait and none run.
    without: usize,
    /// Who submitted last, and when.
    newest: Option<(Owner, Timestamp)>,
    /// When somebody else did so last.
    other: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    waiting: usize,
    running: usize,
}

impl Shares {
    pub(super) fn waiting(&self, owner: &Owner) -> usize {
        self.of.get(owner).map_or(0, |share| share.waiting)
    }

    /// One more job of `owner` waits.
    pub(super) fn waits(&mut self, owner: &Owner) {
        self.change(owner, |share| share.waiting += 1);
    }

    /// `owner` submits; says whether nobody had done so for a while.
    pub(super) fn submits(&mut self, owner: &Owner, now: Timestamp) -> bool {
        let was_quiet = self.changes_at(now).is_none();
        match &mut self.newest {
            Some((newest, at)) if newest == owner => *at = now,
            newest => {
                let before = newest.replace((owner.clone(), now));
                self.other = before.map(|(_, at)| at);
            }
        }
        was_quiet
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

    /// Whether `owner` may have one of the last places: who runs nothing, or is alone.
    pub(super) fn may_have_last(&self, owner: &Owner, now: Timestamp) -> bool {
        let runs = self.of.get(owner).is_some_and(|share| share.running > 0);
        !runs || !self.others_submit(owner, now)
    }

    /// Whether there may be anybody who may: if not, nobody need be looked at.
    pub(super) fn anyone_may_have_last(&self, now: Timestamp) -> bool {
        self.without > 0 || self.recent(now).count() < 2
    }

    /// When somebody next may have what they may not have now, as time goes on.
    pub(super) fn changes_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.recent(now).map(|at| at.after(LEAVES_FOR)).min()
    }

    /// When two owners submitted last, the newest and another, as far as that was a short while ago.
    fn recent(&self, now: Timestamp) -> impl Iterator<Item = Timestamp> {
        let newest = self.newest.as_ref().map(|(_, at)| *at);
        let times = [newest, self.other].into_iter().flatten();
        times.filter(move |at| is_recent(*at, now))
    }

    /// Whether somebody else has submitted of late.
    fn others_submit(&self, owner: &Owner, now: Timestamp) -> bool {
        let last = match &self.newest {
            Some((newest, _)) if newest == owner => self.other,
            newest => newest.as_ref().map(|(_, at)| *at),
        };
        last.is_some_and(|at| is_recent(at, now))
    }

    fn change(&mut self, owner: &Owner, change: impl FnOnce(&mut Share)) {
        let is_without = |share: &Share| share.waiting > 0 && share.running == 0;
        // By far most changes are of an owner who is known.
        let Some(share) = self.of.get_mut(owner) else {
            let mut share = Share::default();
            change(&mut share);
            if share != Share::default() {
                self.without += usize::from(is_without(&share));
                self.of.insert(owner.clone(), share);
            }
            return;
        };
        self.without -= usize::from(is_without(share));
        change(share);
        self.without += usize::from(is_without(share));
        if *share == Share::default() {
            self.of.remove(owner);
        }
    }
}

/// Whether this was a short while ago. A clock that was set back by much says nothing of that.
fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    now.since(at).max(at.since(now)) < LEAVES_FOR
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(name: &str) -> Owner {
        Owner::new(name)
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn who_runs_something_leaves_the_last_places_while_others_submit() {
        let (ann, bob) = (owner("ann"), owner("bob"));
        let mut shares = Shares::default();
        assert!(shares.submits(&ann, at(0)), "news");
        shares.begins(&ann);
        assert!(shares.may_have_last(&ann, at(0)), "she is alone");
        assert!(!shares.submits(&bob, at(10)));
        assert!(!shares.may_have_last(&ann, at(60_009)) && shares.may_have_last(&bob, at(10)));
        assert_eq!(
            shares.changes_at(at(10)),
            Some(at(60_000)),
            "of bob, were he to run some"
        );
        assert_eq!(shares.changes_at(at(60_000)), Some(at(60_010)));
        assert!(shares.may_have_last(&ann, at(60_010)), "a minute after bob");
        assert_eq!(shares.changes_at(at(60_010)), None);
    }

    /// Though it is always the same who submits last.
    #[test]
    fn one_who_keeps_submitting_beside_an_old_backlog_finds_places() {
        let (ann, bob) = (owner("ann"), owner("bob"));
        let mut shares = Shares::default();
        shares.submits(&ann, at(0));
        shares.begins(&ann);
        for second in 1..200 {
            shares.submits(&bob, at(second * 1_000));
            assert!(!shares.may_have_last(&ann, at(second * 1_000)));
        }
        // And after a restart, when nobody has submitted yet.
        let mut shares = Shares::default();
        shares.begins(&ann);
        assert!(shares.may_have_last(&ann, at(0)));
        shares.submits(&bob, at(0));
        assert!(!shares.may_have_last(&ann, at(0)));
    }

    #[test]
    fn a_clock_that_is_set_back_frees_who_would_wait_for_an_hour() {
        let (ann, bob) = (owner("ann"), owner("bob"));
        let mut shares = Shares::default();
        shares.submits(&ann, at(3_600_000));
        shares.begins(&ann);
        shares.submits(&bob, at(3_600_001));
        assert!(!shares.may_have_last(&ann, at(3_599_000)), "by a second");
        assert!(shares.may_have_last(&ann, at(0)));
        assert_eq!(shares.changes_at(at(0)), None);
    }

    proptest! {
        /// Counts go back to nothing, and the short answer is no other than the long one.
        #[test]
        fn counts_are_those_of_what_waits_and_runs(
            steps in prop::collection::vec((0..3_usize, 0..5_u8, 0..40_000_i64), 0..200),
        ) {
            let owners = [owner("ann"), owner("bob"), owner("eve")];
            let mut shares = Shares::default();
            let (mut counts, mut now) = ([(0_usize, 0_usize); 3], 0);
            for (who, what, passes) in steps {
                let (waiting, running) = &mut counts[who];
                match what {
                    0 => { shares.waits(&owners[who]); *waiting += 1; }
                    1 if *waiting > 0 => { shares.leaves(&owners[who]); *waiting -= 1; }
                    2 => { shares.begins(&owners[who]); *running += 1; }
                    3 if *running > 0 => { shares.ends(&owners[who]); *running -= 1; }
                    _ => { now += passes; shares.submits(&owners[who], at(now)); }
                }
                let without = counts.iter().filter(|(waiting, running)| *waiting > 0 && *running == 0);
                prop_assert_eq!(shares.without, without.count());
                for (owner, (waiting, _)) in owners.iter().zip(counts) {
                    prop_assert_eq!(shares.waiting(owner), waiting);
                    let may = waiting > 0 && shares.may_have_last(owner, at(now));
                    prop_assert!(!may || shares.anyone_may_have_last(at(now)));
                }
            }
            for (owner, (waiting, running)) in owners.iter().zip(counts) {
                (0..waiting).for_each(|_| shares.leaves(owner));
                (0..running).for_each(|_| shares.ends(owner));
            }
            prop_assert!(shares.of.is_empty() && shares.without == 0);
        }
    }
}
