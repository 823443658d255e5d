//! Which interesting things happened over all seeds of a run: a simulation that never gets there
//! proves nothing.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! events {
    ($($event:ident),+ $(,)?) => {
        /// Something that a run of many seeds must have met.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Event { $($event),+ }

        const EVENTS: &[Event] = &[$(Event::$event),+];
    };
}

events! {
    // How jobs end.
    Done,
    Failed,
    CancelledWaiting,
    CancelledRunning,
    DoneThoughCancelled,
    CancelCameLate,
    DeadlinePassed,
    DroppedAfterGrace,
    Panicked,
    ResultTooLarge,
    StoppedUnasked,
    NoLongerServed,
    RetriedAfterError,
    RetriesUsedUp,
    InterruptedByKill,
    RetriedAfterKill,
    InterruptedByDrain,
    RetriedAfterDrain,
    // Submits.
    Accepted,
    FoundExisting,
    TagConflict,
    TagReusedAfterFailure,
    TagReusedAfterExpiry,
    BusyJobs,
    BusyJobsOfOwner,
    BusyStored,
    BusyStoredOfOwner,
    BusyBytes,
    BusyBytesOfOwner,
    ExistingThoughBusy,
    RefusedDraining,
    RefusedUnserved,
    RefusedPayload,
    SubmitsRaced,
    StartedWithSubmit,
    StartedLater,
    DelayedStart,
    PackedPayload,
    // Callers.
    WaitWoken,
    WaitImpatient,
    SubmitAbandoned,
    WaitAbandoned,
    OtherAbandoned,
    NotTheirs,
    AdminLooked,
    ListedAll,
    ListWasBehind,
    Dozed,
    // Retention.
    Expired,
    Deleted,
    RemovedOnComplete,
    // Callbacks.
    CallbackGiven,
    CallbackGivenAfterRestart,
    CallbackDelivered,
    CallbackRetried,
    CallbackGivenUp,
    CallbackForgotten,
    CallbackNotedTooLate,
    CallbackExpired,
    CallbacksAbandoned,
    // The store.
    ErrorNotDone,
    ErrorThoughDone,
    SubmitDoneThoughError,
    StartDoneThoughError,
    FinishDoneThoughError,
    CancelDoneThoughError,
    NoteDoneThoughError,
    Full,
    FailedForGood,
    FailureTold,
    // Ends of rounds.
    Killed,
    KilledWhileReserving,
    KilledWhileSubmitting,
    KilledWhileStarting,
    KilledWhileReporting,
    KilledWhileFinishing,
    KilledWhileCancelling,
    KilledWhileNotingCallback,
    KilledWhileExpiring,
    KilledAndDone,
    KilledAndLost,
    KilledWhileTakingUp,
    ShutDownIdle,
    ShutDownInterrupting,
    // Time and handlers.
    ClockSetForward,
    ClockSetBack,
    ProgressStorm,
    ProgressStored,
    OutlivedByTask,
}

static COUNTS: [AtomicU64; EVENTS.len()] = [const { AtomicU64::new(0) }; EVENTS.len()];

impl Event {
    pub(crate) fn happened(self) {
        COUNTS[self as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// How often each event happened.
pub(crate) fn counts() -> impl Iterator<Item = (Event, u64)> {
    EVENTS
        .iter()
        .map(|event| (*event, COUNTS[*event as usize].load(Ordering::Relaxed)))
}
