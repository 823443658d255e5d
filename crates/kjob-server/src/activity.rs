//! What a connection is doing, and since when: the ground on which one that does nothing is closed.
//!
//! One lazy timer a connection looks here when something could be due. Requests and reads only store
//! a number, so that a busy connection sets no timers.

mod untaken;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::load::Counted;
use crate::turn::Turn;
pub(crate) use untaken::Answer;
use untaken::Untaken;

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From the first byte of a request's head to its last, and from the start of a connection to
    /// its first request.
    pub(crate) head: Duration,
    /// Between two requests.
    pub(crate) keep_alive: Duration,
    /// While the client takes none of an answer.
    pub(crate) write: Duration,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing before this moment.
    Later(Instant),
    /// Nothing was asked for a while: the connection is to end politely.
    Idle,
    /// A head, or the taking of an answer, is too slow: the connection is to be cut.
    Stuck,
}

/// Whether a connection could be missed, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leisure {
    /// Nothing ever came.
    Silent(Instant),
    /// Something came, and never a whole request.
    Unasked(Instant),
    /// Nothing is asked; since when, or since a request began to come.
    Quiet(Instant),
    /// All that is asked waits for the client: for a body, or for it to take an answer. Since the newest request,
    /// or since much was moved.
    Slow(Instant),
    /// Something is being worked on.
    None,
}

/// So many bytes show that a client is not slow.
const MUCH: usize = 64 << 10;

/// What a connection is doing. Clones are of the same connection.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<Inner>);

/// Moments are milliseconds since `began`, plus one; 0 stands for none.
#[derive(Debug)]
struct Inner {
    began: Instant,
    in_flight: AtomicUsize,
    /// Those in flight that are there whole, and not answered yet.
    working: AtomicUsize,
    /// Those in flight whose answers are being sent.
    sending: AtomicUsize,
    /// When a piece of any answer was last taken. HTTP/2 clients hold back answers by windows, which
    /// blocks no write.
    sent_at: AtomicU64,
    /// The same of each answer of HTTP/2.
    untaken: Untaken,
    /// Whether anything has come.
    spoken: AtomicBool,
    /// Whether a request has come.
    asked: AtomicBool,
    /// Heads of HTTP/2 come between other frames, so there a lone byte means nothing.
    is_http2: AtomicBool,
    idle_since: AtomicU64,
    /// When the newest of those in flight began, or much was read or written since.
    busy_since: AtomicU64,
    /// How much was read and written since then.
    moved: AtomicUsize,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    /// Whether it waits for a turn in which to look at what has come.
    in_line: AtomicBool,
    /// Whether its turns are long, and so wait for those of others.
    has_long_turns: AtomicBool,
    turn: Turn,
    /// When its turn began, while it has one.
    turn_began: AtomicU64,
}

/// A request that is being answered; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    activity: Activity,
    is_first: bool,
    stage: Stage,
    /// Its answer, while that is being sent over HTTP/2.
    answer: Option<Arc<Answer>>,
    /// Its part of the server's load, where it has one.
    counted: Option<Counted>,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Receiving,
    Working,
    Sending,
}

