//! Being alive for other nodes, and taking over from those that are not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Inner;
use super::cluster::{Cluster, Clusters};
use super::live::Stop;
use super::observer::LeaseEvent;
use super::store_clock::Reading;
use crate::{Beat, Hint, JobId, Lease, Phase, Shard, State, StoreError};

/// Jobs that are taken over at a time.
const TAKEN_OVER_MAX: usize = 256;

/// Why a job of a node that is gone fails, if it does.
const GONE: &str =
    "interrupted: the node that ran the job is gone, or was cut off; outcome unknown";

/// How many renewals there are to a look at who else is there.
const BEATS_TO_A_LOOK: u32 = 4;

/// A beat that takes no longer sets the clock well enough: it is then off by half of that at most.
const CLOCK_ERROR_MAX: Duration = Duration::from_millis(100);

/// How many beats a node that joins makes for one that is as quick, before it takes what it has.
const BEATS_TO_SET_A_CLOCK: u32 = 4;

/// Once one shard is joined, the others may take this part of its lease, which nobody renews so long.
const JOINED_WITHIN: u32 = 4;

/// What a beat tells of a lease that lasts.
struct Alive {
    /// What is to stop.
    cancelling: Vec<(JobId, Lease)>,
    /// What the store's clock showed.
    reading: Reading,
}

/// The lease ended before the node heard that it had begun.
fn too_late() -> StoreError {
    too_late_to("join the nodes of the store")
}

fn too_late_to(doing: &'static str) -> StoreError {
    StoreError::Io {
        doing,
        source: Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)),
    }
}

impl Inner {
    /// Becomes a node of a shard.
    pub(super) async fn join(&self, cluster: &Cluster) -> Result<(), StoreError> {
        let called = Instant::now();
        let config = &cluster.config;
        let node = cluster.store.join(&config.url, config.lease_time);
        let node = self.step(node).await?;
        self.serve(cluster).await?;
        // Before anything is begun under this lease: who does not come to that joins anew, which ends it.
        let (mut proved, mut readings) = (None, Vec::new());
        for _ in 0..BEATS_TO_SET_A_CLOCK {
            let asked = Instant::now();
            let until = proved.unwrap_or(called) + config.lease_time;
            match timeout_at(until, self.beat(cluster)).await {
                Ok(Ok(Some(alive))) => {
                    proved = Some(asked);
                    readings.push(alive.reading);
                }
                // The clock is as well set as it can be for now.
                Ok(Err(_)) | Err(_) if proved.is_some() => break,
                Ok(Err(error)) => return Err(error),
                Ok(Ok(None)) | Err(_) => return Err(too_late()),
            }
            // A word that was long under way says little of the clock, so it is asked again.
            if asked.elapsed() <= CLOCK_ERROR_MAX {
                break;
            }
        }
        let lasts = |proved: &Instant| proved.elapsed() < config.lease_time;
        let proved = proved.filter(lasts).ok_or_else(too_late)?;
        // Not before: by now others may have been at work here for a while, and would begin under it. And what
        // cannot be joined sets no clock.
        if let Some(clusters) = &self.clusters {
            clusters.hear(cluster, &readings, Some(proved));
        }
        self.tell_of_lease(LeaseEvent::Joined);
        tracing::info!(shard = %cluster.shard, node = node.0, url = %config.url, "joined the nodes of the store");
        self.look_around(cluster).await;
        Ok(())
    }

    /// Becomes a node of all shards at the same time, of one at least. Those that cannot be joined now, or let the
    /// others wait, are joined by [`keep_alive`] when they can be.
    pub(super) async fn join_some(&self) -> Result<(), StoreError> {
        let join = |cluster| async move { (cluster, self.join(cluster).await) };
        let mut joining: FuturesUnordered<_> = self.clusters().iter().map(join).collect();
        let (mut failed, mut wait_until) = (BTreeMap::new(), None);
        loop {
            let next = match wait_until {
                None => joining.next().await,
                Some(until) => timeout_at(until, joining.next()).await.unwrap_or(None),
            };
            match next {
                Some((cluster, Ok(()))) => {
                    let long = cluster.config.lease_time / JOINED_WITHIN;
                    wait_until.get_or_insert_with(|| Instant::now() + long);
                }
                Some((cluster, Err(error))) => drop(failed.insert(cluster.shard, error)),
                None => break,
            }
        }
        drop(joining);
        if wait_until.is_none() {
            let first = failed.into_values().next();
            return Err(first.unwrap_or_else(too_late));
        }
        for cluster in self.clusters().iter().filter(|it| !it.has_lease()) {
            let error = failed.remove(&cluster.shard).unwrap_or_else(too_late);
            tracing::warn!(
                shard = %cluster.shard,
                %error,
                "the shard cannot be joined yet: its jobs wait until it can be"
            );
        }
        Ok(())
    }

