//! Which handler runs which endpoint.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use kjob_proto::{Encoding, Text};

use super::handler::Handler;
use super::observer::{self, Observer, RouteObserver};
use super::schemas::Schemas;
use crate::RouteId;

/// What the jobs of an endpoint are run by, and how.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) id: RouteId,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) options: RouteOptions,
    /// Who is told of its jobs.
    pub(super) observer: Arc<dyn RouteObserver>,
}

/// How the jobs of a route are run.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RouteOptions {
    /// How many of the route's jobs run at once; `None` for as many as the server runs.
    pub concurrency: Option<usize>,
    /// How long one attempt may run, unless the job says so itself; `None` for ever.
    pub timeout: Option<Duration>,
    /// What becomes of a job whose run was cut off.
    pub on_interrupt: Interrupted,
    /// The encoding that the handler wants its payload in; needs schemas to turn other ones.
    /// `None` to take JSON and Avro as they were submitted. Never [`Encoding::Snappy`]: payloads
    /// are unpacked before the handler sees them.
    pub encoding: Option<Encoding>,
    /// The endpoint's request and response records, for checking payloads and turning encodings.
    pub schemas: Option<Arc<Schemas>>,
    /// Whether a result may be in another encoding than the job's payload, as where the handler
    /// passes on what somebody else answers. Without it such a result fails the job.
    pub any_result: bool,
    /// Whether payloads and results are records of the protocol though their schemas are not known
    /// here, as where another server of the protocol runs the jobs.
    pub records: bool,
    /// Whether the handler never blocks its thread, nor computes for long between two awaits. Its calls
    /// are then polled by the engine's own task for the job, on the engine's runtime, which saves two
    /// changes of thread a call; one that blocks all the same holds up others.
    pub cooperative: bool,
    /// Whether the endpoint is called by jobs alone, and direct calls of it are somebody else's to answer.
    pub jobs_only: bool,
}

/// A route's rule for runs that were cut off: by a crash, a lost lease, the end of a drain, or a
/// [transient](super::HandlerError::Transient) error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Interrupted {
    /// The job fails: its handler is started **at most once**.
    #[default]
    Fail,
    /// The job is queued again with backoff: its handler is started **at least once**.
    Retry {
        /// The most attempts, at least 1.
        max_attempts: u32,
    },
}

impl RouteOptions {
    /// Sets [`concurrency`](Self::concurrency).
    #[must_use]
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = Some(jobs.max(1));
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Makes the route's jobs run at least once, up to `max_attempts` times.
    #[must_use]
    pub fn retry(mut self, max_attempts: u32) -> Self {
        self.on_interrupt = Interrupted::Retry {
            max_attempts: max_attempts.max(1),
        };
        self
    }

    /// Sets [`encoding`](Self::encoding).
    #[must_use]
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = Some(encoding);
        self
    }

    /// Sets [`schemas`](Self::schemas).
    #[must_use]
    pub fn schemas(mut self, schemas: Schemas) -> Self {
        self.schemas = Some(Arc::new(schemas));
        self
    }

    /// Sets [`records`](Self::records).
    #[must_use]
    pub fn records(mut self) -> Self {
        self.records = true;
        self
    }

    /// Sets [`cooperative`](Self::cooperative).
    #[must_use]
    pub fn cooperative(mut self) -> Self {
        self.cooperative = true;
        self
    }

    /// Sets [`jobs_only`](Self::jobs_only).
    #[must_use]
    pub fn jobs_only(mut self) -> Self {
        self.jobs_only = true;
        self
    }

    /// Sets [`any_result`](Self::any_result).
    #[must_use]
    pub fn any_result(mut self) -> Self {
        self.any_result = true;
        self
    }
}

/// The handlers of a server, by endpoint.
///
/// A pattern is an endpoint (`/demo/echo`), or a prefix ending in `*` (`/report/*`, which
/// also takes `/report/`). An exact pattern wins over a prefix, a longer prefix over a shorter.
///
/// ```
/// use kjob_core::engine::{HandlerError, JobContext, Registry, RouteOptions};
/// use kjob_core::Payload;
///
/// async fn echo(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
///     Ok(payload)
/// }
/// let mut registry = Registry::default();
/// registry.route("/echo/*", echo, RouteOptions::default().concurrency(4))?;
/// assert!(registry.serves("/echo/me"));
/// assert!(!registry.serves("/other"));
/// # Ok::<(), kjob_core::engine::RouteError>(())
/// ```
#[derive(Clone, Default)]
pub struct Registry {
    exact: BTreeMap<String, Route>,
    /// Prefixes without their `*`.
    prefixes: BTreeMap<String, Route>,
    /// How many ids were given out.
    ids: usize,
}

