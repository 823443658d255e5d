//! The clock of engines that share a store: the store's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::clock::sleep_looking;
use crate::{Clock, Timestamp};

/// A difference of clocks that somebody should hear of, in milliseconds.
const WORTH_A_WORD: u64 = 1_000;

/// The engine's own clock, set right by what the store says of its own: so a job is received, due, ended
/// and expired at the same moments on all nodes, whatever their hosts take the time for.
#[derive(Debug)]
pub(super) struct StoreClock {
    own: Arc<dyn Clock>,
    /// By how many milliseconds the store's is ahead.
    ahead: AtomicI64,
}

/// What the store's clock showed at some moment of a call, which began and ended then by the own clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    called: Timestamp,
    answered: Timestamp,
    shown: Timestamp,
}

impl StoreClock {
    pub(super) fn new(own: Arc<dyn Clock>) -> Self {
        Self {
            own,
            ahead: AtomicI64::new(0),
        }
    }

    /// What the own clock shows.
    pub(super) fn own_now(&self) -> Timestamp {
        self.own.now()
    }

    /// That the store's clock showed `shown` at some moment from `called` on, by the own clock, until now.
    pub(super) fn reading(&self, called: Timestamp, shown: Timestamp) -> Reading {
        Reading {
            called,
            answered: self.own_now(),
            shown,
        }
    }

    /// Takes in what the store's clock showed. As that says no more than from where to where the difference
    /// goes, it stays as it is inside of that, and clocks which agree are left alone.
    pub(super) fn hear(&self, reading: Reading) {
        let Reading {
            called,
            answered,
            shown,
        } = reading;
        let least = shown.as_millis().saturating_sub(answered.as_millis());
        let most = shown.as_millis().saturating_sub(called.as_millis());
        // The own clock was set back meanwhile.
        if least > most {
            return;
        }
        let before = self.ahead.load(Ordering::Relaxed);
        let ahead = match (least..=most).contains(&before) {
            true => before,
            // Off by half of what the call took at most.
            false => least.saturating_add(most.saturating_sub(least) / 2),
        };
        self.ahead.store(ahead, Ordering::Relaxed);
        if ahead.abs_diff(before) >= WORTH_A_WORD {
            tracing::warn!(
                millis = ahead,
                "the store's clock is so far ahead of this host's; jobs go by the store's"
            );
        }
    }
}

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        let ahead = self.ahead.load(Ordering::Relaxed);
        Timestamp::from_millis(self.own_now().as_millis().saturating_add(ahead))
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(sleep_looking(self, at))
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.own.sleep(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ManualClock;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A call that took 100 ms, in which the store's clock showed `shown`.
    fn hear(own: &ManualClock, clock: &StoreClock, shown: i64) -> i64 {
        let called = own.now();
        own.advance(Duration::from_millis(100));
        clock.hear(clock.reading(called, at(shown)));
        clock.now().as_millis() - own.now().as_millis()
    }

    #[test]
    fn it_is_off_by_no_more_than_a_call_takes_and_rests_inside_of_that() {
        let own = ManualClock::at(at(1_000_000));
        let clock = StoreClock::new(Arc::new(own.clone()));
        assert_eq!(hear(&own, &clock, 1_000_050), 0, "they agree");
        assert_eq!(hear(&own, &clock, 1_000_100), 0, "as far as one can say");
        assert_eq!(hear(&own, &clock, 5_000_200), 3_999_950);
        assert_eq!(hear(&own, &clock, 5_000_250), 3_999_950);
        assert_eq!(hear(&own, &clock, 1_000_400), -50, "it is set right");
    }

    #[test]
    fn a_clock_that_is_set_back_during_a_call_says_nothing() {
        let own = ManualClock::at(at(1_000_000));
        let clock = StoreClock::new(Arc::new(own.clone()));
        clock.hear(clock.reading(at(2_000_000), at(1_500_000)));
        assert_eq!(clock.now(), at(1_000_000));
    }

    #[tokio::test]
    async fn sleepers_wake_by_the_clock_of_the_store() {
        let own = ManualClock::at(at(1_000_000));
        let clock = StoreClock::new(Arc::new(own.clone()));
        clock.hear(clock.reading(at(1_000_000), at(6_000_000)));
        let mut sleep = clock.sleep_until(at(6_005_000));
        let mut woken = || is_ready(&mut sleep);
        assert!(!woken());
        own.advance(Duration::from_secs(4));
        assert!(!woken());
        own.advance(Duration::from_secs(1));
        assert!(woken());
    }

    /// Whether it is ready.
    fn is_ready(future: &mut Pin<Box<dyn Future<Output = ()> + Send + '_>>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).is_ready()
    }
}
