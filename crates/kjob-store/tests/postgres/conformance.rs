//! The store keeps the contract: as it is set up for a server; with so small batches that steps which come
//! together go apart; without partitions; and with two handles on one database, which take turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use kjob_core::conformance::Harness;
use kjob_core::{
    CallbackState, CallbackTry, ClaimedCallbacks, Expired, Filter, Finish, IdBlock, Job, JobId,
    JobTag, Lease, NewJob, Owner, Page, Parts, Started, State, StepError, Store, StoreError,
    StoreUsage, Submitted, Timestamp,
};
use kjob_store::postgres::{PostgresOptions, PostgresStore};

use crate::support::Schema;

struct InSchema {
    schema: Schema,
    options: PostgresOptions,
}

impl InSchema {
    fn new(options: PostgresOptions, is_partitioned: bool) -> Self {
        let schema = Schema::new();
        schema.prepare(is_partitioned);
        Self { schema, options }
    }
}

#[async_trait]
impl Harness for InSchema {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.schema.open(self.options.clone()).await)
    }

    fn survives_reopen(&self) -> bool {
        true
    }
}

fn tiny() -> PostgresOptions {
    PostgresOptions {
        lanes: 3,
        readers: 1,
        batch_max: 3,
        batch_bytes_max: 1000,
        ..PostgresOptions::default()
    }
}

mod as_for_a_server {
    kjob_core::store_conformance!(super::InSchema::new(Default::default(), true));
}

mod with_tiny_batches_and_one_table {
    kjob_core::store_conformance!(super::InSchema::new(super::tiny(), false));
}

mod by_two_handles {
    kjob_core::store_conformance!(super::ByTwo(super::InSchema::new(Default::default(), true)));
}

struct ByTwo(InSchema);

#[async_trait]
impl Harness for ByTwo {
    async fn open(&self) -> Arc<dyn Store> {
        let open = || self.0.schema.open(self.0.options.clone());
        let two = Two {
            handles: [open().await, open().await],
            next: AtomicUsize::new(0),
        };
        Arc::new(two)
    }

    fn survives_reopen(&self) -> bool {
        true
    }
}

/// Two handles; each step is the other's.
#[derive(Debug)]
struct Two {
    handles: [PostgresStore; 2],
    next: AtomicUsize,
}

impl Two {
    fn next(&self) -> &PostgresStore {
        &self.handles[self.next.fetch_add(1, Ordering::Relaxed) % 2]
    }

    /// What is stored is looked at by both at once, and not only within a second.
    async fn seen<T>(&self, done: T) -> T {
        for handle in &self.handles {
            // A store that is closed has nothing to see.
            let _ = handle.refresh_usage().await;
        }
        done
    }
}

#[async_trait]
impl Store for Two {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        self.next().reserve_ids(count).await
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        let done = self.next().submit(job, start).await;
        self.seen(done).await
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        self.next().start(id, at).await
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.next().progress(id, lease, percent, at).await
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let done = self.next().finish(id, lease, finish, at).await;
        self.seen(done).await
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        self.next().request_cancel(id, at).await
    }

    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        self.next().find(owner, tag, now).await
    }

    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.next().get(id, parts, now).await
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        self.next().list(filter, now).await
    }

    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        self.next().claim_callbacks(now, until, limit).await
    }

    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        self.next().note_callback(id, tried, at).await
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        self.next().expire_at(id, at).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        let done = self.next().expire(now).await;
        self.seen(done).await
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        self.next().usage(owner)
    }

    async fn close(&self) -> Result<(), StoreError> {
        for handle in &self.handles {
            handle.close().await?;
        }
        Ok(())
    }
}