impl Activity {
    /// A connection that begins now.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            in_flight: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            sent_at: AtomicU64::new(0),
            untaken: Untaken::default(),
            spoken: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            idle_since: AtomicU64::new(1),
            busy_since: AtomicU64::new(1),
            moved: AtomicUsize::new(0),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            in_line: AtomicBool::new(false),
            has_long_turns: AtomicBool::new(false),
            turn: Turn::new(),
            turn_began: AtomicU64::new(0),
        }))
    }

    /// Its turn.
    pub(crate) fn turn(&self) -> &Turn {
        &self.0.turn
    }

    /// Its turn begins at this moment.
    pub(crate) fn begin_turn(&self, now: std::time::Instant) {
        self.turn().begin(now);
        let since = now.saturating_duration_since(self.0.began.into_std());
        self.0.turn_began.store(stored(since), Ordering::Relaxed);
    }

    /// Its turn has ended, and took so long.
    pub(crate) fn end_turn(&self, took: Duration) {
        self.turn().bound_reads(took);
        self.0.turn_began.store(0, Ordering::Relaxed);
    }

    /// Whether it waits for a turn, and what has come is not looked at meanwhile.
    pub(crate) fn is_in_line(&self) -> bool {
        self.0.in_line.load(Ordering::Relaxed)
    }

    pub(crate) fn set_in_line(&self, in_line: bool) {
        self.0.in_line.store(in_line, Ordering::Relaxed);
    }

    pub(crate) fn set_long_turns(&self, has_long_turns: bool) {
        let known = &self.0.has_long_turns;
        known.store(has_long_turns, Ordering::Relaxed);
    }

    /// Whether its requests may be without a turn for long, whatever they were waiting for has come: others may
    /// need what they keep meanwhile.
    pub(crate) fn is_paced(&self) -> bool {
        let inner = &self.0;
        inner.has_long_turns.load(Ordering::Relaxed) || inner.in_flight.load(Ordering::Relaxed) > 1
    }

    /// A request has come.
    pub(crate) fn begin_request(&self, is_http2: bool) -> InFlight {
        let inner = &self.0;
        inner.asked.store(true, Ordering::Relaxed);
        inner.is_http2.store(is_http2, Ordering::Relaxed);
        self.hold()
    }

    /// Counts something else as a request in flight.
    pub(crate) fn hold(&self) -> InFlight {
        let is_first = self.0.in_flight.fetch_add(1, Ordering::Relaxed) == 0;
        self.0.busy_since.store(self.now(), Ordering::Relaxed);
        self.0.head_since.store(0, Ordering::Relaxed);
        InFlight {
            activity: self.clone(),
            is_first,
            stage: Stage::Receiving,
            answer: None,
            counted: None,
        }
    }

    /// It is not silent, whether it asks for something or not.
    pub(crate) fn on_spoken(&self) {
        self.0.spoken.store(true, Ordering::Relaxed);
    }

    /// So many bytes went to the client, or came from it.
    pub(crate) fn on_moved(&self, len: usize) {
        let moved = &self.0.moved;
        if moved.fetch_add(len, Ordering::Relaxed).saturating_add(len) >= MUCH {
            moved.store(0, Ordering::Relaxed);
            self.0.busy_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Bytes have come in.
    pub(crate) fn on_read(&self, len: usize) {
        let inner = &self.0;
        self.on_spoken();
        self.on_moved(len);
        if inner.in_flight.load(Ordering::Relaxed) == 0
            && inner.head_since.load(Ordering::Relaxed) == 0
        {
            inner.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Bytes were written, or could not be.
    pub(crate) fn on_write(&self, is_blocked: bool) {
        let blocked_since = &self.0.blocked_since;
        if !is_blocked {
            blocked_since.store(0, Ordering::Relaxed);
        } else if blocked_since.load(Ordering::Relaxed) == 0 {
            blocked_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether the newest request came over HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.0.is_http2.load(Ordering::Relaxed)
    }

    /// Whether nothing is being asked, answered or written.
    pub(crate) fn is_quiet(&self) -> bool {
        let inner = &self.0;
        inner.in_flight.load(Ordering::Relaxed) == 0
            && inner.blocked_since.load(Ordering::Relaxed) == 0
    }

    /// Whether it could be missed now.
    pub(crate) fn leisure(&self) -> Leisure {
        let inner = &self.0;
        let moment = |stored| self.moment(stored).unwrap_or(inner.began);
        if inner.in_flight.load(Ordering::Relaxed) == 0 {
            let since = moment(&inner.idle_since);
            if inner.asked.load(Ordering::Relaxed) {
                let head = self.moment(&inner.head_since);
                Leisure::Quiet(head.map_or(since, |head| head.max(since)))
            } else if inner.spoken.load(Ordering::Relaxed) {
                Leisure::Unasked(since)
            } else {
                Leisure::Silent(since)
            }
        } else if inner.working.load(Ordering::Relaxed) == 0 {
            Leisure::Slow(moment(&inner.busy_since))
        } else {
            Leisure::None
        }
    }

    /// What is due now.
    pub(crate) fn due(&self, patience: &Patience) -> Due {
        let inner = &self.0;
        let now = Instant::now();
        if let Some(blocked) = self.moment(&inner.blocked_since)
            && now >= blocked + patience.write
        {
            return Due::Stuck;
        }
        // However much else goes on: what the client does not take is kept for it, and is others' no more.
        let untaken = inner.untaken.oldest();
        let untaken_end = untaken.map(|since| self.moment_of(since) + patience.write);
        if untaken_end.is_some_and(|end| now >= end) {
            return Due::Stuck;
        }
        let in_flight = inner.in_flight.load(Ordering::Relaxed);
        if in_flight > 0 {
            if inner.sending.load(Ordering::Relaxed) == in_flight
                && let Some(sent) = self.moment(&inner.sent_at)
                && now >= sent + patience.write
            {
                return Due::Stuck;
            }
            let shortest = patience.head.min(patience.keep_alive).min(patience.write);
            let at = now + shortest;
            return Due::Later(untaken_end.map_or(at, |end| end.min(at)));
        }
        let head = if !inner.asked.load(Ordering::Relaxed) {
            Some(inner.began)
        } else if self.is_http2() {
            None
        } else {
            self.moment(&inner.head_since)
        };
        let idle = self.moment(&inner.idle_since).unwrap_or(inner.began);
        let idle_end = idle + patience.keep_alive;
        let head_end = head.map(|head| head + patience.head);
        match head_end {
            Some(head_end) if now >= head_end => Due::Stuck,
            // While a head comes the connection is not idle.
            Some(head_end) => Due::Later(head_end),
            None if now >= idle_end => Due::Idle,
            // A head may begin meanwhile, and is to be looked at in time.
            None => Due::Later(idle_end.min(now + patience.head)),
        }
    }

    /// Now, or when the connection's turn began, if it has one: a request notes five moments, and to look at the
    /// clock for each takes longer than all of the rest of that.
    fn now(&self) -> u64 {
        match self.0.turn_began.load(Ordering::Relaxed) {
            0 => stored(self.0.began.elapsed()),
            turn_began => turn_began,
        }
    }

    fn moment(&self, stored: &AtomicU64) -> Option<Instant> {
        match stored.load(Ordering::Relaxed) {
            0 => None,
            stored => Some(self.moment_of(stored)),
        }
    }

    fn moment_of(&self, stored: u64) -> Instant {
        self.0.began + Duration::from_millis(stored.saturating_sub(1))
    }
}

/// A moment, so long after the connection began, as it is stored.
fn stored(since: Duration) -> u64 {
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1) + 1
}

impl InFlight {
    /// Whether no other was in flight when it began.
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Makes it count for the whole server until it is dropped.
    pub(crate) fn set_counted(&mut self, counted: Counted) {
        self.counted = Some(counted);
    }

    /// The request is there whole, and is being worked on from now on.
    pub(crate) fn begin_working(&mut self) {
        self.enter(Stage::Working);
    }

    /// The answer is there, and is being sent from now on.
    pub(crate) fn begin_sending(&mut self) {
        if self.stage != Stage::Sending {
            self.on_sent();
            // HTTP/1 sends one at a time, so that all the others wait as well.
            if self.activity.is_http2() {
                self.answer = Some(Arc::new(Answer::new(&self.activity)));
            }
            self.enter(Stage::Sending);
        }
    }

    /// A piece of the answer was taken.
    pub(crate) fn on_sent(&self) {
        let activity = &self.activity;
        match &self.answer {
            Some(answer) => answer.on_taken(),
            None => activity.0.sent_at.store(activity.now(), Ordering::Relaxed),
        }
    }

    /// The client would take more of the answer than there is yet.
    pub(crate) fn on_wanted(&self) {
        if let Some(answer) = &self.answer {
            answer.on_all_taken();
        }
    }

    /// The answer, where the client may hold it back while others go on.
    pub(crate) fn answer(&self) -> Option<&Arc<Answer>> {
        self.answer.as_ref()
    }

    fn enter(&mut self, stage: Stage) {
        let left = std::mem::replace(&mut self.stage, stage);
        if let Some(count) = self.activity.0.count_of(stage) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(count) = self.activity.0.count_of(left) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Inner {
    /// How many are in this stage, where that is counted.
    fn count_of(&self, stage: Stage) -> Option<&AtomicUsize> {
        match stage {
            Stage::Receiving => None,
            Stage::Working => Some(&self.working),
            Stage::Sending => Some(&self.sending),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let inner = &self.activity.0;
        let now = self.activity.now();
        inner.idle_since.store(now, Ordering::Relaxed);
        inner.head_since.store(0, Ordering::Relaxed);
        if let Some(count) = inner.count_of(self.stage) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        inner.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
