//! Turns: how much a connection does before others come.
//!
//! The runtime's threads go from task to task in order, so everybody waits for the turns of all who
//! want to do something. That is fair where turns are short, as those of ordinary requests are: some ten
//! microseconds. A client may make its turns a thousand times as long, with frames that cost more than
//! they are, or with megabytes that the system copies for it; and hundreds of such clients would make
//! the others wait for seconds. So
//!
//! - a turn ends when enough was read, asked and written in it, or when it has taken long;
//! - of HTTP/2, of which one read may hold a thousand frames or a hundred requests, less is read at once if
//!   that takes long;
//! - those whose turns are long have them one after another ([`pace`](crate::pace)).

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How much may be done in a turn, in the units of its costs.
const TURN: u32 = 128;

/// What a read costs: with four of them a turn is over. The runtime's own measure, 128 reads, lets a
/// connection work off a mebibyte of small HTTP/2 frames at a time, while all others wait.
pub(crate) const READ_COST: u32 = 32;

/// What a request costs. Those that were pipelined are there at once, and would all be answered
/// while others wait. With the read before it and the one after, a request alone still fits one turn.
const REQUEST_COST: u32 = 24;

/// Up to this cost, that of a request alone with an answer of up to 16 KiB, nobody looks at the clock.
const UNTIMED: u32 = 2 * READ_COST + REQUEST_COST + 8;

/// What is written at once at most: the system takes some ten microseconds to copy it.
pub(crate) const WRITE_MAX: usize = 128 << 10;

/// Bytes whose writing costs one unit.
const WRITTEN_PER_COST: usize = 2 << 10;

/// A turn that has taken so long is over.
const TIME_MAX: Duration = Duration::from_micros(100);

/// What is read at once where that is bounded: no more than HTTP/2 has room for at first, and enough
/// that the head of a frame with all of its settings is not cut into many pieces.
const BOUNDED_READS: (usize, usize) = (512, 8 << 10);

/// What is read at once of HTTP/2 until that proves to be cheap.
const READ_AT_FIRST: usize = 2 << 10;

/// Up to so much time for each KiB, what is read is cheap, however long it takes: a body. Frames and heads are
/// small, and take several times as long.
const CHEAP_PER_KIB: Duration = Duration::from_micros(6);