/// The ids of patterns, over all registries that an engine has had: a pattern keeps its id when the
/// routes are replaced, and no other pattern ever gets it.
#[derive(Debug, Default)]
pub(super) struct RouteIds(BTreeMap<String, RouteId>);

/// Why a route cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// An endpoint begins with `/`, and `*` stands only at its end.
    #[error("endpoint pattern {0:?} must begin with / and may have one * at its end")]
    BadPattern(String),
    /// Another route has the pattern.
    #[error("endpoint pattern {0:?} is routed twice")]
    Duplicate(String),
    /// More than 65,535 routes.
    #[error("there are too many routes")]
    TooMany,
    /// An option that cannot be kept.
    #[error("endpoint pattern {pattern:?}: {why}")]
    BadOption {
        /// The route.
        pattern: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl Registry {
    /// Adds a route.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn route(
        &mut self,
        pattern: &str,
        handler: impl Handler,
        options: RouteOptions,
    ) -> Result<(), RouteError> {
        self.route_shared(pattern, Arc::new(handler), options)
    }

    /// Adds a route to a handler that is used elsewhere too.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn route_shared(
        &mut self,
        pattern: &str,
        handler: Arc<dyn Handler>,
        options: RouteOptions,
    ) -> Result<(), RouteError> {
        let (name, is_prefix) = parse_pattern(pattern)?;
        let bad = |why| RouteError::BadOption {
            pattern: pattern.to_owned(),
            why,
        };
        if options.encoding == Some(Encoding::Snappy) {
            return Err(bad("a handler takes binary or json, never snappy"));
        }
        let routes = if is_prefix {
            &mut self.prefixes
        } else {
            &mut self.exact
        };
        if routes.contains_key(name) {
            return Err(RouteError::Duplicate(pattern.to_owned()));
        }
        let id = RouteId(u16::try_from(self.ids).map_err(|_| RouteError::TooMany)?);
        self.ids += 1;
        routes.insert(
            name.to_owned(),
            Route {
                id,
                handler,
                options,
                observer: observer::nobody(),
            },
        );
        Ok(())
    }

    /// Whether a route takes the endpoint.
    pub fn serves(&self, endpoint: &str) -> bool {
        self.find(endpoint).is_some()
    }

    /// Whether all its routes are [cooperative](RouteOptions::cooperative).
    pub fn is_cooperative(&self) -> bool {
        let mut routes = self.exact.values().chain(self.prefixes.values());
        routes.all(|route| route.options.cooperative)
    }

    /// The route of an endpoint.
    pub(super) fn find(&self, endpoint: &str) -> Option<&Route> {
        self.exact.get(endpoint).or_else(|| {
            // The longest prefix of an endpoint is the last in order that is one.
            let bounds = (Bound::Unbounded, Bound::Included(endpoint));
            let below = self.prefixes.range::<str, _>(bounds).rev();
            below
                .into_iter()
                .find(|(prefix, _)| endpoint.starts_with(*prefix))
                .map(|(_, r)| r)
        })
    }

    /// All routes, with their patterns.
    pub(super) fn routes(&self) -> impl Iterator<Item = (RouteId, Text)> {
        let exact = self.exact.iter();
        let exact = exact.map(|(name, route)| (route.id, Text::from(name.clone())));
        let prefixes = self.prefixes.iter();
        exact.chain(prefixes.map(|(name, route)| (route.id, Text::from(format!("{name}*")))))
    }

    /// The concurrency limits, by [`RouteId`].
    pub(super) fn limits(&self) -> Vec<Option<usize>> {
        let mut limits = vec![None; self.ids];
        for route in self.exact.values().chain(self.prefixes.values()) {
            if let Some(limit) = limits.get_mut(usize::from(route.id.0)) {
                *limit = route.options.concurrency;
            }
        }
        limits
    }

    /// Gives every route the id that its pattern has in `ids`, or a new one.
    pub(super) fn renumber(&mut self, ids: &mut RouteIds) -> Result<(), RouteError> {
        for (pattern, route) in self.by_pattern() {
            route.id = ids.of(pattern)?;
        }
        self.ids = ids.0.len();
        Ok(())
    }

    /// Has every route tell whom the observer says.
    pub(super) fn observe(&mut self, observer: Option<&dyn Observer>) {
        for (pattern, route) in self.by_pattern() {
            route.observer = observer::of(observer, Some(&pattern));
        }
    }

    fn by_pattern(&mut self) -> impl Iterator<Item = (String, &mut Route)> {
        let exact = self.exact.iter_mut().map(|(name, r)| (name.clone(), r));
        let prefixes = self.prefixes.iter_mut();
        let prefixes = prefixes.map(|(name, r)| (format!("{name}*"), r));
        exact.chain(prefixes)
    }
}

