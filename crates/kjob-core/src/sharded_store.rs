//! Several shared stores that hold one set of jobs together.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::{
    CallbackState, CallbackTry, ClaimedCallbacks, Expired, Filter, Finish, IdBlock, Job, JobId,
    JobTag, Lease, NewJob, Order, Owner, Page, Parts, Placement, Shard, SharedStore, Started,
    State, StepError, Store, StoreError, StoreUsage, Submitted, Timestamp, Usage,
};

/// A [`Store`] whose jobs are spread over shards, each a [`SharedStore`] of its own.
///
/// A step on a job is one step of its shard, so all that a store promises of one job holds. What is asked of
/// all jobs (a list, what is due) is asked of all shards at the same time, and is not one moment of all of them.
///
/// A shard that cannot be reached takes its own jobs along and no others; a list fails then, as one with a part
/// of the jobs missing would be taken for the whole.
///
/// An engine works on it by [`Engine::open_sharded`](crate::engine::Engine::open_sharded), with a lease on each shard.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use kjob_core::{MemoryCluster, Owner, Placement, ShardedStore, Store, Timestamp};
/// use std::sync::Arc;
///
/// let clusters = [MemoryCluster::default(), MemoryCluster::default()];
/// let shards = clusters.iter().map(|cluster| Arc::new(cluster.handle()) as _).collect();
/// let store = ShardedStore::new(Placement::new(&[2], 0)?, shards)?;
///
/// let (ann, tag) = (Owner::new("ann"), "nightly".parse()?);
/// let shard = store.shard_for(&ann, &tag, Timestamp::default()).await?;
/// let id = store.reserve_ids_in(shard, 1).await?.take().ok_or("there are enough")?;
/// assert_eq!(store.placement().shard_of_id(id), shard);
/// # Ok(()) }
/// ```
pub struct ShardedStore {
    placement: Placement,
    shards: Vec<Arc<dyn SharedStore>>,
    /// Where the newest block of ids begins that was reserved here.
    newest: AtomicI64,
    /// Whose turn it is, where any shard will do.
    turn: AtomicUsize,
}

/// There are not as many stores as the placement has shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} stores for {wanted} shards")]
pub struct ShardCountError {
    /// How many stores there are.
    pub found: usize,
    /// How many shards the placement has.
    pub wanted: usize,
}

impl ShardedStore {
    /// The store whose shards these are, by their numbers.
    ///
    /// # Errors
    /// [`ShardCountError`].
    pub fn new(
        placement: Placement,
        shards: Vec<Arc<dyn SharedStore>>,
    ) -> Result<Self, ShardCountError> {
        let (found, wanted) = (shards.len(), placement.size());
        if found != wanted {
            return Err(ShardCountError { found, wanted });
        }
        Ok(Self {
            placement,
            shards,
            newest: AtomicI64::new(JobId::FIRST.get()),
            turn: AtomicUsize::new(0),
        })
    }

    /// With ids that begin at this one at least: where others have given ids already, so that new jobs are not
    /// listed before theirs.
    pub fn beginning_at(self, id: JobId) -> Self {
        self.newest.fetch_max(id.get(), Ordering::Relaxed);
        self
    }

    /// Which job is where.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Its shards, by their numbers.
    pub fn shards(&self) -> &[Arc<dyn SharedStore>] {
        &self.shards
    }

    /// The shard that has the job, if there is such a shard.
    fn of(&self, id: JobId) -> Option<&Arc<dyn SharedStore>> {
        self.shards.get(self.placement.shard_of_id(id).number())
    }

    fn of_job(&self, id: JobId) -> Result<&Arc<dyn SharedStore>, StepError> {
        self.of(id).ok_or(StepError::Unknown(id))
    }

    /// Asks all shards at the same time; their answers by their numbers.
    async fn ask_all<'a, T, F>(
        &'a self,
        ask: impl Fn(&'a dyn SharedStore) -> F,
    ) -> Vec<Result<T, StoreError>>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        join_all(self.shards.iter().map(|shard| ask(&**shard))).await
    }
}