/// The turn of a connection, which several parts of it take from.
#[derive(Debug)]
pub(crate) struct Turn {
    /// What the moments of turns are counted from.
    origin: Instant,
    /// When it began, in nanoseconds.
    began: AtomicU64,
    used: AtomicU32,
    /// Whether it has ended, though its connection has not given way yet: what is on hand is no reason to
    /// read more.
    is_over: AtomicBool,
    /// Bytes that were read in it.
    read: AtomicU32,
    /// Whether what is read are frames of HTTP/2.
    is_framed: AtomicBool,
    /// Bytes that may be read at once; 0 where there is no bound.
    read_max: AtomicU32,
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self {
            origin: Instant::now(),
            began: AtomicU64::new(0),
            used: AtomicU32::new(0),
            is_over: AtomicBool::new(false),
            read: AtomicU32::new(0),
            is_framed: AtomicBool::new(false),
            read_max: AtomicU32::new(0),
        }
    }

    /// It begins at this moment.
    pub(crate) fn begin(&self, now: Instant) {
        self.began.store(self.nanos(now), Ordering::Relaxed);
        self.used.store(0, Ordering::Relaxed);
        self.is_over.store(false, Ordering::Relaxed);
        self.read.store(0, Ordering::Relaxed);
    }

    /// Takes a part of it; where it is over, others come first, and nothing more is done until it begins anew.
    pub(crate) fn poll(&self, cost: u32, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_used_up(cost) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes the part of a request; where the turn is over, others come first, once.
    pub(crate) async fn ask(&self) {
        let mut has_waited = false;
        poll_fn(|context| {
            // It may be in another task than the connection, which begins no turn as long as nothing comes.
            if has_waited || !self.is_used_up(REQUEST_COST) {
                return Poll::Ready(());
            }
            has_waited = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn is_used_up(&self, cost: u32) -> bool {
        let used = self.used.fetch_add(cost, Ordering::Relaxed);
        let is_over = self.is_over.load(Ordering::Relaxed)
            || used >= TURN
            || (used.saturating_add(cost) > UNTIMED && self.elapsed() >= TIME_MAX);
        if is_over {
            self.is_over.store(true, Ordering::Relaxed);
        }
        is_over
    }

    /// So many bytes were read.
    pub(crate) fn on_read(&self, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.read.fetch_add(len, Ordering::Relaxed);
    }

    /// A request begins, which others are to do in turns of their own.
    pub(crate) fn on_request(&self) {
        self.used.fetch_add(REQUEST_COST, Ordering::Relaxed);
    }

    /// So many bytes were written.
    pub(crate) fn on_written(&self, len: usize) {
        let cost = u32::try_from(len / WRITTEN_PER_COST).unwrap_or(TURN);
        self.used.fetch_add(cost, Ordering::Relaxed);
    }

    /// What is read are frames of HTTP/2.
    pub(crate) fn set_framed(&self) {
        let at_first = u32::try_from(READ_AT_FIRST).unwrap_or(0);
        self.read_max.store(at_first, Ordering::Relaxed);
        self.is_framed.store(true, Ordering::Relaxed);
    }

    /// How many bytes may be read at once, where that has a bound.
    pub(crate) fn read_max(&self) -> Option<usize> {
        let max = self.read_max.load(Ordering::Relaxed) as usize;
        (max > 0).then_some(max)
    }

    /// Reads less at once after a turn that took so long, or in which so much was asked, and more after
    /// a short one.
    pub(crate) fn bound_reads(&self, took: Duration) {
        if !self.is_framed.load(Ordering::Relaxed) {
            return;
        }
        let (least, most) = BOUNDED_READS;
        let now = self.read_max();
        let used = self.used.load(Ordering::Relaxed);
        let is_cheap = took <= CHEAP_PER_KIB * (self.read.load(Ordering::Relaxed) >> 10);
        let is_much = used > 2 * TURN || (took > 2 * TIME_MAX && !is_cheap);
        let next = if is_much {
            (now.unwrap_or(2 * most) / 2).max(least)
        } else if is_cheap || took < TIME_MAX / 4 {
            now.map_or(0, |max| if max < most { 2 * max } else { 0 })
        } else {
            return;
        };
        if now.unwrap_or(0) != next {
            let next = u32::try_from(next).unwrap_or(0);
            self.read_max.store(next, Ordering::Relaxed);
        }
    }

    fn nanos(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.origin);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn elapsed(&self) -> Duration {
        let began = self.began.load(Ordering::Relaxed);
        Duration::from_nanos(self.nanos(Instant::now()).saturating_sub(began))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    pub(crate) fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// Works for so long.
    pub(crate) fn spend(time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_turn_is_over_when_much_was_done() {
        let turn = Turn::new();
        turn.begin(Instant::now());
        let mut reads = 0;
        while turn.poll(READ_COST, &mut context()).is_ready() {
            reads += 1;
        }
        // Fewer where the machine takes long for them.
        assert!((2..=4).contains(&reads), "{reads}");
        turn.begin(Instant::now());
        turn.on_written(1 << 20);
        assert!(turn.poll(0, &mut context()).is_pending());
        assert!(turn.poll(0, &mut context()).is_pending(), "still over");
        turn.begin(Instant::now());
        assert!(turn.poll(0, &mut context()).is_ready());
    }

    /// It is asked by another task, which has no way to begin a turn.
    #[tokio::test]
    async fn a_request_waits_once_where_the_turn_is_over() {
        let turn = Turn::new();
        turn.on_written(1 << 20);
        let mut asking = pin!(turn.ask());
        assert!(asking.as_mut().poll(&mut context()).is_pending());
        assert!(asking.as_mut().poll(&mut context()).is_ready());
    }

    #[test]
    fn a_turn_is_over_when_it_takes_long() {
        let turn = Turn::new();
        turn.begin(Instant::now());
        assert!(turn.poll(UNTIMED, &mut context()).is_ready());
        spend(TIME_MAX);
        assert!(turn.poll(1, &mut context()).is_pending());
    }

    #[test]
    fn less_is_read_at_once_of_frames_that_cost_much_and_of_nothing_else() {
        let turn = Turn::new();
        turn.bound_reads(100 * TIME_MAX);
        assert_eq!(turn.read_max(), None);
        turn.set_framed();
        assert_eq!(turn.read_max(), Some(READ_AT_FIRST));
        for _ in 0..20 {
            turn.bound_reads(100 * TIME_MAX);
        }
        assert_eq!(turn.read_max(), Some(BOUNDED_READS.0));
        turn.bound_reads(TIME_MAX);
        assert_eq!(turn.read_max(), Some(BOUNDED_READS.0));
        for _ in 0..20 {
            turn.bound_reads(Duration::ZERO);
        }
        assert_eq!(turn.read_max(), None);
        for _ in 0..20 {
            turn.begin(Instant::now());
            (0..100).for_each(|_| turn.on_request());
            turn.bound_reads(Duration::ZERO);
        }
        assert_eq!(turn.read_max(), Some(BOUNDED_READS.0));
    }

    #[test]
    fn a_body_is_read_faster_however_long_that_takes() {
        let turn = Turn::new();
        turn.set_framed();
        turn.begin(Instant::now());
        turn.on_read(1 << 20);
        for _ in 0..20 {
            turn.bound_reads(CHEAP_PER_KIB * 1024);
        }
        assert_eq!(turn.read_max(), None);
        turn.bound_reads(CHEAP_PER_KIB * 1025);
        assert_eq!(turn.read_max(), Some(BOUNDED_READS.1));
    }
}
