//! Ordinary HTTP: jobs as resources, for people and tools that know nothing of the wire protocol.
//!
//! What is said here of paths and methods is held against `openapi.json` by a test.

mod changes;
mod console;
mod events;
mod list;
mod openapi;
mod payload;
mod query;
pub(crate) mod ranges;
mod record;
mod result;
mod submit;
mod sync_call;

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, IF_NONE_MATCH, IF_RANGE, LOCATION, ORIGIN, RANGE,
    RETRY_AFTER,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use kjob_core::engine::{Accepted, CancelOutcome, JobKey};
use kjob_core::{Age, Job, JobId};
use kjob_proto::Text;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::actor::{Actor, unknown};
use crate::budget::Held;
use crate::job_log;
use crate::metrics::Metrics;
use crate::prefer::{PREFERENCE_APPLIED, Prefer};
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};
use query::Query;
use record::JobRecord;
pub(crate) use record::rfc3339;

pub(crate) use events::Audience;
pub(crate) use sync_call::SyncCall;

/// How a path names a job by its tag.
const TAG_PREFIX: &str = "tag:";

/// Where a browser says what it has seen of a stream of events.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The header by which a caller names a call, so that sending it twice does it once.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is to be waited before a job is looked at again, in seconds.
const LOOK_AGAIN_SECS: u64 = 1;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// `/jobs`
    Jobs,
    /// `/jobs/{job}`
    Job(JobName),
    /// `/jobs/{job}/result`
    Result(JobName),
    /// `/jobs/{job}/events`
    Events(JobName),
    /// `/jobs/{job}/progress`
    Progress(JobName),
    /// `/jobs/{job}/payload`
    Payload(JobName),
    /// `/jobs/{job}/log`
    Log(JobName),
    /// `/jobs/events`
    Changes,
    /// `/console/me`
    Me,
    /// `/console/history`
    History,
    /// `/openapi.json`
    OpenApi,
}

/// The part of a path that names a job: its id, or `tag:` and its tag. Anything else is nobody's job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobName(Result<JobKey, String>);

/// What ordinary HTTP needs of a request's head beside what all do.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    query: Option<String>,
    content_type: Option<String>,
    prefer: Prefer,
    range: Option<String>,
    if_range: Option<String>,
    if_none_match: Option<String>,
    last_event_id: Option<String>,
    idempotency_key: Option<String>,
    /// Whether a web page sends it.
    is_from_page: bool,
}

/// A request for a resource.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) by: &'a Actor,
    pub(crate) method: &'a Method,
    pub(crate) extras: &'a Extras,
    /// The longest time that a caller may ask to wait.
    pub(crate) wait_max: Duration,
    /// Who is told of events, and until when.
    pub(crate) audience: &'a Audience,
    /// Who notes what happens to jobs, if anybody does.
    pub(crate) metrics: Option<&'a Metrics>,
    /// Whose accounts count.
    pub(crate) accounts: &'static str,
}

impl Resource {
    /// What is at a path, if it is one of ours.
    pub(crate) fn at(path: &str) -> Option<Self> {
        match path {
            "/openapi.json" => return Some(Self::OpenApi),
            "/console/me" => return Some(Self::Me),
            "/console/history" => return Some(Self::History),
            // No job has such a name.
            "/jobs/events" => return Some(Self::Changes),
            _ => {}
        }
        let rest = path.strip_prefix("/jobs")?;
        let mut parts = rest.strip_prefix('/').unwrap_or(rest).split('/');
        match (rest, parts.next(), parts.next(), parts.next()) {
            ("", ..) => Some(Self::Jobs),
            (_, Some(name), None, None) if rest.starts_with('/') && !name.is_empty() => {
                Some(Self::Job(JobName::of(name)))
            }
            (_, Some(name), Some(part), None) if rest.starts_with('/') => match part {
                "result" => Some(Self::Result(JobName::of(name))),
                "events" => Some(Self::Events(JobName::of(name))),
                "progress" => Some(Self::Progress(JobName::of(name))),
                "payload" => Some(Self::Payload(JobName::of(name))),
                "log" => Some(Self::Log(JobName::of(name))),
                _ => None,
            },
            _ => None,
        }
    }

