//! `/create/job`: submits a job.
//!
//! Options beside the documented `job_tag`: `timeout_ms`, `priority` (0 to 9), `delay_ms`,
//! `retention_seconds`, `remove_job_on_complete`, `user_data` (also as `job_user_data`), and
//! `tag_reuse` = `never` or `if_failed`.

use std::time::Duration;

use kjob_core::engine::Submission;
use kjob_core::{Payload, Priority, TagReuse};
use kjob_proto::{CreateJobRequest, CreateJobResponse, Encoding, StringMap, Text};

use super::Call;
use crate::options::{OptionError, Options, SECONDS_MAX};
use crate::refusal::Refusal;

/// The longest endpoint name, in bytes. It is kept in memory for as long as the job lives.
const ENDPOINT_LEN_MAX: usize = 1024;

/// The longest `user_data`, in bytes. It is kept in memory for as long as the job lives.
const USER_DATA_LEN_MAX: usize = 4096;

const OPTIONS: &[&str] = &[
    "job_tag",
    "timeout_ms",
    "priority",
    "delay_ms",
    "retention_seconds",
    "remove_job_on_complete",
    "user_data",
    "job_user_data",
    "tag_reuse",
];

pub(super) async fn call(
    call: &Call<'_>,
    request: CreateJobRequest,
) -> Result<CreateJobResponse, Refusal> {
    if request.endpoint.len() > ENDPOINT_LEN_MAX {
        return Err(Refusal::EndpointTooLong {
            found: request.endpoint.len(),
            limit: ENDPOINT_LEN_MAX,
        });
    }
    // A copy, so that a waiting job does not keep the whole body in memory.
    let endpoint = Text::copy_from(&request.endpoint);
    let options = Options::new(&request.options, OPTIONS)?;
    let payload = payload(&request)?;
    let mut submission = Submission::new(call.caller.owner.clone(), endpoint, payload);
    submission.trace = call.trace;
    submission.source_ip = Text::from(call.ip.to_canonical().to_string());
    apply(&options, &mut submission)?;

    let accepted = call.submit(submission).await?;
    let mut info = StringMap::with_capacity(3);
    info.insert("job_tag", accepted.tag.to_string());
    info.insert("query_id", accepted.query_id.to_string());
    if accepted.existing {
        info.insert("existing", "true");
    }
    Ok(CreateJobResponse {
        job_id: accepted.id.get(),
        info,
    })
}

/// The payload, from the field that its encoding names; the other field is not looked at. No word
/// means `binary` (docs/protocol.md section 4).
fn payload(request: &CreateJobRequest) -> Result<Payload, Refusal> {
    let encoding = match request.request_encoding.as_str() {
        "" => Ok(Encoding::Binary),
        word => word.parse(),
    };
    let encoding: Encoding = encoding.map_err(|_| Refusal::PayloadEncoding {
        found: request.request_encoding.clone(),
    })?;
    let data = match encoding {
        Encoding::Json => request.data_str.clone().into_bytes(),
        Encoding::Binary | Encoding::Snappy => request.data.clone(),
    };
    Ok(Payload { encoding, data })
}

fn apply(options: &Options<'_>, submission: &mut Submission) -> Result<(), OptionError> {
    submission.tag = options.job_tag()?;
    let reuse = [
        ("never", TagReuse::Never),
        ("if_failed", TagReuse::IfFailed),
    ];
    submission.tag_reuse = options.word("tag_reuse", &reuse)?.unwrap_or_default();
    submission.timeout = options.millis("timeout_ms", 1)?;
    submission.delay = options.millis("delay_ms", 0)?.unwrap_or_default();
    let retention = options.number("retention_seconds", 0..=SECONDS_MAX)?;
    submission.retention = retention.map(Duration::from_secs);
    let remove = options.flag("remove_job_on_complete")?;
    submission.remove_on_complete = remove.unwrap_or(false);
    let highest = Priority::COUNT as u64 - 1;
    if let Some(number) = options.number("priority", 0..=highest)? {
        let priority = u8::try_from(number).ok().and_then(Priority::new);
        submission.priority = priority.unwrap_or_default();
    }
    let user_data = options.short_text("user_data", USER_DATA_LEN_MAX)?;
    let other_name = options.short_text("job_user_data", USER_DATA_LEN_MAX)?;
    submission.user_data = user_data.or(other_name).unwrap_or_default();
    Ok(())
}
