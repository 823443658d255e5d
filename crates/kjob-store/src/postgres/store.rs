//! The store's handle.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use kjob_core::{
    CallbackState, CallbackTry, ClaimedCallbacks, Expired, Filter, Finish, IdBlock, Job, JobId,
    JobTag, Lease, NewJob, Owner, Page, Parts, SharedStore, Started, State, StepError, Store,
    StoreError, StoreUsage, Submitted, Timestamp,
};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::connect::{Connector, Purpose};
use super::hints;
use super::lanes::Lane;
use super::session::Link;
use super::shard_set::ShardSet;
use super::shared::{Shared, TALLIES};
use super::{Description, OpenError, PostgresOptions, describe, schema};

/// Jobs in a database that speaks PostgreSQL's protocol. Each handle is one of many, in this process or in
/// others; what one has answered, all see.
///
/// Connections live in a thread of their own and are made anew when they are lost; steps that were under
/// way then get an error that [leaves unknown](StoreError::leaves_unknown) whether they were done.
///
/// Dropping the handle finishes what was asked for, in the background; [`close`](Store::close) waits for it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use kjob_core::Store;
/// use kjob_store::postgres::{PostgresOptions, PostgresStore};
///
/// let url = "postgresql://kjob@db1,db2/kjob?sslmode=require";
/// PostgresStore::migrate(url, &PostgresOptions::default()).await?;
/// let store = PostgresStore::open(url, PostgresOptions::default()).await?;
/// let mut ids = store.reserve_ids(100).await?;
/// assert!(ids.take().is_some());
/// # Ok(()) }
/// ```
pub struct PostgresStore {
    pub(crate) shared: Arc<Shared>,
    background: Background,
}

impl PostgresStore {
    /// Opens a database that [`migrate`](Self::migrate) has prepared. Of several hosts in the URL it takes
    /// one that can be written to.
    ///
    /// # Errors
    /// An [`OpenError`] that says what is in the way.
    pub async fn open(url: &str, options: PostgresOptions) -> Result<Self, OpenError> {
        let store = Self::open_any(url, options).await?;
        match store.set().among_others() {
            Some((shard, size)) => Err(OpenError::OneOfSeveral { shard, size }),
            None => Ok(store),
        }
    }

    /// The set that it was in when it was opened.
    pub(super) fn set(&self) -> &ShardSet {
        &self.shared.shards.set
    }

    /// As [`open`](Self::open), of a set or of none.
    pub(super) async fn open_any(url: &str, options: PostgresOptions) -> Result<Self, OpenError> {
        let mut background = Background::start()?;
        let connector = Connector::new(url, &options, background.runtime.clone())?;
        let schema = {
            let client = connector.connect(Purpose::Read).await?;
            let checking = background
                .runtime
                .spawn(async move { schema::check(&client).await });
            checking.await.map_err(|_| StoreError::Closed)??
        };
        let link = |purpose| Link::new(connector.clone(), purpose, options.tries_max);
        let readers = (0..options.readers.max(1))
            .map(|_| link(Purpose::Read))
            .collect();
        let writer = link(Purpose::Write);
        let handle = next_number(&writer, "handle", 1).await?;
        let lanes = i64::try_from(options.lanes)
            .unwrap_or(TALLIES)
            .clamp(1, TALLIES - 1);
        let shared = Shared::new(
            options.clone(),
            handle,
            schema,
            readers,
            writer,
            link(Purpose::Read),
        );
        shared.refresh_usage(true).await?;
        let running = (0..lanes).map(|number| {
            let lane = Lane {
                link: link(Purpose::Write),
                tally: shared.tally_of(number),
                shared: Arc::clone(&shared),
                from: |shared| &shared.gathering,
            };
            background.runtime.spawn(lane.run())
        });
        let mut running: Vec<_> = running.collect();
        // Its plans are made once, as those of what is written.
        let gets = Lane {
            link: link(Purpose::Write),
            tally: shared.own_tally(),
            shared: Arc::clone(&shared),
            from: |shared| &shared.gets,
        };
        running.push(background.runtime.spawn(gets.run()));
        background.lanes(running);
        background.runtime.spawn(look_around(Arc::clone(&shared)));
        background.runtime.spawn(hints::speak(Arc::clone(&shared)));
        let listening = hints::listen(Arc::clone(&shared), connector.clone());
        background.runtime.spawn(listening);
        Ok(Self { shared, background })
    }

