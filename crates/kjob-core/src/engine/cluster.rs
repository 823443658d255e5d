//! One of several engines on a [shared store](SharedStore).
//!
//! The store has the queue: what waits is in no memory, and each engine claims as much as it has places
//! for. What an engine runs is its own for as long as its node's lease lasts.
//!
//! **The rule of the lease.** An engine begins handlers only while it can prove its lease, by its own
//! clock that is never set and from the moment at which the renewal was called. When it cannot, it starts
//! nothing, tells what runs to stop, and joins anew, as another node, once all of that is over. What the
//! old node's runs still bring to the store is accepted or refused by the job's lease number alone.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use kjob_proto::Text;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::store_clock::{Reading, StoreClock};
use super::twin::Twin;
use super::watching::Watching;
use super::{Engine, EngineConfig, Inner, Registry, beat, claim, watching};
use crate::{Clock, JobId, Node, Placement, Shard, ShardedStore, SharedStore, Store, StoreError};

/// How an engine is one of several.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterConfig {
    /// Where clients reach this node.
    pub url: Text,
    /// How long others take this node for alive without hearing of it. Default 10 s.
    pub lease_time: Duration,
    /// How often the lease is renewed, which is also when a cancel from another node is heard. Default
    /// 500 ms.
    pub beat_interval: Duration,
    /// The shortest wait until the queue is looked at again, where it had something. Default 10 ms; it
    /// doubles while there is nothing.
    pub poll_min: Duration,
    /// The longest. Default 250 ms.
    pub poll_max: Duration,
}

impl ClusterConfig {
    /// The defaults, for a node that clients reach at `url`.
    pub fn new(url: impl Into<Text>) -> Self {
        Self {
            url: url.into(),
            lease_time: Duration::from_secs(10),
            beat_interval: Duration::from_millis(500),
            poll_min: Duration::from_millis(10),
            poll_max: Duration::from_millis(250),
        }
    }
}

/// What an engine has beyond others if it is one of several: this for each shard of the store.
pub(super) struct Clusters {
    placement: Placement,
    each: Vec<Cluster>,
    /// What all of this engine goes by.
    pub(super) clock: Arc<StoreClock>,
    /// The shard whose clock that is set by. Held while it is set, as shards answer at the same time.
    heard: Mutex<Option<Shard>>,
    /// Whose turn it is, where any shard will do.
    turn: AtomicUsize,
    /// Whose turn it is to look for jobs first. Not the same: jobs would go to where the looks leave it.
    look: AtomicUsize,
}

/// One of several engines on a shard.
pub(super) struct Cluster {
    pub(super) shard: Shard,
    pub(super) store: Arc<dyn SharedStore>,
    pub(super) config: ClusterConfig,
    /// What may run by the lease on this shard, and must be over before there is another one.
    runs: TaskTracker,
    /// Told when there may be something to claim.
    pub(super) work: Notify,
    pub(super) watching: Watching,
    /// Whether there was no place, or none of a route, when it last looked for jobs: some may wait for one. Of all
    /// that comes later it is told.
    pub(super) was_denied: AtomicBool,
    /// Until when the lease is proved; `None` if it is lost.
    trusted_until: Mutex<Option<Instant>>,
    /// Told when this engine is to be a node no more.
    pub(super) left: CancellationToken,
    nodes: RwLock<Arc<[Node]>>,
    twin: Mutex<Twin>,
}

impl Cluster {
    fn new(shard: Shard, store: Arc<dyn SharedStore>, config: ClusterConfig) -> Self {
        Self {
            shard,
            store,
            config,
            runs: TaskTracker::new(),
            work: Notify::new(),
            watching: Watching::default(),
            was_denied: AtomicBool::new(false),
            trusted_until: Mutex::new(None),
            left: CancellationToken::new(),
            nodes: RwLock::new(Arc::new([])),
            twin: Mutex::new(Twin::default()),
        }
    }

    /// Notes that the lease was made or renewed, by a call that began then.
    pub(super) fn trust(&self, called: Instant) {
        *self.trusted() = Some(called + self.config.lease_time);
    }

    /// The lease cannot be proved any more.
    pub(super) fn lose(&self) {
        *self.trusted() = None;
    }

    /// Until when the lease is proved.
    pub(super) fn trusted_until(&self) -> Option<Instant> {
        *self.trusted()
    }

    /// Whether there is a lease that was not given up; it may have ended since it was last proved.
    pub(super) fn has_lease(&self) -> bool {
        self.trusted_until().is_some()
    }

    /// Whether the lease is proved now.
    pub(super) fn is_trusted(&self) -> bool {
        self.trusted_until()
            .is_some_and(|until| Instant::now() < until)
    }

