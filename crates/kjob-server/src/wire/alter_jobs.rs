//! `/admin/alter/jobs`: cancels jobs, named by their ids, by the option `job_tag`, or both.
//!
//! The reply has a word for each id, in order: `cancelled` (it was waiting), `cancelling` (it runs and
//! was told to stop), `already DONE`, `already ERROR`, `already CANCELLED`, or `not found`. The id of
//! the job with the tag comes last, unless it was given as an id too. A tag that names no job is an
//! error, before anything is cancelled.

use std::net::IpAddr;

use kjob_core::engine::{Caller, CancelOutcome, Engine, JobKey};
use kjob_core::{JobId, StoreError};
use kjob_proto::{AdminAlterJobsRequest, AdminAlterJobsResponse, StringMap, Text};

use super::Call;
use super::get_job::unknown;
use crate::audit::{AuditLog, Event};
use crate::options::Options;
use crate::refusal::Refusal;

const OPTIONS: &[&str] = &["job_tag"];

/// Cancels of one request that are under way at once, so that they share commits.
const CONCURRENT_MAX: usize = 64;

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
        let job = call.engine.get(call.caller, &key).await?;
        let id = job.ok_or_else(|| unknown(&key))?.header.id.get();
        if !job_ids.contains(&id) {
            job_ids.push(id);
        }
    } else if job_ids.is_empty() {
        return Err(Refusal::NoJobNamed);
    }

    let mut status = Vec::with_capacity(job_ids.len());
    let mut unknown_count = 0;
    for ids in job_ids.chunks(CONCURRENT_MAX) {
        let cancel = |id: &i64| tokio::spawn(Cancel::new(call, *id).run());
        let cancels: Vec<_> = ids.iter().map(cancel).collect();
        for cancel in cancels {
            let outcome = cancel.await.map_err(|_| Refusal::Stopping)??;
            unknown_count += usize::from(outcome == CancelOutcome::NotFound);
            status.push(word(outcome));
        }
    }
    if unknown_count > 0 {
        let event = Event::cancel_unknown(call.caller, call.ip, unknown_count);
        AuditLog::note(call.audit, event).await;
    }
    Ok(AdminAlterJobsResponse {
        job_ids,
        action: request.action,
        status,
        info: StringMap::new(),
    })
}

/// One cancel, which goes on to its end, and is written, also if the caller goes away.
struct Cancel {
    engine: Engine,
    caller: Caller,
    audit: Option<AuditLog>,
    ip: IpAddr,
    id: i64,
}

impl Cancel {
    fn new(call: &Call<'_>, id: i64) -> Self {
        Self {
            engine: call.engine.clone(),
            caller: call.caller.clone(),
            audit: call.audit.cloned(),
            ip: call.ip,
            id,
        }
    }

    async fn run(self) -> Result<CancelOutcome, StoreError> {
        let Some(id) = JobId::new(self.id) else {
            return Ok(CancelOutcome::NotFound);
        };
        let outcome = self.engine.cancel(&self.caller, &JobKey::Id(id)).await?;
        if let Some(event) = Event::cancel(&self.caller, self.ip, id, outcome) {
            AuditLog::note(self.audit.as_ref(), event).await;
        }
        Ok(outcome)
    }
}

fn word(outcome: CancelOutcome) -> Text {
    match outcome {
        CancelOutcome::Cancelled => Text::from_static("cancelled"),
        CancelOutcome::Cancelling => Text::from_static("cancelling"),
        CancelOutcome::NotFound => Text::from_static("not found"),
        CancelOutcome::Ended(phase) => Text::from(format!("already {}", phase.status())),
    }
}
