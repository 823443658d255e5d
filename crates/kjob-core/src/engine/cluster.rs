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
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use kjob_proto::Text;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::store_clock::StoreClock;
use super::watching::Watching;
use super::{Engine, EngineConfig, Inner, Registry, beat, claim, watching};
use crate::{Clock, Node, SharedStore, StoreError};

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

/// What an engine has beyond others if it is one of several.
pub(super) struct Cluster {
    pub(super) store: Arc<dyn SharedStore>,
    pub(super) config: ClusterConfig,
    /// What all of this engine goes by.
    pub(super) clock: Arc<StoreClock>,
    /// Told when there may be something to claim.
    pub(super) work: Notify,
    pub(super) watching: Watching,
    /// Until when the lease is proved; `None` if it is lost.
    trusted_until: Mutex<Option<Instant>>,
    nodes: RwLock<Arc<[Node]>>,
}

impl Cluster {
    fn new(store: Arc<dyn SharedStore>, config: ClusterConfig, clock: Arc<StoreClock>) -> Self {
        Self {
            store,
            config,
            clock,
            work: Notify::new(),
            watching: Watching::default(),
            trusted_until: Mutex::new(None),
            nodes: RwLock::new(Arc::new([])),
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

    /// Whether the lease is proved now.
    pub(super) fn is_trusted(&self) -> bool {
        self.trusted_until()
            .is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn set_nodes(&self, nodes: Vec<Node>) {
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
        let cluster = Cluster::new(store.clone(), cluster, clock.clone());
        let inner = Inner::new(store, registry, config, Some(cluster), clock, seed);
        inner.join().await?;
        inner.clone().in_background(beat::keep_alive(inner.clone()));
        inner.clone().in_background(beat::take_over(inner.clone()));
        inner.clone().in_background(claim::claim(inner.clone()));
        inner
            .clone()
            .in_background(watching::keep_watch(inner.clone()));
        inner.clone().in_background(super::expire(inner.clone()));
        Ok(Self { inner })
    }

    /// The nodes that share the store, this one included, as far as was heard last; none if it shares it
    /// with nobody.
    pub fn nodes(&self) -> Arc<[Node]> {
        let cluster = self.inner.cluster.as_ref();
        cluster.map_or_else(|| Arc::new([]) as Arc<[Node]>, Cluster::nodes)
    }

    /// Whether it may start jobs as far as other nodes go: it shares its store with nobody, or can prove
    /// that the others take it for alive.
    pub fn has_lease(&self) -> bool {
        self.inner.has_lease()
    }
}

impl Inner {
    /// Whether handlers may begin here.
    pub(super) fn has_lease(&self) -> bool {
        self.cluster.as_ref().is_none_or(Cluster::is_trusted)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