    /// Becomes a node of a shard as soon as that can be.
    async fn join_in_time(&self, cluster: &Cluster) {
        while let Err(error) = self.join(cluster).await {
            tracing::debug!(shard = %cluster.shard, %error, "the nodes of the store cannot be joined yet");
            tokio::time::sleep(super::RETRY_AFTER).await;
        }
        cluster.work.notify_one();
    }

    /// Says which jobs this node runs.
    pub(super) async fn serve(&self, cluster: &Cluster) -> Result<(), StoreError> {
        let patterns: Vec<_> = self
            .registry()
            .routes()
            .map(|(_, pattern)| pattern)
            .collect();
        self.step(cluster.store.serve(&patterns)).await
    }

    /// Is no node any more; what it was given without hearing of it waits for others.
    pub(super) async fn leave(self: &Arc<Self>) {
        let each = self.clusters().iter().map(|it| self.leave_shard(it));
        join_all(each).await;
    }

    async fn leave_shard(self: &Arc<Self>, cluster: &Cluster) {
        let was_node = cluster.has_lease();
        // From here on nobody takes it for lost, or joins.
        cluster.left.cancel();
        let left = async {
            if cluster.is_trusted() {
                self.give_back_unheard(cluster).await?;
            }
            self.step(cluster.store.leave()).await
        };
        // Whoever does not answer takes the lease for ended in as long.
        let left = timeout(cluster.config.lease_time, left).await;
        let left: Result<(), StoreError> =
            left.unwrap_or_else(|_| Err(too_late_to("leave the nodes of the store")));
        cluster.lose();
        match left {
            Ok(()) if was_node => self.tell_of_lease(LeaseEvent::Left),
            Ok(()) => {}
            // Its lease ends by itself.
            Err(error) if was_node => {
                tracing::warn!(shard = %cluster.shard, %error, "the other nodes cannot be told that this one leaves");
            }
            Err(error) => {
                tracing::debug!(shard = %cluster.shard, %error, "it was no node, and cannot leave")
            }
        }
    }

    fn tell_of_lease(&self, event: LeaseEvent) {
        if let Some(observer) = &self.config.observer {
            observer.lease(event);
        }
    }

    async fn look_around(&self, cluster: &Cluster) {
        match self.step(cluster.store.nodes()).await {
            Ok(nodes) => cluster.set_nodes(nodes),
            // Those who were there last are told meanwhile.
            Err(error) => tracing::debug!(%error, "it cannot be seen which nodes there are"),
        }
    }

    /// Renews the lease; `None` if it is lost.
    async fn beat(&self, cluster: &Cluster) -> Result<Option<Alive>, StoreError> {
        let Some(Clusters { clock, .. }) = &self.clusters else {
            return Ok(None);
        };
        let called = clock.own_now();
        match self.step(cluster.store.beat()).await? {
            Beat::Lost => Ok(None),
            Beat::Alive { cancelling, now } => Ok(Some(Alive {
                cancelling,
                reading: clock.reading(called, now),
            })),
        }
    }

