//! Job ids: positive numbers that a JavaScript client can read.

use std::fmt;
use std::num::NonZeroU64;

/// The number by which the protocol names a job: `1 ..= 2^53 - 1`.
///
/// JavaScript clients read ids as JSON numbers, which are doubles, so larger ones would be
/// rounded (docs/protocol.md section 1, rule 9). Ids are names, not secrets: who may see a job
/// is decided by its owner.
///
/// ```
/// use kjob_core::JobId;
/// assert_eq!(JobId::new(7).map(JobId::get), Some(7));
/// assert_eq!(JobId::new(0), None);
/// assert_eq!(JobId::new(1 << 53), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(NonZeroU64);

impl JobId {
    /// The largest id: `2^53 - 1`, the largest integer below which a double counts exactly.
    pub const MAX: i64 = (1 << 53) - 1;

    /// The first id that a store hands out.
    pub const FIRST: JobId = JobId(NonZeroU64::MIN);

    /// The id with this number, or `None` where no job can have it.
    pub fn new(number: i64) -> Option<Self> {
        let number = u64::try_from(number)
            .ok()
            .filter(|n| *n <= Self::MAX as u64)?;
        NonZeroU64::new(number).map(JobId)
    }

    /// The number, as it travels.
    pub fn get(self) -> i64 {
        // At most 2^53 - 1, so the cast keeps the value.
        self.0.get() as i64
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", self.0)
    }
}

/// A run of ids that nobody else will hand out: what [`Store::reserve_ids`] gives.
///
/// The store makes the reservation durable first, so that an id is never given twice, also after
/// a crash; what is left of a block when its holder dies is skipped.
///
/// [`Store::reserve_ids`]: crate::Store::reserve_ids
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdBlock {
    next: i64,
    end: i64,
    /// From one id to the next.
    step: i64,
}

impl IdBlock {
    /// The block `first .. first + count`, cut at [`JobId::MAX`].
    pub fn new(first: JobId, count: u32) -> Self {
        Self::every(1, first, count)
    }

    /// The block of `count` ids of which each is `step` after the one before, from `first` on; cut at
    /// [`JobId::MAX`].
    pub fn every(step: u32, first: JobId, count: u32) -> Self {
        let step = i64::from(step.max(1));
        let end = first
            .get()
            .saturating_add(i64::from(count).saturating_mul(step));
        Self {
            next: first.get(),
            end: end.min(JobId::MAX + 1),
            step,
        }
    }

    /// A block with nothing in it.
    pub fn empty() -> Self {
        Self {
            next: 1,
            end: 1,
            step: 1,
        }
    }

    /// The next id, or `None` when the block is used up.
    pub fn take(&mut self) -> Option<JobId> {
        if self.next >= self.end {
            return None;
        }
        let id = JobId::new(self.next);
        self.next += self.step;
        id
    }

    /// How many ids are left.
    pub fn remaining(&self) -> u32 {
        let left = (self.end - self.next).max(0) as u64;
        u32::try_from(left.div_ceil(self.step as u64)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stop_at_what_a_double_holds() {
        assert!(JobId::new(JobId::MAX).is_some());
        assert!(JobId::new(JobId::MAX + 1).is_none());
        assert!(JobId::new(-1).is_none());
        assert!(JobId::new(i64::MIN).is_none());
    }

    #[test]
    fn a_block_gives_each_id_once_and_ends() {
        let mut block = IdBlock::new(JobId::FIRST, 3);
        let ids: Vec<_> = std::iter::from_fn(|| block.take())
            .map(JobId::get)
            .collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(block.remaining(), 0);
    }

    #[test]
    fn a_block_with_a_step_has_as_many_ids_as_another() {
        let mut block = IdBlock::every(64, JobId::new(5).unwrap(), 3);
        assert_eq!(block.remaining(), 3);
        let ids: Vec<_> = std::iter::from_fn(|| block.take())
            .map(JobId::get)
            .collect();
        assert_eq!(ids, [5, 69, 133]);
        assert_eq!(block.remaining(), 0);
        let mut last = IdBlock::every(64, JobId::new(JobId::MAX - 1).unwrap(), 3);
        assert_eq!(last.remaining(), 1);
        assert_eq!(last.take().map(JobId::get), Some(JobId::MAX - 1));
        assert_eq!((last.take(), last.remaining()), (None, 0));
    }

    #[test]
    fn the_last_block_is_cut_at_the_largest_id() {
        let mut block = IdBlock::new(JobId::new(JobId::MAX).unwrap(), 10);
        assert_eq!(block.take().map(JobId::get), Some(JobId::MAX));
        assert_eq!(block.take(), None);
    }
}
