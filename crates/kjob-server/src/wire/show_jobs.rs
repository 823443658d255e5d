//! `/admin/show/jobs`: the list of jobs, as nine parallel arrays.
//!
//! Options beside the documented `show_async_jobs` and `show_worker_info`:
//!
//! - `status`: only these statuses, separated by commas; then `show_async_jobs` is not looked at;
//! - `endpoint`: only calls of it;
//! - `job_tag`: only the caller's job with this tag, whatever its status, unless `status` is given;
//! - `limit`: at most this many, 1 to 50,000, 10,000 unless told;
//! - `after`: only ids above this one.
//!
//! Jobs come by rising id. If there are more, `info.next` is the id to give as `after`. `info.job_tag`
//! is a JSON object from job id to tag. `flags` is the job's phase (`queued`, `running`, …), and
//! `query_text` is empty, as calls of endpoints have none. There are no worker ranks, so
//! `info.worker_info` is an empty JSON array.

use std::fmt::Write as _;

use kjob_core::{Page, Status};
use kjob_proto::{AdminShowJobsRequest, AdminShowJobsResponse, StringMap, Text};

use super::{Answer, Call};
use crate::budget::Held;
use crate::job_list;
use crate::options::Options;
use crate::refusal::Refusal;

const OPTIONS: &[&str] = &[
    "show_async_jobs",
    "show_worker_info",
    "status",
    "endpoint",
    "job_tag",
    "limit",
    "after",
];

const LIMIT: u64 = 10_000;

/// Below what decoders take in an array by default (`Limits::max_map_entries`), ours among them.
const LIMIT_MAX: u64 = 50_000;

/// The list. What it takes counts as `held`.
pub(super) async fn call(
    call: &Call<'_>,
    request: AdminShowJobsRequest,
    held: &mut Held,
) -> Result<Answer, Refusal> {
    let options = Options::new(&request.options, OPTIONS)?;
    let with_ended = options.flag("show_async_jobs")?.unwrap_or(false);
    let with_workers = options.flag("show_worker_info")?.unwrap_or(false);
    let tag = options.job_tag()?;
    let mut filter = job_list::filter(&options, LIMIT, LIMIT_MAX)?;
    if filter.statuses.is_empty() && !with_ended && tag.is_none() {
        filter.statuses.push(Status::Running);
    }

    // What waits is to be small.
    drop(request);
    held.release();
    let page = call.by.list(tag, filter).await?;
    // It may have to wait for its turn to be encoded.
    held.grow_to_answer(page.jobs.len() * ROW_MEMORY)
        .map_err(Refusal::AnswerBusy)?;
    let (len, tags_len_max) = (page.jobs.len() * ROW_LEN, call.limits.max_string);
    let make = move || table(page, tags_len_max);
    let mut response = call.by.off_thread(len, make).await?;
    if with_workers {
        response.info.insert("worker_info", "[]");
    }
    // About as many bytes as it has encoded.
    let answer = call.encode_copied(response, len).await?;
    held.release();
    answer.hold(held)?;
    Ok(answer)
}

/// About as many bytes as a row of the answer has.
const ROW_LEN: usize = 128;

/// About as many as a job takes until it is one.
const ROW_MEMORY: usize = 512;

/// The page as columns, cut before the text of all tags is longer than `tags_len_max` bytes: that
/// much a decoder takes.
fn table(page: Page, tags_len_max: usize) -> AdminShowJobsResponse {
    let mut response = AdminShowJobsResponse::default();
    let mut tags = String::from("{");
    let mut next = page.next;
    let mut last = None;
    for job in page.jobs {
        let header = job.header;
        let before = tags.len();
        let comma = if last.is_some() { "," } else { "" };
        // Tags are letters, digits, _ and -, so JSON has nothing to escape. Strings take any write.
        let _ = write!(tags, "{comma}\"{}\":\"{}\"", header.id, header.tag);
        if tags.len() >= tags_len_max && last.is_some() {
            tags.truncate(before);
            next = last;
            break;
        }
        last = Some(header.id);
        let phase = job.state.phase;
        response.job_id.push(header.id.get());
        response
            .status
            .push(Text::from_static(phase.status().as_str()));
        response.endpoint_name.push(header.endpoint);
        response.time_received.push(header.received_at.as_millis());
        response
            .auth_id
            .push(Text::copy_from(header.owner.as_str()));
        response.source_ip.push(header.source_ip);
        response.query_text.push(Text::new());
        response.user_data.push(header.options.user_data);
        response.flags.push(Text::from_static(phase.as_str()));
    }
    tags.push('}');
    response.info = StringMap::from_iter([("job_tag", tags)]);
    if let Some(next) = next {
        response.info.insert("next", next.to_string());
    }
    response
}
