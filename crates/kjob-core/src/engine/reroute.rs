//! Replacing the routes while the engine works.

use std::sync::{Arc, PoisonError};

use super::live::Live;
use super::{Engine, Inner, Registry, RouteError, recovery};
use crate::Phase;

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
        inner.table.for_each(|live| inner.reroute(live, &old, &new));
        inner.dispatch();
        Ok(())
    }
}

impl Inner {
    /// Lets a job that waits do so for the route that it has now.
    fn reroute(self: &Arc<Self>, live: &Arc<Live>, old: &Registry, new: &Registry) {
        let state = live.state();
        let endpoint = &live.header.endpoint;
        let (Phase::Queued, Some(old)) = (state.phase, old.find(endpoint)) else {
            return;
        };
        let waiting = self.waiting(live, old);
        match new.find(endpoint) {
            Some(new) if new.id == old.id => {}
            Some(new) => self.room.reroute(&waiting, state.not_before, new.id),
            // Who finds it gone starts it, or ends it, and sees by itself that it has no route.
            None if self.room.remove(&waiting, state.not_before) => {
                self.no_longer_waits(live);
                let (inner, live) = (self.clone(), live.clone());
                tokio::spawn(async move { recovery::fail_unserved(&inner, &live).await });
            }
            None => {}
        }
    }
}