impl RouteIds {
    fn of(&mut self, pattern: String) -> Result<RouteId, RouteError> {
        let next = u16::try_from(self.0.len()).map_err(|_| RouteError::TooMany);
        match self.0.entry(pattern) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(new) => Ok(*new.insert(RouteId(next?))),
        }
    }
}

/// A pattern's endpoint or prefix, and whether it is a prefix.
pub(crate) fn parse_pattern(pattern: &str) -> Result<(&str, bool), RouteError> {
    let prefix = pattern.strip_suffix('*');
    let name = prefix.unwrap_or(pattern);
    if !name.starts_with('/') || name.contains('*') {
        return Err(RouteError::BadPattern(pattern.to_owned()));
    }
    Ok((name, prefix.is_some()))
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes = self
            .prefixes
            .iter()
            .map(|(name, r)| (format!("{name}*"), &r.options));
        let exact = self
            .exact
            .iter()
            .map(|(name, r)| (name.clone(), &r.options));
        f.debug_map().entries(exact.chain(prefixes)).finish()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("id", &self.id)
            .field("options", &self.options)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Payload;
    use crate::engine::{HandlerError, JobContext};

    async fn nothing(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
        Ok(payload)
    }

    #[test]
    fn the_closest_pattern_wins() {
        let mut registry = Registry::default();
        for pattern in ["/a/*", "/a/b", "/a/b/*", "/*", "/a/bc*"] {
            registry
                .route(pattern, nothing, RouteOptions::default())
                .unwrap();
        }
        let route = |endpoint| registry.find(endpoint).map(|route| route.id.0);
        assert_eq!(route("/a/b"), Some(1));
        assert_eq!(route("/a/b/c"), Some(2));
        assert_eq!(route("/a/bcd"), Some(4));
        assert_eq!(route("/a/c"), Some(0));
        assert_eq!(route("/z"), Some(3));
        assert_eq!(route("z"), None);
    }

    #[test]
    fn a_pattern_keeps_its_id_and_nobody_else_gets_it() {
        let registry = |patterns: &[&str]| {
            let mut registry = Registry::default();
            for pattern in patterns {
                let limit = pattern.len();
                let options = RouteOptions::default().concurrency(limit);
                registry.route(pattern, nothing, options).unwrap();
            }
            registry
        };
        let mut ids = RouteIds::default();
        let mut first = registry(&["/a", "/a*"]);
        first.renumber(&mut ids).unwrap();
        let id = |registry: &Registry, endpoint: &str| registry.find(endpoint).unwrap().id;
        let (exact, prefix) = (id(&first, "/a"), id(&first, "/ab"));
        let mut second = registry(&["/new", "/a*"]);
        second.renumber(&mut ids).unwrap();
        assert_eq!(id(&second, "/a"), prefix);
        let new = id(&second, "/new");
        assert!(new != exact && new != prefix);
        let limits = second.limits();
        assert_eq!(limits[usize::from(prefix.0)], Some(3));
        assert_eq!(limits[usize::from(new.0)], Some(4));
        assert_eq!(limits[usize::from(exact.0)], None, "it is gone");
    }

    #[test]
    fn bad_patterns_are_named() {
        let mut registry = Registry::default();
        let mut add = |pattern| registry.route(pattern, nothing, RouteOptions::default());
        assert_eq!(add("a"), Err(RouteError::BadPattern("a".into())));
        assert_eq!(add("/a*b"), Err(RouteError::BadPattern("/a*b".into())));
        assert_eq!(add(""), Err(RouteError::BadPattern("".into())));
        assert_eq!(add("/a"), Ok(()));
        assert_eq!(add("/a"), Err(RouteError::Duplicate("/a".into())));
    }
}
