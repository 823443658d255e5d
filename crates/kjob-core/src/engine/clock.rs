//! The clocks: the system's, and one that a test moves.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::{Clock, Timestamp};

/// The system's wall clock, with tokio's timers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(sleep_looking(self, at))
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// How late a sleeper may be when the wall clock is set forward.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Sleeps until a clock shows `at`. It may be set meanwhile, and a machine may be suspended: looks again at the
/// end, and now and then before.
pub(super) async fn sleep_looking(clock: &impl Clock, at: Timestamp) {
    loop {
        let left = at.since(clock.now());
        if left.is_zero() {
            return;
        }
        clock.sleep(left.min(LOOK_AGAIN_AFTER)).await;
    }
}

/// A clock that stands still until it is told to move. Clones are the same clock.
///
/// ```
/// use kjob_core::engine::ManualClock;
/// use kjob_core::{Clock, Timestamp};
/// use std::time::Duration;
///
/// let clock = ManualClock::at(Timestamp::from_millis(1_000));
/// clock.advance(Duration::from_millis(5));
/// assert_eq!(clock.now(), Timestamp::from_millis(1_005));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<Mutex<Manual>>);

#[derive(Debug, Default)]
struct Manual {
    now: Timestamp,
    sleepers: BTreeMap<(Timestamp, u64), oneshot::Sender<()>>,
    count: u64,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: Timestamp) -> Self {
        let clock = Self::default();
        clock.lock().now = now;
        clock
    }

    /// Moves on by `duration`, and wakes whoever sleeps until then.
    pub fn advance(&self, duration: Duration) {
        let mut manual = self.lock();
        manual.now = manual.now.after(duration);
        let past = manual.now.after(Duration::from_millis(1));
        let later = manual.sleepers.split_off(&(past, 0));
        for sleeper in std::mem::replace(&mut manual.sleepers, later).into_values() {
            // A sleeper that is gone needs no waking.
            let _ = sleeper.send(());
        }
    }

    /// Moves on to the earliest moment that somebody sleeps until, if there is one.
    pub fn advance_to_next(&self) -> Option<Timestamp> {
        let (now, next) = {
            let mut manual = self.lock();
            manual.sleepers.retain(|_, sleeper| !sleeper.is_closed());
            (
                manual.now,
                manual.sleepers.first_key_value().map(|((at, _), _)| *at)?,
            )
        };
        self.advance(next.since(now));
        Some(next)
    }

    fn lock(&self) -> MutexGuard<'_, Manual> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let woken = {
                let mut manual = self.lock();
                if at <= manual.now {
                    return;
                }
                let (sender, woken) = oneshot::channel();
                manual.count += 1;
                let key = (at, manual.count);
                manual.sleepers.insert(key, sender);
                woken
            };
            // An error would mean that the clock is gone, but `self` holds it.
            let _ = woken.await;
        })
    }
}
