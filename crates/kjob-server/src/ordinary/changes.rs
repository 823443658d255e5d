//! `GET /jobs/events`: which of the caller's jobs change, as server-sent events.
//!
//! An event has the jobs as they stand, at most so many of them, and there is one every so often at most: however
//! much happens, and however slowly somebody reads, a stream costs little. What it does not tell it says that it
//! does not tell, and whoever wants to know looks at the list.

use std::time::Duration;

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response};
use kjob_core::engine::JobKey;
use kjob_core::{Job, StoreError};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Ask;
use super::events::{Audience, BEGIN, KEEP_ALIVE};
use super::record::JobRecord;
use crate::actor::Actor;
use crate::console::Watched;
use crate::console::changes::Batch;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};

/// How many jobs an event has at most.
const JOBS_MAX: usize = 100;

/// The least time between two events.
const EVERY: Duration = Duration::from_millis(500);

/// What is told at once.
#[derive(Serialize)]
struct Told<'a> {
    jobs: Vec<JobRecord<'a>>,
    /// Whether more have changed than these.
    more: bool,
}

pub(super) fn answer(ask: &Ask<'_>) -> Result<Response<ReplyBody>, Refusal> {
    ask.extras.query(&[])?;
    let Some(metrics) = ask.metrics else {
        return Err(Refusal::UnknownPath {
            path: "/jobs/events".to_owned(),
        });
    };
    let (feed, pieces) = mpsc::channel(1);
    let (actor, audience) = (ask.by.clone(), ask.audience.clone());
    tokio::spawn(tell_while_heard(actor, audience, metrics.clone(), feed));
    let mut response = reply::feed("text/event-stream", pieces);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

async fn tell_while_heard(
    actor: Actor,
    audience: Audience,
    metrics: Metrics,
    feed: mpsc::Sender<Bytes>,
) {
    tokio::select! {
        biased;
        () = feed.closed() => {}
        () = audience.admitted.revoked() => {}
        told = tell(&actor, metrics.watched(), &feed, audience.silence_max) => {
            if let Err(error) = told {
                tracing::error!(%error, "a stream of changes ends early");
            }
        }
        () = audience.stopping.wait() => {}
        () = actor.engine.closed() => {}
    }
}

/// Tells of changes until there is nobody to tell.
async fn tell(
    actor: &Actor,
    watched: &Watched,
    feed: &mpsc::Sender<Bytes>,
    silence_max: Duration,
) -> Result<(), StoreError> {
    let mut listener = watched.changes.listen();
    let own = (!actor.caller.admin).then(|| actor.caller.owner.clone());
    // From now on nothing is missed: whoever has read this looks at the list.
    let mut piece = Bytes::from([BEGIN, b"event: begin\ndata: {}\n\n"].concat());
    loop {
        if feed.send(piece).await.is_err() {
            return Ok(());
        }
        let silent_until = Instant::now() + silence_max;
        tokio::time::sleep(EVERY).await;
        piece = loop {
            // Counted from what was told last, however much changes that is others'.
            if timeout_at(silent_until, listener.changed()).await.is_err() {
                break Bytes::from_static(KEEP_ALIVE);
            }
            let batch = listener.take(JOBS_MAX, own.as_ref());
            let more = batch.is_cut;
            let jobs = looked_up(actor, batch).await?;
            if !jobs.is_empty() || more {
                break event(&jobs, more);
            }
            // They were all others'.
            tokio::time::sleep(EVERY).await;
        };
    }
}

/// The jobs as they stand, without those that are not the caller's or not there.
async fn looked_up(actor: &Actor, batch: Batch) -> Result<Vec<Job>, StoreError> {
    let mut jobs = Vec::with_capacity(batch.jobs.len());
    for id in batch.jobs {
        jobs.extend(actor.engine.look(&actor.caller, &JobKey::Id(id)).await?);
    }
    Ok(jobs)
}

/// JSON has no line breaks in it.
fn event(jobs: &[Job], more: bool) -> Bytes {
    let jobs = jobs.iter().map(JobRecord::of).collect();
    let mut event = b"event: jobs\ndata: ".to_vec();
    // Texts and numbers are JSON, whatever is in them, and a vector takes any write.
    let _ = serde_json::to_writer(&mut event, &Told { jobs, more });
    event.extend_from_slice(b"\n\n");
    event.into()
}
