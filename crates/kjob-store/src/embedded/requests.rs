//! What the writer is asked for, and how it answers.

use std::sync::Arc;

use kjob_core::{
    CallbackState, CallbackTry, End, Event, Expired, Finish, Header, IdBlock, JobId, Lease, State,
    StepError, StoreError, Submitted, TagReuse, Timestamp,
};
use tokio::sync::oneshot;

use super::blobs::{Content, NewBlob};
use super::rewrite::{Copied, RewritePlan};
use super::snapshot::{Prepared, Snapshot};
use super::state_row::NewEnding;
use super::stats::StoreStats;

/// One step for the writer.
#[derive(Debug)]
pub(crate) enum Request {
    Reserve {
        count: u32,
        reply: Reply<IdBlock>,
    },
    Submit(Box<Submit>, Reply<Submitted, NotSubmitted>),
    Step(Box<Step>),
    ExpireAt {
        id: JobId,
        at: Timestamp,
        reply: Reply<()>,
    },
    NoteCallback {
        id: JobId,
        tried: Box<CallbackTry>,
        at: Timestamp,
        reply: Reply<CallbackState, StepError>,
    },
    Sweep {
        now: Timestamp,
        thoroughness: Thoroughness,
        reply: Reply<Swept>,
    },
    Stats {
        now: Timestamp,
        reply: Reply<StoreStats>,
    },
    Swap {
        copied: Box<Copied>,
        reply: Reply<Expired>,
    },
    Snapshot {
        prepared: Box<Prepared>,
        reply: Reply<Snapshot>,
    },
    /// There was no room for something, and room was made so many times before it was begun.
    Release {
        seen: u64,
        reply: Reply<bool>,
    },
    Close {
        reply: Reply<()>,
    },
    /// Lets a test reach inside, to break things.
    #[cfg(test)]
    Inspect(Inspect),
}

/// Which segments give back the space of their expired jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thoroughness {
    /// Those of which less than half is needed: no more is copied than is freed.
    WhatPays,
    /// All that have any.
    All,
}

/// What a test does inside the writer.
#[cfg(test)]
pub(crate) struct Inspect(pub(crate) Box<dyn FnOnce(&mut super::writer::Writer) + Send>);

#[cfg(test)]
impl std::fmt::Debug for Inspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inspect")
    }
}

/// Where an answer goes. Nobody may be waiting any more; the step is done all the same.
pub(crate) type Reply<T, E = StoreError> = oneshot::Sender<Result<T, E>>;

#[derive(Debug)]
pub(crate) struct Submit {
    pub(crate) header: Arc<Header>,
    pub(crate) payload: Content,
    pub(crate) tag_reuse: TagReuse,
    pub(crate) start: bool,
}

/// Why a submit was not carried out.
#[derive(Debug)]
pub(crate) enum NotSubmitted {
    /// It could not.
    Store(StoreError),
    /// All tags of this segment have to be [read](super::reader::Reader::prove_tags) first, which takes longer than
    /// others may wait.
    Unproven(u32, Box<Submit>),
}

impl From<StoreError> for NotSubmitted {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) id: JobId,
    pub(crate) action: Action,
    pub(crate) at: Timestamp,
    pub(crate) reply: Reply<State, StepError>,
}

/// What is done to a job.
#[derive(Debug)]
pub(crate) enum Action {
    Start,
    Progress { lease: Lease, percent: u8 },
    Cancel,
    Finish { lease: Lease, finish: NewFinish },
}

/// A [`Finish`] whose result may be in a file already.
#[derive(Debug)]
pub(crate) struct NewFinish {
    pub(crate) end: End,
    /// What is kept if the job ends by it as it says; a cancelled one keeps nothing.
    pub(crate) ending: NewEnding,
}

/// What a sweep did, and what is to be rewritten next.
#[derive(Debug)]
pub(crate) struct Swept {
    pub(crate) expired: Expired,
    pub(crate) rewrite: Option<RewritePlan>,
}

/// An answer that waits for the commit of what it says.
#[derive(Debug)]
pub(crate) enum Ack {
    Submit(Reply<Submitted, NotSubmitted>, Submitted),
    Step(Reply<State, StepError>, Result<State, StepError>),
    Callback(
        Reply<CallbackState, StepError>,
        Box<Result<CallbackState, StepError>>,
    ),
    Done(Reply<()>),
}

impl Ack {
    /// Answers, now that the commit went as it did.
    pub(crate) fn send(self, commit: Result<(), StoreError>) {
        // A failed send means that nobody waits: fine.
        match self {
            Ack::Submit(reply, done) => {
                drop(reply.send(commit.map_err(NotSubmitted::from).map(|()| done)));
            }
            Ack::Step(reply, done) => {
                drop(reply.send(commit.map_err(StepError::from).and(done)));
            }
            Ack::Callback(reply, done) => {
                drop(reply.send(commit.map_err(StepError::from).and(*done)));
            }
            Ack::Done(reply) => drop(reply.send(commit)),
        }
    }
}

impl Action {
    pub(crate) fn event(&self) -> Event {
        match self {
            Action::Start => Event::Start,
            Action::Progress { lease, percent } => Event::Progress {
                lease: *lease,
                percent: *percent,
            },
            Action::Cancel => Event::RequestCancel,
            Action::Finish { lease, finish } => Event::End {
                lease: *lease,
                end: finish.end,
            },
        }
    }
}

impl NewFinish {
    /// `content` takes the bytes of a result.
    pub(crate) fn new(finish: Finish, content: Option<Content>) -> Self {
        let end = finish.end();
        let ending = match finish {
            Finish::Complete(result) => {
                let content = content.unwrap_or(Content::Inline(result.payload.data));
                NewEnding::Done(result.payload.encoding, result.info, content)
            }
            Finish::Fail(reason) | Finish::Interrupt { reason, .. } => NewEnding::Failed(reason),
            Finish::Stop => NewEnding::Cancelled,
        };
        Self { end, ending }
    }
}

impl NewEnding {
    /// The blob file that a commit of this ending names.
    pub(crate) fn into_blob(self) -> Option<NewBlob> {
        match self {
            NewEnding::Done(_, _, Content::File { blob, .. }) => Some(blob),
            _ => None,
        }
    }
}
