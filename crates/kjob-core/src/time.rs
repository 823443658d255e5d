//! Time, always handed in: the state machine and the stores never ask a clock.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A moment: milliseconds since the Unix epoch, as the protocol counts (`time_received`,
/// docs/protocol.md section 4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment `millis` after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The moment `duration` later; the end of time where that overflows.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// Where the engine gets its time from: the system, or a test's hand.
///
/// Implementations: `SystemClock` and `ManualClock`, both with feature `engine`.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Now. May repeat and may be set; it need not be monotonic.
    fn now(&self) -> Timestamp;

    /// Completes at `at` or soon after, at once if it has passed. Dropping it cancels it.
    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Completes after `duration`, however the clock is set meanwhile. Dropping it cancels it.
    ///
    /// The default is for clocks that are never set.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.sleep_until(self.now().after(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_saturate() {
        let end = Timestamp::from_millis(i64::MAX);
        assert_eq!(end.after(Duration::from_secs(1)), end);
        assert_eq!(Timestamp::from_millis(5).since(end), Duration::ZERO);
    }
}
