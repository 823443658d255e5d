//! Where jobs live: the trait that the engine needs, and what its steps answer.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_proto::Text;

use crate::{
    CallbackState, CallbackTry, ClaimedCallbacks, End, Header, IdBlock, Job, JobId, JobTag, Lease,
    NewJob, OnInterrupt, Output, Owner, Priority, Refused, Shard, State, Status, Timestamp,
};

/// A durable home for jobs.
///
/// The contract, which the suite in [`conformance`](crate::conformance) (feature `conformance`)
/// checks:
///
/// - Each method is one atomic step. When it answers `Ok`, what it did is durable.
/// - States change only by [`apply`](crate::apply), inside the step.
/// - Steps may be asked for concurrently, and are best asked for that way: a store may make many
///   of them durable at once. They take effect in some order, each seeing those answered before
///   it was asked for.
/// - A future that is dropped leaves its step either done whole or not done.
/// - Time is handed in. A job whose `expires_at` is at or before the `now` of a call does not
///   exist for that call, whether or not it has been deleted.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Sets aside `count` ids (at least one) that no call will give again, ever.
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError>;

    /// As [`reserve_ids`](Self::reserve_ids), ids of jobs in this shard. A store that is not sharded has the
    /// first only.
    async fn reserve_ids_in(&self, shard: Shard, count: u32) -> Result<IdBlock, StoreError> {
        let _ = shard;
        self.reserve_ids(count).await
    }

    /// In which shard the job of a submit with this tag is to be: that of the job which has the tag, or else
    /// where new ones go. The id that it is submitted with has to be of this shard.
    async fn shard_for(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Shard, StoreError> {
        let _ = (owner, tag, now);
        Ok(Shard::FIRST)
    }

    /// Stores a job, or finds the one that has its tag already.
    ///
    /// With `start` the job is stored as started ([`Event::Start`](crate::Event::Start) at
    /// `job.header.received_at`), in the same commit.
    ///
    /// The rule for tags: a tag that is free, or whose job has expired, makes a new job; the same
    /// owner, tag, endpoint, encoding and payload gives the same job, whatever its state; anything
    /// different is a [`Submitted::Conflict`]. [`TagReuse::IfFailed`](crate::TagReuse) lets the
    /// tag of a failed or cancelled job make a new job, to which it then belongs. A generated tag
    /// (one that carries the id of this very job) is always free.
    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError>;

    /// Starts a queued job and hands out its payload. If the payload cannot be read for now, the
    /// job is not started.
    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError>;

    /// Notes how far a running job is, and answers with its state.
    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError>;

    /// Ends a run, and answers with the job's state: ended, or queued again.
    ///
    /// The first end made durable wins; a later one gets [`Refused::Ended`].
    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError>;

    /// Asks a job to stop, and answers with its state: cancelled if it was queued, cancelling if
    /// it runs.
    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError>;

    /// The job that `owner`'s `tag` names.
    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError>;

    /// A job, with the bytes that `parts` asks for.
    async fn get(&self, id: JobId, parts: Parts, now: Timestamp)
    -> Result<Option<Job>, StoreError>;

    /// A job of this owner's, with the bytes that `parts` asks for. Another's job is `None`, and takes
    /// what a job takes that is not there: its bytes are not read, nor does memory answer for it where
    /// files would answer for one that is not there. So the time that it takes tells next to nothing.
    ///
    /// # Errors
    /// As of [`get`](Self::get).
    async fn get_of(
        &self,
        owner: &Owner,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        let is_own = |job: &Job| job.header.owner == *owner;
        let job = self.get(id, Parts::NONE, now).await?;
        match job.filter(is_own) {
            Some(job) if parts == Parts::NONE => Ok(Some(job)),
            Some(_) => Ok(self.get(id, parts, now).await?.filter(is_own)),
            None => Ok(None),
        }
    }

    /// Jobs in the order that the filter says, without payloads and results.
    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError>;

    /// Jobs that have not ended, in the order of their ids, with no more than it takes to queue them. A
    /// store that has that in memory should say so itself: an engine that opens asks for all of them.
    async fn live(
        &self,
        after: Option<JobId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<LivePage, StoreError> {
        let filter = Filter {
            statuses: vec![Status::Running],
            after,
            limit,
            ..Filter::ALL
        };
        let page = self.list(&filter, now).await?;
        let lives = page.jobs.into_iter().map(|job| LiveJob {
            id: job.header.id,
            owner: job.header.owner,
            endpoint: job.header.endpoint,
            priority: job.header.options.priority,
            state: job.state,
        });
        Ok(LivePage {
            jobs: lives.collect(),
            next: page.next,
        })
    }

    /// How many bytes a job's payload and result have together; `None` if there is no such job. A
    /// store that knows without reading them should say so itself.
    async fn bytes_of(&self, id: JobId, now: Timestamp) -> Result<Option<u64>, StoreError> {
        let all = Parts {
            payload: true,
            result: true,
        };
        let job = self.get(id, all, now).await?;
        Ok(job.map(|job| {
            let payload = job.payload.as_ref().map_or(0, Bytes::len);
            (payload + job.result_len()) as u64
        }))
    }

    /// Hands out up to `limit` ended jobs whose callbacks are due at `now`.
    ///
    /// With the commit by which a job with a
    /// [`callback_url`](crate::JobOptions::callback_url) ends, its callback is pending and due. One
    /// that was handed out is not handed out again before `until`, unless a try is noted
    /// ([`note_callback`](Self::note_callback)); this claim need not be durable, so after the
    /// store is opened anew, all that are due are handed out. A job that expires takes its
    /// callback along.
    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError>;

    /// Notes how a try of a job's callback went, and answers with what that makes of it
    /// ([`CallbackState::after`]).
    ///
    /// # Errors
    /// [`Refused::NoCallback`] if the job has none, or it is over.
    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError>;

    /// Moves the end of an ended job's retention to `at`, if that is earlier than it was.
    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError>;

    /// Gives back the space of jobs that have expired by `now`; a bounded piece of work.
    ///
    /// May be called at any interval: expired jobs are invisible either way. A store may keep an
    /// expired job's bytes until it can drop them together with others.
    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError>;

    /// What is stored, in all and of `owner`. Answers from memory.
    fn usage(&self, owner: &Owner) -> StoreUsage;

    /// Why nothing can be written any more until the store is opened anew; `None` while it can.
    /// A store that is out of space for now can. Answers from memory.
    fn failure(&self) -> Option<StoreError> {
        None
    }

    /// Makes everything durable and lets go of the files. Later steps get [`StoreError::Closed`].
    async fn close(&self) -> Result<(), StoreError>;
}

/// What [`Store::submit`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// The job is stored, in this state.
    Created(State),
    /// The tag names this job, which is the same call; without payload and result.
    Existing(Box<Job>),
    /// The tag names another job, which is another call.
    Conflict {
        /// That job.
        id: JobId,
        /// What is different.
        difference: Difference,
    },
}

