//! The engine: takes submits, runs handlers, and answers for jobs. On tokio.
//!
//! **The contract in short.** A submit is durable when it is answered. A start is durable before
//! its handler runs, in one commit with the submit if a worker is free. An end is durable before
//! anybody is told of it. The store decides every race; the engine mirrors what it answers.
//!
//! **Dropping a future** of the engine's methods never leaves a job in between: what was begun
//! goes on by itself.
//!
//! ```
//! use kjob_core::engine::{Caller, Engine, EngineConfig, HandlerError, JobContext, JobKey};
//! use kjob_core::engine::{Registry, RouteOptions, Submission, SystemClock};
//! use kjob_core::{Ending, MemoryStore, Output, Owner, Payload};
//! use std::{sync::Arc, time::Duration};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! async fn shout(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
//!     Ok(Payload::binary(payload.data.to_ascii_uppercase()))
//! }
//! let mut registry = Registry::default();
//! registry.route("/shout", shout, RouteOptions::default())?;
//!
//! let store = Arc::new(MemoryStore::new());
//! let engine = Engine::open(store, registry, EngineConfig::default(), Arc::new(SystemClock), 7).await?;
//!
//! let ann = Owner::new("ann");
//! let call = Submission::new(ann.clone(), "/shout", Payload::binary("hello"));
//! let accepted = engine.submit(call).await?;
//!
//! let caller = Caller::user(ann);
//! let job = engine.wait(&caller, &JobKey::Id(accepted.id), Duration::from_secs(5)).await?;
//! let ending = job.and_then(|job| job.ending);
//! assert_eq!(ending, Some(Ending::Done(Output::binary("HELLO"))));
//! engine.shut_down(Duration::ZERO).await?;
//! # Ok(()) }
//! ```

mod beat;
mod blocking;
mod budget;
mod call;
mod callbacks;
mod cancel;
mod claim;
mod clock;
mod cluster;
mod config;
mod delayed;
mod doze;
mod expiry;
mod handler;
mod heavy;
mod ids;
mod live;
mod log;
mod observer;
mod payload;
mod place;
mod progress;
mod query;
mod recovery;
mod registry;
mod reroute;
mod room;
mod run;
mod schemas;
mod settle;
mod shares;
mod store_clock;
mod submission;
mod submit;
mod table;
mod to_end;
mod twin;
mod watching;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use blocking::Blocking;
pub use cancel::CancelOutcome;
pub use clock::{ManualClock, SystemClock};
pub use cluster::ClusterConfig;
pub use config::EngineConfig;
pub use handler::{Attachment, Handler, HandlerError, JobContext, JobInfo};
pub use heavy::HeavyWork;
pub use observer::{LeaseEvent, Observer, RouteObserver};
pub use query::{Caller, JobKey};
pub(crate) use registry::parse_pattern;
pub use registry::{Interrupted, Registry, RouteError, RouteOptions};
pub use schemas::Schemas;
pub use submission::{Accepted, Submission, SubmitError};

use budget::Budget;
use cluster::Clusters;
use ids::Ids;
use live::Stop;
use registry::{Route, RouteIds};
use room::Room;
use table::LiveTable;

use crate::{Clock, Owner, Store, StoreError, StoreUsage, Timestamp};

/// What a refused submit is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A running engine. Clones are the same engine.
///
/// It stops when it is [shut down](Engine::shut_down); dropping the handles alone does not stop
/// the jobs that run.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What all tasks of an engine share.
pub(crate) struct Inner {
    store: Arc<dyn Store>,
    registry: RwLock<Arc<Registry>>,
    /// Held while routes are replaced.
    route_ids: Mutex<RouteIds>,
    config: EngineConfig,
    clock: Arc<dyn Clock>,
    table: LiveTable,
    /// Of an engine that is one of several on its store.
    clusters: Option<Clusters>,
    /// Held while the jobs that doze are brought to other routes: one change of routes after the other.
    rerouting: tokio::sync::Mutex<()>,
    room: Room,
    budget: Budget,
    ids: Ids,
    rng: Mutex<StdRng>,
    draining: AtomicBool,
    /// Told when the time to drain is over: runs that begin now stop at once.
    interrupting: CancellationToken,
    /// Ends the tasks that run beside the jobs.
    closed: CancellationToken,
    /// Told when a step found that the store cannot be written to any more.
    store_failed: CancellationToken,
    /// Told when a callback may be due.
    callbacks: Notify,
    /// Told of jobs whose endpoint no route takes.
    unrouted: Arc<dyn RouteObserver>,
}

