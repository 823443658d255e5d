//! What upstreams answer and commands print: gathered in memory, of which all of it together takes a
//! bounded amount.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What every result may take unasked: most are smaller, and need not wait for each other.
const FREE_MAX: usize = 256 << 10;

/// The unit in which memory is counted.
const UNIT: usize = 1 << 10;

/// Memory for results that are being gathered, beyond the first part of each. Clones share it.
///
/// A result that grows beyond that part reserves all that it may ever take, in its turn, before it
/// grows: so each that has begun can end, and none fails for want of memory. Until then its source
/// is not read, and waits.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    free: Arc<Semaphore>,
    units: u32,
}

/// A result that is being gathered.
#[derive(Debug)]
pub(crate) struct Gathering {
    memory: Memory,
    limit: usize,
    data: Vec<u8>,
    reserved: Option<OwnedSemaphorePermit>,
}

/// There is more than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("result too large: more than the limit of {limit} bytes")]
pub(crate) struct TooLarge {
    pub(crate) limit: usize,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
        }
    }

    /// Begins a result of at most `limit` bytes.
    pub(crate) fn gather(&self, limit: usize) -> Gathering {
        Gathering {
            memory: self.clone(),
            limit,
            data: Vec::new(),
            reserved: None,
        }
    }
}

impl Gathering {
    /// Takes note of a length that was announced.
    ///
    /// # Errors
    /// It is more than the limit.
    pub(crate) fn expect(&self, len: u64) -> Result<(), TooLarge> {
        let limit = self.limit;
        match usize::try_from(len) {
            Ok(len) if len <= limit => Ok(()),
            _ => Err(TooLarge { limit }),
        }
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// With it there is more than the limit.
    pub(crate) async fn push(&mut self, piece: &[u8]) -> Result<(), TooLarge> {
        let len = self.data.len() + piece.len();
        if len > self.limit {
            return Err(TooLarge { limit: self.limit });
        }
        if len > FREE_MAX && self.reserved.is_none() {
            let units = u32::try_from(self.limit.div_ceil(UNIT)).unwrap_or(u32::MAX);
            let units = units.min(self.memory.units);
            // Never closed, so there is always a turn.
            self.reserved = self
                .memory
                .free
                .clone()
                .acquire_many_owned(units)
                .await
                .ok();
        }
        if len > self.data.capacity() {
            let roomy = (self.data.capacity() * 2).clamp(len, self.limit);
            self.data.reserve_exact(roomy - self.data.len());
        }
        self.data.extend_from_slice(piece);
        Ok(())
    }

    /// All of it. From here on it counts as a result of the engine's, whose number is bounded.
    pub(crate) fn finish(self) -> Bytes {
        Bytes::from(self.data)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_limit_holds_at_the_byte() {
        let memory = Memory::new(1 << 20);
        let mut gathering = memory.gather(5);
        gathering.push(b"abc").await.unwrap();
        gathering.push(b"de").await.unwrap();
        let too_large = Err(TooLarge { limit: 5 });
        assert_eq!(gathering.push(b"f").await, too_large);
        assert_eq!(gathering.expect(6), too_large);
        assert_eq!(gathering.expect(u64::MAX), too_large);
        assert_eq!(gathering.expect(5), Ok(()));
        assert_eq!(gathering.finish(), "abcde");
    }

    #[tokio::test(start_paused = true)]
    async fn large_ones_wait_for_each_other_and_small_ones_for_nobody() {
        let memory = Memory::new(3 << 20);
        let piece = vec![7; FREE_MAX];
        let (mut first, mut second) = (memory.gather(2 << 20), memory.gather(2 << 20));
        for gathering in [&mut first, &mut second] {
            gathering.push(&piece).await.unwrap();
        }
        first.push(&piece).await.unwrap();
        let soon = Duration::from_secs(1);
        assert!(timeout(soon, second.push(b"x")).await.is_err(), "it waits");
        let mut small = memory.gather(2 << 20);
        small.push(&piece).await.unwrap();
        assert_eq!(first.finish().len(), 2 * FREE_MAX);
        second.push(b"x").await.unwrap();
        assert_eq!(second.finish().len(), FREE_MAX + 1);
    }

    #[tokio::test]
    async fn one_that_may_take_more_than_all_goes_alone() {
        let memory = Memory::new(1 << 20);
        let mut alone = memory.gather(1 << 30);
        alone.push(&vec![7; FREE_MAX + 1]).await.unwrap();
        assert_eq!(memory.free.available_permits(), 0);
        drop(alone);
        assert_eq!(memory.free.available_permits(), 1 << 10);
    }
}