/// In what a submit differs from the job that has its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Another endpoint.
    Endpoint,
    /// Another encoding of the payload.
    Encoding,
    /// Other bytes.
    Payload,
}

impl Difference {
    /// In what two submits differ, each a header and its payload; `None` if they are the same
    /// call. Options do not count.
    pub fn between(old: (&Header, &Bytes), new: (&Header, &Bytes)) -> Option<Self> {
        if old.0.endpoint != new.0.endpoint {
            Some(Self::Endpoint)
        } else if old.0.encoding != new.0.encoding {
            Some(Self::Encoding)
        } else if old.1 != new.1 {
            Some(Self::Payload)
        } else {
            None
        }
    }
}

/// A job that was just started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its state, running.
    pub state: State,
    /// What its handler gets, in the encoding of the job's header. `None` if it is damaged: the
    /// job is started all the same, so that it can be failed and does not wait for ever.
    pub payload: Option<Bytes>,
}

/// How a run is over, with what is to be kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The handler's result.
    Complete(Output),
    /// The handler's error, or the engine's (deadline, result too large).
    Fail(Text),
    /// The handler stopped for a cancel.
    Stop,
    /// The run was cut off; `reason` is kept if that makes the job fail.
    Interrupt {
        /// What happened.
        reason: Text,
        /// What becomes of the job.
        then: OnInterrupt,
    },
}

impl Finish {
    /// The event for the state machine.
    pub fn end(&self) -> End {
        match self {
            Finish::Complete(_) => End::Complete,
            Finish::Fail(_) => End::Fail,
            Finish::Stop => End::Stop,
            Finish::Interrupt { then, .. } => End::Interrupt(*then),
        }
    }

    /// What is kept of a run that leaves the job in `state`; `None` if the job goes on.
    pub fn into_ending(self, state: &State) -> Option<crate::Ending> {
        use crate::{Ending, Phase};
        match (state.phase, self) {
            (Phase::Done, Finish::Complete(result)) => Some(Ending::Done(result)),
            (Phase::Failed, Finish::Fail(reason) | Finish::Interrupt { reason, .. }) => {
                Some(Ending::Failed(reason))
            }
            (Phase::Cancelled, _) => Some(Ending::Cancelled),
            _ => None,
        }
    }
}

