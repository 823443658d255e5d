//! A shard whose database could not be reached when its set was opened: it is opened as soon as it can be.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_core::{
    Beat, CallbackState, CallbackTry, Claimed, ClaimedCallbacks, Expired, Filter, Finish, Hint,
    IdBlock, Job, JobId, JobTag, Lease, LivePage, NewJob, Node, NodeId, Orphan, Owner, Page, Parts,
    SharedStore, Started, State, StepError, Store, StoreError, StoreUsage, Submitted, Timestamp,
    WaitingCounts, Wanted,
};
use kjob_proto::Text;
use tokio::sync::SetOnce;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::fitting::check_place;
use super::shard_set::ShardSet;
use super::store::Background;
use super::{OpenError, PostgresOptions, PostgresStore, ShardsError};

/// Between two tries to reach the database.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Between two tries where the database was reached and is not what it should be: somebody has to do something.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How often it is said what is wrong with it.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// A shard of a set that is opened in the background. Until it is there all steps fail, and nothing of it was done.
pub(super) struct LateShard {
    place: Arc<Place>,
    /// What opens it.
    opening: Mutex<Option<JoinHandle<()>>>,
}

/// Which database is to be opened, and what it has to be.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) url: String,
    pub(super) options: PostgresOptions,
    pub(super) number: usize,
    /// What the other databases know of the set.
    pub(super) set: ShardSet,
}

/// Where the store comes to.
struct Place {
    number: usize,
    store: SetOnce<PostgresStore>,
    missing: Mutex<Missing>,
}

/// What is known of a store that is not there.
struct Missing {
    /// What came of the last try to open it.
    why: Arc<ShardsError>,
    /// It is not to come any more.
    is_closed: bool,
}

impl LateShard {
    /// Opens a database in the background, which could not be reached just now.
    pub(super) fn new(seat: Seat, why: ShardsError) -> Result<Self, OpenError> {
        let background = Background::start()?;
        let missing = Missing {
            why: Arc::new(why),
            is_closed: false,
        };
        let place = Arc::new(Place {
            number: seat.number,
            store: SetOnce::new(),
            missing: Mutex::new(missing),
        });
        let (runtime, filled) = (background.runtime.clone(), Arc::clone(&place));
        let opening = runtime.spawn(async move {
            // Its thread ends with this, however it ends.
            let _background = background;
            filled.fill(&seat).await;
        });
        Ok(Self {
            place,
            opening: Mutex::new(Some(opening)),
        })
    }

    /// The store, if it is there.
    fn there(&self) -> Result<&PostgresStore, StoreError> {
        if let Some(store) = self.place.store.get() {
            return Ok(store);
        }
        let missing = self.place.missing();
        if missing.is_closed {
            return Err(StoreError::Closed);
        }
        let source = Arc::clone(&missing.why);
        Err(StoreError::Io {
            doing: "use a database that has not been reached yet",
            source,
        })
    }

    /// Ends the opening, if it goes on.
    fn give_up(&self) -> Option<JoinHandle<()>> {
        self.place.missing().is_closed = true;
        let opening = self.opening.lock();
        let opening = opening.unwrap_or_else(PoisonError::into_inner).take();
        opening.inspect(JoinHandle::abort)
    }
}

impl Place {
    fn missing(&self) -> MutexGuard<'_, Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries until the store is there.
    async fn fill(&self, seat: &Seat) {
        let mut said: Option<Instant> = None;
        let mut pause = TRY_AGAIN;
        loop {
            sleep(pause).await;
            let seat = seat.clone();
            // In a task of its own: one that panics is tried again.
            let error = match tokio::spawn(async move { seat.open().await }).await {
                Ok(Ok(store)) => return self.put(store),
                Ok(Err(error)) => error,
                Err(panic) => self.failed(StoreError::Io {
                    doing: "open the database",
                    source: Arc::new(panic),
                }),
            };
            if is_away(&error) {
                tracing::debug!(shard = self.number, %error, "the database cannot be reached yet");
                pause = TRY_AGAIN;
            } else {
                if said.is_none_or(|at| at.elapsed() >= SAID_AGAIN) {
                    said = Some(Instant::now());
                    tracing::error!(
                        shard = self.number,
                        %error,
                        "the database is there, and cannot be used; will try again"
                    );
                }
                pause = LOOK_AGAIN;
            }
            self.missing().why = Arc::new(error);
        }
    }

