//! A store whose answers come in any order, late, or as errors: what a real one may do.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kjob_core::{
    Expired, Filter, Finish, IdBlock, Job, JobId, JobTag, Lease, NewJob, Owner, Page, Parts,
    Started, State, StepError, Store, StoreError, StoreUsage, Submitted, Timestamp,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Passes every step on to another store, after a random number of turns of the other tasks, and
/// answers after as many. One step in `fail_one_in` is refused before it is done.
pub(crate) struct Shuffled {
    inner: Arc<dyn Store>,
    rng: Mutex<StdRng>,
    fail_one_in: u32,
}

impl Shuffled {
    pub(crate) fn new(inner: Arc<dyn Store>, seed: u64, fail_one_in: u32) -> Self {
        Self {
            inner,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            fail_one_in,
        }
    }

    async fn step<T>(&self, step: impl Future<Output = T>) -> Result<T, StoreError> {
        let (before, after, fails) = {
            let mut rng = self.rng.lock().unwrap();
            let fails = rng.random_ratio(1, self.fail_one_in);
            (rng.random_range(0..8), rng.random_range(0..8), fails)
        };
        for _ in 0..before {
            tokio::task::yield_now().await;
        }
        if fails {
            return Err(StoreError::Full);
        }
        let answer = step.await;
        for _ in 0..after {
            tokio::task::yield_now().await;
        }
        Ok(answer)
    }
}

#[async_trait]
impl Store for Shuffled {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        self.step(self.inner.reserve_ids(count)).await?
    }
    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        self.step(self.inner.submit(job, start)).await?
    }
    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        self.step(self.inner.start(id, at)).await?
    }
    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.step(self.inner.progress(id, lease, percent, at))
            .await?
    }
    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.step(self.inner.finish(id, lease, finish, at)).await?
    }
    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        self.step(self.inner.request_cancel(id, at)).await?
    }
    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        self.step(self.inner.find(owner, tag, now)).await?
    }
    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.step(self.inner.get(id, parts, now)).await?
    }
    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        self.inner.list(filter, now).await
    }
    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        self.step(self.inner.expire_at(id, at)).await?
    }
    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        self.step(self.inner.expire(now)).await?
    }
    fn usage(&self, owner: &Owner) -> StoreUsage {
        self.inner.usage(owner)
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

impl fmt::Debug for Shuffled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shuffled").finish_non_exhaustive()
    }
}
