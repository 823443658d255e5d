//! What a receiver is told, and the proof of who says it: the form of Standard Webhooks
//! (standardwebhooks.com, specification 1.0).

use base64ct::{Base64, Encoding};
use kjob_core::{Ending, Job, Timestamp};
use ring::hmac;
use serde::Serialize;

use crate::ordinary::rfc3339;

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'static str,
    /// When the job ended.
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    job_id: i64,
    job_tag: &'a str,
    endpoint: &'a str,
    status: &'static str,
    query_id: String,
    attempt: u32,
    user_data: &'a str,
    time_received: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_started: Option<String>,
    time_ended: String,
    /// Of a failed job.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    /// Where the result is, of a job that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
}

/// The body for a job that has ended.
pub(super) fn body(job: &Job) -> serde_json::Result<Vec<u8>> {
    let (header, state) = (&job.header, &job.state);
    let ended = rfc3339(state.ended_at.unwrap_or_default());
    let (error, has_result) = match &job.ending {
        Some(Ending::Failed(message)) => (Some(message.as_str()), false),
        Some(Ending::Done(_)) => (None, true),
        Some(Ending::Cancelled) | None => (None, false),
    };
    serde_json::to_vec(&Message {
        r#type: "job.ended",
        timestamp: ended.clone(),
        data: Data {
            job_id: header.id.get(),
            job_tag: header.tag.as_str(),
            endpoint: &header.endpoint,
            status: state.phase.status().as_str(),
            query_id: header.query_id.to_string(),
            attempt: state.attempt,
            user_data: &header.options.user_data,
            time_received: rfc3339(header.received_at),
            time_started: state.started_at.map(rfc3339),
            time_ended: ended,
            error,
            result: has_result.then(|| format!("/jobs/{}/result", header.id)),
        },
    })
}

/// The message's name: the same at each try, so that a receiver knows what it was told before.
pub(super) fn id(job: &Job) -> String {
    format!("job-{}-{}", job.header.id, job.header.query_id)
}

/// The whole seconds that a try is dated with.
pub(super) fn seconds(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(1000)
}

/// The signature over a message, as its header has it.
pub(super) fn signature(key: &hmac::Key, id: &str, seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", Base64::encode_string(context.sign().as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let secret = Base64::decode_vec("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signed = signature(
            &key,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
