//! What requests of all forms do to jobs: each thing is done, and written down, in one way.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use kjob_core::engine::{Accepted, Caller, CancelOutcome, Engine, JobKey, Submission, SubmitError};
use kjob_core::{Job, JobId, Payload, StoreError, TraceParent};
use kjob_proto::{Encoding, Text};

use crate::audit::{AuditLog, Event};
use crate::callbacks::{self, Callbacks};
use crate::gateway::Forwardable;
use crate::refusal::Refusal;
use crate::traces::RequestSpan;

/// The longest endpoint name, in bytes. It is kept in memory for as long as the job lives.
const ENDPOINT_LEN_MAX: usize = 1024;

/// Cancels of one request that are under way at once, so that they share commits.
const CANCELS_MAX: usize = 64;

/// Whoever sends a request, and the engine that it is for. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) engine: Engine,
    pub(crate) caller: Caller,
    pub(crate) audit: Option<AuditLog>,
    pub(crate) trace: Option<TraceParent>,
    /// The request, as traces will tell of it, if they are wanted.
    pub(crate) span: Option<Arc<RequestSpan>>,
    /// Headers that routes pass on.
    pub(crate) forwardable: Forwardable,
    /// The caller's address.
    pub(crate) ip: IpAddr,
    /// Whether the request may be without a turn for long.
    pub(crate) is_paced: bool,
    /// How and to whom callbacks are made, if any are.
    pub(crate) callbacks: Option<Callbacks>,
}

impl Actor {
    /// A call of an endpoint, which is still to be submitted.
    pub(crate) fn submission(
        &self,
        endpoint: &str,
        payload: Payload,
    ) -> Result<Submission, Refusal> {
        if endpoint.len() > ENDPOINT_LEN_MAX {
            return Err(Refusal::EndpointTooLong {
                found: endpoint.len(),
                limit: ENDPOINT_LEN_MAX,
            });
        }
        // A copy, so that a waiting job does not keep the whole body in memory.
        let endpoint = Text::copy_from(endpoint);
        let mut submission = Submission::new(self.caller.owner.clone(), endpoint, payload);
        let span = self.span.as_ref();
        submission.trace = span.map(|span| span.parent_of_job()).or(self.trace);
        submission.attachment = self.forwardable.for_endpoint(&submission.endpoint);
        submission.source_ip = Text::from(self.ip.to_canonical().to_string());
        Ok(submission)
    }

