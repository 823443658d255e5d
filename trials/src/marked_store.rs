//! A store that marks the beginning and the end of each step of another.

use std::sync::Arc;

use async_trait::async_trait;
use kjob_core::{
    CallbackState, CallbackTry, ClaimedCallbacks, Expired, Filter, Finish, IdBlock, Job, JobId,
    JobTag, Lease, LivePage, NewJob, Owner, Page, Parts, Started, State, StepError, Store,
    StoreError, StoreUsage, Submitted, Timestamp,
};

use crate::marks::{Step, Writer};

/// A store with marks.
#[derive(Debug)]
pub struct MarkedStore {
    inner: Arc<dyn Store>,
    marks: Writer,
}

impl MarkedStore {
    /// Marks the steps of `inner`.
    pub fn new(inner: Arc<dyn Store>, marks: Writer) -> Self {
        Self { inner, marks }
    }
}

#[async_trait]
impl Store for MarkedStore {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        let _mark = self.marks.begin(Step::Reserve);
        self.inner.reserve_ids(count).await
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        let _mark = self.marks.begin(Step::Submit);
        let _start = start.then(|| self.marks.begin(Step::Start));
        self.inner.submit(job, start).await
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        let _mark = self.marks.begin(Step::Start);
        self.inner.start(id, at).await
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let _mark = self.marks.begin(Step::Progress);
        self.inner.progress(id, lease, percent, at).await
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let _mark = self.marks.begin(Step::Finish);
        self.inner.finish(id, lease, finish, at).await
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        let _mark = self.marks.begin(Step::Cancel);
        self.inner.request_cancel(id, at).await
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
        let _mark = self.marks.begin(Step::Callback);
        self.inner.note_callback(id, tried, at).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        let _mark = self.marks.begin(Step::Expire);
        self.inner.expire(now).await
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
        self.inner.get(id, parts, now).await
    }

    async fn get_of(
        &self,
        owner: &Owner,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.inner.get_of(owner, id, parts, now).await
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        self.inner.list(filter, now).await
    }

    async fn live(
        &self,
        after: Option<JobId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<LivePage, StoreError> {
        self.inner.live(after, limit, now).await
    }

    async fn bytes_of(&self, id: JobId, now: Timestamp) -> Result<Option<u64>, StoreError> {
        self.inner.bytes_of(id, now).await
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        self.inner.expire_at(id, at).await
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        self.inner.usage(owner)
    }

    fn failure(&self) -> Option<StoreError> {
        self.inner.failure()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}
