//! `GET /jobs/{job}/payload`: the bytes that were submitted, whole or in part.

use http::{HeaderValue, Response};
use kjob_core::Job;
use kjob_core::engine::JobKey;

use super::Ask;
use super::result::{part, put_headers};
use crate::actor::unknown;
use crate::budget::Held;
use crate::refusal::Refusal;
use crate::reply::ReplyBody;

pub(super) async fn answer(
    ask: &Ask<'_>,
    key: &JobKey,
    held: &mut Held,
) -> Result<Response<ReplyBody>, Refusal> {
    ask.extras.query(&[])?;
    let (engine, caller) = (&ask.by.engine, &ask.by.caller);
    let job = engine.look(caller, key).await?;
    let job = job.ok_or_else(|| unknown(key))?;
    let id = JobKey::Id(job.header.id);
    let payload = engine.payload(caller, &id).await?;
    let payload = payload.ok_or_else(|| unknown(key))?;
    held.grow_to_answer(payload.data.len())
        .map_err(Refusal::AnswerBusy)?;
    let content_type = HeaderValue::from_static(payload.encoding.content_type());
    let etag = etag(&job);
    let mut response = part(ask, payload.data, content_type, &etag)?;
    put_headers(&mut response, &etag);
    Ok(response)
}

/// What names these bytes, which never change.
fn etag(job: &Job) -> String {
    let received = job.header.received_at.as_millis();
    format!("\"{}-{received:x}-payload\"", job.header.id)
}
