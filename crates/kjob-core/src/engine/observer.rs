//! What an engine tells whoever counts and traces what it does.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::cancel::CancelOutcome;
use super::submission::{Accepted, SubmitError};
use crate::{Expired, Finish, Header, Owner, State, Timestamp};

/// Is told what an engine does, as it does it: for metrics and traces. It is set by
/// [`EngineConfig::observer`](super::EngineConfig::observer).
///
/// Its methods are called where the thing is done, and are to be quick: they do not block, and ask
/// nothing of the engine. What they are told has happened; they cannot change it.
///
/// ```
/// use kjob_core::engine::{EngineConfig, Observer, RouteObserver};
/// use kjob_core::{Header, State};
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::sync::Arc;
///
/// #[derive(Debug, Default)]
/// struct Ended(AtomicU64);
///
/// impl RouteObserver for Ended {
///     fn ended(&self, _: &Header, _: &State) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///     }
/// }
///
/// #[derive(Debug)]
/// struct OneForAll(Arc<Ended>);
///
/// impl Observer for OneForAll {
///     fn route(&self, _: Option<&str>) -> Arc<dyn RouteObserver> {
///         self.0.clone()
///     }
/// }
///
/// let ended = Arc::new(Ended::default());
/// let mut config = EngineConfig::default();
/// config.observer = Some(Arc::new(OneForAll(ended)));
/// ```
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// Who is to be told of the jobs of the route with this pattern, so that nothing has to be looked
    /// up for a job; `None` is for endpoints that no route takes. Asked for every route when the
    /// engine is opened, and again when its routes are replaced.
    fn route(&self, pattern: Option<&str>) -> Arc<dyn RouteObserver>;

    /// Somebody asked for a cancel, and this came of it.
    fn cancelled(&self, outcome: CancelOutcome) {
        let _ = outcome;
    }

    /// The space of expired jobs was given back.
    fn expired(&self, expired: &Expired) {
        let _ = expired;
    }

    /// Something became of this node's lease, or of another's whose jobs this one took over. Told by engines
    /// that [share a store](super::Engine::open_shared) alone.
    fn lease(&self, event: LeaseEvent) {
        let _ = event;
    }
}

/// What became of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseEvent {
    /// This engine has become a node.
    Joined,
    /// The lease is as long again as it was.
    Renewed {
        /// How long the store took to say so.
        took: Duration,
    },
    /// It could not be renewed; that is tried again until it ends.
    NotRenewed,
    /// It ended before it was renewed: what runs here is let go of.
    Lost,
    /// This engine is no node any more, by its own will.
    Left,
    /// Jobs came here from nodes whose leases had ended.
    TookOver {
        /// How many.
        jobs: usize,
    },
}

/// Is told of the jobs of one route. By default it does nothing.
pub trait RouteObserver: fmt::Debug + Send + Sync + 'static {
    /// A submit of this owner is about to be answered with a job, which is durable.
    fn submitted(&self, owner: &Owner, accepted: &Accepted) {
        let _ = (owner, accepted);
    }

    /// A submit is about to be refused.
    fn refused(&self, error: &SubmitError) {
        let _ = error;
    }

    /// A start is durable, and the handler is about to be called.
    fn started(&self, job: &Header, state: &State) {
        let _ = (job, state);
    }

    /// A handler has told how far it is, durably.
    fn progressed(&self, job: &Header, state: &State) {
        let _ = (job, state);
    }

    /// A job that runs here is asked to stop, durably.
    fn cancelling(&self, job: &Header, state: &State) {
        let _ = (job, state);
    }

    /// The handler of that start has returned, or was given up, at this moment, and that is what it
    /// is to make of the job. It is not durable yet.
    fn returned(&self, job: &Header, started: &State, finish: &Finish, at: Timestamp) {
        let _ = (job, started, finish, at);
    }

    /// A job whose run is over waits for another one, durably.
    fn queued_again(&self, job: &Header, state: &State) {
        let _ = (job, state);
    }

    /// A job has ended, durably. Told once for each, by whatever way it came to its end.
    fn ended(&self, job: &Header, state: &State) {
        let _ = (job, state);
    }
}

/// Told of routes that nobody observes.
#[derive(Debug)]
struct Nobody;

impl RouteObserver for Nobody {}

/// Who is told of a route.
pub(super) fn of(observer: Option<&dyn Observer>, pattern: Option<&str>) -> Arc<dyn RouteObserver> {
    observer.map_or_else(nobody, |observer| observer.route(pattern))
}

/// Who is told where nobody wants to know.
pub(super) fn nobody() -> Arc<dyn RouteObserver> {
    static NOBODY: LazyLock<Arc<dyn RouteObserver>> = LazyLock::new(|| Arc::new(Nobody));
    NOBODY.clone()
}
