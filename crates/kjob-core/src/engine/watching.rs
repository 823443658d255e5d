//! Jobs of other nodes that somebody waits for here: all of them are looked at together, now and then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Inner;
use super::cluster::Cluster;
use super::live::Live;
use crate::{Hint, Job, JobId, Lease, Parts, Phase, Shard, State, StoreError};

/// The jobs that are looked at.
#[derive(Debug, Default)]
pub(super) struct Watching {
    jobs: Mutex<BTreeMap<JobId, Arc<Live>>>,
    /// Told when there is one more.
    more: Notify,
}

impl Watching {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<Live>>> {
        // No panic leaves it half changed.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a job is held that nobody waits for: by the table, here, and in the loop over both.
const UNWATCHED: usize = 3;

impl Inner {
    /// A job of another node, which is looked at from now on for as long as it is held.
    pub(super) fn watch_from_afar(&self, cluster: &Cluster, job: Job) -> Arc<Live> {
        let live = self.table.adopt(Live::remote(job.header, job.state));
        live.observe(job.state);
        if !live.is_local() {
            cluster.watching.lock().insert(live.header.id, live.clone());
            cluster.watching.more.notify_one();
        }
        live
    }

    /// Leaves a job to whichever node claims it, once its run of this lease is over, or none has begun (zero).
    pub(super) fn leave_to_all(&self, cluster: &Cluster, live: &Arc<Live>, after: Lease) {
        live.leave(after);
        self.no_longer_waits(live);
        // One that waits for a time is found by a later look: this one would be for nothing.
        let State {
            phase, not_before, ..
        } = live.state();
        if phase == Phase::Queued && not_before.is_none_or(|at| at <= self.now()) {
            cluster.work.notify_one();
        }
        self.leave_watched(live);
    }

    /// Goes on looking at a job that is no longer this node's, if somebody waits for it.
    pub(super) fn leave_watched(&self, live: &Arc<Live>) {
        let Some(cluster) = self.cluster_of(live.header.id) else {
            return;
        };
        // Held by the table and whoever calls this.
        if !live.is_local() && !self.table.let_go(live, 2) {
            cluster.watching.lock().insert(live.header.id, live.clone());
            cluster.watching.more.notify_one();
        }
    }

    /// Those that are watched still.
    fn watched(&self, cluster: &Cluster) -> Vec<Arc<Live>> {
        let all: Vec<Arc<Live>> = cluster.watching.lock().values().cloned().collect();
        let is_watched = |live: &Arc<Live>| !live.is_local() && !self.table.let_go(live, UNWATCHED);
        let (watched, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_watched);
        let mut jobs = cluster.watching.lock();
        for live in others {
            let id = live.header.id;
            let is_same = |known: &Arc<Live>| Arc::ptr_eq(known, &live);
            // One that ran here a moment ago may have been left to all, and be watched from now on.
            let is_watched = !live.is_local() && self.table.get(id).as_ref().is_some_and(is_same);
            if !is_watched && jobs.get(&id).is_some_and(is_same) {
                jobs.remove(&id);
            }
        }
        watched
    }

    /// Looks at all of them; whether there was news.
    async fn look_from_afar(
        self: &Arc<Self>,
        cluster: &Cluster,
        watched: &[Arc<Live>],
    ) -> Result<bool, StoreError> {
        let ids: Vec<JobId> = watched.iter().map(|live| live.header.id).collect();
        let states = self.step(cluster.store.watch(&ids, self.now())).await?;
        let states: BTreeMap<_, _> = states.into_iter().collect();
        let mut is_news = false;
        // What came of them is fetched all at once: one after the other they would wait for each other.
        let mut fetching = JoinSet::new();
        for live in watched.iter().filter(|live| !live.is_local()) {
            let id = live.header.id;
            match states.get(&id) {
                Some(state) if !state.phase.is_terminal() => {
                    is_news |= state.is_newer_than(&live.state());
                    live.observe(*state);
                }
                // It has ended, or is gone.
                _ => {
                    is_news = true;
                    let (inner, live) = (self.clone(), live.clone());
                    fetching.spawn(async move { inner.end_from_afar(&live).await });
                }
            }
        }
        let mut fetched = Ok(());
        while let Some(done) = fetching.join_next().await {
            // That of a task which panicked is looked at again.
            fetched = fetched.and(done.unwrap_or(Ok(())));
        }
        fetched.map(|()| is_news)
    }

    /// Tells those who wait for a job of another node what came of it.
    async fn end_from_afar(&self, live: &Arc<Live>) -> Result<(), StoreError> {
        let get = self.store.get(live.header.id, Parts::RESULT, self.now());
        match self.step(get).await? {
            Some(Job {
                state,
                ending: Some(ending),
                ..
            }) => {
                live.end(state, ending);
                self.table.remove(live);
            }
            Some(job) => drop(live.observe(job.state)),
            None => {
                self.table.remove(live);
                live.void();
            }
        }
        Ok(())
    }
}

/// Looks at what is watched of a shard for as long as there is any, the more often the more changes.
pub(super) async fn keep_watch(inner: Arc<Inner>, shard: Shard) {
    let Some(cluster) = inner.cluster(shard) else {
        return;
    };
    let (least, most) = (cluster.config.poll_min, cluster.config.poll_max);
    let mut pause = least;
    loop {
        let mut more = std::pin::pin!(cluster.watching.more.notified());
        more.as_mut().enable();
        let watched = inner.watched(cluster);
        if watched.is_empty() {
            more.await;
            pause = least;
            continue;
        }
        pause = match inner.look_from_afar(cluster, &watched).await {
            Ok(true) => least,
            Ok(false) => (pause * 2).min(most),
            Err(error) => {
                tracing::debug!(%error, "jobs of other nodes cannot be looked at for now");
                super::RETRY_AFTER
            }
        };
        drop(watched);
        tokio::select! {
            () = &mut more => pause = least,
            () = cluster.store.hint(Hint::Ends) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