    /// Renews the lease until it is lost.
    async fn keep_lease(&self, cluster: &Cluster) {
        let mut is_failing = false;
        let mut beats = 0;
        while let Some(until) = cluster.trusted_until() {
            let called = Instant::now();
            match timeout_at(until, self.beat(cluster)).await {
                Ok(Ok(Some(Alive {
                    cancelling,
                    reading,
                }))) => {
                    cluster.trust(called);
                    if let Some(clusters) = &self.clusters {
                        clusters.hear(cluster, &[reading], None);
                    }
                    let took = called.elapsed();
                    self.tell_of_lease(LeaseEvent::Renewed { took });
                    if std::mem::take(&mut is_failing) {
                        tracing::info!(shard = %cluster.shard, "the lease is renewed again");
                    }
                    for (id, lease) in cancelling {
                        self.hear_cancel(id, lease);
                    }
                    beats += 1;
                    if beats % BEATS_TO_A_LOOK == 0 {
                        let until = Instant::now() + cluster.config.beat_interval;
                        // One that takes longer is given up: the lease comes first.
                        let _ = timeout_at(until, self.look_around(cluster)).await;
                    }
                }
                Ok(Err(error)) => {
                    self.tell_of_lease(LeaseEvent::NotRenewed);
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::error!(shard = %cluster.shard, %error, "the lease cannot be renewed; will try again");
                    }
                }
                Ok(Ok(None)) => return,
                Err(_) => return self.tell_of_lease(LeaseEvent::NotRenewed),
            }
            let until = cluster.trusted_until().unwrap_or(called);
            tokio::select! {
                () = sleep_until(until.min(called + cluster.config.beat_interval)) => {}
                () = cluster.store.hint(Hint::Cancels) => {}
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// A cancel that was asked for on another node.
    fn hear_cancel(&self, id: JobId, lease: Lease) {
        let live = self.table.get(id).filter(|live| live.is_local());
        let Some(live) = live else { return };
        let state = live.state();
        if state.lease == lease && state.phase == Phase::Running {
            let stopping = State {
                phase: Phase::Cancelling,
                ..state
            };
            self.hear_of_cancel(&live, stopping);
        }
    }

    /// Lets go of all that runs of a shard, and completes when nothing does any more.
    async fn let_go_of_all(&self, cluster: &Cluster) {
        cluster.lose();
        self.tell_of_lease(LeaseEvent::Lost);
        tracing::error!(
            shard = %cluster.shard,
            "the lease is lost: what runs here is stopped, and nothing is started"
        );
        let is_of = |id| {
            let of = self.cluster_of(id).map(|it| it.shard);
            of == Some(cluster.shard)
        };
        self.table.for_each(|live| {
            if live.is_local() && is_of(live.header.id) {
                live.stop(Stop::Lost);
            }
        });
        cluster.idle().await;
    }
}

/// Keeps this engine's node of a shard alive until it leaves; when its lease is lost, becomes another one.
pub(super) async fn keep_alive(inner: Arc<Inner>, shard: Shard) {
    let Some(cluster) = inner.cluster(shard) else {
        return;
    };
    let keep = async {
        // What could not be joined at the start has no lease that could be lost.
        if !cluster.has_lease() {
            inner.join_in_time(cluster).await;
        }
        loop {
            inner.keep_lease(cluster).await;
            inner.let_go_of_all(cluster).await;
            inner.join_in_time(cluster).await;
        }
    };
    cluster.left.run_until_cancelled(keep).await;
}

/// Takes over from nodes of a shard whose lease has ended: each of their jobs ends by its route's rule.
pub(super) async fn take_over(inner: Arc<Inner>, shard: Shard) {
    let Some(cluster) = inner.cluster(shard) else {
        return;
    };
    let interval = (cluster.config.lease_time / 4).max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(interval).await;
        while cluster.is_trusted() && !inner.is_draining() {
            let orphans = match inner.step(cluster.store.take_over(TAKEN_OVER_MAX)).await {
                Ok(orphans) => orphans,
                Err(error) => {
                    tracing::debug!(%error, "jobs of nodes that are gone cannot be taken over yet");
                    break;
                }
            };
            let count = orphans.len();
            if count == 0 {
                break;
            }
            inner.tell_of_lease(LeaseEvent::TookOver { jobs: count });
            tracing::warn!(jobs = count, "jobs are taken over from nodes that are gone");
            let mut ends = tokio::task::JoinSet::new();
            for orphan in orphans {
                let then = inner
                    .clone()
                    .end_taken_over(orphan.header, orphan.state, GONE);
                ends.spawn(then);
            }
            while ends.join_next().await.is_some() {}
        }
    }
}
