//! Taking jobs that wait from a shared store, as many as there are places for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kjob_proto::Text;
use tokio::time::Instant;

use super::Inner;
use super::cluster::Cluster;
use super::live::Live;
use super::log::job_log;
use super::place::Place;
use super::room::Reservation;
use crate::{
    Claimed, Finish, Header, Hint, OnInterrupt, Orphan, Parts, Phase, RouteId, Shard, Started,
    State, StoreError, Wanted,
};

/// Among how many a claim shares the places that are free, as long as there is no sign that more waits than it can
/// have: a submit that finds a place while it is under way starts its job at once, which no claim has to do then.
const TAKERS: usize = 4;

/// What came of a look at the queue.
enum Looked {
    /// There was as much as there were places, of a route or in all.
    Full,
    Some,
    Nothing,
    /// It could not be looked at, or there was no place.
    Not,
}

/// Claims jobs of a shard for as long as the engine takes any.
pub(super) async fn claim(inner: Arc<Inner>, shard: Shard) {
    let Some(cluster) = inner.cluster(shard) else {
        return;
    };
    let mut pause = cluster.config.poll_min;
    let mut is_failing = false;
    let mut takers = TAKERS;
    let mut listen_at = Instant::now() + cluster.config.lease_time;
    loop {
        if Instant::now() >= listen_at && cluster.is_trusted() {
            listen_at = Instant::now() + cluster.config.lease_time;
            if let Err(error) = inner.give_back_unheard(cluster).await {
                tracing::debug!(%error, "it cannot be seen for now what was started for this node");
            }
        }
        let mut work = std::pin::pin!(cluster.work.notified());
        // Listen first, look second: what comes in between is not missed.
        work.as_mut().enable();
        match inner.look(cluster, takers).await {
            Ok(looked) => {
                // Where it was not looked, nobody knows.
                if !matches!(looked, Looked::Not) && std::mem::take(&mut is_failing) {
                    tracing::info!(shard = %cluster.shard, "jobs can be claimed again");
                }
                takers = match looked {
                    // More may wait, and was there before any submit that comes now.
                    Looked::Full => 1,
                    Looked::Some | Looked::Nothing => TAKERS,
                    Looked::Not => takers,
                };
                pause = match looked {
                    Looked::Full => continue,
                    Looked::Some => cluster.config.poll_min,
                    Looked::Nothing | Looked::Not => (pause * 2).min(cluster.config.poll_max),
                };
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::error!(shard = %cluster.shard, %error, "no jobs can be claimed; will try again");
                }
                tokio::time::sleep(super::RETRY_AFTER).await;
                // It may have been done all the same.
                listen_at = Instant::now();
                continue;
            }
        }
        tokio::select! {
            () = work => {}
            () = cluster.store.hint(Hint::Work) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Inner {
    /// Claims as many jobs as there are places for, shared among so many, and begins them.
    async fn look(
        self: &Arc<Self>,
        cluster: &Cluster,
        takers: usize,
    ) -> Result<Looked, StoreError> {
        if self.is_draining() || !cluster.is_trusted() {
            return Ok(Looked::Not);
        }
        // Whatever the answer, it is of this lease.
        let _under_lease = cluster.running();
        let routes: HashMap<RouteId, Text> = self.registry().routes().collect();
        let takers = takers.saturating_mul(self.clusters().len());
        // Said first, and taken back if it is not so: a place that becomes free meanwhile is not missed.
        cluster.was_denied.store(true, Ordering::Release);
        let mut reserved = Reserved {
            inner: self,
            places: self.room.reserve(routes.keys().copied(), takers),
        };
        let wanted = reserved.places.routes.iter().filter_map(|(id, limit)| {
            let pattern = routes.get(id)?.clone();
            let limit = *limit;
            (limit > 0).then_some(Wanted { pattern, limit })
        });
        let wanted: Vec<Wanted> = wanted.collect();
        let limit = reserved.places.total;
        if limit > 0 && reserved.places.routes.iter().all(|(_, free)| *free > 0) {
            cluster.was_denied.store(false, Ordering::Release);
        }
        if wanted.is_empty() || limit == 0 {
            return Ok(Looked::Not);
        }
        let claimed = cluster
            .store
            .claim(&wanted, limit, self.config.ageing, self.now());
        // A store that does not answer keeps the places no longer than the lease lasts; what it has claimed all the
        // same is nobody's to begin then.
        let claimed = tokio::select! {
            biased;
            claimed = self.step(claimed) => claimed?,
            () = cluster.lost() => return Ok(Looked::Not),
        };
        let found = claimed.len();
        for job in claimed {
            self.begin_claimed(job, &mut reserved.places);
        }
        let routes = reserved.places.routes.iter();
        let not_used_up = routes.filter(|(_, left)| *left > 0).count();
        Ok(match found {
            0 => Looked::Nothing,
            some if some >= limit || not_used_up < wanted.len() => Looked::Full,
            _ => Looked::Some,
        })
    }

    fn begin_claimed(self: &Arc<Self>, job: Claimed, places: &mut Reservation) {
        let Claimed {
            header,
            state,
            payload,
        } = job;
        let Some(route) = self.route_of(&header.endpoint) else {
            // The routes were replaced meanwhile; another node may have it still.
            let nowhere = RouteId(u16::MAX);
            self.room.take_reserved(places, nowhere, &header.owner);
            let place = Place::taken(self, nowhere, header.id, &header.owner);
            let inner = self.clone();
            tokio::spawn(async move {
                inner.give_back(header, state).await;
                drop(place);
            });
            return;
        };
        let live = self.take(header, state);
        let (id, owner) = (live.header.id, &live.header.owner);
        self.room.take_reserved(places, route.id, owner);
        let place = Place::taken(self, route.id, id, owner);
        let started = Started { state, payload };
        tokio::spawn(self.clone().begin(live, route, started, place));
    }

    /// A job of which this engine was given a run by a shared store. Its submit may be on its way here still, and
    /// count it as waiting.
    pub(super) fn take(&self, header: Header, state: State) -> Arc<Live> {
        let live = self.table.adopt(Live::taken(header, state));
        live.take(state);
        self.no_longer_waits(&live);
        live
    }

    /// Lets jobs wait again that were started for this node without its hearing of it. No handler of theirs
    /// has begun.
    pub(super) async fn give_back_unheard(
        self: &Arc<Self>,
        cluster: &Cluster,
    ) -> Result<(), StoreError> {
        // A submit that starts its job has it in the table before the store has it, and claims are made by
        // this task alone.
        let is_known = |id| self.table.get(id).is_some_and(|live| live.is_local());
        for Orphan { header, state } in self.step(cluster.store.running()).await? {
            let id = header.id;
            if is_known(id) {
                continue;
            }
            // It may have been known until just now, as one that ended since.
            let get = self.store.get(id, Parts::NONE, self.now());
            let now = self.step(get).await?.map(|job| job.state);
            let runs = now.is_some_and(|now| {
                !now.phase.is_terminal() && now.phase != Phase::Queued && now.lease == state.lease
            });
            if runs && !is_known(id) {
                job_log!(
                    warn,
                    header,
                    "job was started without word, and waits again"
                );
                self.give_back(header, state).await;
            }
        }
        Ok(())
    }

    /// Lets a job wait again that was started for this node and has not begun: it costs no attempt,
    /// whatever the rule of its route.
    pub(super) async fn give_back(self: &Arc<Self>, header: Header, state: State) {
        let live = self.take(header, state);
        self.finish(&live, state.lease, self.not_begun()).await;
    }

    /// How a run is over that has not begun.
    pub(super) fn not_begun(&self) -> Finish {
        Finish::Interrupt {
            reason: Text::from_static("not begun"),
            then: OnInterrupt::Retry {
                max_attempts: u32::MAX,
                not_before: self.now(),
                charged: false,
            },
        }
    }
}

/// Places that are given back whatever becomes of the claim.
struct Reserved<'a> {
    inner: &'a Arc<Inner>,
    places: Reservation,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.places);
        let are_left = places.total > 0;
        self.inner.room.release(places);
        if are_left && self.inner.is_sharded() {
            // Another shard may have found none while these were kept.
            self.inner.look_for_denied();
        }
    }
}
