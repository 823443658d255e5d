//! A store in memory: for tests, simulations, and servers whose jobs may die with them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    CallbackQueue, CallbackState, CallbackTry, ClaimedCallbacks, Difference, Ending, Event,
    Expired, Filter, Finish, IdBlock, Job, JobId, JobTag, Lease, NewJob, Order, Owner, Page, Parts,
    Phase, Refused, Started, State, StepError, Store, StoreError, StoreUsage, Submitted, TagReuse,
    Timestamp, Transition, Usage, apply,
};

/// Keeps the contract of [`Store`], but for durability: what it holds is gone with it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use kjob_core::{MemoryStore, Store};
/// let store = MemoryStore::new();
/// let mut ids = store.reserve_ids(2).await.unwrap();
/// assert_eq!(ids.take().map(|id| id.get()), Some(1));
/// # }
/// ```
#[derive(Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last_id: i64,
    jobs: BTreeMap<JobId, Job>,
    /// Given tags. A generated tag needs no entry: it carries the id.
    tags: HashMap<(Owner, JobTag), JobId>,
    /// When ended jobs expire.
    expiries: BTreeMap<(Timestamp, JobId), ()>,
    callbacks: CallbackQueue,
    total: Usage,
    by_owner: HashMap<Owner, Usage>,
    closed: bool,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a closed store be used again, as a durable one that is opened anew.
    pub fn reopen(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = false;
        let Inner {
            jobs, callbacks, ..
        } = &mut *inner;
        for (id, callback) in jobs
            .iter()
            .filter_map(|(id, j)| Some((id, j.callback.as_ref()?)))
        {
            callbacks.set(*id, callback.next_at);
        }
    }

    /// As [`Store::reserve_ids`], from `least` on at least.
    #[cfg(feature = "engine")]
    pub(crate) fn reserve_ids_from(&self, least: JobId, count: u32) -> Result<IdBlock, StoreError> {
        self.open()?.reserve_ids_from(least, count)
    }

    /// How many jobs wait.
    #[cfg(feature = "engine")]
    pub(crate) fn waiting(&self, owner: &Owner) -> crate::WaitingCounts {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = crate::WaitingCounts::default();
        for job in inner.jobs.values() {
            if job.state.phase == Phase::Queued {
                counts.total += 1;
                counts.owner += u64::from(job.header.owner == *owner);
            }
        }
        counts
    }

    /// Makes the lease number of a running job larger, for a node that takes it over.
    #[cfg(feature = "engine")]
    pub(crate) fn take_over(&self, id: JobId, at: Timestamp) -> Result<Option<Job>, StoreError> {
        let mut inner = self.open()?;
        let Some(job) = inner.jobs.get_mut(&id) else {
            return Ok(None);
        };
        let Ok(Transition::To(state)) = apply(&job.state, Event::TakeOver, at) else {
            return Ok(None);
        };
        job.state = state;
        Ok(Some(parts_of(job, Parts::NONE)))
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        // No step leaves the maps half changed, so a panic elsewhere does not spoil them.
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            Err(StoreError::Closed)
        } else {
            Ok(inner)
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        self.open()?.reserve_ids_from(JobId::FIRST, count)
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        let mut inner = self.open()?;
        let NewJob {
            header,
            payload,
            tag_reuse,
        } = job;
        let now = header.received_at;
        let generated = header.tag.carried_id() == Some(header.id);
        if !generated && let Some(old) = inner.named(&header.owner, &header.tag, now) {
            let old = &inner.jobs[&old];
            let failed = matches!(old.state.phase, Phase::Failed | Phase::Cancelled);
            if !(failed && tag_reuse == TagReuse::IfFailed) {
                let stored = old.payload.clone().unwrap_or_default();
                return Ok(
                    match Difference::between((&old.header, &stored), (&header, &payload)) {
                        Some(difference) => Submitted::Conflict {
                            id: old.header.id,
                            difference,
                        },
                        None => Submitted::Existing(Box::new(parts_of(old, Parts::NONE))),
                    },
                );
            }
        }
        let queued = State::queued(header.options.not_before);
        let state = match start.then(|| apply(&queued, Event::Start, now)) {
            Some(Ok(Transition::To(started))) => started,
            _ => queued,
        };
        if !generated {
            inner
                .tags
                .insert((header.owner.clone(), header.tag.clone()), header.id);
        }
        let owner = header.owner.clone();
        inner.count(&owner, |usage| {
            usage.jobs += 1;
            usage.bytes += payload.len() as u64;
        });
        let id = header.id;
        let job = Job {
            header,
            state,
            payload: Some(payload),
            ending: None,
            expires_at: None,
            callback: None,
        };
        inner.jobs.insert(id, job);
        Ok(Submitted::Created(state))
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        let mut inner = self.open()?;
        let state = inner.step(id, Event::Start, at)?;
        let payload = inner.jobs[&id].payload.clone();
        Ok(Started { state, payload })
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.open()?
            .step(id, Event::Progress { lease, percent }, at)
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let mut inner = self.open()?;
        let state = inner.step(
            id,
            Event::End {
                lease,
                end: finish.end(),
            },
            at,
        )?;
        if let Some(ending) = finish.into_ending(&state) {
            inner.end(id, ending, at);
        }
        Ok(state)
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        let mut inner = self.open()?;
        let state = inner.step(id, Event::RequestCancel, at)?;
        if state.phase == Phase::Cancelled {
            inner.end(id, Ending::Cancelled, at);
        }
        Ok(state)
    }

    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        Ok(self.open()?.named(owner, tag, now))
    }

    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        let inner = self.open()?;
        let job = inner.jobs.get(&id).filter(|job| !expired(job, now));
        Ok(job.map(|job| parts_of(job, parts)))
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        let inner = self.open()?;
        let after = filter.after.map_or(Bound::Unbounded, Bound::Excluded);
        let beyond: Box<dyn Iterator<Item = &Job> + Send> = match filter.order {
            Order::OldestFirst => Box::new(inner.jobs.range((after, Bound::Unbounded)).map(value)),
            Order::NewestFirst => {
                Box::new(inner.jobs.range((Bound::Unbounded, after)).rev().map(value))
            }
        };
        let mut matching = beyond.filter(|job| !expired(job, now) && filter.matches(job));
        let jobs: Vec<_> = matching
            .by_ref()
            .take(filter.limit.max(1))
            .map(|j| parts_of(j, Parts::NONE))
            .collect();
        let next = matching.next().and(jobs.last()).map(|job| job.header.id);
        Ok(Page { jobs, next })
    }

    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        let mut inner = self.open()?;
        let mut jobs = Vec::new();
        while jobs.len() < limit.max(1)
            && let Some(id) = inner.callbacks.claim(now, until)
        {
            match inner.jobs.get(&id).filter(|job| !expired(job, now)) {
                Some(job) => jobs.push(parts_of(job, Parts::NONE)),
                None => inner.callbacks.set(id, None),
            }
        }
        let next_at = inner.callbacks.next_at();
        Ok(ClaimedCallbacks { jobs, next_at })
    }

    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        let mut inner = self.open()?;
        let job = inner.jobs.get_mut(&id).filter(|job| !expired(job, at));
        let job = job.ok_or(StepError::Unknown(id))?;
        let next = job.callback.as_ref().and_then(|old| old.after(tried, at));
        let next = next.ok_or(Refused::NoCallback)?;
        job.callback = Some(next.clone());
        inner.callbacks.set(id, next.next_at);
        Ok(next)
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        let mut inner = self.open()?;
        let Some(old) = inner.jobs.get(&id).and_then(|job| job.expires_at) else {
            return Ok(());
        };
        if at < old {
            inner.set_expiry(id, at);
        }
        Ok(())
    }

    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        const JOBS_MAX: usize = 1_000;
        let mut inner = self.open()?;
        let due: Vec<_> = inner
            .expiries
            .keys()
            .copied()
            .take_while(|(at, _)| *at <= now)
            .take(JOBS_MAX)
            .collect();
        let bytes = due.iter().map(|key| inner.drop_job(*key)).sum();
        let more = inner
            .expiries
            .first_key_value()
            .is_some_and(|((at, _), ())| *at <= now);
        Ok(Expired {
            jobs: due.len() as u64,
            bytes,
            more,
        })
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = inner.by_owner.get(owner).copied().unwrap_or_default();
        StoreUsage {
            total: inner.total,
            owner,
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        Ok(())
    }
}

