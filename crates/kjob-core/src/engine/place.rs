//! A place to run: counted from before a job is started until its end is stored.

use std::sync::Arc;

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Inner;
use super::call::Call;
use super::cluster::Cluster;
use crate::{JobId, RouteId};

/// A place to run, given back when it is dropped.
pub(super) struct Place {
    inner: Arc<Inner>,
    pub(super) route: RouteId,
    stuck: bool,
    /// Whether others may have the room that it took, before it is over.
    has_left: bool,
    /// Where the store is shared: what keeps this node from taking another lease before the run is over.
    under_lease: Option<TaskTrackerToken>,
}

impl Place {
    pub(super) fn try_take(inner: &Arc<Inner>, route: RouteId, id: JobId) -> Option<Self> {
        let taken = inner.room.try_place(route);
        taken.then(|| Self::taken(inner, route, id))
    }

    pub(super) fn taken(inner: &Arc<Inner>, route: RouteId, id: JobId) -> Self {
        Self {
            inner: inner.clone(),
            route,
            stuck: false,
            has_left: false,
            under_lease: inner.cluster_of(id).map(Cluster::running),
        }
    }

    /// Takes the room again that it has left, though there may be none: its job is started already.
    pub(super) fn come_back(&mut self) {
        if std::mem::take(&mut self.has_left) {
            self.inner.room.take_beyond(self.route);
        }
    }

    /// Gives back the room, and only that: what waits for a shard that is away is not to keep the jobs of others
    /// from running.
    pub(super) fn leave_room(&mut self) {
        if !std::mem::replace(&mut self.has_left, true) {
            self.inner.room.free(self.route, false);
            self.inner.dispatch();
        }
    }

    /// Holds the place until the run's thread is free again, unless others have its room already.
    pub(super) fn held_by(mut self, mut call: Call) {
        if self.has_left {
            return;
        }
        self.stuck = true;
        // Its job has ended, so that it takes nothing of anybody's.
        self.under_lease = None;
        self.inner.room.stuck();
        tokio::spawn(async move {
            call.over().await;
            drop(self);
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.has_left {
            self.inner.room.free(self.route, self.stuck);
            self.inner.dispatch();
        }
    }
}
