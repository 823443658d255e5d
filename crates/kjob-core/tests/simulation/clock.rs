//! Time that passes only when nothing else can happen, and a wall clock that may be set.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kjob_core::{Clock, Timestamp};

/// What the wall clock shows at the start of a simulation.
const T0: i64 = 1_700_000_000_000;

/// How late a sleeper may be when the wall clock is set forward, as with the system's clock.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The one timer queue of a simulation. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimClock(Arc<Mutex<Time>>);

#[derive(Debug, Default)]
struct Time {
    /// Microseconds since the start; never set back.
    passed: u64,
    /// How far the wall clock was set forward, in milliseconds.
    offset: i64,
    wall_max: i64,
    sleepers: BTreeMap<(u64, u64), Waker>,
    count: u64,
}

impl SimClock {
    /// Microseconds since the start.
    pub(crate) fn passed(&self) -> u64 {
        self.0.lock().unwrap().passed
    }

    /// The latest that the wall clock has ever shown.
    pub(crate) fn wall_max(&self) -> Timestamp {
        let time = self.0.lock().unwrap();
        Timestamp::from_millis(time.wall_max.max(time.wall()))
    }

    /// Sets the wall clock.
    pub(crate) fn jump(&self, millis: i64) {
        let mut time = self.0.lock().unwrap();
        time.wall_max = time.wall_max.max(time.wall());
        time.offset += millis;
    }

    /// Lets the time pass until the next sleeper is to wake. Called when nothing else can go on.
    pub(crate) fn pass(&self) {
        let mut time = self.0.lock().unwrap();
        let Some(((at, _), sleeper)) = time.sleepers.pop_first() else {
            panic!("nothing can go on, and nobody sleeps");
        };
        time.passed = time.passed.max(at);
        drop(time);
        sleeper.wake();
    }

    /// Completes this many microseconds later.
    pub(crate) fn micros(&self, micros: u64) -> Sleep {
        let at = self.passed() + micros;
        Sleep {
            clock: self.clone(),
            at,
            key: None,
        }
    }
}

impl Time {
    fn wall(&self) -> i64 {
        T0 + (self.passed / 1_000) as i64 + self.offset
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.lock().unwrap().wall())
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            loop {
                let left = at.since(self.now());
                if left.is_zero() {
                    return;
                }
                self.sleep(left.min(LOOK_AGAIN_AFTER)).await;
            }
        })
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.micros(duration.as_micros() as u64))
    }
}

/// A sleep in the timer queue.
pub(crate) struct Sleep {
    clock: SimClock,
    at: u64,
    key: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut time = clock.0.lock().unwrap();
        if time.passed >= self.at {
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or_else(|| {
            time.count += 1;
            (self.at, time.count)
        });
        self.key = Some(key);
        time.sleepers.insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clock.0.lock().unwrap().sleepers.remove(&key);
        }
    }
}