/// How busy an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Jobs that wait, those on their way into the store included.
    pub queued: usize,
    /// Those of them that are not to be started before a moment that is yet to come.
    pub delayed: usize,
    /// Jobs that have not ended; of an engine that is one of several, those that it runs or that somebody
    /// waits for here.
    pub live: usize,
    /// Those of them that are whole in memory.
    pub whole: usize,
    /// Handlers that run.
    pub running: usize,
    /// Those of them whose job has ended, but which hold on to their thread: each takes the place
    /// of a job until it returns.
    pub stuck: usize,
    /// Whether new jobs are refused.
    pub draining: bool,
}

impl Engine {
    /// Starts an engine on a store: takes up what the store holds, then takes submits.
    ///
    /// Queued jobs are queued again, jobs that ran when the store was last used follow their
    /// route's rule for interrupted runs. `seed` feeds tags, query ids and jitter; hand in a
    /// random one but in tests. The store must not be in use by another engine.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(
        store: Arc<dyn Store>,
        registry: Registry,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Result<Self, StoreError> {
        let inner = Inner::new(store, registry, config, None, clock, seed);
        recovery::take_up(&inner).await?;
        inner.clone().in_background(release_delayed(inner.clone()));
        inner.clone().in_background(expiry::expire(inner.clone()));
        Ok(Self { inner })
    }

    /// Refuses new jobs and starts no queued ones; those that run go on.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::SeqCst);
        self.inner.room.close();
    }

    /// Drains, gives running jobs `timeout` to end, and interrupts the rest by their route's rule
    /// (which costs a job that is retried no attempt). A handler that blocks its thread is not
    /// waited for. The store stays open: jobs can be looked at until [`shut_down`](Engine::shut_down).
    pub async fn stop_running(&self, timeout: Duration) {
        let inner = &self.inner;
        self.drain();
        tokio::select! {
            biased;
            () = inner.room.idle() => {}
            () = inner.clock.sleep(timeout) => {
                inner.interrupting.cancel();
                inner.table.for_each(|live| live.stop(Stop::Drain));
                match inner.lease_time() {
                    None => inner.room.idle().await,
                    // A store that does not answer holds up nobody for longer than its lease: what has not come
                    // to its end by then is for others to take over.
                    Some(long) => drop(tokio::time::timeout(long, inner.room.idle()).await),
                }
            }
        }
    }

    /// [Stops what runs](Engine::stop_running), and closes the store.
    ///
    /// # Errors
    /// The store's, on closing; and [`store_failure`](Engine::store_failure), as ends may then not
    /// have been stored.
    pub async fn shut_down(&self, timeout: Duration) -> Result<(), StoreError> {
        let inner = &self.inner;
        self.stop_running(timeout).await;
        inner.leave().await;
        inner.closed.cancel();
        let failure = inner.store.failure();
        inner.store.close().await?;
        failure.map_or(Ok(()), Err)
    }

    /// How busy it is.
    pub fn stats(&self) -> EngineStats {
        let (mut queued, delayed, running, stuck) = self.inner.room.counts();
        let elsewhere = self.inner.waiting_elsewhere(&Owner::anonymous()).total;
        queued = queued.saturating_add(usize::try_from(elsewhere).unwrap_or(usize::MAX));
        EngineStats {
            queued,
            delayed,
            live: self.inner.table.len(),
            whole: self.inner.table.whole(),
            running,
            stuck,
            draining: self.inner.is_draining(),
        }
    }

    /// Since when the job has waited that has done so for longest, of those at the head of their
    /// owners' queues: since it was queued last, or since the engine was opened. Jobs that are not to
    /// be started yet do not count.
    pub fn waiting_since(&self) -> Option<Timestamp> {
        self.inner.room.waiting_since()
    }

    /// How much is stored, in all and of `owner`.
    pub fn usage(&self, owner: &Owner) -> StoreUsage {
        self.inner.store.usage(owner)
    }

    /// Why the store cannot be written to any more; then nothing can be submitted or ended until
    /// the process is started anew.
    pub fn store_failure(&self) -> Option<StoreError> {
        self.inner.store.failure()
    }

    /// Completes with [`store_failure`](Engine::store_failure) as soon as a step has met it.
    pub async fn store_failed(&self) -> StoreError {
        self.inner.store_failed.cancelled().await;
        self.store_failure().unwrap_or(StoreError::Closed)
    }

    /// The limits and times it works with.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// Whether a route takes the endpoint.
    pub fn serves(&self, endpoint: &str) -> bool {
        self.inner.registry().serves(endpoint)
    }
}

