//! `GET /jobs/{job}/result`: the bytes that a job gave, whole or in part.

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_SECURITY_POLICY, ETAG,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Response, StatusCode};
use kjob_core::engine::JobKey;
use kjob_core::{Age, Ending, Job, Output, Phase};
use kjob_proto::{Encoding, Text};

use super::{Ask, ranges};
use crate::actor::unknown;
use crate::budget::Held;
use crate::refusal::Refusal;
use crate::reply::{self, Delivery, ReplyBody};

/// Results are whatever somebody's service gave, and a browser that shows one is not to run it.
const SANDBOX: &str = "sandbox; default-src 'none'";

/// What a handler says of its result's type (docs/server.md, `/get/job`).
const CONTENT_TYPE_INFO: &str = "content_type";

/// What it says of what the result is packed with.
const CONTENT_ENCODING_INFO: &str = "content_encoding";

pub(super) async fn answer(
    ask: &Ask<'_>,
    key: &JobKey,
    held: &mut Held,
) -> Result<Response<ReplyBody>, Refusal> {
    let query = ask.extras.query(&["encoding", "wait"])?;
    let words = [("binary", Encoding::Binary), ("json", Encoding::Json)];
    let wanted = query.options()?.word("encoding", &words)?;
    let patience = ask.wait(&query)?.unwrap_or_default();
    let (engine, caller) = (&ask.by.engine, &ask.by.caller);
    let found = engine.news(caller, key, Age::LIVE_MAX, patience).await?;
    let job = found.ok_or_else(|| unknown(key))?;
    check_has_result(&job)?;
    let etag = etag(&job, wanted);
    if let Some(tags) = &ask.extras.if_none_match
        && ranges::is_among(&etag, tags)
    {
        // Nothing is read for who has it.
        let mut response = reply::empty(StatusCode::NOT_MODIFIED);
        put_headers(&mut response, &etag);
        return Ok(response);
    }
    let id = JobKey::Id(job.header.id);
    let mut job = engine.get(caller, &id).await?.ok_or_else(|| unknown(key))?;
    let Some(Ending::Done(output)) = job.ending.take() else {
        return Err(unknown(key));
    };
    held.grow_to_answer(output.payload.data.len())
        .map_err(Refusal::AnswerBusy)?;
    let content_type = content_type(&output, wanted);
    let coding = coding(&output, wanted);
    let result = ask.by.turned(&job, output.payload, wanted).await?;
    let mut response = part(ask, result.data, content_type, &etag)?;
    put_headers(&mut response, &etag);
    put_coding(&mut response, coding);
    ask.say_applied(&mut response);
    if response.status() == StatusCode::OK && ask.method == Method::GET {
        let delivery = Delivery::of(engine, job);
        response.body_mut().set_delivery(delivery);
    }
    Ok(response)
}

/// A result as it is.
pub(super) fn whole(result: Output) -> Response<ReplyBody> {
    let content_type = content_type(&result, None);
    let coding = coding(&result, None);
    let mut response = reply::bytes(StatusCode::OK, content_type, result.payload.data);
    put_guards(&mut response);
    put_coding(&mut response, coding);
    response
}

/// The type that the handler said, where it is one and the result is as it was; else that of the
/// encoding.
fn content_type(result: &Output, wanted: Option<Encoding>) -> HeaderValue {
    let encoding = result.payload.encoding;
    let said = said(result, wanted, CONTENT_TYPE_INFO);
    let of_encoding = HeaderValue::from_static(wanted.unwrap_or(encoding).content_type());
    said.unwrap_or(of_encoding)
}

/// What the handler said that the result is packed with, where it is as it was.
fn coding(result: &Output, wanted: Option<Encoding>) -> Option<HeaderValue> {
    said(result, wanted, CONTENT_ENCODING_INFO)
}

fn said(result: &Output, wanted: Option<Encoding>, name: &str) -> Option<HeaderValue> {
    let is_as_it_was = wanted.is_none_or(|wanted| wanted == result.payload.encoding);
    let said = result.info.get(name).filter(|_| is_as_it_was)?;
    HeaderValue::try_from(said.as_str()).ok()
}

/// Refuses a job that has no result: not yet, or not at all.
fn check_has_result(job: &Job) -> Result<(), Refusal> {
    let (id, phase) = (job.header.id, job.state.phase);
    match &job.ending {
        Some(Ending::Done(_)) => Ok(()),
        Some(Ending::Failed(message)) => Err(Refusal::NoResult {
            id,
            phase,
            message: message.clone(),
        }),
        Some(Ending::Cancelled) => Err(Refusal::NoResult {
            id,
            phase,
            message: Text::new(),
        }),
        None => {
            debug_assert!(phase != Phase::Done);
            Err(Refusal::NotEnded { id, phase })
        }
    }
}

/// What names these bytes. A result never changes, but a server whose directory was replaced gives its
/// ids anew, at other times.
fn etag(job: &Job, wanted: Option<Encoding>) -> String {
    let ended = job.state.ended_at.map_or(0, |at| at.as_millis());
    let form = wanted.map_or("", Encoding::as_str);
    format!("\"{}-{ended:x}{form}\"", job.header.id)
}

/// The bytes that were asked for: all of them, or one piece. Several pieces at once are not given, so
/// whoever asks for such gets all, as RFC 9110 allows.
pub(super) fn part(
    ask: &Ask<'_>,
    data: Bytes,
    content_type: HeaderValue,
    etag: &str,
) -> Result<Response<ReplyBody>, Refusal> {
    let extras = ask.extras;
    // Nothing but GET has ranges.
    let range = extras
        .range
        .as_deref()
        .filter(|_| ask.method == Method::GET);
    let is_current = extras.if_range.as_ref().is_none_or(|tag| tag == etag);
    let asked = match range.filter(|_| is_current) {
        Some(range) => ranges::asked(range, data.len())?,
        None => None,
    };
    let Some(asked) = asked else {
        return Ok(reply::bytes(StatusCode::OK, content_type, data));
    };
    let (start, end, len) = (asked.start, asked.end, data.len());
    let piece = data.slice(asked);
    let mut response = reply::bytes(StatusCode::PARTIAL_CONTENT, content_type, piece);
    if let Ok(value) = HeaderValue::try_from(format!("bytes {start}-{}/{len}", end - 1)) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    Ok(response)
}

pub(super) fn put_headers(response: &mut Response<ReplyBody>, etag: &str) {
    put_guards(response);
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(ETAG, etag);
    }
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // The caller's own copy may be kept, and is to be asked about: the job may be gone.
    let keep = HeaderValue::from_static("private, no-cache");
    headers.insert(CACHE_CONTROL, keep);
}

fn put_coding(response: &mut Response<ReplyBody>, coding: Option<HeaderValue>) {
    if let Some(coding) = coding {
        response.headers_mut().insert(CONTENT_ENCODING, coding);
    }
}

fn put_guards(response: &mut Response<ReplyBody>) {
    let headers = response.headers_mut();
    let sandbox = HeaderValue::from_static(SANDBOX);
    headers.insert(CONTENT_SECURITY_POLICY, sandbox);
    let no_sniff = HeaderValue::from_static("nosniff");
    headers.insert(X_CONTENT_TYPE_OPTIONS, no_sniff);
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}
