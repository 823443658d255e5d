//! Looking at jobs, each caller at its own.

use std::sync::Arc;
use std::time::Duration;

use kjob_proto::{Encoding, Text};

use super::live::Live;
use super::schemas::Side;
use super::{Engine, Inner};
use crate::{
    Age, Ending, Filter, Job, JobId, JobTag, Owner, Page, Parts, Payload, Phase, StoreError,
};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub owner: Owner,
    /// Whether the user sees and cancels everyone's jobs.
    pub admin: bool,
}

impl Caller {
    /// A user who sees only their own jobs.
    pub fn user(owner: Owner) -> Self {
        Self {
            owner,
            admin: false,
        }
    }

    /// A user who sees all jobs.
    pub fn admin(owner: Owner) -> Self {
        Self { owner, admin: true }
    }

    fn sees(&self, owner: &Owner) -> bool {
        self.admin || self.owner == *owner
    }
}

/// How a job is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobKey {
    /// By its id.
    Id(JobId),
    /// By its tag, among the caller's own jobs.
    Tag(JobTag),
}

impl Engine {
    /// A job as it stands, with its result if it has one. `None` if there is no such job, or it
    /// is not the caller's.
    ///
    /// A job that has not ended is answered from memory.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, caller: &Caller, key: &JobKey) -> Result<Option<Job>, StoreError> {
        self.inner.get(caller, key).await
    }

    /// Like [`get`](Engine::get), but answers when the job has ended or `patience` is over.
    ///
    /// # Errors
    /// The store's.
    pub async fn wait(
        &self,
        caller: &Caller,
        key: &JobKey,
        patience: Duration,
    ) -> Result<Option<Job>, StoreError> {
        let inner = &self.inner;
        match inner.watch(caller, key, Age::LIVE_MAX, patience).await? {
            Some(job) => Ok(Some(job)),
            None => inner.get(caller, key).await,
        }
    }

    /// Like [`get`](Engine::get), but a result's bytes are not fetched; its encoding is there.
    ///
    /// # Errors
    /// The store's.
    pub async fn look(&self, caller: &Caller, key: &JobKey) -> Result<Option<Job>, StoreError> {
        self.inner.get_parts(caller, key, Parts::NONE).await
    }

    /// Like [`look`](Engine::look), but answers when there is something newer than `seen` to be
    /// told, or `patience` is over. With [`Age::LIVE_MAX`] that is the job's end.
    ///
    /// # Errors
    /// The store's.
    pub async fn news(
        &self,
        caller: &Caller,
        key: &JobKey,
        seen: Age,
        patience: Duration,
    ) -> Result<Option<Job>, StoreError> {
        let inner = &self.inner;
        match inner.watch(caller, key, seen, patience).await? {
            Some(mut job) => {
                clear_result(&mut job);
                Ok(Some(job))
            }
            None => inner.get_parts(caller, key, Parts::NONE).await,
        }
    }

    /// What was submitted for a job, as it was. `None` if there is no such job, or it is not the caller's.
    ///
    /// # Errors
    /// The store's.
    pub async fn payload(
        &self,
        caller: &Caller,
        key: &JobKey,
    ) -> Result<Option<Payload>, StoreError> {
        let Some(id) = self.inner.id_of(caller, key).await? else {
            return Ok(None);
        };
        let parts = Parts {
            payload: true,
            result: false,
        };
        let job = self.inner.stored(caller, id, parts).await?;
        Ok(job.and_then(|job| {
            let encoding = job.header.encoding;
            job.payload.map(|data| Payload { encoding, data })
        }))
    }

    /// Completes when the engine was shut down: nothing changes any more.
    pub async fn closed(&self) {
        self.inner.closed.cancelled().await;
    }

    /// The endpoints that there are routes for: names, and prefixes that end in `*`.
    pub fn patterns(&self) -> Vec<Text> {
        let registry = self.inner.registry();
        registry.routes().map(|(_, pattern)| pattern).collect()
    }

    /// Whether a route takes direct calls of the endpoint.
    pub fn takes_calls(&self, endpoint: &str) -> bool {
        let route = self.inner.route_of(endpoint);
        route.is_some_and(|route| !route.options.jobs_only)
    }

    /// Whether the requests and responses of the endpoint are records, whether or not they are declared.
    pub fn declares_records(&self, endpoint: &str) -> bool {
        let route = self.inner.route_of(endpoint);
        route.is_some_and(|route| route.options.schemas.is_some() || route.options.records)
    }

    /// Jobs that the caller may see, by rising id, without their bytes.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, caller: &Caller, mut filter: Filter) -> Result<Page, StoreError> {
        if !caller.admin {
            if filter
                .owner
                .as_ref()
                .is_some_and(|owner| *owner != caller.owner)
            {
                return Ok(Page::default());
            }
            filter.owner = Some(caller.owner.clone());
        }
        let inner = &self.inner;
        let list = inner.store.list(&filter, inner.now());
        let mut page = inner.step(list).await?;
        page.jobs.iter_mut().for_each(|job| inner.as_told(job));
        page.jobs.retain(|job| filter.matches(job));
        Ok(page)
    }

    /// Says that a done job's result was delivered whole: a job with `remove_on_complete` is then
    /// kept only for the grace time.
    ///
    /// # Errors
    /// The store's.
    pub async fn delivered(&self, job: &Job) -> Result<(), StoreError> {
        if !job.header.options.remove_on_complete || job.state.phase != Phase::Done {
            return Ok(());
        }
        let at = self.inner.now().after(self.inner.config.remove_grace);
        self.inner
            .step(self.inner.store.expire_at(job.header.id, at))
            .await
    }

    /// A result in another encoding, by the endpoint's response record.
    ///
    /// # Errors
    /// Why it cannot be turned, as a text for the caller.
    pub fn turn_result(
        &self,
        endpoint: &str,
        result: &Payload,
        to: Encoding,
    ) -> Result<Payload, Text> {
        if result.encoding == to {
            return Ok(result.clone());
        }
        let route = self.inner.route_of(endpoint);
        match route.and_then(|route| route.options.schemas) {
            Some(schemas) => schemas.turn(Side::Response, result, to, &self.inner.config.limits),
            None => Err(Text::from(format!(
                "the result is {}, and the endpoint declares no record to turn it into {to}",
                result.encoding
            ))),
        }
    }
}