    /// Submits a job, and writes who did.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Accepted, Refusal> {
        callbacks::check(self.callbacks.as_ref(), &submission)?;
        if self.audit.is_none() && !self.is_paced {
            return Ok(self.enter(submission).await?);
        }
        let actor = self.clone();
        // A task of its own, so that it is written also if the caller goes away meanwhile; and so that a job that is
        // stored begins, and keeps no place of a worker idle until its request has a turn.
        let submitted = tokio::spawn(actor.submit_and_note(submission));
        submitted.await.map_err(|_| Refusal::Stopping)?
    }

    async fn enter(&self, submission: Submission) -> Result<Accepted, SubmitError> {
        let Some(span) = &self.span else {
            return self.engine.submit(submission).await;
        };
        let (began, endpoint) = (SystemTime::now(), submission.endpoint.clone());
        let outcome = self.engine.submit(submission).await;
        span.submitted(began, &endpoint, &outcome);
        outcome
    }

    /// Submits a job that is cancelled if its caller goes away, also while it is submitted.
    pub(crate) async fn submit_held(
        &self,
        submission: Submission,
    ) -> Result<(Accepted, CancelOnDrop), Refusal> {
        callbacks::check(self.callbacks.as_ref(), &submission)?;
        let actor = self.clone();
        // What the task gives is dropped if nobody waits for it any more.
        let submitted = tokio::spawn(async move {
            let accepted = actor.clone().submit_and_note(submission).await?;
            let id = (!accepted.existing).then_some(accepted.id);
            Ok((accepted, CancelOnDrop { actor, id }))
        });
        submitted.await.map_err(|_| Refusal::Stopping)?
    }

    async fn submit_and_note(self, submission: Submission) -> Result<Accepted, Refusal> {
        let endpoint = submission.endpoint.clone();
        let accepted = self.enter(submission).await?;
        if self.audit.is_some() {
            let event = Event::submit(&self.caller, self.ip, &endpoint, &accepted);
            AuditLog::note(self.audit.as_ref(), event).await;
        }
        Ok(accepted)
    }

    /// Cancels jobs, and writes who did. The outcomes come in the order of the ids, which may be any
    /// numbers.
    pub(crate) async fn cancel(&self, ids: &[i64]) -> Result<Vec<CancelOutcome>, Refusal> {
        let mut outcomes = Vec::with_capacity(ids.len());
        for ids in ids.chunks(CANCELS_MAX) {
            // Each goes on to its end, and is written, also if the caller goes away.
            let cancel = |id: &i64| tokio::spawn(self.clone().cancel_one(*id));
            let cancels: Vec<_> = ids.iter().map(cancel).collect();
            for cancel in cancels {
                outcomes.push(cancel.await.map_err(|_| Refusal::Stopping)??);
            }
        }
        let is_unknown = |outcome: &&CancelOutcome| **outcome == CancelOutcome::NotFound;
        let unknown = outcomes.iter().filter(is_unknown).count();
        if unknown > 0 {
            let event = Event::cancel_unknown(&self.caller, self.ip, unknown);
            AuditLog::note(self.audit.as_ref(), event).await;
        }
        Ok(outcomes)
    }

    async fn cancel_one(self, id: i64) -> Result<CancelOutcome, StoreError> {
        let Some(id) = JobId::new(id) else {
            return Ok(CancelOutcome::NotFound);
        };
        let outcome = self.engine.cancel(&self.caller, &JobKey::Id(id)).await?;
        if let Some(event) = Event::cancel(&self.caller, self.ip, id, outcome) {
            AuditLog::note(self.audit.as_ref(), event).await;
        }
        Ok(outcome)
    }

    /// The result of a job in the encoding that was asked for, if one was.
    pub(crate) async fn turned(
        &self,
        job: &Job,
        result: Payload,
        wanted: Option<Encoding>,
    ) -> Result<Payload, Refusal> {
        let Some(wanted) = wanted.filter(|wanted| *wanted != result.encoding) else {
            return Ok(result);
        };
        let len = result.data.len();
        let (engine, endpoint) = (self.engine.clone(), job.header.endpoint.clone());
        let turn = move || engine.turn_result(&endpoint, &result, wanted);
        self.off_thread(len, turn)
            .await?
            .map_err(Refusal::ResultEncoding)
    }

    /// Does work on `len` bytes here, or in its turn elsewhere if they are many.
    pub(crate) async fn off_thread<T: Send + 'static>(
        &self,
        len: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let heavy = &self.engine.config().heavy;
        heavy.run(len, work).await.ok_or(Refusal::Stopping)
    }
}

/// The text of a JSON result, which was checked when it was stored.
pub(crate) fn json_text(result: Bytes) -> Result<Text, StoreError> {
    Text::try_from(result).map_err(|error| StoreError::Corrupt {
        what: format!("a JSON result is {error}"),
    })
}

/// The text for a caller who has no such job.
pub(crate) fn unknown(key: &JobKey) -> Refusal {
    match key {
        JobKey::Id(id) => Refusal::UnknownId(id.get()),
        JobKey::Tag(tag) => Refusal::UnknownTag(tag.clone()),
    }
}

/// Cancels a job when it is dropped: whoever waits for the job alone has gone.
#[derive(Debug)]
pub(crate) struct CancelOnDrop {
    actor: Actor,
    /// `None` if the job is to go on.
    id: Option<JobId>,
}

impl CancelOnDrop {
    /// Lets the job go on.
    pub(crate) fn disarm(mut self) {
        self.id = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        // Without a runtime the process ends, and the job with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let cancel = self.actor.clone().cancel_one(id.get());
        runtime.spawn(async move {
            if let Err(error) = cancel.await {
                tracing::warn!(job_id = %id, %error, "a job whose caller has gone cannot be cancelled");
            }
        });
    }
}
