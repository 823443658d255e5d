//! A job as JSON.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use kjob_core::{Ending, Job, Timestamp};
use serde::Serialize;

/// What is told of a job. Its members are those of `Job` in `openapi.json`.
#[derive(Debug, Serialize)]
pub(super) struct JobRecord<'a> {
    job_id: i64,
    job_tag: String,
    endpoint: &'a str,
    /// The word of the wire protocol: `RUNNING`, `DONE`, `ERROR`, `CANCELLED`.
    status: &'static str,
    phase: &'static str,
    progress: u8,
    attempt: u32,
    query_id: String,
    owner: &'a str,
    priority: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_data: &'a str,
    time_received: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_ended: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_expires: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_encoding: Option<&'static str>,
    /// What its handler said of its result.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    result_info: BTreeMap<&'a str, &'a str>,
    links: Links,
}

/// Paths of what belongs to a job.
#[derive(Debug, Serialize)]
struct Links {
    #[serde(rename = "self")]
    job: String,
    events: String,
    /// Where it has a result.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
}

impl<'a> JobRecord<'a> {
    pub(super) fn of(job: &'a Job) -> Self {
        let (header, state) = (&job.header, &job.state);
        let path = super::path_of(header.id);
        let mut result_info = BTreeMap::new();
        let (error, result_encoding) = match &job.ending {
            Some(Ending::Failed(message)) => (Some(message.as_str()), None),
            Some(Ending::Done(result)) => {
                let said = result.info.iter();
                result_info.extend(said.map(|(name, value)| (name.as_str(), value.as_str())));
                (None, Some(result.payload.encoding.as_str()))
            }
            Some(Ending::Cancelled) | None => (None, None),
        };
        Self {
            job_id: header.id.get(),
            job_tag: header.tag.to_string(),
            endpoint: &header.endpoint,
            status: state.phase.status().as_str(),
            phase: state.phase.as_str(),
            progress: state.progress,
            attempt: state.attempt,
            query_id: header.query_id.to_string(),
            owner: header.owner.as_str(),
            priority: header.options.priority.get(),
            user_data: &header.options.user_data,
            time_received: rfc3339(header.received_at),
            time_started: state.started_at.map(rfc3339),
            time_ended: state.ended_at.map(rfc3339),
            time_expires: job.expires_at.map(rfc3339),
            error,
            result_encoding,
            result_info,
            links: Links {
                events: format!("{path}/events"),
                result: result_encoding.map(|_| format!("{path}/result")),
                job: path,
            },
        }
    }
}

/// The last moment that the format has: the end of the year 9999.
const TIME_MAX_SECS: u64 = 253_402_300_799;

/// A moment as text; one before 1970 or after 9999 as the nearest there is.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(0);
    let since = Duration::from_millis(millis).min(Duration::from_secs(TIME_MAX_SECS));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_has_a_text() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_732_407_662_123, "2024-11-24T00:21:02.123Z"),
            (i64::MIN, "1970-01-01T00:00:00.000Z"),
            (i64::MAX, "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::from_millis(millis)), text);
        }
    }
}
