//! Paces: whose turns wait for whose.
//!
//! Connections whose [turns](crate::turn) are long take them one after another, and all others have theirs in
//! between. Who waits for a thread waits for one long turn then, and not for all of them. Of the requests that
//! HTTP/2 has in progress on a connection, one is worked on at a time on each thread, so that a thousand of them
//! weigh as a connection or two.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// Turns that take so long are long ones: they need not be used up.
const LONG: Duration = Duration::from_micros(50);

/// Long turns, of which each thread of the runtime has one at a time. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct LongTurns(Arc<Semaphore>);

impl LongTurns {
    /// So many at a time; at least one.
    pub(crate) fn new(at_once: usize) -> Self {
        let at_once = at_once.clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(at_once)))
    }
}

/// Requests of one connection beyond its first, of which each thread works on one at a time. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    gate: Arc<Semaphore>,
    average: Arc<Average>,
}

impl Streams {
    /// So many at a time; at least one.
    pub(crate) fn new(at_once: usize) -> Self {
        let LongTurns(gate) = LongTurns::new(at_once);
        Self {
            gate,
            average: Arc::default(),
        }
    }
}

/// How long turns take, in nanoseconds, the newest counting most.
#[derive(Debug, Default)]
struct Average(AtomicU64);

impl Average {
    fn is_long(&self) -> bool {
        u128::from(self.0.load(Ordering::Relaxed)) >= LONG.as_nanos()
    }

    fn add(&self, took: Duration) {
        // One that was held up by other programs is not to make all that follow long ones.
        let took = u64::try_from(took.min(2 * LONG).as_nanos()).unwrap_or(0);
        let before = self.0.load(Ordering::Relaxed);
        // Where two add at a time, one of them is not counted.
        self.0.store((3 * before + took) / 4, Ordering::Relaxed);
    }
}

/// When a connection, or a request beyond its first, has its turns.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Those of the same connection that come one after another.
    streams: Option<PollSemaphore>,
    long: PollSemaphore,
    /// Whether it stands in line for a long turn. Who does has to take it: what it was given and did not take
    /// would be nobody's for as long as it sleeps.
    is_in_line: bool,
    /// Whether it waits for nobody any more.
    is_free: bool,
    /// Of its connection, while a turn lasts or waits for others'.
    place: Option<OwnedSemaphorePermit>,
    /// While a long turn lasts, and until all others that were waiting have had one.
    permit: Option<OwnedSemaphorePermit>,
    /// When the turn began.
    began: Instant,
    average: Arc<Average>,
}

impl Pace {
    /// Of one whose turns are short until they prove long.
    pub(crate) fn new(long: &LongTurns) -> Self {
        Self {
            streams: None,
            long: PollSemaphore::new(long.0.clone()),
            is_in_line: false,
            is_free: false,
            place: None,
            permit: None,
            began: Instant::now(),
            average: Arc::default(),
        }
    }

    /// Of one of many of the same connection, whose turns are long together, however short each is.
    pub(crate) fn of_many(long: &LongTurns, streams: &Streams) -> Self {
        Self {
            streams: Some(PollSemaphore::new(streams.gate.clone())),
            average: streams.average.clone(),
            ..Self::new(long)
        }
    }

    /// Of one whose every turn is taken for a long one.
    pub(crate) fn of_long(long: &LongTurns) -> Self {
        let always = u64::try_from(4 * LONG.as_nanos()).unwrap_or(u64::MAX);
        Self {
            average: Arc::new(Average(AtomicU64::new(always))),
            ..Self::new(long)
        }
    }

    /// Whether its turns are long.
    pub(crate) fn is_long(&self) -> bool {
        self.average.is_long()
    }

    /// A turn begins, once it may; the moment when it does.
    pub(crate) fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<Instant> {
        // All who were waiting when the last one ended have had theirs.
        self.permit = None;
        if let Some(streams) = &mut self.streams
            && self.place.is_none()
        {
            self.place = ready!(streams.poll_acquire(context));
        }
        // While it stands in line, turns of the same connection's requests may have become short.
        if self.is_in_line || (self.average.is_long() && !self.is_free) {
            self.is_in_line = true;
            self.permit = ready!(self.long.poll_acquire(context));
            self.is_in_line = false;
        }
        self.began = Instant::now();
        Poll::Ready(self.began)
    }

    /// It has ended; how long it took.
    pub(crate) fn end(&mut self, context: &mut Context<'_>) -> Duration {
        let took = self.began.elapsed();
        self.end_after(took, context);
        took
    }

    fn end_after(&mut self, took: Duration, context: &mut Context<'_>) {
        self.average.add(took);
        self.place = None;
        if took < LONG {
            self.permit = None;
        }
        if self.permit.is_some() {
            // Comes back when the others have had their turns.
            context.waker().wake_by_ref();
        }
    }

    /// From now on its turns begin at once: it leaves the lines it stands in.
    pub(crate) fn set_free(&mut self) {
        self.is_free = true;
        self.is_in_line = false;
        self.permit = None;
        self.streams = None;
        self.long = PollSemaphore::new(self.long.clone_inner());
    }
}

