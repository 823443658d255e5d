//! `GET /jobs/{job}/events`: what happens to a job, as server-sent events.
//!
//! Each event is the job's record, and its id says how far the job had come. So a stream has no memory:
//! who comes back with the id of the last event that they saw is told the newest state, if it is newer.
//! For the same reason a slow reader is not told every step, but never an old one after a new one.

use std::time::Duration;

use crate::latch::Latch;
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};
use kjob_core::engine::JobKey;
use kjob_core::{Age, Job};
use tokio::sync::mpsc;

use super::Ask;
use super::record::JobRecord;
use crate::access::Admitted;
use crate::actor::{Actor, unknown};
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};

/// How long a browser is to wait before it comes back, in milliseconds.
pub(super) const BEGIN: &[u8] = b"retry: 2000\n\n";

/// Says that the stream is alive, to whatever is on the way.
pub(super) const KEEP_ALIVE: &[u8] = b":\n\n";

/// Who is told of events, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Audience {
    pub(crate) admitted: Admitted,
    /// Told when the server ends.
    pub(crate) stopping: Latch,
    /// The longest silence.
    pub(crate) silence_max: Duration,
}

pub(super) async fn answer(ask: &Ask<'_>, key: &JobKey) -> Result<Response<ReplyBody>, Refusal> {
    ask.extras.query(&[])?;
    let job = ask.by.engine.look(&ask.by.caller, key).await?;
    let job = job.ok_or_else(|| unknown(key))?;
    // An id that is ahead of the job is another's.
    let seen = ask.extras.last_event_id.as_deref().and_then(age_of);
    let seen = seen.filter(|seen| *seen <= job.state.age());
    if seen > Some(Age::LIVE_MAX) {
        // They know how it ended. To a browser this says not to come back.
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    }
    let (feed, pieces) = mpsc::channel(1);
    tokio::spawn(tell_while_heard(
        ask.by.clone(),
        ask.audience.clone(),
        job,
        seen,
        feed,
    ));
    let mut response = reply::feed("text/event-stream", pieces);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

fn age_of(id: &str) -> Option<Age> {
    Age::from_u64(id.parse().ok()?)
}

async fn tell_while_heard(
    actor: Actor,
    audience: Audience,
    job: Job,
    seen: Option<Age>,
    feed: mpsc::Sender<Bytes>,
) {
    tokio::select! {
        biased;
        () = feed.closed() => {}
        () = audience.admitted.revoked() => {}
        () = tell(&actor, job, seen, &feed, audience.silence_max) => {}
        () = audience.stopping.wait() => {}
        () = actor.engine.closed() => {}
    }
}

/// Tells of a job until it has ended, or there is nobody to tell.
async fn tell(
    actor: &Actor,
    mut job: Job,
    mut seen: Option<Age>,
    feed: &mpsc::Sender<Bytes>,
    silence_max: Duration,
) {
    let key = JobKey::Id(job.header.id);
    let mut piece = Bytes::from_static(BEGIN);
    loop {
        let age = job.state.age();
        if seen.is_none_or(|seen| age > seen) {
            piece = [&piece[..], &event(&job)].concat().into();
        }
        seen = Some(age);
        // Waits for who reads slowly; what happens meanwhile is told as one.
        if feed.send(piece).await.is_err() || job.state.phase.is_terminal() {
            return;
        }
        let news = actor.engine.news(&actor.caller, &key, age, silence_max);
        job = match news.await {
            Ok(Some(job)) => job,
            // It was dropped: its retention is over.
            Ok(None) => return,
            Err(error) => {
                tracing::error!(job_id = %job.header.id, %error, "a stream of events ends early");
                return;
            }
        };
        let is_news = job.state.age() > age;
        piece = Bytes::from_static(if is_news { b"" } else { KEEP_ALIVE });
    }
}

/// The job as an event. JSON has no line breaks in it.
fn event(job: &Job) -> Vec<u8> {
    let name = if job.state.phase.is_terminal() {
        "end"
    } else {
        "progress"
    };
    let id = job.state.age().to_u64();
    let mut event = format!("id: {id}\nevent: {name}\ndata: ").into_bytes();
    // Texts and numbers are JSON, whatever is in them, and a vector takes any write.
    let _ = serde_json::to_writer(&mut event, &JobRecord::of(job));
    event.extend_from_slice(b"\n\n");
    event
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_id_is_an_age_or_none(text in "\\+?[0-9]{1,21}|\\PC{0,12}", number: u64) {
            if let Some(age) = age_of(&text) {
                prop_assert!(age.to_u64() <= 1 << 48);
                prop_assert_eq!(age_of(&age.to_u64().to_string()), Some(age));
            }
            prop_assert_eq!(age_of(&number.to_string()).is_some(), number <= 1 << 48);
            prop_assert!(age_of(&(number % (1 << 48)).to_string()).is_some());
        }
    }
}
