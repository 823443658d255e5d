//! The budget of memory that bodies of requests and answers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bodies and answers up to this size are not counted, so that whoever uses up the budget keeps nobody
/// from asking and hearing of jobs. The number of requests in progress bounds what they take together.
pub(crate) const UNCOUNTED_MAX: usize = 16 << 10;

/// The bodies of requests and answers in progress leave no room for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the bodies of requests and answers in progress may take {limit} bytes together, and {wanted} \
     more do not fit now"
)]
pub(crate) struct OverBudget {
    pub(crate) wanted: usize,
    pub(crate) limit: usize,
}

/// The memory that all bodies may take together. Clones are the same budget.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// A part of a [`Budget`], given back on drop.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            used: Arc::default(),
            limit,
        }
    }

    /// How much it is.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How much of it is held.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A part of it that is nothing yet.
    pub(crate) fn hold(&self) -> Held {
        Held {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

impl Held {
    /// Gives all of it back: the body is gone.
    pub(crate) fn release(&mut self) {
        // Small bodies hold nothing, and need not meet where all others count.
        if self.bytes > 0 {
            self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
            self.bytes = 0;
        }
    }

    /// Holds as much as an answer of this size takes: nothing for a small one, and for one that is
    /// larger than the whole budget all of it, so that it can be had when nothing else is going on.
    pub(crate) fn grow_to_answer(&mut self, bytes: usize) -> Result<(), OverBudget> {
        self.grow_to_counted(bytes.min(self.budget.limit))
    }

    /// Holds so much more, for what is made of a body. As with answers, what is larger than the whole
    /// budget can be had when nothing else is going on.
    pub(crate) fn grow_by(&mut self, bytes: usize) -> Result<(), OverBudget> {
        self.grow_to(self.bytes.saturating_add(bytes).min(self.budget.limit))
    }

    /// How much it holds.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it holds anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Holds `bytes` instead, where so many are counted.
    pub(crate) fn grow_to_counted(&mut self, bytes: usize) -> Result<(), OverBudget> {
        if bytes <= UNCOUNTED_MAX {
            return Ok(());
        }
        self.grow_to(bytes)
    }

    /// Holds `bytes` instead, which are no more than are held already or there is room for.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let limit = self.budget.limit;
        let grown = |used: usize| used.checked_add(more).filter(|used| *used <= limit);
        let used = &self.budget.used;
        match used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => self.bytes += more,
            Err(_) => {
                return Err(OverBudget {
                    wanted: more,
                    limit,
                });
            }
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_share_the_budget_from_their_least_size_on() {
        let budget = Budget::new(100 << 10);
        let (mut first, mut second) = (budget.hold(), budget.hold());
        first.grow_to_answer(UNCOUNTED_MAX).unwrap();
        assert!(first.is_empty());
        let wanted = 64 << 10;
        first.grow_to_answer(wanted).unwrap();
        let refused = second.grow_to_answer(wanted);
        let limit = 100 << 10;
        assert_eq!(refused, Err(OverBudget { wanted, limit }));
        first.release();
        // Larger than the budget, but alone.
        second.grow_to_answer(1 << 20).unwrap();
        assert!(first.grow_to_answer(wanted).is_err());
        drop(second);
        first.grow_to_answer(wanted).unwrap();
    }

    #[test]
    fn what_is_made_of_a_body_counts_beside_it() {
        let budget = Budget::new(1000);
        let (mut first, mut second) = (budget.hold(), budget.hold());
        first.grow_to(300).unwrap();
        second.grow_to(300).unwrap();
        let (wanted, limit) = (401, 1000);
        assert_eq!(first.grow_by(401), Err(OverBudget { wanted, limit }));
        first.grow_by(400).unwrap();
        drop(second);
        // Larger than the budget, but alone.
        first.grow_by(usize::MAX).unwrap();
        assert_eq!(budget.used(), 1000);
    }
}