    /// Brings the tables of a database to the version that this program works with, and makes them if there
    /// are none; gives the versions that it went through. They are made where the connection's `search_path`
    /// leads (`?options=-c%20search_path%3Dkjob` in the URL).
    ///
    /// # Errors
    /// The database cannot be reached, or does not let us; it is as it was.
    pub async fn migrate(url: &str, options: &PostgresOptions) -> Result<Vec<i64>, OpenError> {
        migrate(url, options, true).await
    }

    /// As [`migrate`](Self::migrate), with all ended jobs in one table, as databases without partitions of
    /// PostgreSQL's kind have it: expired jobs are then deleted row by row.
    ///
    /// # Errors
    /// As of [`migrate`](Self::migrate).
    pub async fn migrate_without_partitions(
        url: &str,
        options: &PostgresOptions,
    ) -> Result<Vec<i64>, OpenError> {
        migrate(url, options, false).await
    }

    /// Looks at a database without opening a store in it, and changes nothing.
    ///
    /// # Errors
    /// It cannot be reached, or does not let us in. That its tables are not there, or not of this program's
    /// version, is in the description.
    pub async fn describe(url: &str, options: &PostgresOptions) -> Result<Description, OpenError> {
        let background = Background::start()?;
        let connector = Connector::new(url, options, background.runtime.clone())?;
        let client = connector.connect(Purpose::Read).await?;
        let describing = background
            .runtime
            .spawn(async move { describe::describe(&client).await });
        describing.await.map_err(|_| StoreError::Closed)?
    }

    /// Looks now at what other processes have stored, for [`usage`](Store::usage) and
    /// [`waiting`](kjob_core::SharedStore::waiting), which otherwise learn of it within a second.
    ///
    /// # Errors
    /// The database's.
    pub async fn refresh_usage(&self) -> Result<(), StoreError> {
        self.shared.refresh_usage(true).await
    }

    /// How many batches were written so far; with the number of steps it says how many go together.
    pub fn batches(&self) -> u64 {
        self.shared.gathering.batches()
    }
}

async fn migrate(
    url: &str,
    options: &PostgresOptions,
    partitioned: bool,
) -> Result<Vec<i64>, OpenError> {
    let background = Background::start()?;
    let connector = Connector::new(url, options, background.runtime.clone())?;
    let client = connector.connect(Purpose::Read).await?;
    let migrating = background
        .runtime
        .spawn(async move { schema::migrate(&client, partitioned).await });
    migrating.await.map_err(|_| StoreError::Closed)?
}

/// The next of the numbers with a name, of which so many are taken.
async fn next_number(link: &Link, name: &'static str, count: i64) -> Result<i64, StoreError> {
    let take = "UPDATE kjob_counters SET next = next + $2 WHERE name = $1 RETURNING next - $2";
    let rows = link.query("take a number", take, &[&name, &count]).await?;
    let damaged = || super::error::corrupt(format!("the counter {name}"));
    rows.first().map(|row| row.get(0)).ok_or_else(damaged)
}

impl Shared {
    /// Takes nothing more.
    fn close(&self) {
        self.gathering.close();
        self.gets.close();
        self.hints.close();
    }

    pub(crate) async fn take_numbers(
        &self,
        name: &'static str,
        count: i64,
    ) -> Result<i64, StoreError> {
        if self.gathering.is_closed() {
            return Err(StoreError::Closed);
        }
        next_number(&self.writer, name, count).await
    }
}

