//! Stores that give trouble: answers in any order, late, or errors.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kjob_core::{
    Expired, Filter, Finish, IdBlock, Job, JobId, JobTag, Lease, NewJob, Owner, Page, Parts,
    Started, State, StepError, Store, StoreError, StoreUsage, Submitted, Timestamp,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Passes every step on to another store, through some trouble.
pub(crate) struct Troubled {
    inner: Arc<dyn Store>,
    trouble: Trouble,
}

enum Trouble {
    /// A step waits a random number of turns of the other tasks before it is done, and as many
    /// before it is answered. One in `fail_one_in` is refused before it is done.
    Shuffle {
        rng: Box<Mutex<StdRng>>,
        fail_one_in: u32,
    },
    /// Steps are refused while a switch is on.
    Full(Arc<Switch>),
}

/// Makes a store full, and counts the steps that it refuses.
#[derive(Default)]
pub(crate) struct Switch {
    pub(crate) is_full: AtomicBool,
    pub(crate) refused: AtomicUsize,
}

impl Troubled {
    pub(crate) fn shuffled(inner: Arc<dyn Store>, seed: u64, fail_one_in: u32) -> Self {
        let rng = Box::new(Mutex::new(StdRng::seed_from_u64(seed)));
        Self {
            inner,
            trouble: Trouble::Shuffle { rng, fail_one_in },
        }
    }

    pub(crate) fn full(inner: Arc<dyn Store>, switch: Arc<Switch>) -> Self {
        Self {
            inner,
            trouble: Trouble::Full(switch),
        }
    }

    async fn step<T>(&self, step: impl Future<Output = T>) -> Result<T, StoreError> {
        match &self.trouble {
            Trouble::Shuffle { rng, fail_one_in } => {
                let (before, after, fails) = {
                    let mut rng = rng.lock().unwrap();
                    let fails = rng.random_ratio(1, *fail_one_in);
                    (rng.random_range(0..8), rng.random_range(0..8), fails)
                };
                turns(before).await;
                if fails {
                    return Err(StoreError::Full);
                }
                let answer = step.await;
                turns(after).await;
                Ok(answer)
            }
            Trouble::Full(switch) if switch.is_full.load(Ordering::SeqCst) => {
                switch.refused.fetch_add(1, Ordering::SeqCst);
                Err(StoreError::Full)
            }
            Trouble::Full(_) => Ok(step.await),
        }
    }
}

/// Lets the other tasks go on, `count` times.
async fn turns(count: u32) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl Store for Troubled {
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

impl fmt::Debug for Troubled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Troubled").finish_non_exhaustive()
    }
}
