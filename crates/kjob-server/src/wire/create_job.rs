//! `/create/job`: submits a job.
//!
//! Options beside the documented `job_tag`: `timeout_ms`, `priority` (0 to 9), `delay_ms`,
//! `retention_seconds`, `remove_job_on_complete`, `user_data` (also as `job_user_data`), and
//! `tag_reuse` = `never` or `if_failed`.

use kjob_core::Payload;
use kjob_proto::{CreateJobRequest, CreateJobResponse, Encoding, StringMap};

use super::Call;
use crate::job_options;
use crate::options::Options;
use crate::refusal::Refusal;

pub(super) async fn call(
    call: &Call<'_>,
    request: CreateJobRequest,
) -> Result<CreateJobResponse, Refusal> {
    let options = Options::new(&request.options, job_options::WIRE_NAMES)?;
    let payload = payload(&request)?;
    let mut submission = call.by.submission(&request.endpoint, payload)?;
    job_options::apply(&options, &mut submission)?;

    let accepted = call.by.submit(submission).await?;
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
