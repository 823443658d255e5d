//! Replacing the routes while the engine works.

use std::sync::{Arc, PoisonError};

use futures_util::future::join_all;

use super::live::Live;
use super::{Engine, Inner, Registry, RouteError, recovery};
use crate::{LiveJob, Phase, StoreError};

/// Jobs that are read at a time.
const PAGE: usize = 10_000;

impl Engine {
    /// Puts other routes in place of those that it has.
    ///
    /// Jobs that run go on with their handler and by their route's rules. Those that wait, or are
    /// queued again, get the handler and count against the limit that their endpoint has now;
    /// where it has none any more they fail, as at the start of an engine that does not know it.
    ///
    /// # Errors
    /// [`RouteError::TooMany`]: an engine takes 65,536 patterns in its life. Nothing is changed then.
    pub fn replace_routes(&self, mut registry: Registry) -> Result<(), RouteError> {
        let inner = &self.inner;
        let ids = inner.route_ids.lock();
        let mut ids = ids.unwrap_or_else(PoisonError::into_inner);
        registry.renumber(&mut ids)?;
        registry.observe(inner.config.observer.as_deref());
        inner.room.set_limits(&registry.limits());
        let new = Arc::new(registry);
        let old = {
            let in_use = inner.registry.write();
            let mut in_use = in_use.unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *in_use, new.clone())
        };
        // Whatever comes into the queue from here on by the old routes is set right when it is
        // started.
        if inner.is_shared() {
            // What waits is in the store, under the pattern that it came by.
            inner.clone().in_background(inner.clone().serve_anew());
            return Ok(());
        }
        inner.table.for_each(|live| inner.reroute(live, &old, &new));
        if inner.table.has_dozing() {
            let reroute = inner.clone().reroute_dozing(old, new);
            inner.clone().in_background(reroute);
        }
        inner.dispatch();
        Ok(())
    }
}

impl Inner {
    /// Tells a shared store of the routes.
    async fn serve_anew(self: Arc<Self>) {
        let each = self.clusters().iter().map(|cluster| async {
            let mut is_failing = false;
            while let Err(error) = self.serve(cluster).await {
                // Said once: a shard may be away for long.
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(shard = %cluster.shard, %error, "the store cannot be told of the routes; will try again");
                }
                self.pause_between_tries(super::RETRY_AFTER).await;
            }
            cluster.work.notify_one();
        });
        join_all(each).await;
    }

    /// Lets a job that waits do so for the route that it has now.
    fn reroute(self: &Arc<Self>, live: &Arc<Live>, old: &Registry, new: &Registry) {
        let header = &live.header;
        let job = LiveJob {
            id: header.id,
            owner: header.owner.clone(),
            endpoint: header.endpoint.clone(),
            priority: header.options.priority,
            state: live.state(),
        };
        if self.is_taken_out(&job, old, new) {
            self.no_longer_waits(live);
            let (inner, live) = (self.clone(), live.clone());
            tokio::spawn(async move { recovery::fail_unserved(&inner, &live).await });
        }
    }

    /// As [`reroute`](Self::reroute), for the jobs of which the store alone knows the endpoint. Until their
    /// page has its turn they wait for the route that they had, and are set right when they are started.
    async fn reroute_dozing(self: Arc<Self>, old: Arc<Registry>, new: Arc<Registry>) {
        let _one_at_a_time = self.rerouting.lock().await;
        let mut after = None;
        loop {
            let live = self.store.live(after, PAGE, self.now());
            let page = match self.step(live).await {
                Ok(page) => page,
                Err(error) if self.is_hopeless(&error) => return,
                Err(error) => {
                    tracing::warn!(%error, "jobs that wait cannot be brought to other routes; will try again");
                    self.pause_between_tries(super::RETRY_AFTER).await;
                    continue;
                }
            };
            for job in page.jobs {
                // What was whole, or came since, is in the queue of its new route already: nothing is done.
                if self.is_taken_out(&job, &old, &new) && !self.clone().fail_woken(&job).await {
                    return;
                }
            }
            match page.next {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        self.dispatch();
    }

    /// Fails a job that was taken out of the queue; `false` if there is no time for that any more.
    async fn fail_woken(self: Arc<Self>, job: &LiveJob) -> bool {
        loop {
            match self.wake(job.id).await {
                Ok(Some(live)) => {
                    self.no_longer_waits(&live);
                    recovery::fail_unserved(&self, &live).await;
                    return true;
                }
                Ok(None) => return true,
                Err(error @ StoreError::Corrupt { .. }) => {
                    self.give_up(job.id, &job.owner, &error);
                    return true;
                }
                Err(error) if self.is_hopeless(&error) => return false,
                Err(_) => self.pause_between_tries(super::RETRY_AFTER).await,
            }
        }
    }

    /// Brings a job, if it waits, to the queue of its new route. Whether there is none and it was taken out
    /// of the old one: who finds it gone starts it, or ends it, and sees by itself that it has no route.
    fn is_taken_out(&self, job: &LiveJob, old: &Registry, new: &Registry) -> bool {
        let (Phase::Queued, Some(old)) = (job.state.phase, old.find(&job.endpoint)) else {
            return false;
        };
        let waiting = self.waiting_of(job, old);
        let not_before = job.state.not_before;
        match new.find(&job.endpoint) {
            Some(new) if new.id == old.id => false,
            Some(new) => {
                self.room.reroute(&waiting, not_before, new.id);
                false
            }
            None => self.room.remove(&waiting, not_before),
        }
    }
}