/// Looks again and again at what others have stored, until the store is closed.
async fn look_around(shared: Arc<Shared>) {
    /// Owners whom nobody asks about are looked at now and then only, as there may be many.
    const OF_EVERYONE: u32 = 60;
    let mut round = 0_u32;
    while !shared.gathering.is_closed() {
        tokio::time::sleep(shared.options.usage_refresh).await;
        round = (round + 1) % OF_EVERYONE;
        let seen = match round {
            0 => shared.fold_left_usage().await,
            _ => Ok(()),
        };
        let seen = seen.and(shared.refresh_usage(round == 0).await);
        if let Err(error) = seen {
            tracing::debug!("what others have stored is not known for now: {error}");
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        self.reserve_ids_from(JobId::FIRST, count).await
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        self.shared.submit(job, start).await
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        self.shared.start(id, at).await
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.shared.progress(id, lease, percent, at).await
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.shared.finish(id, lease, finish, at).await
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        self.shared.request_cancel(id, at).await
    }

    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        self.shared.find(owner, tag, now).await
    }

    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.shared.get(id, parts, now).await
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        self.shared.list(filter, now).await
    }

    async fn bytes_of(&self, id: JobId, now: Timestamp) -> Result<Option<u64>, StoreError> {
        self.shared.bytes_of(id, now).await
    }

    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        self.shared.claim_callbacks(now, until, limit).await
    }

    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        self.shared.note_callback(id, tried, at).await
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        self.shared.expire_at(id, at).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        self.shared.expire(now).await
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        self.shared.usage.usage(owner)
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.shared.gathering.is_closed() {
            return Ok(());
        }
        self.shared.close();
        self.background.idle().await;
        self.shared.release_callbacks().await?;
        self.shared.fold_own_usage().await?;
        for link in &self.shared.readers {
            link.close();
        }
        Ok(())
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("handle", &self.shared.handle)
            .finish_non_exhaustive()
    }
}

/// A thread with a runtime, on which connections live: so they do whatever else the program's own runtime
/// is busy with, and whatever that has.
pub(super) struct Background {
    pub(super) runtime: Handle,
    thread: Option<JoinHandle<()>>,
    /// Told to end, with the lanes that are to end before.
    end: Option<oneshot::Sender<()>>,
    lanes: Option<oneshot::Sender<Vec<tokio::task::JoinHandle<()>>>>,
    idle: watch::Receiver<bool>,
}

impl Background {
    pub(super) fn start() -> Result<Self, OpenError> {
        let failed = |source| OpenError::Thread { source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let (lanes, running) = oneshot::channel::<Vec<tokio::task::JoinHandle<()>>>();
        let (now_idle, idle) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("kjob-postgres".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    if let Ok(running) = running.await {
                        for lane in running {
                            // A lane that panicked has ended too.
                            let _ = lane.await;
                        }
                    }
                    now_idle.send_replace(true);
                    let _ = ended.await;
                });
            })
            .map_err(failed)?;
        Ok(Self {
            runtime: handle,
            thread: Some(thread),
            end: Some(end),
            lanes: Some(lanes),
            idle,
        })
    }

    fn lanes(&mut self, running: Vec<tokio::task::JoinHandle<()>>) {
        if let Some(lanes) = self.lanes.take() {
            // The thread ends only after this is dropped.
            let _ = lanes.send(running);
        }
    }

    /// Waits until all lanes have ended.
    async fn idle(&self) {
        let mut idle = self.idle.clone();
        // An error says that the thread has ended, and they with it.
        let _ = idle.wait_for(|idle| *idle).await;
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Without lanes there is nothing to wait for. The thread goes by itself: whoever drops this may be
        // on a runtime, which is not to be blocked.
        drop(self.lanes.take());
        drop(self.end.take());
        drop(self.thread.take());
    }
}
