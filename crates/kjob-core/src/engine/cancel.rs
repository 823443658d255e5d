//! Cancelling a job.

use std::sync::Arc;

use super::live::Live;
use super::query::{Caller, JobKey};
use super::to_end::ToEnd;
use super::{Engine, Inner};
use crate::{Ending, JobId, Parts, Phase, Refused, State, StepError, StoreError};

/// What a cancel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The job was waiting and will not run.
    Cancelled,
    /// The job runs and was told to stop.
    Cancelling,
    /// The job had ended.
    Ended(Phase),
    /// The caller has no such job.
    NotFound,
}

impl Engine {
    /// Asks a job to stop. The request is durable when this answers.
    ///
    /// A handler that gives a result all the same makes the job DONE: the first end that is
    /// durable counts.
    ///
    /// # Errors
    /// The store's.
    pub async fn cancel(&self, caller: &Caller, key: &JobKey) -> Result<CancelOutcome, StoreError> {
        let Some(id) = self.inner.visible(caller, key).await? else {
            self.inner.tell_of_cancel(CancelOutcome::NotFound);
            return Ok(CancelOutcome::NotFound);
        };
        // To its end, so that a caller who goes away does not leave the handler running.
        ToEnd::new(self.inner.clone().cancel(id)).await
    }
}

impl Inner {
    async fn cancel(self: Arc<Self>, id: JobId) -> Result<CancelOutcome, StoreError> {
        let outcome = self.cancel_visible(id).await?;
        self.tell_of_cancel(outcome);
        Ok(outcome)
    }

    fn tell_of_cancel(&self, outcome: CancelOutcome) {
        if let Some(observer) = &self.config.observer {
            observer.cancelled(outcome);
        }
    }

    async fn cancel_visible(self: &Arc<Self>, id: JobId) -> Result<CancelOutcome, StoreError> {
        // Held, so that it does not doze: if it waits it is to be taken out of the queue.
        let live = self.wake(id).await?;
        let request = self.store.request_cancel(id, self.now());
        let state = match self.step(request).await {
            Ok(state) => state,
            Err(StepError::Refused(Refused::Ended(phase))) => {
                return Ok(CancelOutcome::Ended(phase));
            }
            Err(StepError::Store(error)) => self.cancelled_all_the_same(id, error).await?,
            Err(_) => return Ok(CancelOutcome::NotFound),
        };
        let live = live.or_else(|| self.table.get(id));
        if state.phase != Phase::Cancelled {
            if let Some(live) = live {
                self.hear_of_cancel(&live, state);
            }
            return Ok(CancelOutcome::Cancelling);
        }
        if let Some(live) = live {
            if let Some(route) = self.route_of(&live.header.endpoint) {
                self.room
                    .remove(&self.waiting(&live.header, &route), live.state().not_before);
            }
            self.settle(&live, state, Ending::Cancelled);
        }
        Ok(CancelOutcome::Cancelled)
    }

    /// A job that runs is to stop: tells its handler, and who observes.
    pub(super) fn hear_of_cancel(&self, live: &Live, state: State) {
        if live.hears(state) && live.is_local() {
            let header = &live.header;
            self.tell(&header.endpoint, |told| told.cancelling(header, &state));
        }
    }

    /// The state of a job whose cancel was answered with an error but done; else that error.
    async fn cancelled_all_the_same(
        &self,
        id: JobId,
        error: StoreError,
    ) -> Result<State, StoreError> {
        if !error.leaves_unknown() {
            return Err(error);
        }
        let get = self.store.get(id, Parts::NONE, self.now());
        match self.step(get).await {
            Ok(Some(job)) if matches!(job.state.phase, Phase::Cancelling | Phase::Cancelled) => {
                Ok(job.state)
            }
            _ => Err(error),
        }
    }
}
