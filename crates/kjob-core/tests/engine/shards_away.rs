//! A shard that is cut off, or does not answer, takes its own jobs along and no others.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{LEASE, once};
use crate::shards::*;
use crate::support::*;
use kjob_core::engine::{Caller, JobKey};
use kjob_core::{CallbackOutcome, CallbackTry, Filter, Phase};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_cut_off_takes_its_own_jobs_along_and_no_others() {
    let clusters = clusters(2);
    let mut a = member(&clusters, retried(), 64).await;
    let ids = a.submit_to_each().await;
    let mut runs = BTreeMap::new();
    for _ in 0..2 {
        let run = a.run().await;
        runs.insert(a.shard_of(run.id()), run);
    }
    a.handles[1].set_cut(true);
    sleep(2 * LEASE).await;
    assert_eq!(a.engine.leases(), [true, false]);
    assert!(a.engine.has_lease(), "of one, which is enough to work");
    assert!(runs[&1].is_gone() && !runs[&0].is_gone());
    assert_eq!(a.phase(ids[0]).await, Phase::Running);
    let caller = Caller::user(ann());
    assert!(a.engine.get(&caller, &JobKey::Id(ids[1])).await.is_err());
    let list = a.engine.list(&caller, Filter::ALL).await;
    assert!(
        list.is_err(),
        "a part of the list would be taken for all of it"
    );
    // Jobs for which any shard will do go on as ever.
    for _ in 0..4 {
        let id = a.engine.submit(call("/held", "z")).await.unwrap().id;
        assert_eq!(a.shard_of(id), 0);
        let run = a.run().await;
        assert_eq!(run.id(), id);
        run.done();
        assert_eq!(a.end(id).await, Phase::Done);
    }
    runs.remove(&0).unwrap().done();
    assert_eq!(a.end(ids[0]).await, Phase::Done);

    a.handles[1].set_cut(false);
    let again = a.run().await;
    assert_eq!(again.id(), ids[1]);
    assert_eq!(a.engine.leases(), [true, true]);
    again.done();
    assert_eq!(a.end(ids[1]).await, Phase::Done);
    assert_eq!(a.job(ids[1]).await.state.attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn another_node_takes_over_what_one_cannot_hold_in_one_shard() {
    let clusters = clusters(2);
    let mut a = member(&clusters, retried(), 64).await;
    let ids = a.submit_to_each().await;
    let runs = [a.run().await, a.run().await];
    let mut b = member(&clusters, retried(), 64).await;
    a.handles[0].set_cut(true);
    let taken = b.run().await;
    assert_eq!(taken.id(), ids[0]);
    assert_eq!(b.phase(ids[1]).await, Phase::Running);
    taken.done();
    for run in runs {
        if run.id() == ids[1] {
            run.done();
        }
    }
    for id in ids {
        assert_eq!(b.end(id).await, Phase::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn runs_of_a_shard_that_is_away_leave_their_places_to_the_others() {
    let clusters = clusters(2);
    for is_silent in [false, true] {
        let mut a = member(&clusters, retried(), 2).await;
        let name = format!("silent-{is_silent}");
        let mut ids = Vec::new();
        for number in 0.. {
            let tag = format!("{name}-{number}").parse().unwrap();
            if a.placement.shard_of(&ann(), &tag).number() == 1 {
                let submission = tagged("/held", "x", tag.as_str());
                ids.push(a.engine.submit(submission).await.unwrap().id);
            }
            if ids.len() == 2 {
                break;
            }
        }
        let runs = [a.run().await, a.run().await];
        match is_silent {
            true => a.handles[1].set_silent(true),
            false => a.handles[1].set_cut(true),
        }
        // Their ends cannot be stored.
        for run in runs {
            run.done();
        }
        sleep(2 * LEASE).await;
        for _ in 0..4 {
            let id = a.engine.submit(call("/held", "y")).await.unwrap().id;
            let run = a.run().await;
            assert_eq!((run.id(), a.shard_of(id)), (id, 0));
            run.done();
            assert_eq!(a.end(id).await, Phase::Done);
        }
        a.handles[1].set_silent(false);
        a.handles[1].set_cut(false);
        for id in ids {
            while a.phase(id).await != Phase::Done {
                match tokio::time::timeout(LEASE, a.runs.recv()).await {
                    Ok(Some(run)) => run.done(),
                    _ => sleep(LEASE).await,
                }
            }
        }
        a.engine.shut_down(Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_does_not_answer_keeps_no_places_and_holds_up_no_callbacks() {
    let clusters = clusters(2);
    let mut a = member(&clusters, once(), 1).await;
    a.handles[1].set_silent(true);
    sleep(2 * LEASE).await;
    for _ in 0..4 {
        let mut submission = call("/held", "y");
        submission.callback_url = Some("http://a/b".into());
        let id = a.engine.submit(submission).await.unwrap().id;
        let run = a.run().await;
        assert_eq!(run.id(), id);
        run.done();
        assert_eq!(a.end(id).await, Phase::Done);
        let due = a.engine.due_callbacks(9, LEASE);
        let due = tokio::time::timeout(LEASE, due).await;
        assert_eq!(due.expect("in time").unwrap()[0].header.id, id);
        let told = CallbackTry {
            http_status: Some(204),
            outcome: CallbackOutcome::Delivered,
        };
        a.engine.note_callback(id, told).await.unwrap();
    }
    let begin = Instant::now();
    let ended = tokio::time::timeout(10 * LEASE, a.engine.shut_down(Duration::ZERO)).await;
    assert!(ended.is_ok() && begin.elapsed() < 4 * LEASE, "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn submits_to_a_shard_without_a_lease_are_refused_at_once_and_keep_no_places() {
    let clusters = clusters(2);
    let mut a = member(&clusters, once(), 4).await;
    let placement = a.placement.clone();
    let of = |shard: usize| {
        let tags = (0..).map(|it| format!("tag-{it}"));
        let placement = placement.clone();
        tags.filter(move |tag| {
            let tag = tag.parse().unwrap();
            placement.shard_of(&ann(), &tag).number() == shard
        })
    };
    a.handles[1].set_cut(true);
    // It has a lease for a while yet, and every one of these may have been stored.
    for tag in of(1).take(20) {
        assert!(a.engine.submit(tagged("/held", "x", &tag)).await.is_err());
    }
    begins(&mut a, &of(0).next().unwrap()).await.done();
    sleep(2 * LEASE).await;
    let asked = a.engine.stats().queued;
    for tag in of(1).take(20) {
        let error = a
            .engine
            .submit(tagged("/held", "x", &tag))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no lease on shard 1"), "{error}");
    }
    assert_eq!(a.engine.stats().queued, asked);
    a.handles[1].set_cut(false);
    sleep(2 * LEASE).await;
    assert_eq!(a.engine.stats().queued, 0);
    begins(&mut a, &of(1).next().unwrap()).await;
}

/// The run of a job that is submitted under this tag and begins at once.
async fn begins(a: &mut Member, tag: &str) -> Run {
    let submitted = a.engine.submit(tagged("/held", "x", tag)).await;
    let run = a.run().await;
    assert_eq!(run.id(), submitted.unwrap().id);
    run
}

#[tokio::test(start_paused = true)]
async fn one_place_is_found_at_once_by_the_shard_that_has_work() {
    let clusters = clusters(3);
    let mut a = member(&clusters, once(), 1).await;
    let mut waiting = Vec::new();
    for number in 0..200 {
        let tag = format!("tag-{number}");
        if a.placement.shard_of(&ann(), &tag.parse().unwrap()).number() == 2 {
            waiting.push(
                a.engine
                    .submit(tagged("/held", "x", &tag))
                    .await
                    .unwrap()
                    .id,
            );
        }
    }
    let begin = Instant::now();
    for _ in &waiting {
        a.run().await.done();
    }
    for id in &waiting {
        assert_eq!(a.end(*id).await, Phase::Done);
    }
    // Time is only that of polls, of which none is needed but now and then.
    let each = begin.elapsed() / u32::try_from(waiting.len()).unwrap();
    assert!(each < Duration::from_millis(15), "{each:?}");
}
