//! Which jobs a list is to have, in whatever form it is asked for.

use kjob_core::engine::{Caller, JobKey};
use kjob_core::{Filter, Job, JobId, JobTag, Page, Status};

use crate::actor::Actor;
use crate::options::{OptionError, Options};
use crate::refusal::Refusal;

/// The options of every list.
pub(crate) const NAMES: [&str; 5] = ["status", "endpoint", "job_tag", "limit", "after"];

/// What the options but `job_tag` say.
pub(crate) fn filter(
    options: &Options<'_>,
    limit_default: u64,
    limit_max: u64,
) -> Result<Filter, OptionError> {
    let words = Status::ALL.map(|status| (status.as_str(), status));
    let after = options.number("after", 0..=JobId::MAX as u64)?;
    let limit = options.number("limit", 1..=limit_max)?;
    Ok(Filter {
        statuses: options.words("status", &words)?,
        endpoint: options.text("endpoint").cloned(),
        after: after.and_then(|id| JobId::new(i64::try_from(id).ok()?)),
        limit: usize::try_from(limit.unwrap_or(limit_default)).unwrap_or(usize::MAX),
        ..Filter::ALL
    })
}

impl Actor {
    /// A page of the caller's jobs; with a tag, of the one that it names, or nothing.
    pub(crate) async fn list(&self, tag: Option<JobTag>, filter: Filter) -> Result<Page, Refusal> {
        let Some(tag) = tag else {
            return Ok(self.engine.list(&self.caller, filter).await?);
        };
        let whose = match &filter.owner {
            // A tag is its owner's.
            Some(owner) if self.caller.admin => Caller::admin(owner.clone()),
            _ => self.caller.clone(),
        };
        let job = self.engine.look(&whose, &JobKey::Tag(tag)).await?;
        let (above, last) = filter.ids();
        let is_beyond = |job: &Job| (above + 1..=last).contains(&job.header.id.get());
        let job = job.filter(|job| filter.matches(job) && is_beyond(job));
        Ok(Page {
            jobs: job.into_iter().collect(),
            next: None,
        })
    }
}