impl Inner {
    fn reserve_ids_from(&mut self, least: JobId, count: u32) -> Result<IdBlock, StoreError> {
        let first = least.get().max(self.last_id + 1);
        let first = JobId::new(first).ok_or(StoreError::NoIdsLeft)?;
        let count = count.max(1);
        self.last_id = (first.get() - 1 + i64::from(count)).min(JobId::MAX);
        Ok(IdBlock::new(first, count))
    }

    /// The unexpired job that `tag` names.
    fn named(&self, owner: &Owner, tag: &JobTag, now: Timestamp) -> Option<JobId> {
        // An entry comes first: a generated tag whose job failed may have been given to another.
        let given = self.tags.get(&(owner.clone(), tag.clone())).copied();
        let job = self.jobs.get(&given.or_else(|| tag.carried_id())?)?;
        let is_its = job.header.owner == *owner && job.header.tag == *tag;
        (is_its && !expired(job, now)).then_some(job.header.id)
    }

    fn step(&mut self, id: JobId, event: Event, at: Timestamp) -> Result<State, StepError> {
        let job = self.jobs.get_mut(&id).filter(|job| !expired(job, at));
        let job = job.ok_or(StepError::Unknown(id))?;
        if let Transition::To(state) = apply(&job.state, event, at)? {
            job.state = state;
        }
        Ok(job.state)
    }

