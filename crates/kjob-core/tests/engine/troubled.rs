//! A store that can be made full, or made to fail for good.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kjob_core::engine::ManualClock;
use kjob_core::{
    CallbackState, CallbackTry, ClaimedCallbacks, Expired, Filter, Finish, IdBlock, Job, JobId,
    JobTag, Lease, NewJob, Owner, Page, Parts, Started, State, StepError, Store, StoreError,
    StoreUsage, Submitted, Timestamp,
};

/// Passes every step on to another store, but for writes while a switch is on.
pub(crate) struct Troubled {
    inner: Arc<dyn Store>,
    switch: Arc<Switch>,
}

/// Makes a store full or fail, and counts the steps that it refuses for that.
#[derive(Default)]
pub(crate) struct Switch {
    pub(crate) is_full: AtomicBool,
    pub(crate) has_failed: AtomicBool,
    /// Steps are done, but answered with an error; jobs cannot be looked at.
    pub(crate) loses_answers: AtomicBool,
    /// This job is damaged: reading it fails.
    pub(crate) damaged: AtomicI64,
    /// Answers come a turn of the runtime later, as those of a store on a disk do.
    pub(crate) is_slow: AtomicBool,
    pub(crate) refused: AtomicUsize,
    pub(crate) sweeps: Mutex<Option<Sweeps>>,
}

/// Space that is given back in pieces, each of which takes its time by this clock.
pub(crate) struct Sweeps {
    pub(crate) clock: ManualClock,
    pub(crate) takes: Duration,
    /// Pieces that are left.
    pub(crate) left: u32,
}

impl Sweeps {
    fn sweep(&mut self) -> Expired {
        self.clock.advance(self.takes);
        self.left -= 1;
        Expired {
            more: self.left > 0,
            ..Expired::default()
        }
    }
}

impl Troubled {
    pub(crate) fn new(inner: Arc<dyn Store>, switch: Arc<Switch>) -> Self {
        Self { inner, switch }
    }

    async fn step<T>(&self, step: impl Future<Output = T>) -> Result<T, StoreError> {
        if self.switch.is_full.load(Ordering::SeqCst) {
            self.switch.refused.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Full);
        }
        match self.failure() {
            Some(error) => Err(error),
            None => {
                let done = step.await;
                if self.switch.is_slow.load(Ordering::SeqCst) {
                    tokio::task::yield_now().await;
                }
                self.answer().map(|()| done)
            }
        }
    }

    fn answer(&self) -> Result<(), StoreError> {
        match self.switch.loses_answers.load(Ordering::SeqCst) {
            true => Err(trouble()),
            false => Ok(()),
        }
    }
}

fn trouble() -> StoreError {
    StoreError::Io {
        doing: "write",
        source: Arc::new(std::io::Error::other("the test wants it so")),
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
        self.inner.find(owner, tag, now).await
    }
    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.answer()?;
        if self.switch.damaged.load(Ordering::SeqCst) == id.get() {
            let what = format!("the row of job {id}");
            return Err(StoreError::Corrupt { what });
        }
        self.inner.get(id, parts, now).await
    }
    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        self.inner.list(filter, now).await
    }
    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        self.inner.claim_callbacks(now, until, limit).await
    }
    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        self.step(self.inner.note_callback(id, tried, at)).await?
    }
    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        self.step(self.inner.expire_at(id, at)).await?
    }
    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        let next_sweep = || {
            let mut sweeps = self.switch.sweeps.lock().unwrap();
            let sweeps = sweeps.as_mut().filter(|sweeps| sweeps.left > 0);
            sweeps.map(Sweeps::sweep)
        };
        if let Some(swept) = next_sweep() {
            return Ok(swept);
        }
        self.step(self.inner.expire(now)).await?
    }
    fn usage(&self, owner: &Owner) -> StoreUsage {
        self.inner.usage(owner)
    }
    fn failure(&self) -> Option<StoreError> {
        let has_failed = self.switch.has_failed.load(Ordering::SeqCst);
        has_failed.then(trouble)
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
