//! The state machine of a job: pure, total, and the only place that decides what may follow what.
//!
//! Every store applies these transitions, each inside one atomic step; the engine only asks.
//!
//! ```
//! use kjob_core::{apply, End, Event, Lease, Phase, State, Timestamp, Transition};
//!
//! let at = Timestamp::from_millis(0);
//! let queued = State::queued(None);
//! let Ok(Transition::To(running)) = apply(&queued, Event::Start, at) else { panic!() };
//! let end = Event::End { lease: running.lease, end: End::Complete };
//! let Ok(Transition::To(done)) = apply(&running, end, at) else { panic!() };
//! assert_eq!((done.phase, done.progress), (Phase::Done, 100));
//! ```

use crate::{Phase, Timestamp};

/// The number of a start of a job: 1 for the first, one more each time.
///
/// Whoever runs the job says it with everything it reports, so that a runner that was cut off
/// cannot speak for a job that was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lease(pub u32);

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Its phase.
    pub phase: Phase,
    /// 0 to 99 while it lives, 100 when done; it never falls, also not over attempts.
    pub progress: u8,
    /// How many starts were counted against the route's `max_attempts`.
    pub attempt: u32,
    /// The newest start.
    pub lease: Lease,
    /// Not to be started before this moment.
    pub not_before: Option<Timestamp>,
    /// When its newest start was.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

impl State {
    /// The state of a job that was just submitted.
    pub fn queued(not_before: Option<Timestamp>) -> Self {
        Self {
            phase: Phase::Queued,
            progress: 0,
            attempt: 0,
            lease: Lease(0),
            not_before,
            started_at: None,
            ended_at: None,
        }
    }
}

impl State {
    /// Whether this state of a job came after `other` of the same job.
    ///
    /// Answers of a store may be read in another order than they were made; this orders them:
    /// each step of the state machine leads to a newer state.
    pub fn is_newer_than(&self, other: &State) -> bool {
        self.age() > other.age()
    }

    /// How far the job has come.
    pub fn age(&self) -> Age {
        // Within one start a job is running, then cancelling or queued again.
        let rank = match self.phase {
            Phase::Running => 0,
            Phase::Cancelling => 1,
            _ => 2,
        };
        let Lease(lease) = self.lease;
        let steps = u64::from(lease) << 16 | rank << 8 | u64::from(self.progress);
        Age(if self.phase.is_terminal() {
            Age::LIVE_MAX.0 + 1
        } else {
            steps
        })
    }
}

/// How far a job has come: a number that each step of the state machine makes larger, so that who
/// has seen a state can ask for what came later. All ends of a job have the same.
///
/// ```
/// use kjob_core::{Age, Phase, State};
///
/// let mut state = State::queued(None);
/// let queued = state.age();
/// state.phase = Phase::Cancelled;
/// assert!(state.age() > queued && state.age() > Age::LIVE_MAX);
/// assert_eq!(Age::from_u64(queued.to_u64()), Some(queued));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age(u64);

impl Age {
    /// As far as a job can come that has not ended.
    pub const LIVE_MAX: Self = Self((1 << 48) - 1);

    /// The number, at most 2^48.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// The age with this number; `None` if it is past that of an end.
    pub fn from_u64(number: u64) -> Option<Self> {
        (number <= Self::LIVE_MAX.0 + 1).then_some(Self(number))
    }
}

/// What happens to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker takes it.
    Start,
    /// Its handler reports how far it is, in percent.
    Progress {
        /// The start that reports.
        lease: Lease,
        /// 0 to 100; more than 99 counts as 99, less than before as before.
        percent: u8,
    },
    /// Somebody wants it to stop.
    RequestCancel,
    /// Whoever ran it is gone, and somebody else answers for the run now: as a start, but for that the
    /// handler is not called.
    TakeOver,
    /// A run of it is over.
    End {
        /// The start that is over.
        lease: Lease,
        /// How.
        end: End,
    },
}

/// How one run of a handler is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It gave a result.
    Complete,
    /// It failed for good: its own error, its deadline, a result that is too large.
    Fail,
    /// It stopped because it was asked to.
    Stop,
    /// It was cut off, or failed in a way that another attempt may mend.
    Interrupt(OnInterrupt),
}

/// What becomes of a job whose run was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It fails: it is started at most once.
    Fail,
    /// It is queued again, unless its attempts are used up.
    Retry {
        /// The most attempts.
        max_attempts: u32,
        /// When the next one may start.
        not_before: Timestamp,
        /// Whether this run counts as an attempt; one that the server cut off to stop does not.
        charged: bool,
    },
}

/// What an event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Nothing: it says what was so already.
    Unchanged,
    /// The job is in this state now.
    To(State),
}