/// How long a shard may take for its callbacks, of which those of the others may be due.
const CALLBACKS_WITHIN: Duration = Duration::from_secs(5);

/// How long a shard may take to give back a piece of its space.
const EXPIRED_WITHIN: Duration = Duration::from_secs(60);

/// How long a shard may take to close.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// What a shard answers, if it does so in time.
async fn within<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answered = tokio::time::timeout(patience, answer).await;
    answered.unwrap_or_else(|_| {
        Err(StoreError::Io {
            doing: "hear from a shard",
            source: Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)),
        })
    })
}

/// The answers that there are, unless there is none at all.
fn some_of<T>(answers: Vec<Result<T, StoreError>>, doing: &str) -> Result<Vec<T>, StoreError> {
    let mut given = Vec::with_capacity(answers.len());
    let mut first = None;
    for (shard, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(answer) => given.push(answer),
            Err(error) => {
                tracing::debug!(shard, %error, "a shard cannot {doing} for now");
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if given.is_empty() => Err(error),
        _ => Ok(given),
    }
}

/// One page of the pages of all shards.
fn merged(pages: Vec<Page>, filter: &Filter) -> Page {
    let rank = |id: JobId| match filter.order {
        Order::OldestFirst => id.get(),
        Order::NewestFirst => -id.get(),
    };
    // No shard has been looked through any further than the first that is not at its end.
    let next = pages.iter().filter_map(|page| page.next);
    let mut next = next.min_by_key(|id| rank(*id));
    let mut jobs: Vec<Job> = pages.into_iter().flat_map(|page| page.jobs).collect();
    jobs.sort_by_key(|job| rank(job.header.id));
    if let Some(next) = next {
        jobs.retain(|job| rank(job.header.id) <= rank(next));
    }
    let limit = filter.limit.max(1);
    if jobs.len() > limit {
        jobs.truncate(limit);
        next = jobs.last().map(|job| job.header.id);
    }
    Page { jobs, next }
}

#[async_trait]
impl Store for ShardedStore {
    /// Of any shard: for jobs of generated tags.
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.shards.len().max(1);
        let shard = Shard::new(turn).unwrap_or_default();
        self.reserve_ids_in(shard, count).await
    }

    async fn reserve_ids_in(&self, shard: Shard, count: u32) -> Result<IdBlock, StoreError> {
        let store = self.shards.get(shard.number());
        let store = store.ok_or(StoreError::NoIdsLeft)?;
        if self.shards.len() == 1 {
            return store.reserve_ids(count).await;
        }
        // So the ids of all shards go on together, and a list by id is one by time, or nearly.
        let newest = self.newest.load(Ordering::Relaxed);
        let least = self.placement.first_id(shard, newest);
        let least = least.ok_or(StoreError::NoIdsLeft)?;
        let (step, count) = (Shard::COUNT_MAX as u32, count.max(1));
        let count = count.min(u32::MAX / step);
        // The shard gives ids one after the other, of which each 64th is of its number.
        let mut block = store.reserve_ids_from(least, count * step).await?;
        let first = block.take().ok_or(StoreError::NoIdsLeft)?;
        self.newest.fetch_max(first.get(), Ordering::Relaxed);
        let first = self.placement.first_id(shard, first.get());
        Ok(IdBlock::every(
            step,
            first.ok_or(StoreError::NoIdsLeft)?,
            count,
        ))
    }

    async fn shard_for(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Shard, StoreError> {
        let target = self.placement.shard_of(owner, tag);
        for shard in self.placement.shards_of(owner, tag) {
            if shard == target {
                continue;
            }
            if let Some(store) = self.shards.get(shard.number())
                && store.find(owner, tag, now).await?.is_some()
            {
                return Ok(shard);
            }
        }
        Ok(target)
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        let shard = self.of(job.header.id).ok_or_else(|| StoreError::Io {
            doing: "find the shard of a new job",
            source: Arc::new(std::io::Error::other(format!(
                "no shard gave the id {}",
                job.header.id
            ))),
        })?;
        shard.submit(job, start).await
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        self.of_job(id)?.start(id, at).await
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.of_job(id)?.progress(id, lease, percent, at).await
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.of_job(id)?.finish(id, lease, finish, at).await
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        self.of_job(id)?.request_cancel(id, at).await
    }

    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        for shard in self.placement.shards_of(owner, tag) {
            if let Some(store) = self.shards.get(shard.number())
                && let Some(id) = store.find(owner, tag, now).await?
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        match self.of(id) {
            Some(shard) => shard.get(id, parts, now).await,
            None => Ok(None),
        }
    }

    async fn get_of(
        &self,
        owner: &Owner,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        match self.of(id) {
            Some(shard) => shard.get_of(owner, id, parts, now).await,
            None => Ok(None),
        }
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        let pages = self.ask_all(|shard| shard.list(filter, now)).await;
        let pages = pages.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(merged(pages, filter))
    }

    async fn bytes_of(&self, id: JobId, now: Timestamp) -> Result<Option<u64>, StoreError> {
        match self.of(id) {
            Some(shard) => shard.bytes_of(id, now).await,
            None => Ok(None),
        }
    }

    /// Of those shards that can be reached.
    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        let count = self.shards.len().max(1);
        // What is claimed has to be handed out, so each is asked for what the ones before have left; the first
        // is another each time.
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        let (mut jobs, mut answers) = (Vec::new(), Vec::new());
        for shard in self.shards.iter().cycle().skip(first).take(count) {
            let left = limit.saturating_sub(jobs.len());
            if left == 0 {
                // There may be more in those that were not asked.
                answers.push(Ok(Some(now)));
                break;
            }
            let claimed = shard.claim_callbacks(now, until, left);
            let claimed = within(CALLBACKS_WITHIN, claimed).await;
            answers.push(claimed.map(|claimed| {
                jobs.extend(claimed.jobs);
                claimed.next_at
            }));
        }
        let next = some_of(answers, "hand out callbacks")?;
        // The longest due first, as far as they are in this answer.
        jobs.sort_by_key(|job| {
            (
                job.callback.as_ref().and_then(|it| it.next_at),
                job.header.id,
            )
        });
        Ok(ClaimedCallbacks {
            jobs,
            next_at: next.into_iter().flatten().min(),
        })
    }

    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        self.of_job(id)?.note_callback(id, tried, at).await
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        match self.of(id) {
            Some(shard) => shard.expire_at(id, at).await,
            None => Ok(()),
        }
    }

    /// Of those shards that can be reached.
    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        let answers = self
            .ask_all(|shard| within(EXPIRED_WITHIN, shard.expire(now)))
            .await;
        let mut sum = Expired::default();
        for expired in some_of(answers, "give back the space of expired jobs")? {
            sum.jobs += expired.jobs;
            sum.bytes += expired.bytes;
            sum.more |= expired.more;
        }
        Ok(sum)
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        let add = |sum: Usage, more: Usage| Usage {
            jobs: sum.jobs.saturating_add(more.jobs),
            bytes: sum.bytes.saturating_add(more.bytes),
        };
        let each = self.shards.iter().map(|shard| shard.usage(owner));
        each.fold(StoreUsage::default(), |sum, more| StoreUsage {
            total: add(sum.total, more.total),
            owner: add(sum.owner, more.owner),
        })
    }

    fn failure(&self) -> Option<StoreError> {
        self.shards.iter().find_map(|shard| shard.failure())
    }

    async fn close(&self) -> Result<(), StoreError> {
        let answers = self
            .ask_all(|shard| within(CLOSED_WITHIN, shard.close()))
            .await;
        answers.into_iter().collect()
    }
}

impl fmt::Debug for ShardedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardedStore")
            .field("placement", &self.placement)
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}