impl Inner {
    async fn get(&self, caller: &Caller, key: &JobKey) -> Result<Option<Job>, StoreError> {
        self.get_parts(caller, key, Parts::RESULT).await
    }

    async fn get_parts(
        &self,
        caller: &Caller,
        key: &JobKey,
        parts: Parts,
    ) -> Result<Option<Job>, StoreError> {
        let told = |mut job: Job| {
            if !parts.result {
                clear_result(&mut job);
            }
            job
        };
        if let Some(job) = self.live(caller, key).and_then(|live| live.job()) {
            return Ok(Some(told(job)));
        }
        let Some(id) = self.id_of(caller, key).await? else {
            return Ok(None);
        };
        let Some(job) = self.stored(caller, id, parts).await? else {
            return Ok(None);
        };
        // It may have come into memory while the store was asked.
        let job = self.told(id).map_or(job, told);
        debug_assert!(
            job.state.phase != Phase::Done || matches!(job.ending, Some(Ending::Done(_)))
        );
        Ok(Some(job))
    }

    /// Waits until there is something newer than `seen` to be told of a job of the caller's, or `patience`
    /// is over, and gives the job as it is then. `None` if there is nothing to wait for: the store has it,
    /// or nobody.
    async fn watch(
        &self,
        caller: &Caller,
        key: &JobKey,
        seen: Age,
        patience: Duration,
    ) -> Result<Option<Job>, StoreError> {
        if patience.is_zero() {
            return Ok(None);
        }
        let live = match self.live(caller, key) {
            Some(live) => live,
            None => {
                // In a box of its own, as what waits is to be small.
                let woken = match self.may_be_woken() {
                    true => Box::pin(self.woken(caller, key)).await?,
                    false => None,
                };
                // It may have come into memory and run meanwhile, and its end be heard of only soon.
                match woken.or_else(|| self.live(caller, key)) {
                    Some(live) => live,
                    None => return Ok(None),
                }
            }
        };
        tokio::select! {
            biased;
            () = live.newer_than(seen) => {}
            () = self.clock.sleep(patience) => {}
            () = self.closed.cancelled() => {}
        }
        // What was its own when the wait began may be another node's by now.
        let job = live.job().filter(|_| !live.is_local() || self.knows(&live));
        self.doze(&live);
        Ok(job)
    }