/// Why an event does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The job has ended; a terminal phase never changes.
    #[error("the job has ended as {0}")]
    Ended(Phase),
    /// A start of a job that is not waiting.
    #[error("the job is {0}, not queued")]
    NotQueued(Phase),
    /// A report on a job that no handler runs.
    #[error("the job is {0}, not running")]
    NotRunning(Phase),
    /// A handler says that it stopped for a cancel that nobody requested.
    #[error("no cancel was requested")]
    NotCancelling,
    /// The report is from an earlier start.
    #[error("the report is of start {found:?}, the job is at start {current:?}", found = found.0, current = current.0)]
    StaleLease {
        /// The start that reported.
        found: Lease,
        /// The newest start.
        current: Lease,
    },
    /// A try of a callback that the job does not have, or that is over.
    #[error("the job has no callback that waits to be made")]
    NoCallback,
    /// A start before its time.
    #[error("the job is not to be started before {not_before:?}")]
    TooEarly {
        /// When it may start.
        not_before: Timestamp,
    },
}

/// What `event` at `at` makes of a job in `state`.
///
/// While a job is cancelling, only a result makes it [`Phase::Done`]; however else its run ends,
/// it is [`Phase::Cancelled`], as that is what a handler that was told to stop looks like.
///
/// # Errors
/// A [`Refused`] that says why; the job is then as it was.
pub fn apply(state: &State, event: Event, at: Timestamp) -> Result<Transition, Refused> {
    if state.phase.is_terminal() {
        return Err(Refused::Ended(state.phase));
    }
    match event {
        Event::Start => start(state, at),
        Event::Progress { lease, percent } => {
            check_running(state, lease)?;
            let progress = percent.min(99).max(state.progress);
            if progress == state.progress {
                return Ok(Transition::Unchanged);
            }
            Ok(Transition::To(State { progress, ..*state }))
        }
        Event::RequestCancel => Ok(match state.phase {
            Phase::Queued => Transition::To(ended(state, Phase::Cancelled, at)),
            Phase::Running => Transition::To(State {
                phase: Phase::Cancelling,
                ..*state
            }),
            _ => Transition::Unchanged,
        }),
        Event::TakeOver if state.phase == Phase::Queued => Err(Refused::NotRunning(state.phase)),
        Event::TakeOver => Ok(Transition::To(State {
            lease: Lease(state.lease.0.saturating_add(1)),
            ..*state
        })),
        Event::End { lease, end } => {
            check_running(state, lease)?;
            end_run(state, end, at)
        }
    }
}

fn start(state: &State, at: Timestamp) -> Result<Transition, Refused> {
    if state.phase != Phase::Queued {
        return Err(Refused::NotQueued(state.phase));
    }
    match state.not_before {
        Some(not_before) if at < not_before => Err(Refused::TooEarly { not_before }),
        _ => Ok(Transition::To(State {
            phase: Phase::Running,
            attempt: state.attempt.saturating_add(1),
            lease: Lease(state.lease.0.saturating_add(1)),
            not_before: None,
            started_at: Some(at),
            ..*state
        })),
    }
}

fn end_run(state: &State, end: End, at: Timestamp) -> Result<Transition, Refused> {
    let cancelling = state.phase == Phase::Cancelling;
    let next = match end {
        End::Complete => State {
            progress: 100,
            ..ended(state, Phase::Done, at)
        },
        _ if cancelling => ended(state, Phase::Cancelled, at),
        End::Stop => return Err(Refused::NotCancelling),
        End::Fail | End::Interrupt(OnInterrupt::Fail) => ended(state, Phase::Failed, at),
        End::Interrupt(OnInterrupt::Retry {
            max_attempts,
            not_before,
            charged,
        }) => {
            if charged && state.attempt >= max_attempts {
                ended(state, Phase::Failed, at)
            } else {
                State {
                    phase: Phase::Queued,
                    attempt: state.attempt.saturating_sub(u32::from(!charged)),
                    not_before: (not_before > at).then_some(not_before),
                    started_at: None,
                    ..*state
                }
            }
        }
    };
    Ok(Transition::To(next))
}

fn check_running(state: &State, lease: Lease) -> Result<(), Refused> {
    if state.phase == Phase::Queued {
        return Err(Refused::NotRunning(state.phase));
    }
    if lease != state.lease {
        return Err(Refused::StaleLease {
            found: lease,
            current: state.lease,
        });
    }
    Ok(())
}

