//! Jobs as JSON.

use kjob_client::{Encoding, Job, JobKey, ListedJob, Payload};
use serde::Serialize;
use serde_json::value::RawValue;

use super::text::time;

/// A job as `get`, `wait` and `result` print it. Every key is always there; what is not known is null.
#[derive(Debug, Serialize)]
pub(crate) struct JobDocument {
    id: Option<i64>,
    tag: Option<String>,
    endpoint: String,
    status: String,
    phase: Option<String>,
    running: bool,
    progress: i32,
    attempt: Option<u64>,
    error: Option<String>,
    query_id: Option<String>,
    received_at: Option<String>,
    started_at: Option<String>,
    ended_at: Option<String>,
    expires_at: Option<String>,
    result_encoding: Option<&'static str>,
    result: Option<Box<RawValue>>,
}

/// A job as `list` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct ListedDocument<'a> {
    id: i64,
    tag: Option<&'a str>,
    status: String,
    phase: &'a str,
    endpoint: &'a str,
    user: &'a str,
    source_ip: &'a str,
    user_data: &'a str,
    received_at: Option<String>,
}

impl JobDocument {
    pub(crate) fn new(key: &JobKey, job: &Job) -> Self {
        let info = |name: &str| job.info.get(name).map(ToString::to_string);
        let at = |name: &str| time(info(name)?.parse().ok()?);
        let (id, tag) = match key {
            JobKey::Id(id) => (Some(*id), None),
            JobKey::Tag(tag) => (None, Some(tag.to_string())),
        };
        Self {
            id: id.or(job.id()),
            tag: job.tag().map(str::to_owned).or(tag),
            endpoint: job.endpoint.to_string(),
            status: job.status.to_string(),
            phase: job.phase().map(str::to_owned),
            running: job.running,
            progress: job.progress,
            attempt: info("attempt").and_then(|text| text.parse().ok()),
            error: job.error_message.as_ref().map(ToString::to_string),
            query_id: info("query_id"),
            received_at: at("time_received"),
            started_at: at("time_started"),
            ended_at: at("time_ended"),
            expires_at: at("time_expires"),
            result_encoding: job.result.as_ref().map(|result| result.encoding.as_str()),
            result: job.result.as_ref().and_then(embedded),
        }
    }
}

impl<'a> From<&'a ListedJob> for ListedDocument<'a> {
    fn from(job: &'a ListedJob) -> Self {
        Self {
            id: job.id,
            tag: job.tag.as_deref(),
            status: job.status.to_string(),
            phase: &job.flags,
            endpoint: &job.endpoint,
            user: &job.user,
            source_ip: &job.source_ip,
            user_data: &job.user_data,
            received_at: time(job.received_at_millis),
        }
    }
}

/// A JSON result as it is, with all digits of its numbers, and in one line; one that is none as a text.
/// A binary one as the text of its Base64 form.
fn embedded(result: &Payload) -> Option<Box<RawValue>> {
    let text = match result.encoding {
        Encoding::Json => {
            let text = String::from_utf8_lossy(&result.data);
            // Between its tokens only: inside of strings there are none.
            let line = text.trim().replace(['\n', '\r'], " ");
            match RawValue::from_string(line) {
                Ok(raw) => return Some(raw),
                Err(_) => text.into_owned(),
            }
        }
        _ => base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &result.data),
    };
    serde_json::value::to_raw_value(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(result: Payload) -> String {
        embedded(&result).unwrap().get().to_owned()
    }

    #[test]
    fn a_json_result_is_embedded_to_the_last_digit_and_in_one_line() {
        for (text, expected) in [
            (
                "{\"b\": 1e2,\n \"a\":\r\n[]}\n",
                "{\"b\": 1e2,  \"a\":  []}",
            ),
            ("12345678901234567890123", "12345678901234567890123"),
            ("0.1000", "0.1000"),
            (r#""a\nb""#, r#""a\nb""#),
        ] {
            assert_eq!(shown(Payload::json(text.to_owned())), expected);
        }
    }

    #[test]
    fn other_results_are_texts() {
        assert_eq!(shown(Payload::json("no\njson")), r#""no\njson""#);
        assert_eq!(shown(Payload::binary(&[0xff, 0][..])), r#""/wA=""#);
    }
}
