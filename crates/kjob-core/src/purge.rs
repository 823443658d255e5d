//! Dropping ended jobs before their time: over any [`Store`], a page at a time, beside other work.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use kjob_core::purge::{Purge, purge};
//! use kjob_core::{MemoryStore, Status, Timestamp};
//!
//! let failed = Purge {
//!     statuses: vec![Status::Error],
//!     endpoint: Some("/report/*".parse()?),
//!     dry_run: true,
//!     ..Purge::default()
//! };
//! let found = purge(Arc::new(MemoryStore::new()), &failed, Timestamp::from_millis(0)).await?;
//! assert_eq!(found.total().jobs, 0);
//! # Ok(()) }
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use kjob_proto::Text;
use tokio::task::JoinSet;

use crate::engine::RouteError;
use crate::engine::parse_pattern;
use crate::{Filter, Job, Owner, Status, Store, StoreError, Timestamp, Usage};

/// Jobs that are looked at together; their steps share commits.
const PAGE_JOBS: usize = 256;

/// Calls of `expire` after which the rest of the space is left to the store's owner.
const EXPIRE_CALLS_MAX: usize = 10_000;

/// Which ended jobs to drop. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// Only this owner's.
    pub owner: Option<Owner>,
    /// Only those that ended so; empty for all. [`Status::Running`] is that of no ended job.
    pub statuses: Vec<Status>,
    /// Only calls of these endpoints.
    pub endpoint: Option<EndpointPattern>,
    /// Only those that ended at or before this moment.
    pub ended_by: Option<Timestamp>,
    /// Count only.
    pub dry_run: bool,
}

/// An endpoint (`/demo/echo`), or all with a prefix (`/report/*`): as routes are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPattern {
    /// Without its `*`.
    name: String,
    is_prefix: bool,
}

/// What was dropped, or would be: jobs, and bytes of their payloads and results, by how they ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Purged {
    /// Those with a result.
    pub done: Usage,
    /// Those that failed.
    pub error: Usage,
    /// Those that were cancelled.
    pub cancelled: Usage,
}

/// Drops ended jobs: they do not exist for any call at or after `now`, their tags are free, and
/// then the store gives back what space it can. A job that has not ended is never touched.
///
/// Jobs that end while this runs may or may not be among them. Dropping the future leaves what was
/// dropped until then.
///
/// # Errors
/// The store's; what was dropped until then stays so.
pub async fn purge(
    store: Arc<dyn Store>,
    purge: &Purge,
    now: Timestamp,
) -> Result<Purged, StoreError> {
    let mut purged = Purged::default();
    // Stores may count expiries by the second: at a whole one, the space comes back at once.
    let at = Timestamp::from_millis(now.as_millis().div_euclid(1000).saturating_mul(1000));
    let mut filter = Filter {
        owner: purge.owner.clone(),
        statuses: purge.ended_statuses(),
        endpoint: purge.endpoint.as_ref().and_then(EndpointPattern::exact),
        limit: PAGE_JOBS,
        ..Filter::ALL
    };
    if filter.statuses.is_empty() {
        return Ok(purged);
    }
    loop {
        let page = store.list(&filter, now).await?;
        let mut steps = JoinSet::new();
        for job in page.jobs.into_iter().filter(|job| purge.matches(job)) {
            let store = Arc::clone(&store);
            let at = (!purge.dry_run).then_some(at);
            steps.spawn(async move { drop_job(&*store, &job, now, at).await });
        }
        while let Some(done) = steps.join_next().await {
            let dropped = match done {
                Ok(dropped) => dropped?,
                // A panic goes on here; no task is ever aborted.
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            };
            if let Some((status, bytes)) = dropped {
                purged.count(status, bytes);
            }
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    if !purge.dry_run && purged.total().jobs > 0 {
        for _ in 0..EXPIRE_CALLS_MAX {
            if !store.expire(now).await?.more {
                break;
            }
        }
    }
    Ok(purged)
}

/// Lets a job expire at a moment, if one is given; gives how it ended, and its bytes, if it is there
/// still.
async fn drop_job(
    store: &dyn Store,
    job: &Job,
    now: Timestamp,
    at: Option<Timestamp>,
) -> Result<Option<(Status, u64)>, StoreError> {
    let id = job.header.id;
    let Some(bytes) = store.bytes_of(id, now).await? else {
        return Ok(None);
    };
    if let Some(at) = at {
        store.expire_at(id, at).await?;
    }
    Ok(Some((job.state.phase.status(), bytes)))
}

impl Purge {
    /// Whether it drops a job.
    pub fn matches(&self, job: &Job) -> bool {
        let status = job.state.phase.status();
        let (ended_at, endpoint) = (job.state.ended_at, &job.header.endpoint);
        job.state.phase.is_terminal()
            && (self.statuses.is_empty() || self.statuses.contains(&status))
            && self
                .owner
                .as_ref()
                .is_none_or(|owner| *owner == job.header.owner)
            && self
                .endpoint
                .as_ref()
                .is_none_or(|pattern| pattern.matches(endpoint))
            && self
                .ended_by
                .is_none_or(|by| ended_at.is_some_and(|at| at <= by))
    }

    fn ended_statuses(&self) -> Vec<Status> {
        let ended = [Status::Done, Status::Error, Status::Cancelled].into_iter();
        ended
            .filter(|status| self.statuses.is_empty() || self.statuses.contains(status))
            .collect()
    }
}

impl Purged {
    /// All together.
    pub fn total(&self) -> Usage {
        let mut total = Usage::default();
        for part in [self.done, self.error, self.cancelled] {
            total.jobs += part.jobs;
            total.bytes += part.bytes;
        }
        total
    }

    fn count(&mut self, status: Status, bytes: u64) {
        let usage = match status {
            Status::Done => &mut self.done,
            Status::Error => &mut self.error,
            Status::Cancelled => &mut self.cancelled,
            Status::Running => return,
        };
        usage.jobs += 1;
        usage.bytes += bytes;
    }
}

impl EndpointPattern {
    /// Whether it is the endpoint's.
    pub fn matches(&self, endpoint: &str) -> bool {
        if self.is_prefix {
            endpoint.starts_with(&self.name)
        } else {
            endpoint == self.name
        }
    }

    /// The one endpoint that it means, if it means one.
    fn exact(&self) -> Option<Text> {
        (!self.is_prefix).then(|| Text::from(self.name.clone()))
    }
}

impl FromStr for EndpointPattern {
    type Err = RouteError;

    fn from_str(pattern: &str) -> Result<Self, RouteError> {
        let (name, is_prefix) = parse_pattern(pattern)?;
        let name = name.to_owned();
        Ok(Self { name, is_prefix })
    }
}

impl fmt::Display for EndpointPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        f.write_str(if self.is_prefix { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_routes() {
        let pattern = |text: &str| text.parse::<EndpointPattern>();
        assert!(pattern("/a/*").unwrap().matches("/a/b/c"));
        assert!(!pattern("/a/*").unwrap().matches("/ab"));
        assert!(pattern("/a").unwrap().matches("/a"));
        assert!(!pattern("/a").unwrap().matches("/a/b"));
        for text in ["/a", "/a/*", "/*"] {
            assert_eq!(pattern(text).unwrap().to_string(), text);
        }
        for bad in ["", "a", "/a*b", "*"] {
            let refused = Err(RouteError::BadPattern(bad.to_owned()));
            assert_eq!(pattern(bad), refused);
        }
    }
}