fn ended(state: &State, phase: Phase, at: Timestamp) -> State {
    State {
        phase,
        not_before: None,
        ended_at: Some(at),
        ..*state
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let lease = || (0..6u32).prop_map(Lease);
        let retry = (1..4u32, 0..200i64, any::<bool>()).prop_map(|(max_attempts, at, charged)| {
            let not_before = Timestamp::from_millis(at);
            OnInterrupt::Retry {
                max_attempts,
                not_before,
                charged,
            }
        });
        let end = prop_oneof![
            1 => Just(End::Complete),
            1 => Just(End::Fail),
            1 => Just(End::Stop),
            1 => Just(End::Interrupt(OnInterrupt::Fail)),
            4 => retry.prop_map(End::Interrupt),
        ];
        prop_oneof![
            4 => Just(Event::Start),
            2 => (lease(), any::<u8>()).prop_map(|(lease, percent)| Event::Progress { lease, percent }),
            1 => Just(Event::RequestCancel),
            1 => Just(Event::TakeOver),
            4 => (lease(), end).prop_map(|(lease, end)| Event::End { lease, end }),
        ]
    }

    /// The table of the design, one row a phase and event, written apart from the code: the phase
    /// that follows, or `None` where the event is refused. `used_up` is whether a charged retry
    /// has no attempt left.
    fn table(
        phase: Phase,
        event: Event,
        current: Lease,
        early: bool,
        used_up: bool,
    ) -> Option<Phase> {
        use Phase::*;
        match (phase, event) {
            (Done | Failed | Cancelled, _) => None,
            (Queued, Event::Start) => (!early).then_some(Running),
            (Running | Cancelling, Event::Start) => None,
            (Queued, Event::RequestCancel) => Some(Cancelled),
            (Queued, Event::TakeOver) => None,
            (Running | Cancelling, Event::TakeOver) => Some(phase),
            (Running | Cancelling, Event::RequestCancel) => Some(Cancelling),
            (Queued, Event::Progress { .. } | Event::End { .. }) => None,
            (_, Event::Progress { lease, .. } | Event::End { lease, .. }) if lease != current => {
                None
            }
            (_, Event::Progress { .. }) => Some(phase),
            (
                _,
                Event::End {
                    end: End::Complete, ..
                },
            ) => Some(Done),
            (Cancelling, Event::End { .. }) => Some(Cancelled),
            (Running, Event::End { end, .. }) => match end {
                End::Stop => None,
                End::Interrupt(OnInterrupt::Retry { .. }) if !used_up => Some(Queued),
                _ => Some(Failed),
            },
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn every_sequence_of_events_follows_the_table(
            delay in proptest::option::of(0..50i64),
            events in proptest::collection::vec((event(), 0..20i64), 0..40),
        ) {
            let mut state = State::queued(delay.map(Timestamp::from_millis));
            let mut now = Timestamp::from_millis(0);
            for (event, wait) in events {
                now = Timestamp::from_millis(now.as_millis() + wait);
                let early = state.not_before.is_some_and(|at| now < at);
                let used_up = match event {
                    Event::End { end: End::Interrupt(OnInterrupt::Retry { max_attempts, charged, .. }), .. } =>
                        charged && state.attempt >= max_attempts,
                    _ => false,
                };
                let expected = table(state.phase, event, state.lease, early, used_up);
                let answer = apply(&state, event, now);
                let next = match answer {
                    Err(_) => {
                        prop_assert_eq!(expected, None, "{:?} refused {:?}", state, event);
                        continue;
                    }
                    Ok(Transition::Unchanged) => state,
                    Ok(Transition::To(next)) => {
                        prop_assert!(next.is_newer_than(&state), "{next:?} is newer than {state:?}");
                        prop_assert!(!state.is_newer_than(&next));
                        next
                    }
                };
                prop_assert_eq!(expected, Some(next.phase), "{:?} by {:?}", state, event);
                prop_assert!(next.progress >= state.progress, "progress fell");
                prop_assert_eq!(next.progress == 100, next.phase == Phase::Done);
                prop_assert_eq!(next.ended_at.is_some(), next.phase.is_terminal());
                prop_assert!(next.lease >= state.lease && next.attempt <= next.lease.0);
                let starts = u32::from(matches!(event, Event::Start | Event::TakeOver));
                prop_assert_eq!(next.lease.0 - state.lease.0, starts);
                prop_assert!(next.not_before.is_none() || next.phase == Phase::Queued);
                state = next;
            }
        }
    }

    #[test]
    fn a_cut_off_runner_cannot_speak_for_the_next() {
        let at = Timestamp::from_millis(1);
        let step = |state: &State, event| match apply(state, event, at) {
            Ok(Transition::To(next)) => next,
            other => panic!("{other:?}"),
        };
        let first = step(&State::queued(None), Event::Start);
        let retry = OnInterrupt::Retry {
            max_attempts: 3,
            not_before: at,
            charged: true,
        };
        let again = step(
            &first,
            Event::End {
                lease: first.lease,
                end: End::Interrupt(retry),
            },
        );
        let second = step(&again, Event::Start);
        let late = Event::End {
            lease: first.lease,
            end: End::Complete,
        };
        let stale = Refused::StaleLease {
            found: Lease(1),
            current: Lease(2),
        };
        assert_eq!(apply(&second, late, at), Err(stale));
    }
}
