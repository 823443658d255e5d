//! `/get/job`: the status of a job and, once it is done, its result.
//!
//! Options beside the documented `job_tag`: `wait_ms` (answer when the job has ended, or the time is
//! up) and `response_encoding` = `binary` or `json` (the result in that encoding).
//!
//! `info` has `job_id`, `job_tag`, `query_id`, `phase` (`queued`, `running`, `cancelling`, `done`, `failed`,
//! `cancelled`), `attempt`, and in epoch milliseconds, where they are known, `time_received`,
//! `time_started`, `time_ended` and `time_expires`. What the handler said about the result is there
//! with `result.` before each name. Of a job with a `callback_url` that has ended there are `callback`
//! (`pending`, `delivered`, `given_up`), `callback_attempts`, and of the last try, where they are
//! known, `callback_http_status`, `callback_error`, `time_callback_tried`, and `time_callback_next`.

use std::time::Duration;

use kjob_core::engine::JobKey;
use kjob_core::{CallbackState, Ending, Job, JobId, JobTag, Output, Payload, Phase, Timestamp};
use kjob_proto::{Encoding, GetJobRequest, GetJobResponse, StringMap, Text};

use super::{Answer, Call};
use crate::actor::{json_text, unknown};
use crate::budget::Held;
use crate::options::Options;
use crate::refusal::Refusal;
use crate::reply::Delivery;

const OPTIONS: &[&str] = &["job_tag", "wait_ms", "response_encoding"];

/// A job that was asked for, as it is when its caller is to have it.
pub(super) struct Got {
    job: Job,
    /// The encoding that is wanted for its result.
    wanted: Option<Encoding>,
}

/// Finds the job, or waits for its end. Apart from [`answer`], as what waits is to be small.
pub(super) async fn wait(
    call: &Call<'_>,
    request: GetJobRequest,
    held: &mut Held,
) -> Result<Got, Refusal> {
    let options = Options::new(&request.options, OPTIONS)?;
    let words = [("binary", Encoding::Binary), ("json", Encoding::Json)];
    let wanted = options.word("response_encoding", &words)?;
    let wait = options.number("wait_ms", 0..=u64::MAX)?.unwrap_or(0);
    let wait = Duration::from_millis(wait).min(call.wait_max);
    let key = key(request.job_id, options.job_tag()?)?;
    drop(request);
    held.release();

    let job = call.by.engine.wait(&call.by.caller, &key, wait).await?;
    let job = job.ok_or_else(|| unknown(&key))?;
    Ok(Got { job, wanted })
}

/// Tells of it.
pub(super) async fn answer(
    call: &Call<'_>,
    Got { mut job, wanted }: Got,
    held: &mut Held,
) -> Result<Answer, Refusal> {
    let mut response = describe(&job);
    match job.ending.take() {
        Some(Ending::Done(Output { payload, .. })) => {
            let busy = Refusal::AnswerBusy;
            held.grow_to_answer(payload.data.len()).map_err(busy)?;
            let result = call.by.turned(&job, payload, wanted).await?;
            put_result(&mut response, result)?;
            let delivery = Delivery::of(&call.by.engine, job);
            let answer = call.encode(response).await?;
            answer.hold(held)?;
            return Ok(Answer { delivery, ..answer });
        }
        Some(Ending::Failed(message)) => {
            response.status_map.insert("error_message", message);
        }
        Some(Ending::Cancelled) | None => {}
    }
    let encoding = wanted.unwrap_or(job.header.encoding.reply());
    response.response_encoding = Text::from_static(encoding.as_str());
    let answer = call.encode(response).await?;
    answer.hold(held)?;
    Ok(answer)
}

/// The tag wins over the id, since the id is a required field (docs/protocol.md section 4).
fn key(id: i64, tag: Option<JobTag>) -> Result<JobKey, Refusal> {
    match tag {
        Some(tag) => Ok(JobKey::Tag(tag)),
        None => JobId::new(id).map(JobKey::Id).ok_or(Refusal::UnknownId(id)),
    }
}

/// All of the response but what the job's end adds.
fn describe(job: &Job) -> GetJobResponse {
    let phase = job.state.phase;
    GetJobResponse {
        endpoint: job.header.endpoint.clone(),
        job_status: Text::from_static(phase.status().as_str()),
        running: !phase.is_terminal(),
        progress: i32::from(job.state.progress),
        successful: phase == Phase::Done,
        info: info(job),
        ..GetJobResponse::default()
    }
}

fn info(job: &Job) -> StringMap {
    let mut info = StringMap::with_capacity(12);
    // Who asked by tag does not know it, and the record has no field for it.
    info.insert("job_id", job.header.id.to_string());
    info.insert("job_tag", job.header.tag.to_string());
    info.insert("query_id", job.header.query_id.to_string());
    info.insert("phase", job.state.phase.as_str());
    info.insert("attempt", job.state.attempt.to_string());
    let times: [(&'static str, Option<Timestamp>); 4] = [
        ("time_received", Some(job.header.received_at)),
        ("time_started", job.state.started_at),
        ("time_ended", job.state.ended_at),
        ("time_expires", job.expires_at),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            info.insert(name, time.as_millis().to_string());
        }
    }
    if let Some(Ending::Done(result)) = &job.ending {
        for (name, value) in result.info.iter() {
            info.insert(format!("result.{name}"), value.clone());
        }
    }
    if let Some(callback) = &job.callback {
        put_callback(&mut info, callback);
    }
    info
}

fn put_callback(info: &mut StringMap, callback: &CallbackState) {
    info.insert("callback", callback.phase.as_str());
    info.insert("callback_attempts", callback.attempts.to_string());
    if let Some(status) = callback.http_status {
        info.insert("callback_http_status", status.to_string());
    }
    if let Some(error) = &callback.error {
        info.insert("callback_error", error.clone());
    }
    let times = [
        ("time_callback_tried", callback.tried_at),
        ("time_callback_next", callback.next_at),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            info.insert(name, time.as_millis().to_string());
        }
    }
}

fn put_result(response: &mut GetJobResponse, result: Payload) -> Result<(), Refusal> {
    response.response_encoding = Text::from_static(result.encoding.as_str());
    match result.encoding {
        Encoding::Json => response.job_response_str = json_text(result.data)?,
        Encoding::Binary | Encoding::Snappy => response.job_response = result.data,
    }
    Ok(())
}