    fn failed(&self, error: StoreError) -> ShardsError {
        ShardsError::Open {
            number: self.number,
            source: error.into(),
        }
    }

    fn put(&self, store: PostgresStore) {
        let missing = self.missing();
        // Nobody would close it.
        if !missing.is_closed {
            // It is the first: there is one task that opens any.
            let _ = self.store.set(store);
            tracing::info!(shard = self.number, "the database is there now");
        }
    }
}

impl Seat {
    async fn open(self) -> Result<PostgresStore, ShardsError> {
        let number = self.number;
        let store = PostgresStore::open_any(&self.url, self.options).await;
        let store = store.map_err(|source| ShardsError::Open { number, source })?;
        check_place(number, store.set(), &self.set)?;
        Ok(store)
    }
}

/// Whether the database could not be reached, and is as it should be for all that is known.
pub(super) fn is_away(error: &ShardsError) -> bool {
    matches!(error, ShardsError::Open { source, .. } if source.is_away())
}

impl Drop for LateShard {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl fmt::Debug for LateShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateShard")
            .field("number", &self.place.number)
            .field("store", &self.place.store.get())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for LateShard {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        self.there()?.reserve_ids(count).await
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        self.there()?.submit(job, start).await
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        self.there()?.start(id, at).await
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.there()?.progress(id, lease, percent, at).await
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.there()?.finish(id, lease, finish, at).await
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        self.there()?.request_cancel(id, at).await
    }

    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        self.there()?.find(owner, tag, now).await
    }

    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.there()?.get(id, parts, now).await
    }

    async fn get_of(
        &self,
        owner: &Owner,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.there()?.get_of(owner, id, parts, now).await
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        self.there()?.list(filter, now).await
    }

    async fn live(
        &self,
        after: Option<JobId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<LivePage, StoreError> {
        self.there()?.live(after, limit, now).await
    }

    async fn bytes_of(&self, id: JobId, now: Timestamp) -> Result<Option<u64>, StoreError> {
        self.there()?.bytes_of(id, now).await
    }

    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        self.there()?.claim_callbacks(now, until, limit).await
    }

    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        self.there()?.note_callback(id, tried, at).await
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        self.there()?.expire_at(id, at).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        self.there()?.expire(now).await
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        let store = self.place.store.get();
        store.map_or_else(StoreUsage::default, |store| store.usage(owner))
    }

    fn failure(&self) -> Option<StoreError> {
        self.place.store.get().and_then(Store::failure)
    }

    async fn close(&self) -> Result<(), StoreError> {
        if let Some(opening) = self.give_up() {
            // It was aborted, or has ended before.
            let _ = opening.await;
        }
        match self.place.store.get() {
            Some(store) => store.close().await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl SharedStore for LateShard {
    async fn join(&self, url: &Text, lease_time: Duration) -> Result<NodeId, StoreError> {
        self.there()?.join(url, lease_time).await
    }

    async fn reserve_ids_from(&self, least: JobId, count: u32) -> Result<IdBlock, StoreError> {
        self.there()?.reserve_ids_from(least, count).await
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.there()?.leave().await
    }

    async fn serve(&self, patterns: &[Text]) -> Result<(), StoreError> {
        self.there()?.serve(patterns).await
    }

    async fn claim(
        &self,
        wanted: &[Wanted],
        limit: usize,
        ageing: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.there()?.claim(wanted, limit, ageing, now).await
    }

    async fn beat(&self) -> Result<Beat, StoreError> {
        self.there()?.beat().await
    }

    async fn take_over(&self, limit: usize) -> Result<Vec<Orphan>, StoreError> {
        self.there()?.take_over(limit).await
    }

    async fn running(&self) -> Result<Vec<Orphan>, StoreError> {
        self.there()?.running().await
    }

    async fn watch(
        &self,
        ids: &[JobId],
        now: Timestamp,
    ) -> Result<Vec<(JobId, State)>, StoreError> {
        self.there()?.watch(ids, now).await
    }

    /// Those of the time from when the database is there.
    async fn hint(&self, hint: Hint) {
        self.place.store.wait().await.hint(hint).await;
    }

    async fn agree(&self, name: &str, value: &[u8]) -> Result<Bytes, StoreError> {
        self.there()?.agree(name, value).await
    }

    async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        self.there()?.nodes().await
    }

    fn waiting(&self, owner: &Owner) -> WaitingCounts {
        let store = self.place.store.get();
        store.map_or_else(WaitingCounts::default, |store| store.waiting(owner))
    }
}