impl Inner {
    fn new(
        store: Arc<dyn Store>,
        mut registry: Registry,
        config: EngineConfig,
        clusters: Option<Clusters>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Arc<Self> {
        let budget = Budget::new(&config);
        let mut route_ids = RouteIds::default();
        // It has as many routes as it has ids, so there are enough.
        let _ = registry.renumber(&mut route_ids);
        registry.observe(config.observer.as_deref());
        let room = Room::new(&config, &registry.limits(), clusters.is_some());
        let shards = clusters.as_ref().map_or(1, Clusters::count);
        Arc::new(Self {
            ids: Ids::new(store.clone(), shards, config.id_block),
            store,
            registry: RwLock::new(Arc::new(registry)),
            route_ids: Mutex::new(route_ids),
            unrouted: observer::of(config.observer.as_deref(), None),
            config,
            clock,
            table: LiveTable::new(),
            clusters,
            rerouting: tokio::sync::Mutex::default(),
            room,
            budget,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            draining: AtomicBool::new(false),
            interrupting: CancellationToken::new(),
            closed: CancellationToken::new(),
            store_failed: CancellationToken::new(),
            callbacks: Notify::new(),
        })
    }

    fn registry(&self) -> Arc<Registry> {
        let registry = self.registry.read();
        registry.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The route that an endpoint has now.
    fn route_of(&self, endpoint: &str) -> Option<Route> {
        self.registry().find(endpoint).cloned()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Tells of a job whom its endpoint's route now tells.
    fn tell(&self, endpoint: &str, tell: impl FnOnce(&dyn RouteObserver)) {
        let registry = self.registry();
        let route = registry.find(endpoint);
        tell(&**route.map_or(&self.unrouted, |route| &route.observer));
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    fn is_interrupting(&self) -> bool {
        self.interrupting.is_cancelled()
    }

    /// A step of the store, whose errors may mean that it has failed for good.
    async fn step<T, E>(&self, step: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let outcome = step.await;
        if outcome.is_err() && self.store.failure().is_some() {
            self.store_failed.cancel();
        }
        outcome
    }

    /// Waits before a step of the store is tried again; not long if there is no time.
    async fn pause_between_tries(&self, wait: Duration) {
        tokio::select! {
            biased;
            () = self.interrupting.cancelled() => {}
            () = self.clock.sleep(wait) => {}
        }
    }

    fn with_rng<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `task` until it ends or the engine is closed.
    fn in_background(self: Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(async move { self.closed.run_until_cancelled(task).await });
    }
}

/// Brings delayed jobs into the queue when their time has come: one timer for all of them.
async fn release_delayed(inner: Arc<Inner>) {
    loop {
        let next = inner.room.release_delayed(inner.now());
        inner.dispatch();
        match next {
            None => inner.room.delayed.notified().await,
            Some(at) => tokio::select! {
                biased;
                () = inner.clock.sleep_until(at) => {}
                () = inner.room.delayed.notified() => {}
            },
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