/// Does something in turns of its own.
pub(crate) async fn paced<F: Future>(mut pace: Pace, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|context| {
        ready!(pace.poll_begin(context));
        let polled = work.as_mut().poll(context);
        pace.end(context);
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::AtomicU32;

    use proptest::prelude::*;

    use super::*;
    use crate::turn::tests::{context, spend};

    /// `yield_now` goes behind what the runtime looks at outside of the line as well.
    async fn to_the_end_of_the_line() {
        let mut is_there = false;
        poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::replace(&mut is_there, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Polls a request as its task does; whether it was its turn.
    fn poll(pace: &mut Pace, work: Duration) -> bool {
        let began = pace.poll_begin(&mut context()).is_ready();
        if began {
            spend(work);
            pace.end(&mut context());
        }
        began
    }

    #[test]
    fn requests_of_a_connection_wait_for_each_other_and_not_for_long_turns_of_others() {
        let long_turns = LongTurns::new(1);
        let _taken = long_turns.0.clone().try_acquire_owned().unwrap();
        let streams = Streams::new(1);
        let mut one = Pace::of_many(&long_turns, &streams);
        let mut other = Pace::of_many(&long_turns, &streams);
        assert!(one.poll_begin(&mut context()).is_ready());
        assert!(!poll(&mut other, Duration::ZERO), "one is at work");
        one.end(&mut context());
        assert!(poll(&mut other, Duration::ZERO));
        let mut elsewhere = Pace::of_many(&long_turns, &Streams::new(1));
        assert!(
            poll(&mut elsewhere, Duration::ZERO),
            "of another connection"
        );
        // Once they take long, they stand in line with all whose turns do.
        while !other.average.is_long() {
            assert!(poll(&mut other, 3 * LONG));
        }
        assert!(!poll(&mut one, Duration::ZERO));
    }

    proptest! {
        /// Eight requests of two connections are looked at in any order, and their turns take any time: what is
        /// given to one is taken or given back by the time that it sleeps.
        #[test]
        fn what_sleeps_keeps_no_long_turn_from_others(
            steps in prop::collection::vec((0..8_usize, any::<bool>(), 0..20_u8), 1..400),
        ) {
            let long_turns = LongTurns::new(1);
            let streams = [Streams::new(1), Streams::new(1)];
            let mut paces: Vec<Pace> = (0..8)
                .map(|number| Pace::of_many(&long_turns, &streams[number % 2]))
                .collect();
            let mut is_at_work = [false; 8];
            for (number, is_long, what) in steps {
                let pace = &mut paces[number];
                if is_at_work[number] {
                    let took = if is_long { 4 * LONG } else { Duration::ZERO };
                    pace.end_after(took, &mut context());
                    is_at_work[number] = false;
                } else if what == 0 {
                    pace.set_free();
                } else {
                    is_at_work[number] = pace.poll_begin(&mut context()).is_ready();
                }
            }
            // Each comes to one turn more, and sleeps after it.
            let mut is_asleep = [false; 8];
            for number in (0..8).cycle().take(8 * 8) {
                let pace = &mut paces[number];
                let comes = !is_asleep[number]
                    && (is_at_work[number] || pace.poll_begin(&mut context()).is_ready());
                if comes {
                    pace.end_after(Duration::ZERO, &mut context());
                    is_asleep[number] = true;
                }
            }
            prop_assert_eq!(is_asleep, [true; 8]);
            prop_assert_eq!(long_turns.0.available_permits(), 1);
            prop_assert!(streams.iter().all(|streams| streams.gate.available_permits() == 1));
        }
    }

    /// As a connection does that is to end while it waits for its turn.
    #[test]
    fn who_is_set_free_leaves_the_line() {
        let long_turns = LongTurns::new(1);
        let taken = long_turns.0.clone().try_acquire_owned().unwrap();
        let mut pace = Pace::of_long(&long_turns);
        assert!(pace.poll_begin(&mut context()).is_pending());
        pace.set_free();
        assert!(poll(&mut pace, 2 * LONG));
        drop(taken);
        assert_eq!(long_turns.0.available_permits(), 1);
    }

    #[test]
    fn a_single_long_turn_makes_no_long_one() {
        let average = Average::default();
        average.add(Duration::from_secs(1));
        assert!(!average.is_long());
        (0..3).for_each(|_| average.add(2 * LONG));
        assert!(average.is_long());
    }

    /// Of forty that always take long, one or two have a turn for each of one that does not.
    #[tokio::test]
    async fn between_two_long_turns_all_others_have_theirs() {
        let long_turns = LongTurns::new(1);
        let count = Arc::new(AtomicU32::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let (count, mut pace) = (count.clone(), Pace::new(&long_turns));
            tasks.spawn(async move {
                poll_fn(|context| {
                    ready!(pace.poll_begin(context));
                    spend(2 * LONG);
                    count.fetch_add(1, Ordering::Relaxed);
                    context.waker().wake_by_ref();
                    pace.end(context);
                    Poll::<()>::Pending
                })
                .await;
            });
        }
        // One that stands in line with them, once each had the long turns that nobody could foresee.
        let short = tokio::spawn(async move {
            while count.load(Ordering::Relaxed) < 40 * 5 {
                to_the_end_of_the_line().await;
            }
            let before = count.load(Ordering::Relaxed);
            for _ in 0..40 {
                to_the_end_of_the_line().await;
            }
            count.load(Ordering::Relaxed) - before
        });
        let long = short.await.unwrap();
        assert!((10..=80).contains(&long), "{long} in 40 rounds");
    }
}