    /// The path, as OpenAPI writes it.
    pub(crate) fn template(&self) -> &'static str {
        match self {
            Self::Jobs => "/jobs",
            Self::Job(_) => "/jobs/{job}",
            Self::Result(_) => "/jobs/{job}/result",
            Self::Events(_) => "/jobs/{job}/events",
            Self::Progress(_) => "/jobs/{job}/progress",
            Self::Payload(_) => "/jobs/{job}/payload",
            Self::Log(_) => "/jobs/{job}/log",
            Self::Changes => "/jobs/events",
            Self::Me => "/console/me",
            Self::History => "/console/history",
            Self::OpenApi => "/openapi.json",
        }
    }

    /// Whether it is there for the console alone.
    pub(crate) fn is_of_console(&self) -> bool {
        matches!(self, Self::Me | Self::History)
    }

    /// Its methods, as `Allow` has them.
    fn methods(&self) -> &'static str {
        match self {
            Self::Jobs => "GET, HEAD, POST",
            Self::Job(_) => "GET, HEAD, DELETE",
            Self::Result(_)
            | Self::Payload(_)
            | Self::Log(_)
            | Self::Me
            | Self::History
            | Self::OpenApi => "GET, HEAD",
            Self::Events(_) | Self::Changes => "GET",
            Self::Progress(_) => "POST",
        }
    }

    /// Refuses a method that it does not have.
    pub(crate) fn check_method(&self, method: &Method) -> Result<(), Refusal> {
        let allowed = self.methods();
        if allowed.split(", ").any(|known| method == known) {
            return Ok(());
        }
        Err(Refusal::Method {
            found: method.clone(),
            allowed,
        })
    }
}

impl JobName {
    fn of(segment: &str) -> Self {
        let text = percent_decode_str(segment).decode_utf8_lossy();
        let key = match text.strip_prefix(TAG_PREFIX) {
            Some(tag) => tag.parse().ok().map(JobKey::Tag),
            None => id_of(&text).map(JobKey::Id),
        };
        Self(key.ok_or_else(|| text.into_owned()))
    }

    fn key(&self) -> Result<&JobKey, Refusal> {
        self.0.as_ref().map_err(|found| Refusal::NoJobName {
            found: found.clone(),
        })
    }

    /// The id, where a job is named by nothing else.
    pub(crate) fn id(&self) -> Result<JobId, Refusal> {
        match self.key()? {
            JobKey::Id(id) => Ok(*id),
            key @ JobKey::Tag(_) => Err(unknown(key)),
        }
    }
}

/// Digits that are an id, without zeros before them: each job has one path.
fn id_of(text: &str) -> Option<JobId> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    is_plain.then(|| JobId::new(text.parse().ok()?)).flatten()
}

impl Extras {
    pub(crate) fn of(parts: &Parts) -> Self {
        let headers = &parts.headers;
        Self {
            query: parts.uri.query().map(str::to_owned),
            content_type: text_of(headers, &CONTENT_TYPE),
            prefer: Prefer::of(headers),
            range: text_of(headers, &RANGE),
            if_range: text_of(headers, &IF_RANGE),
            if_none_match: list_of(headers, &IF_NONE_MATCH),
            last_event_id: text_of(headers, &LAST_EVENT_ID),
            idempotency_key: text_of(headers, &IDEMPOTENCY_KEY),
            is_from_page: headers.contains_key(ORIGIN),
        }
    }

    /// What proves that an upstream may report on a job.
    pub(crate) fn token(&self) -> Result<Text, Refusal> {
        let query = self.query(&["token"])?;
        let token = query.options()?.text("token").cloned();
        token.ok_or_else(|| Refusal::Member {
            name: "token".to_owned(),
            why: "is missing; it is in the URL that the upstream was given".to_owned(),
        })
    }

    fn query(&self, known: &[&'static str]) -> Result<Query, Refusal> {
        Query::parse(self.query.as_deref().unwrap_or_default(), known)
    }
}

/// A header's text; one that is not visible ASCII counts as absent.
fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The texts of a header that is a list, and may come in several lines.
fn list_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values = headers.get_all(name).iter();
    let texts: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

impl Ask<'_> {
    /// Answers a GET, a HEAD or a DELETE, whose method the resource has. `held` is made to count for the
    /// answer.
    pub(crate) async fn answer(
        &self,
        resource: &Resource,
        held: &mut Held,
    ) -> Result<Response<ReplyBody>, Refusal> {
        match resource {
            Resource::Jobs => list::answer(self, held).await,
            Resource::Job(name) if self.method == Method::DELETE => self.cancel(name.key()?).await,
            Resource::Job(name) => self.job(name.key()?).await,
            Resource::Result(name) => result::answer(self, name.key()?, held).await,
            Resource::Events(name) => events::answer(self, name.key()?).await,
            Resource::Changes => changes::answer(self),
            Resource::Payload(name) => payload::answer(self, name.key()?, held).await,
            Resource::Log(name) => self.log(name.key()?).await,
            Resource::Me => self.me(),
            Resource::History => self.history(),
            // Reports are taken before it is asked who calls, and nothing is to be had here.
            Resource::Progress(name) => Err(unknown(name.key()?)),
            Resource::OpenApi => {
                self.extras.query(&[])?;
                Ok(openapi::answer())
            }
        }
    }