/// Which bytes of a job [`Store::get`] is to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Parts {
    /// What was submitted.
    pub payload: bool,
    /// What came of it. Without it a done job's result is empty, with its encoding kept.
    pub result: bool,
}

impl Parts {
    /// No bytes.
    pub const NONE: Parts = Parts {
        payload: false,
        result: false,
    };
    /// The result only.
    pub const RESULT: Parts = Parts {
        payload: false,
        result: true,
    };
}

/// Which jobs [`Store::list`] is to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Only this owner's.
    pub owner: Option<Owner>,
    /// Only those whose status is one of these; empty for all.
    pub statuses: Vec<Status>,
    /// Only calls of this endpoint.
    pub endpoint: Option<Text>,
    /// Only those submitted at this moment or later.
    pub since: Option<Timestamp>,
    /// Only those submitted before this moment.
    pub until: Option<Timestamp>,
    /// Which come first.
    pub order: Order,
    /// Only ids beyond this one, in that order.
    pub after: Option<JobId>,
    /// At most this many, at least one.
    pub limit: usize,
}

/// In which order jobs are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// By rising id.
    #[default]
    OldestFirst,
    /// By falling id.
    NewestFirst,
}

impl Filter {
    /// All jobs, by rising id, a thousand at a time.
    pub const ALL: Self = Self {
        owner: None,
        statuses: Vec::new(),
        endpoint: None,
        since: None,
        until: None,
        order: Order::OldestFirst,
        after: None,
        limit: 1000,
    };

    /// The ids that may be listed: those above the first, up to the second.
    pub fn ids(&self) -> (i64, i64) {
        match (self.order, self.after) {
            (_, None) => (0, i64::MAX),
            (Order::OldestFirst, Some(after)) => (after.get(), i64::MAX),
            (Order::NewestFirst, Some(after)) => (0, after.get() - 1),
        }
    }

    /// Whether the job is one of those asked for, `after` and `limit` aside.
    pub fn matches(&self, job: &Job) -> bool {
        self.owner
            .as_ref()
            .is_none_or(|owner| *owner == job.header.owner)
            && self
                .endpoint
                .as_ref()
                .is_none_or(|endpoint| *endpoint == job.header.endpoint)
            && (self.statuses.is_empty() || self.statuses.contains(&job.state.phase.status()))
            && self
                .since
                .is_none_or(|since| job.header.received_at >= since)
            && self
                .until
                .is_none_or(|until| job.header.received_at < until)
    }
}

/// A piece of a list.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// The jobs, in the order that was asked for.
    pub jobs: Vec<Job>,
    /// Whether there may be more: ask again with `after` = this id.
    pub next: Option<JobId>,
}

/// A job that has not ended, as far as it matters for the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveJob {
    /// Its id.
    pub id: JobId,
    /// Who submitted it.
    pub owner: Owner,
    /// What it calls.
    pub endpoint: Text,
    /// How urgent it is.
    pub priority: Priority,
    /// Where it stands.
    pub state: State,
}

/// A piece of what [`Store::live`] gives.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LivePage {
    /// The jobs, by rising id.
    pub jobs: Vec<LiveJob>,
    /// Whether there may be more: ask again with `after` = this id.
    pub next: Option<JobId>,
}

/// What [`Store::expire`] gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Expired {
    /// Jobs deleted.
    pub jobs: u64,
    /// Bytes of payloads and results deleted.
    pub bytes: u64,
    /// Whether there is more to do now.
    pub more: bool,
}

/// How much is stored: jobs not yet deleted, and bytes of their payloads and results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Jobs.
    pub jobs: u64,
    /// Bytes.
    pub bytes: u64,
}

/// [`Usage`] of all and of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StoreUsage {
    /// Of everyone together.
    pub total: Usage,
    /// Of the owner asked about.
    pub owner: Usage,
}

/// What goes wrong in a store itself. Cloneable, as one failed commit answers many steps.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Reading or writing failed; the step may have been done or not.
    #[error("the store cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// There is no space left; the step was not done.
    #[error("the store is out of space")]
    Full,
    /// Something stored does not read back as it was written.
    #[error("the store is damaged: {what}")]
    Corrupt {
        /// Which record, and how.
        what: String,
    },
    /// All ids up to [`JobId::MAX`] are used up.
    #[error("the store has no job ids left")]
    NoIdsLeft,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the step that got this error may have been done all the same; only looking at the
    /// job tells.
    pub fn leaves_unknown(&self) -> bool {
        matches!(self, StoreError::Io { .. })
    }
}

/// Why a step on one job was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// There is no such job.
    #[error("there is no job {0}")]
    Unknown(JobId),
    /// The state machine says no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