    /// Whether jobs that are not in memory may live.
    fn may_be_woken(&self) -> bool {
        self.is_shared() || self.table.has_dozing()
    }

    /// A job of the caller's that dozed, or that another node has.
    async fn woken(&self, caller: &Caller, key: &JobKey) -> Result<Option<Arc<Live>>, StoreError> {
        // As it is looked for if nobody waits: whose job it is makes no difference to how long that takes.
        let Some(id) = self.id_of(caller, key).await? else {
            return Ok(None);
        };
        match self.stored(caller, id, Parts::NONE).await? {
            Some(job) if !job.state.phase.is_terminal() => match self.cluster_of(id) {
                Some(cluster) => Ok(Some(self.watch_from_afar(cluster, job))),
                None => self.wake(id).await,
            },
            _ => Ok(None),
        }
    }

    /// What is told of a live job. Whatever the store says of it gives way to that: the store may
    /// be a step ahead of what it has answered so far, and a job must not go back for those who
    /// look twice.
    fn told(&self, id: JobId) -> Option<Job> {
        let live = self.table.get(id).filter(|live| self.knows(live));
        live?.job()
    }

    /// Whether what is in memory of a job is how it stands. A node that cannot prove its lease knows nothing: its
    /// runs may be others', and have ended there, while it is still about to store an end that will be refused. Nor
    /// does one of several know of a run whose end is on its way to the store: others may have heard of it already,
    /// and its answer may be lost.
    fn knows(&self, live: &Live) -> bool {
        let is_ending = self.is_shared() && live.is_ending() && !live.is_over();
        live.is_local() && !is_ending && self.has_lease_for(live.header.id)
    }

    /// Makes a listed job what is told of it.
    fn as_told(&self, job: &mut Job) {
        let Some(told) = self.told(job.header.id) else {
            return;
        };
        *job = told;
        clear_result(job);
    }

    /// The live job, if it is one, whole, here, and the caller's.
    fn live(&self, caller: &Caller, key: &JobKey) -> Option<Arc<Live>> {
        let live = match key {
            JobKey::Id(id) => self.table.get(*id),
            JobKey::Tag(tag) => self.table.named(&caller.owner, tag),
        };
        live.filter(|live| self.knows(live) && caller.sees(&live.header.owner))
    }

    async fn id_of(&self, caller: &Caller, key: &JobKey) -> Result<Option<JobId>, StoreError> {
        match key {
            JobKey::Id(id) => Ok(Some(*id)),
            JobKey::Tag(tag) => {
                let find = self.store.find(&caller.owner, tag, self.now());
                self.step(find).await
            }
        }
    }

    /// The id of a stored job that the caller may see.
    pub(super) async fn visible(
        &self,
        caller: &Caller,
        key: &JobKey,
    ) -> Result<Option<JobId>, StoreError> {
        if let Some(live) = self.live(caller, key) {
            return Ok(Some(live.header.id));
        }
        let Some(id) = self.id_of(caller, key).await? else {
            return Ok(None);
        };
        let job = self.stored(caller, id, Parts::NONE).await?;
        Ok(job.map(|job| job.header.id))
    }

    /// A stored job that the caller may see.
    async fn stored(
        &self,
        caller: &Caller,
        id: JobId,
        parts: Parts,
    ) -> Result<Option<Job>, StoreError> {
        if caller.admin {
            return self.step(self.store.get(id, parts, self.now())).await;
        }
        let get = self.store.get_of(&caller.owner, id, parts, self.now());
        self.step(get).await
    }
}

fn clear_result(job: &mut Job) {
    if let Some(Ending::Done(result)) = &mut job.ending {
        *result = result.without_bytes();
    }
}
