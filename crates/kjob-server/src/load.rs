//! Requests in progress beyond the first of each connection, which HTTP/2 may have.
//!
//! Each connection may always have one, so a few with many streams are in nobody's way; what is beyond
//! that shares a bound over all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The count, and its bound. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    count: Arc<AtomicUsize>,
    max: usize,
}

/// A request that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    load: Load,
    place: usize,
}

/// So many requests are refused and wait for their answers to be taken that one more would be too many
/// even so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} further requests are in progress, limit {limit}, and the refused ones do not go")]
pub(crate) struct Overrun {
    found: usize,
    limit: usize,
}

impl Load {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            count: Arc::default(),
            max,
        }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// There are twice as many as may be.
    pub(crate) fn count(&self) -> Result<Counted, Overrun> {
        let place = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let counted = Counted {
            load: self.clone(),
            place,
        };
        if place > self.max.saturating_mul(2) {
            return Err(Overrun {
                found: place,
                limit: self.max,
            });
        }
        Ok(counted)
    }

    /// The most that are worked on.
    pub(crate) fn max(&self) -> usize {
        self.max
    }
}

impl Counted {
    /// Whether there were as many as may be when it came: then it is refused.
    pub(crate) fn is_over(&self) -> bool {
        self.place > self.load.max
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_done_as_many_refused_and_the_rest_not_even_that() {
        let load = Load::new(2);
        let mut counted: Vec<_> = (0..4).map(|_| load.count().unwrap()).collect();
        let over: Vec<bool> = counted.iter().map(Counted::is_over).collect();
        assert_eq!(over, [false, false, true, true]);
        let (found, limit) = (5, 2);
        assert_eq!(load.count().map(drop), Err(Overrun { found, limit }));
        counted.truncate(1);
        assert!(!load.count().unwrap().is_over());
    }
}
