//! The steps of every store, taken through a node: as the store that all share takes them, with a word to the others.

use async_trait::async_trait;

use super::MemoryNode;
use crate::{
    CallbackState, CallbackTry, ClaimedCallbacks, Expired, Filter, Finish, Hint, IdBlock, Job,
    JobId, JobTag, Lease, NewJob, Owner, Page, Parts, Started, State, StepError, Store, StoreError,
    StoreUsage, Submitted, Timestamp,
};

#[async_trait]
impl Store for MemoryNode {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        self.store()?.reserve_ids(count).await
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        self.heard().await;
        let id = job.header.id;
        let submitted = self.store()?.submit(job, start).await?;
        match &submitted {
            Submitted::Created(_) if start => self.starts_here(id),
            Submitted::Created(_) => self.say(Hint::Work),
            _ => {}
        }
        let answer = self.own().submits;
        if !answer.is_zero() {
            tokio::time::sleep(answer).await;
            self.store()?;
        }
        Ok(submitted)
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        let started = self.store()?.start(id, at).await?;
        self.starts_here(id);
        Ok(started)
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.store()?.progress(id, lease, percent, at).await
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.heard().await;
        let state = self.store()?.finish(id, lease, finish, at).await?;
        self.say(match state.phase.is_terminal() {
            true => Hint::Ends,
            false => Hint::Work,
        });
        let (_, ends) = self.own().delays;
        tokio::time::sleep(ends).await;
        Ok(state)
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        let state = self.store()?.request_cancel(id, at).await?;
        self.say(match state.phase.is_terminal() {
            true => Hint::Ends,
            false => Hint::Cancels,
        });
        Ok(state)
    }

    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        self.store()?.find(owner, tag, now).await
    }

    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        let (reads, _) = self.own().delays;
        tokio::time::sleep(reads).await;
        self.store()?.get(id, parts, now).await
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        self.store()?.list(filter, now).await
    }

    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        self.heard().await;
        self.store()?.claim_callbacks(now, until, limit).await
    }

    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        self.store()?.note_callback(id, tried, at).await
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        self.store()?.expire_at(id, at).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        self.store()?.expire(now).await
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        self.shared.store.usage(owner)
    }

    async fn close(&self) -> Result<(), StoreError> {
        // The others go on.
        self.own().is_closed = true;
        Ok(())
    }
}
