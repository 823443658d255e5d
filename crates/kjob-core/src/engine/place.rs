//! A place to run: counted from before a job is started until its handler has returned, and where much waits for the
//! store already, or the result is large, until its end is stored.

use std::sync::Arc;

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Inner;
use super::call::Call;
use super::cluster::Cluster;
use crate::{JobId, Owner, RouteId};

/// A place to run, given back when it is dropped.
pub(super) struct Place {
    inner: Arc<Inner>,
    pub(super) route: RouteId,
    owner: Owner,
    stuck: bool,
    room: Held,
    /// Where the store is shared: what keeps this node from taking another lease before the run is over.
    under_lease: Option<TaskTrackerToken>,
}

/// What a place has of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// A place in it.
    Place,
    /// A part of what may be ending.
    Ending,
    /// Nothing: others may have it, before it is over.
    Nothing,
}

impl Place {
    pub(super) fn try_take(
        inner: &Arc<Inner>,
        route: RouteId,
        id: JobId,
        owner: &Owner,
    ) -> Option<Self> {
        let taken = inner.room.try_place(route, owner, inner.now());
        taken.then(|| Self::taken(inner, route, id, owner))
    }

    pub(super) fn taken(inner: &Arc<Inner>, route: RouteId, id: JobId, owner: &Owner) -> Self {
        Self {
            inner: inner.clone(),
            route,
            owner: owner.clone(),
            stuck: false,
            room: Held::Place,
            under_lease: inner.cluster_of(id).map(Cluster::running),
        }
    }

    /// Takes the room again that it has left, though there may be none: its job is started already.
    pub(super) fn come_back(&mut self) {
        if self.room == Held::Nothing {
            self.room = Held::Place;
            self.inner.room.take_beyond(self.route, &self.owner);
        }
    }

    /// Gives back the room, and only that: what waits for a shard that is away is not to keep the jobs of others
    /// from running.
    pub(super) fn leave_room(&mut self) {
        self.give_back(false);
    }

    /// The run is over but for its end: others may have the room, as long as not too many are.
    pub(super) fn begin_ending(&mut self) {
        if self.room == Held::Place && self.inner.room.begin_ending(self.route, &self.owner) {
            self.room = Held::Ending;
            self.inner.dispatch();
        }
    }

    fn give_back(&mut self, stuck: bool) {
        match std::mem::replace(&mut self.room, Held::Nothing) {
            Held::Place => {
                self.inner.room.free(self.route, &self.owner, stuck);
                self.inner.dispatch();
            }
            Held::Ending => self.inner.room.ended(),
            Held::Nothing => {}
        }
    }

    /// Holds the place until the run's thread is free again, unless others have its room already.
    pub(super) fn held_by(mut self, mut call: Call) {
        if self.room != Held::Place {
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
        self.give_back(self.stuck);
    }
}
