//! `/admin/alter/jobs`: cancels jobs, named by their ids, by the option `job_tag`, or both.
//!
//! The reply has a word for each id, in order: `cancelled` (it was waiting), `cancelling` (it runs and
//! was told to stop), `already DONE`, `already ERROR`, `already CANCELLED`, or `not found`. The id of
//! the job with the tag comes last, unless it was given as an id too. A tag that names no job is an
//! error, before anything is cancelled.

use kjob_core::engine::{CancelOutcome, JobKey};
use kjob_proto::{AdminAlterJobsRequest, AdminAlterJobsResponse, StringMap, Text};

use super::Call;
use crate::actor::unknown;
use crate::options::Options;
use crate::refusal::Refusal;

const OPTIONS: &[&str] = &["job_tag"];

pub(super) async fn call(
    call: &Call<'_>,
    request: AdminAlterJobsRequest,
) -> Result<AdminAlterJobsResponse, Refusal> {
    let options = Options::new(&request.options, OPTIONS)?;
    if request.action != "cancel" {
        return Err(Refusal::Action {
            found: request.action,
        });
    }
    let mut job_ids = request.job_ids;
    if let Some(tag) = options.job_tag()? {
        let key = JobKey::Tag(tag);
        let job = call.by.engine.look(&call.by.caller, &key).await?;
        let id = job.ok_or_else(|| unknown(&key))?.header.id.get();
        if !job_ids.contains(&id) {
            job_ids.push(id);
        }
    } else if job_ids.is_empty() {
        return Err(Refusal::NoJobNamed);
    }

    let outcomes = call.by.cancel(&job_ids).await?;
    let status = outcomes.into_iter().map(word).collect();
    Ok(AdminAlterJobsResponse {
        job_ids,
        action: request.action,
        status,
        info: StringMap::new(),
    })
}

fn word(outcome: CancelOutcome) -> Text {
    match outcome {
        CancelOutcome::Cancelled => Text::from_static("cancelled"),
        CancelOutcome::Cancelling => Text::from_static("cancelling"),
        CancelOutcome::NotFound => Text::from_static("not found"),
        CancelOutcome::Ended(phase) => Text::from(format!("already {}", phase.status())),
    }
}
