//! Steps that a store is asked for, what it answers, and what it should.

use bytes::Bytes;
use kjob_core::{
    Event, Finish, Job, JobId, Lease, NewJob, Refused, State, StepError, Store, StoreError,
    Submitted, Timestamp, Transition, apply,
};
use kjob_store::embedded::EmbeddedStore;

/// A step that is asked of the store.
#[derive(Clone, Debug)]
pub enum Op {
    Submit(Box<NewJob>, bool),
    Start(JobId),
    Progress(JobId, Lease, u8),
    Finish(JobId, Lease, Finish),
    Cancel(JobId),
    ExpireAt(JobId, Timestamp),
    Expire,
    Reserve(u32),
}

/// What the store says to it.
#[derive(Clone, Debug)]
pub enum Answer {
    Submitted(Submitted),
    State(State),
    Started(State, Option<Bytes>),
    Unknown,
    Refused(Refused),
    Done,
    Ids(Vec<JobId>),
    Failed(StoreError),
}

impl Op {
    pub async fn carry_out(self, store: &EmbeddedStore, now: Timestamp) -> Answer {
        let step = |done: Result<State, StepError>| match done {
            Ok(state) => Answer::State(state),
            Err(error) => Answer::from(error),
        };
        match self {
            Op::Submit(job, start) => match store.submit(*job, start).await {
                Ok(done) => Answer::Submitted(done),
                Err(error) => Answer::Failed(error),
            },
            Op::Start(id) => match store.start(id, now).await {
                Ok(started) => Answer::Started(started.state, started.payload),
                Err(error) => Answer::from(error),
            },
            Op::Progress(id, lease, percent) => step(store.progress(id, lease, percent, now).await),
            Op::Finish(id, lease, finish) => step(store.finish(id, lease, finish, now).await),
            Op::Cancel(id) => step(store.request_cancel(id, now).await),
            Op::ExpireAt(id, at) => match store.expire_at(id, at).await {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(error),
            },
            Op::Expire => match store.expire(now).await {
                Ok(_) => Answer::Done,
                Err(error) => Answer::Failed(error),
            },
            Op::Reserve(count) => match store.reserve_ids(count).await {
                Ok(mut block) => Answer::Ids(std::iter::from_fn(|| block.take()).collect()),
                Err(error) => Answer::Failed(error),
            },
        }
    }

    pub fn is_submit(&self) -> bool {
        matches!(self, Op::Submit(..))
    }

    /// The one job that the step is on.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Op::Start(id)
            | Op::Progress(id, ..)
            | Op::Finish(id, ..)
            | Op::Cancel(id)
            | Op::ExpireAt(id, _) => Some(*id),
            Op::Submit(..) | Op::Expire | Op::Reserve(_) => None,
        }
    }

    /// What the step makes of a job, and what it answers.
    pub fn step(&self, job: Option<&Job>, now: Timestamp) -> (Option<Job>, Expected) {
        if let (Op::ExpireAt(_, at), Some(job)) = (self, job) {
            let mut job = job.clone();
            job.expires_at = job.expires_at.map(|old| old.min(*at));
            return (Some(job), Expected::Done);
        }
        let event = match self {
            Op::ExpireAt(..) => return (None, Expected::Done),
            Op::Start(_) => Event::Start,
            Op::Progress(_, lease, percent) => Event::Progress {
                lease: *lease,
                percent: *percent,
            },
            Op::Finish(_, lease, finish) => Event::End {
                lease: *lease,
                end: finish.end(),
            },
            _ => Event::RequestCancel,
        };
        let Some(there) = visible(job, now) else {
            return (job.cloned(), Expected::Unknown);
        };
        match apply(&there.state, event, now) {
            Err(refused) => (Some(there.clone()), Expected::Refused(refused)),
            Ok(Transition::Unchanged) => (Some(there.clone()), Expected::State(there.state)),
            Ok(Transition::To(state)) => {
                let mut job = there.clone();
                job.state = state;
                if state.phase.is_terminal() {
                    let finish = match self {
                        Op::Finish(_, _, finish) => finish.clone(),
                        _ => Finish::Stop,
                    };
                    job.ending = finish.into_ending(&state);
                    job.expires_at = Some(now.after(job.header.options.retention));
                }
                (Some(job), Expected::State(state))
            }
        }
    }
}

/// An answer of a step on one job.
#[derive(Debug, PartialEq)]
pub enum Expected {
    State(State),
    Unknown,
    Refused(Refused),
    Done,
}

impl From<StepError> for Answer {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Unknown(_) => Self::Unknown,
            StepError::Refused(refused) => Self::Refused(refused),
            StepError::Store(error) => Self::Failed(error),
            other => panic!("{other}"),
        }
    }
}

impl Answer {
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    pub fn expected(&self) -> Option<Expected> {
        Some(match self {
            Self::State(state) | Self::Started(state, _) => Expected::State(*state),
            Self::Unknown => Expected::Unknown,
            Self::Refused(refused) => Expected::Refused(*refused),
            Self::Done => Expected::Done,
            _ => return None,
        })
    }
}

/// The job, if it has not expired.
pub fn visible(job: Option<&Job>, now: Timestamp) -> Option<&Job> {
    job.filter(|job| job.expires_at.is_none_or(|at| at > now))
}