    /// Answers a POST to `/jobs`.
    pub(crate) async fn submit(
        &self,
        body: Bytes,
        held: &mut Held,
    ) -> Result<Response<ReplyBody>, Refusal> {
        self.extras.query(&[])?;
        submit::answer(self, body, held).await
    }

    async fn job(&self, key: &JobKey) -> Result<Response<ReplyBody>, Refusal> {
        let query = self.extras.query(&["wait"])?;
        let wait = self.wait(&query)?;
        let job = match wait {
            None => self.by.engine.look(&self.by.caller, key).await?,
            Some(wait) => {
                let (engine, caller) = (&self.by.engine, &self.by.caller);
                engine.news(caller, key, Age::LIVE_MAX, wait).await?
            }
        };
        let job = job.ok_or_else(|| unknown(key))?;
        let mut response = json(StatusCode::OK, &JobRecord::of(&job));
        self.say_applied(&mut response);
        Ok(response)
    }

    /// Lines of the server's log about a job, as far as they are kept.
    async fn log(&self, key: &JobKey) -> Result<Response<ReplyBody>, Refusal> {
        self.extras.query(&[])?;
        let job = self.by.engine.look(&self.by.caller, key).await?;
        let id = job.ok_or_else(|| unknown(key))?.header.id;
        let lines = job_log::of(id, &self.by.caller);
        Ok(json(StatusCode::OK, &serde_json::json!({"lines": lines})))
    }

    /// How long the caller wants to wait for the end of a job: by the parameter, or else by `Prefer`.
    fn wait(&self, query: &Query) -> Result<Option<Duration>, Refusal> {
        let seconds = query.options()?.number("wait", 0..=u64::MAX)?;
        let wait = seconds.map(Duration::from_secs).or(self.extras.prefer.wait);
        Ok(wait.map(|wait| wait.min(self.wait_max)))
    }

    /// Says that the wait which the caller preferred was taken up.
    fn say_applied(&self, response: &mut Response<ReplyBody>) {
        let wait_alone = Prefer {
            respond_async: false,
            ..self.extras.prefer
        };
        put_applied(response, wait_alone);
    }

    async fn cancel(&self, key: &JobKey) -> Result<Response<ReplyBody>, Refusal> {
        self.extras.query(&[])?;
        let engine = &self.by.engine;
        let found = match key {
            JobKey::Id(id) => *id,
            JobKey::Tag(_) => {
                let job = engine.look(&self.by.caller, key).await?;
                job.ok_or_else(|| unknown(key))?.header.id
            }
        };
        let outcomes = self.by.cancel(&[found.get()]).await?;
        let status = match outcomes.first() {
            Some(CancelOutcome::Cancelled) => StatusCode::OK,
            Some(CancelOutcome::Cancelling) => StatusCode::ACCEPTED,
            Some(CancelOutcome::Ended(phase)) => {
                return Err(Refusal::Ended {
                    id: found,
                    phase: *phase,
                });
            }
            Some(CancelOutcome::NotFound) | None => return Err(unknown(key)),
        };
        let job = engine.look(&self.by.caller, &JobKey::Id(found)).await?;
        // It may be gone already, where it is kept for no time.
        let job = job.ok_or_else(|| unknown(key))?;
        Ok(json(status, &JobRecord::of(&job)))
    }
}

/// A job's path.
fn path_of(id: JobId) -> String {
    format!("/jobs/{id}")
}