    fn end(&mut self, id: JobId, ending: Ending, at: Timestamp) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.ending = Some(ending);
        let result = job.result_len() as u64;
        if job.header.options.callback_url.is_some() {
            job.callback = Some(CallbackState::pending(at));
            self.callbacks.set(id, Some(at));
        }
        let (owner, retention) = (job.header.owner.clone(), job.header.options.retention);
        self.count(&owner, |usage| usage.bytes += result);
        self.set_expiry(id, at.after(retention));
    }

    fn set_expiry(&mut self, id: JobId, at: Timestamp) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if let Some(old) = job.expires_at.replace(at) {
            self.expiries.remove(&(old, id));
        }
        self.expiries.insert((at, id), ());
    }

    /// Deletes the job of an entry of `expiries`, and gives the bytes that frees.
    fn drop_job(&mut self, key: (Timestamp, JobId)) -> u64 {
        self.expiries.remove(&key);
        let Some(job) = self.jobs.remove(&key.1) else {
            return 0;
        };
        let name = (job.header.owner.clone(), job.header.tag.clone());
        if let Some(given) = self.tags.get(&name) {
            // While the job whose id the tag carries is there, the entry says that it lost it.
            let carrier = name.1.carried_id().filter(|id| self.jobs.contains_key(id));
            if carrier.is_none() && !self.jobs.contains_key(given) {
                self.tags.remove(&name);
            }
        }
        self.callbacks.set(key.1, None);
        let bytes = (job.payload.as_ref().map_or(0, Bytes::len) + job.result_len()) as u64;
        self.count(&name.0, |usage| {
            usage.jobs -= 1;
            usage.bytes -= bytes;
        });
        bytes
    }

    fn count(&mut self, owner: &Owner, change: impl Fn(&mut Usage)) {
        change(&mut self.total);
        let usage = self.by_owner.entry(owner.clone()).or_default();
        change(usage);
        if *usage == Usage::default() {
            self.by_owner.remove(owner);
        }
    }
}

fn value<'a>((_, job): (&JobId, &'a Job)) -> &'a Job {
    job
}

fn expired(job: &Job, now: Timestamp) -> bool {
    job.expires_at.is_some_and(|at| at <= now)
}

/// A copy of the job with only the bytes that were asked for.
fn parts_of(job: &Job, parts: Parts) -> Job {
    let ending = match &job.ending {
        Some(Ending::Done(result)) if !parts.result => Some(Ending::Done(result.without_bytes())),
        other => other.clone(),
    };
    let payload = job.payload.clone().filter(|_| parts.payload);
    Job {
        header: job.header.clone(),
        state: job.state,
        payload,
        ending,
        expires_at: job.expires_at,
        callback: job.callback.clone(),
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}
