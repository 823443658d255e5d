//! Refusals as problem details (RFC 9457): what callers of ordinary HTTP are told.

use http::header::{CACHE_CONTROL, CONTENT_RANGE};
use http::{HeaderValue, Response};
use kjob_core::engine::SubmitError;
use serde::Serialize;

use crate::body::BodyError;
use crate::budget::OverBudget;
use crate::options::OptionError;
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};

/// What a problem's type begins with; its kind's name ends it. The page explains each.
const TYPE: &str = "https://github.com/kjob-rs/kjob/blob/main/docs/http.md#";

pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// The members of a problem: those of the RFC, and facts of the kind that programs may want.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    #[serde(flatten)]
    facts: Facts<'a>,
}

#[derive(Debug, Default, Serialize)]
struct Facts<'a> {
    /// The parameter, option or member that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    /// The job that the refusal is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<i64>,
}

/// The answer to a request of ordinary HTTP that is not done.
pub(crate) fn answer(refusal: &Refusal) -> Response<ReplyBody> {
    let kind = refusal.kind();
    let problem = Problem {
        r#type: format!("{TYPE}{}", kind.name),
        title: kind.title,
        status: kind.http.as_u16(),
        detail: refusal.message(),
        facts: facts(refusal),
    };
    let body = match serde_json::to_vec(&problem) {
        Ok(body) => body,
        // Texts and numbers are JSON, whatever is in them.
        Err(error) => unreachable!("a problem is no JSON: {error}"),
    };
    let content_type = HeaderValue::from_static(CONTENT_TYPE);
    let mut response = reply::bytes(kind.http, content_type, body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Refusal::Range { len, .. } = refusal
        && let Ok(value) = HeaderValue::try_from(format!("bytes */{len}"))
    {
        headers.insert(CONTENT_RANGE, value);
    }
    reply::with_headers(refusal, refusal.http_retry_after(), response)
}

fn facts(refusal: &Refusal) -> Facts<'_> {
    let none = Facts::default;
    match refusal {
        Refusal::Body(error) => of_body(error),
        Refusal::AnswerBusy(error) => of_budget(*error),
        Refusal::TooManyStreams { limit } => Facts {
            limit: Some(*limit as u64),
            ..none()
        },
        Refusal::Option(error) => of_option(error),
        Refusal::Callback(_) => Facts {
            parameter: Some("callback_url"),
            ..none()
        },
        Refusal::Member { name, .. } => Facts {
            parameter: Some(name),
            ..none()
        },
        Refusal::EndpointTooLong { found, limit } => Facts {
            parameter: Some("endpoint"),
            found: Some(*found as u64),
            limit: Some(*limit as u64),
            ..none()
        },
        Refusal::Submit(SubmitError::Busy { found, limit, .. }) => Facts {
            found: Some(*found),
            limit: Some(*limit),
            ..none()
        },
        Refusal::Submit(SubmitError::TagConflict { id, .. })
        | Refusal::NotEnded { id, .. }
        | Refusal::Ended { id, .. }
        | Refusal::NoResult { id, .. }
        | Refusal::JobFailed { id, .. }
        | Refusal::JobCancelled(id) => Facts {
            job_id: Some(id.get()),
            ..none()
        },
        _ => none(),
    }
}

fn of_body(error: &BodyError) -> Facts<'_> {
    match error {
        BodyError::TooLarge { announced, limit } => Facts {
            found: *announced,
            limit: Some(*limit as u64),
            ..Facts::default()
        },
        BodyError::Busy(error) => of_budget(*error),
        _ => Facts::default(),
    }
}

fn of_budget(error: OverBudget) -> Facts<'static> {
    Facts {
        found: Some(error.wanted as u64),
        limit: Some(error.limit as u64),
        ..Facts::default()
    }
}

fn of_option(error: &OptionError) -> Facts<'_> {
    let (parameter, found, limit) = match error {
        OptionError::NearMiss { found, .. } | OptionError::Unknown { found, .. } => {
            (Some(found.as_str()), None, None)
        }
        OptionError::BadValue { name, .. } => (Some(*name), None, None),
        OptionError::TooLong { name, found, limit } => (Some(*name), Some(*found), Some(*limit)),
        OptionError::BadTag { name, .. } => (Some(*name), None, None),
        OptionError::TooMany { found, limit } => (None, Some(*found), Some(*limit)),
    };
    Facts {
        parameter,
        found: found.map(|found| found as u64),
        limit: limit.map(|limit| limit as u64),
        ..Facts::default()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use kjob_core::{Difference, JobId};

    use super::*;

    #[tokio::test]
    async fn a_problem_has_what_the_rfc_asks_for_and_its_facts() {
        let refusal = Refusal::Submit(SubmitError::TagConflict {
            tag: "nightly".parse().unwrap(),
            id: JobId::new(7).unwrap(),
            difference: Difference::Payload,
        });
        let response = answer(&refusal);
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()["content-type"], CONTENT_TYPE);
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        let problem: serde_json::Value = serde_json::from_slice(&body.unwrap().to_bytes()).unwrap();
        let expected = serde_json::json!({
            "type": "https://github.com/kjob-rs/kjob/blob/main/docs/http.md#tag-conflict",
            "title": "The tag names another call",
            "status": 409,
            "detail": "job_tag nightly names job 7, which has another payload",
            "job_id": 7,
        });
        assert_eq!(problem, expected);
    }
}
