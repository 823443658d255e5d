//! The last client of a campaign: waits until nothing runs, then looks at every job there was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::asker::Asker;
use crate::call::{Call, Want};
use crate::history::{Accepted, Answer, Event, Key, What};

/// How long jobs have to end once no client asks for more; they take a second or two. After it
/// those that run count as stuck.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How often it is looked whether something runs.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(50);

/// Questions at a time.
const AT_ONCE: usize = 16;

/// Looks at each job of `events` by its id and at each call by its tag, and lists all jobs.
///
/// # Errors
/// The server does not answer, or the history cannot be written.
pub async fn audit(asker: &Asker, events: &[Event]) -> Result<()> {
    let begin = Instant::now();
    while asker.unended().await? > 0 && begin.elapsed() < SETTLE_TIMEOUT {
        tokio::time::sleep(LOOKED_AT_EVERY).await;
    }
    asker.list_all().await?;

    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut looks = JoinSet::new();
    for (key, want) in questions(events) {
        let place = places.clone().acquire_owned().await?;
        let asker = asker.clone();
        looks.spawn(async move {
            let looked = asker.look(key, &want, Duration::ZERO).await;
            drop(place);
            looked.map(drop)
        });
    }
    while let Some(looked) = looks.join_next().await {
        looked??;
    }
    Ok(())
}

/// Every tag, and every id that somebody was told with its call.
fn questions(events: &[Event]) -> Vec<(Key, Want)> {
    let mut calls: BTreeMap<&str, &Call> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for event in events {
        let What::Submit { call, answer } = &event.what else {
            continue;
        };
        calls.insert(&call.tag, call);
        if let Answer::Told(Accepted { id, .. }) = answer {
            ids.insert((*id, call.tag.as_str()));
        }
    }
    let by_tag = calls
        .iter()
        .map(|(tag, call)| (Key::Tag((*tag).to_owned()), call.want.clone()));
    let by_id = ids.iter().filter_map(|(id, tag)| {
        let call = calls.get(tag)?;
        Some((Key::Id(*id), call.want.clone()))
    });
    by_tag.chain(by_id).collect()
}
