//! Broken promises.

use std::fmt;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub fault: Fault,
    /// The job, if it is about one that has an id.
    pub id: Option<i64>,
    /// The tag, if it is known.
    pub tag: Option<String>,
    /// What was seen, in words.
    pub seen: String,
}

/// A kind of broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// An acknowledged job is not there, though it is to be kept.
    Lost,
    /// A job that was gone is there again, or is there after its time.
    CameBack,
    /// A tag names two jobs at a time.
    TagOfTwo,
    /// An id was given to two calls.
    IdOfTwo,
    /// One job was said to be new to two submits.
    NewTwice,
    /// There is a job that nobody submitted.
    Stranger,
    /// An end, or a result, is another one than before.
    Changed,
    /// A result is not what the call has to give.
    WrongResult,
    /// A handler was given another job's payload.
    WrongPayload,
    /// Progress fell.
    ProgressFell,
    /// A handler that may run once was started again.
    RanTwice,
    /// More attempts than the route allows.
    TooManyAttempts,
    /// A handler was started while another of the same job ran in the same process.
    RanAtOnce,
    /// A handler was started after the job's end, or after a durable cancel.
    RanAfterEnd,
    /// A job is done, and no handler has done it.
    DoneUnrun,
    /// A drain cost a job an attempt.
    DrainCost,
    /// A job that is tried until it succeeds did not.
    GaveUp,
    /// A job was cancelled that nobody cancelled, or a durable cancel was forgotten.
    WrongCancel,
    /// A job has ended, and its receiver was not told.
    Untold,
    /// A receiver was told of an end before it was durable.
    ToldEarly,
    /// A receiver was told what is not so, or without the signature.
    WrongTelling,
    /// A job has no end though nothing runs any more.
    Stuck,
    /// A list has a job twice.
    ListedTwice,
    /// A question was refused that is to be answered.
    Refused,
}

impl Fault {
    /// What of a job it harms, in the words of the report.
    pub fn harm(self) -> Harm {
        match self {
            Fault::Lost | Fault::Untold | Fault::Stuck | Fault::Refused => Harm::Lost,
            Fault::RanTwice
            | Fault::TooManyAttempts
            | Fault::RanAtOnce
            | Fault::RanAfterEnd
            | Fault::DrainCost => Harm::RanTwice,
            _ => Harm::Changed,
        }
    }
}

/// The columns of the report that faults are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// A job that is not there, or never ends.
    Lost,
    /// A job that is not as it was told.
    Changed,
    /// A handler that ran when it was not to.
    RanTwice,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.fault)?;
        if let Some(id) = self.id {
            write!(f, "job {id}")?;
        }
        if let Some(tag) = &self.tag {
            write!(f, " ({tag})")?;
        }
        write!(f, ": {}", self.seen)
    }
}