/// The answer to a call that goes on: where its job is.
fn accepted(job: &Job, existing: bool) -> Response<ReplyBody> {
    let status = if existing {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let mut response = json(status, &JobRecord::of(job));
    put_location(&mut response, job.header.id);
    if !job.state.phase.is_terminal() {
        let seconds = HeaderValue::from(LOOK_AGAIN_SECS);
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

/// The answer to a call whose job has ended and is dropped already, as it was kept for no time.
fn accepted_and_gone(taken: &Accepted, endpoint: &str) -> Response<ReplyBody> {
    let told = serde_json::json!({
        "job_id": taken.id.get(),
        "job_tag": taken.tag.to_string(),
        "endpoint": endpoint,
        "query_id": taken.query_id.to_string(),
    });
    let mut response = json(StatusCode::ACCEPTED, &told);
    put_location(&mut response, taken.id);
    response
}

fn put_location(response: &mut Response<ReplyBody>, id: JobId) {
    // Digits and letters are always a header value.
    if let Ok(location) = HeaderValue::try_from(path_of(id)) {
        response.headers_mut().insert(LOCATION, location);
    }
}

fn put_applied(response: &mut Response<ReplyBody>, prefer: Prefer) {
    if let Some(applied) = prefer.applied()
        && let Ok(applied) = HeaderValue::try_from(applied)
    {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
}

/// A JSON answer, of the moment: nobody is to keep it.
fn json(status: StatusCode, value: &impl Serialize) -> Response<ReplyBody> {
    let body = match serde_json::to_vec(value) {
        Ok(body) => body,
        // Texts and numbers are JSON, whatever is in them.
        Err(error) => unreachable!("an answer is no JSON: {error}"),
    };
    let content_type = HeaderValue::from_static("application/json");
    let mut response = reply::bytes(status, content_type, body);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: i64) -> JobName {
        JobName(Ok(JobKey::Id(JobId::new(number).unwrap())))
    }

    #[test]
    fn paths_lead_to_resources() {
        let tag = JobName(Ok(JobKey::Tag("a-b_1".parse().unwrap())));
        let nobody = |text: &str| JobName(Err(text.to_owned()));
        for (path, resource) in [
            ("/jobs", Some(Resource::Jobs)),
            ("/jobs/7", Some(Resource::Job(id(7)))),
            ("/jobs/7/result", Some(Resource::Result(id(7)))),
            ("/jobs/7/events", Some(Resource::Events(id(7)))),
            ("/jobs/tag:a-b_1", Some(Resource::Job(tag.clone()))),
            ("/jobs/tag%3Aa-b%5f1/result", Some(Resource::Result(tag))),
            ("/jobs/7/progress", Some(Resource::Progress(id(7)))),
            ("/jobs/7/payload", Some(Resource::Payload(id(7)))),
            ("/jobs/7/log", Some(Resource::Log(id(7)))),
            ("/jobs/events", Some(Resource::Changes)),
            ("/jobs/events/", None),
            ("/console/me", Some(Resource::Me)),
            ("/console/history", Some(Resource::History)),
            ("/openapi.json", Some(Resource::OpenApi)),
            // No job has such a name.
            ("/jobs/07", Some(Resource::Job(nobody("07")))),
            ("/jobs/0", Some(Resource::Job(nobody("0")))),
            ("/jobs/+7", Some(Resource::Job(nobody("+7")))),
            ("/jobs/a", Some(Resource::Job(nobody("a")))),
            ("/jobs/tag:", Some(Resource::Job(nobody("tag:")))),
            (
                "/jobs/9007199254740992",
                Some(Resource::Job(nobody("9007199254740992"))),
            ),
            // Not ours.
            ("/jobs/", None),
            ("/jobs//result", Some(Resource::Result(nobody("")))),
            ("/jobs/7/", None),
            ("/jobs/7/other", None),
            ("/jobs/7/result/x", None),
            ("/jobsx", None),
            ("/jobsx/result", None),
            ("/job", None),
        ] {
            assert_eq!(Resource::at(path), resource, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_no_resource_or_names_a_job_in_its_range(
            path in "/jobs(/|tag:|tag%3A|result|events|%[0-9a-fA-F]{0,2}|[0-9]{1,20}|\\PC){0,6}",
        ) {
            let Some(Resource::Job(name) | Resource::Result(name) | Resource::Events(name)) =
                Resource::at(&path)
            else {
                return Ok(());
            };
            match name.0 {
                Ok(JobKey::Id(id)) => {
                    prop_assert!((1..1 << 53).contains(&id.get()));
                    let plain = Resource::at(&format!("/jobs/{id}"));
                    prop_assert_eq!(plain, Some(Resource::Job(self::id(id.get()))));
                }
                Ok(JobKey::Tag(tag)) => prop_assert!((1..=255).contains(&tag.as_str().len())),
                Err(text) => prop_assert!(text.len() <= 3 * path.len()),
            }
        }
    }
}