    /// Completes when the lease can no longer be proved.
    pub(super) async fn lost(&self) {
        while let Some(until) = self.trusted_until().filter(|it| *it > Instant::now()) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// What is held by whoever may begin, or runs, a job of this shard.
    pub(super) fn running(&self) -> TaskTrackerToken {
        self.runs.token()
    }

    /// Completes when nothing of this shard runs here any more.
    pub(super) async fn idle(&self) {
        self.runs.close();
        self.runs.wait().await;
    }

    pub(super) fn set_nodes(&self, nodes: Vec<Node>) {
        let ClusterConfig {
            url, lease_time, ..
        } = &self.config;
        let mut twin = self.twin.lock().unwrap_or_else(PoisonError::into_inner);
        if twin.look(url, &nodes, *lease_time) {
            tracing::warn!(
                shard = %self.shard,
                %url,
                "another node says that it is reached at the same URL: clients take both for one, and do not fail \
                 over from one to the other; give each a public_url of its own, unless a load balancer is there"
            );
        }
        drop(twin);
        let mut known = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        *known = nodes.into();
    }

    fn nodes(&self) -> Arc<[Node]> {
        let known = self.nodes.read();
        Arc::clone(&known.unwrap_or_else(PoisonError::into_inner))
    }

    fn trusted(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.trusted_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clusters {
    fn new(
        placement: Placement,
        shards: &[Arc<dyn SharedStore>],
        config: &ClusterConfig,
        clock: Arc<StoreClock>,
    ) -> Self {
        let cluster = |(number, store): (usize, &Arc<dyn SharedStore>)| {
            let shard = Shard::new(number).unwrap_or_default();
            Cluster::new(shard, store.clone(), config.clone())
        };
        Self {
            placement,
            each: shards.iter().enumerate().map(cluster).collect(),
            clock,
            heard: Mutex::new(None),
            turn: AtomicUsize::new(0),
            look: AtomicUsize::new(0),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.each.len()
    }

    /// That of the shard which has the job.
    fn of(&self, id: JobId) -> Option<&Cluster> {
        self.each.get(self.placement.shard_of_id(id).number())
    }

    /// Any shard, in turns; one whose lease is proved if there is one.
    fn any(&self) -> Shard {
        if let [alone] = &self.each[..] {
            return alone.shard;
        }
        let mut in_turn = self.in_turn(&self.turn);
        let first = in_turn.clone().next();
        let trusted = in_turn.find(|cluster| cluster.is_trusted());
        trusted.or(first).map(|it| it.shard).unwrap_or_default()
    }

    /// All of them, a different one first each time.
    fn in_turn(&self, turn: &AtomicUsize) -> impl Iterator<Item = &Cluster> + Clone {
        let turn = turn.fetch_add(1, Ordering::Relaxed) % self.each.len().max(1);
        self.each.iter().cycle().skip(turn).take(self.each.len())
    }

    /// Takes in what this shard's clock showed, if that is the one which the engine goes by: the first that was
    /// ever heard. While that is away its difference to the own clock stays as it was, as clocks of shards may be
    /// far apart. Looked at now and not when the shard was asked, as one before it may have been joined since.
    ///
    /// A lease that is new, by a call that began at `joined`, is trusted from here on, and not before the clock is
    /// right: others may be at work here, and would begin by the old one.
    pub(super) fn hear(&self, cluster: &Cluster, readings: &[Reading], joined: Option<Instant>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.is_none_or(|heard| cluster.shard <= heard) && !readings.is_empty() {
            *heard = Some(cluster.shard);
            for reading in readings {
                self.clock.hear(*reading);
            }
        }
        if let Some(called) = joined {
            cluster.trust(called);
        }
    }
}

impl Engine {
    /// Starts an engine that is one of several on a store.
    ///
    /// It joins as a node, runs what is submitted to it and what it claims of all that waits, takes over
    /// from nodes whose lease has ended, and answers for all jobs. All times of jobs are of the store's
    /// clock: `clock` only has to go as fast as that, and may show another time.
    ///
    /// # Errors
    /// The store's.
    pub async fn open_shared(
        store: Arc<dyn SharedStore>,
        registry: Registry,
        config: EngineConfig,
        cluster: ClusterConfig,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Result<Self, StoreError> {
        let clock = Arc::new(StoreClock::new(clock));
        let shards = [store.clone()];
        let clusters = Clusters::new(Placement::alone(), &shards, &cluster, clock.clone());
        let inner = Inner::new(store, registry, config, Some(clusters), clock, seed);
        for cluster in inner.clusters() {
            inner.join(cluster).await?;
        }
        Ok(Self::begin_shared(inner))
    }

    /// As [`open_shared`](Self::open_shared), on a store of several shards.
    ///
    /// It has a lease on each. One that it cannot prove stops the jobs of that shard and no others. Jobs without
    /// a tag of their own go to shards whose leases are proved. Times are of the clock of the first shard; of the
    /// next until that was joined once.
    ///
    /// It starts where one shard at least can be joined, and joins the others as soon as they can be.
    ///
    /// # Errors
    /// The store's, of the first shard, if none can be joined.
    pub async fn open_sharded(
        store: ShardedStore,
        registry: Registry,
        config: EngineConfig,
        cluster: ClusterConfig,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Result<Self, StoreError> {
        let clock = Arc::new(StoreClock::new(clock));
        let placement = store.placement().clone();
        let clusters = Clusters::new(placement, store.shards(), &cluster, clock.clone());
        let store: Arc<dyn Store> = Arc::new(store);
        let inner = Inner::new(store, registry, config, Some(clusters), clock, seed);
        inner.join_some().await?;
        Ok(Self::begin_shared(inner))
    }

    fn begin_shared(inner: Arc<Inner>) -> Self {
        for shard in inner.clusters().iter().map(|cluster| cluster.shard) {
            let with = || inner.clone();
            with().in_background(beat::keep_alive(with(), shard));
            with().in_background(beat::take_over(with(), shard));
            with().in_background(claim::claim(with(), shard));
            with().in_background(watching::keep_watch(with(), shard));
        }
        inner
            .clone()
            .in_background(super::expiry::expire(inner.clone()));
        Self { inner }
    }

    /// The nodes that share the store, this one included, as far as was heard last; none if it shares it
    /// with nobody.
    pub fn nodes(&self) -> Arc<[Node]> {
        match self.inner.clusters() {
            [] => Arc::new([]),
            [one] => one.nodes(),
            // Each shard knows a node by another id, and those alone that have a lease on it.
            several => {
                let is_any_held = several.iter().any(Cluster::is_trusted);
                let current = several.iter().filter(|it| !is_any_held || it.is_trusted());
                let mut nodes: Vec<Node> = Vec::new();
                for node in current.flat_map(|it| it.nodes().to_vec()) {
                    if !nodes.iter().any(|known| known.url == node.url) {
                        nodes.push(node);
                    }
                }
                nodes.into()
            }
        }
    }

    /// Whether it may start jobs as far as other nodes go: it shares its store with nobody, or can prove
    /// that the others take it for alive, on one shard at least.
    pub fn has_lease(&self) -> bool {
        let clusters = self.inner.clusters();
        clusters.is_empty() || clusters.iter().any(Cluster::is_trusted)
    }

    /// Of which shards it can prove the lease, by their numbers; none if it shares its store with nobody.
    pub fn leases(&self) -> Vec<bool> {
        let clusters = self.inner.clusters();
        clusters.iter().map(Cluster::is_trusted).collect()
    }
}

impl Inner {
    /// Whether other engines may be on the store.
    pub(super) fn is_shared(&self) -> bool {
        self.clusters.is_some()
    }

    /// One for each shard; none if the store is shared with nobody.
    pub(super) fn clusters(&self) -> &[Cluster] {
        self.clusters
            .as_ref()
            .map_or(&[], |clusters| &clusters.each)
    }

    pub(super) fn cluster(&self, shard: Shard) -> Option<&Cluster> {
        self.clusters().get(shard.number())
    }

    /// That of the shard which has the job; `None` if the store is shared with nobody.
    pub(super) fn cluster_of(&self, id: JobId) -> Option<&Cluster> {
        self.clusters.as_ref().and_then(|clusters| clusters.of(id))
    }

    /// How long others take this node for alive, if there are others.
    pub(super) fn lease_time(&self) -> Option<Duration> {
        self.clusters().first().map(|it| it.config.lease_time)
    }

    /// Whether jobs are spread over several shards, each of which may be away by itself.
    pub(super) fn is_sharded(&self) -> bool {
        self.clusters().len() > 1
    }

    /// A place is free: has those shards look for jobs that had none, a different one first each time.
    pub(super) fn look_for_denied(&self) {
        let Some(clusters) = &self.clusters else {
            return;
        };
        for cluster in clusters.in_turn(&clusters.look) {
            if cluster.was_denied.swap(false, Ordering::AcqRel) {
                cluster.work.notify_one();
            }
        }
    }

    /// Where a job goes for which any shard will do.
    pub(super) fn any_shard(&self) -> Shard {
        self.clusters
            .as_ref()
            .map(Clusters::any)
            .unwrap_or_default()
    }

    /// Whether the handler of this job may begin here.
    pub(super) fn has_lease_for(&self, id: JobId) -> bool {
        self.cluster_of(id).is_none_or(Cluster::is_trusted)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
