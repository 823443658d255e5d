//! When segments are next worth a sweep's look, so that a sweep does not look at all of them.

use std::collections::{BTreeMap, BTreeSet};

use kjob_core::Timestamp;

use super::ledger::Ledger;
use super::summary::Expiries;

/// Sealed segments by the second from which on there is something to give back in them.
#[derive(Debug, Default)]
pub(crate) struct Due {
    seconds: BTreeMap<u32, i64>,
    in_order: BTreeSet<(i64, u32)>,
    /// Segments whose counts have changed since their second was worked out.
    changed: BTreeSet<u32>,
}

impl Due {
    /// Notes that a segment's counts have changed, or that it is there.
    pub(crate) fn note(&mut self, number: u32) {
        self.changed.insert(number);
    }

    /// The segments to look at, the oldest first. `second_of` works out the second of one that has
    /// changed; `None` for one that is not there, or not sealed.
    pub(crate) fn at(
        &mut self,
        now: Timestamp,
        second_of: impl Fn(u32) -> Option<i64>,
    ) -> Vec<u32> {
        for number in std::mem::take(&mut self.changed) {
            if let Some(second) = self.seconds.remove(&number) {
                self.in_order.remove(&(second, number));
            }
            if let Some(second) = second_of(number) {
                self.seconds.insert(number, second);
                self.in_order.insert((second, number));
            }
        }
        let now = Expiries::second_at(now);
        let due = self.in_order.range(..=(now, u32::MAX));
        let mut numbers: Vec<u32> = due.map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        numbers
    }
}

impl Ledger {
    /// The second from which on at most `needed` of its jobs are needed, if no more end; `None` if
    /// more live.
    pub(crate) fn second_of_at_most(&self, needed: u64) -> Option<i64> {
        let unexpired = needed.checked_sub(self.live)?;
        Some(self.expiries.second_of_at_most(unexpired))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_due_from_their_second_on_until_that_changes() {
        let mut due = Due::default();
        for number in [3, 1, 2] {
            due.note(number);
        }
        let at = Timestamp::from_millis;
        let seconds = |number: u32| Some([0, 20, 5, 10][number as usize]);
        assert!(due.at(at(4_999), seconds).is_empty());
        assert_eq!(
            due.at(at(10_000), |_| panic!("nothing has changed")),
            [2, 3]
        );
        assert_eq!(due.at(at(20_000), |_| None), [1, 2, 3]);
        due.note(2);
        assert_eq!(due.at(at(20_000), |_| None), [1, 3], "the second is gone");
        due.note(1);
        assert_eq!(due.at(at(20_000), |_| Some(21)), [3]);
    }
}
