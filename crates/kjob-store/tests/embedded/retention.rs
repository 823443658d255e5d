//! How the space of expired jobs comes back: whole files, nearly dead ones rewritten, in bounded
//! pieces, with nothing lost that is needed.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::trial::{Trial, at, by_count, files, job, payload_of, result_of};
use bytes::Bytes;
use kjob_core::{Finish, JobId, Lease, Output, Owner, Phase, Store, Usage};
use kjob_store::embedded::EmbeddedOptions;

const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(10_000);

/// Ends `count` jobs, one in `keep_each` of which is kept long; gives those.
async fn fill(trial: &mut Trial, count: usize, keep_each: usize) -> Vec<(JobId, String)> {
    let mut kept = Vec::new();
    for number in 0..count {
        let is_kept = number % keep_each == keep_each - 1;
        let tag = format!("{}-{number}", if is_kept { "kept" } else { "short" });
        let retention = if is_kept { LONG } else { SHORT };
        let id = trial.submit_kept(&tag, retention).await;
        trial.finish(id, &tag, at(0)).await;
        if is_kept {
            kept.push((id, tag));
        }
    }
    kept
}

#[tokio::test]
async fn whole_files_go_once_all_their_jobs_have_expired() {
    let mut trial = Trial::new(by_count(50));
    fill(&mut trial, 500, usize::MAX).await;
    trial.submit("newest").await;
    assert_eq!(trial.segments(), 11);
    let before = trial.total();
    let (expired, _) = trial.expire_all(at(9)).await;
    assert_eq!(
        (expired.jobs, trial.segments()),
        (0, 11),
        "none has expired"
    );
    let (expired, calls) = trial.expire_all(at(10)).await;
    assert_eq!((expired.jobs, trial.segments()), (500, 1));
    assert_eq!(expired.bytes, before.bytes - trial.total().bytes);
    assert!(calls >= 3, "a call drops a few files, not all: {calls}");
    trial
        .wait("the files are gone", || trial.segment_files().len() == 1)
        .await;
    assert!(trial.find("newest", at(10)).await.is_some());
}

#[tokio::test]
async fn one_live_job_keeps_itself_and_nothing_else() {
    let mut trial = Trial::new(by_count(100));
    let live = trial.submit_kept("live", SHORT).await;
    fill(&mut trial, 99, usize::MAX).await;
    trial.submit("newest").await;
    let (expired, _) = trial.expire_all(at(1_000_000)).await;
    assert_eq!((expired.jobs, trial.total().jobs), (99, 2));
    for _ in 0..2 {
        trial.expect(live, "live", at(1_000_000)).await;
        trial.reopen().await;
    }
    trial.finish(live, "live", at(1_000_000)).await;
    trial.expect(live, "live", at(1_000_009)).await;
    let (expired, _) = trial.expire_all(at(1_000_010)).await;
    assert_eq!((expired.jobs, trial.segments()), (1, 1));
}

/// A job that is kept held on to the bytes of all expired ones in the newest segment until that was
/// six hours old, so a byte budget stayed used up and submits were refused. Sizes are a server's.
#[tokio::test]
async fn one_kept_job_in_the_newest_segment_keeps_itself_and_nothing_else() {
    let mut trial = Trial::new(EmbeddedOptions::default());
    let kept = trial.submit("kept").await;
    trial.finish(kept, "kept", at(1)).await;
    for number in 0..25 {
        let tag = format!("large-{number}");
        let mut large = job(trial.id().await, &tag);
        large.header.options.retention = Duration::from_secs(1);
        large.payload = Bytes::from(vec![7; 100_000]);
        let id = trial.submit_as(large).await;
        trial.finish(id, &tag, at(1)).await;
    }
    let before = trial.total();
    assert!(before.jobs == 26 && before.bytes > 2_500_000, "{before:?}");
    trial.expire_all(at(2)).await;
    let after = trial.total();
    assert!(after.jobs == 1 && after.bytes < 1_000, "{after:?}");
    trial.expect(kept, "kept", at(2)).await;
    assert_eq!(trial.find("kept", at(2)).await, Some(kept));
}

#[tokio::test]
async fn survivors_of_a_rewriting_are_found_as_before() {
    let mut trial = Trial::new(by_count(100));
    let kept = fill(&mut trial, 300, 10).await;
    trial.submit("newest").await;
    let before = trial.total();
    let (expired, _) = trial.expire_all(at(20)).await;
    assert_eq!(expired.jobs, 270);
    assert_eq!(trial.segments(), 4, "each segment keeps its range of ids");
    let bytes: usize = kept
        .iter()
        .map(|(_, tag)| payload_of(tag).len() + result_of(tag).len())
        .sum();
    let newest = payload_of("newest").len();
    let left = Usage {
        jobs: 31,
        bytes: (bytes + newest) as u64,
    };
    assert_eq!(trial.total(), left);
    assert_eq!(before.bytes - left.bytes, expired.bytes);
    for round in 0..3 {
        for (id, tag) in &kept {
            let job = trial.expect(*id, tag, at(20)).await;
            assert_eq!(job.state.phase, Phase::Done);
        }
        assert_eq!(trial.find("short-5", at(20)).await, None);
        assert_eq!(trial.total(), left, "round {round}");
        if round == 0 {
            trial.settled().await;
        }
        trial.reopen().await;
    }
    let statistics = trial.store().statistics();
    assert_eq!(statistics.segments_read_at_open, 1, "they settle again");
    let names: Vec<_> = trial.segment_files();
    assert_eq!(names.len(), 4, "the old files are gone: {names:?}");
    // Repeating it finds nothing to do.
    let (expired, calls) = trial.expire_all(at(20)).await;
    assert_eq!((expired.jobs, calls), (0, 1));
}

#[tokio::test]
async fn one_call_does_a_bounded_piece_and_steps_go_on_between() {
    let options = EmbeddedOptions {
        sweep_jobs: 10,
        ..by_count(200)
    };
    let mut trial = Trial::new(options);
    let mut live = Vec::new();
    for number in 0..200 {
        if number % 20 == 7 {
            let tag = format!("live-{number}");
            live.push((trial.submit_kept(&tag, LONG).await, tag));
        } else {
            let tag = format!("short-{number}");
            let id = trial.submit_kept(&tag, SHORT).await;
            trial.finish(id, &tag, at(0)).await;
        }
    }
    trial.submit("newest").await;
    // While the segment is copied, its jobs are stepped, and end.
    let mut calls = 0;
    let mut steps = live.iter().enumerate();
    let (mut expired, mut more) = (0, true);
    while more {
        let done = trial.store().expire(at(20)).await.unwrap();
        (expired, more, calls) = (expired + done.jobs, done.more, calls + 1);
        let Some((number, (id, tag))) = steps.next() else {
            continue;
        };
        let lease = trial.get(*id, at(20)).await.unwrap().state.lease;
        let store = trial.store();
        match number % 4 {
            0 => drop(trial.finish(*id, tag, at(20)).await),
            1 => drop(store.progress(*id, lease, 50, at(20)).await.unwrap()),
            2 => drop(store.request_cancel(*id, at(20)).await.unwrap()),
            _ => {
                let finish = Finish::Fail("no".into());
                store.finish(*id, lease, finish, at(20)).await.unwrap();
                store.expire_at(*id, at(500)).await.unwrap();
            }
        }
    }
    assert!(calls >= 20, "200 jobs, 10 a call: {calls} calls");
    assert_eq!(expired, 190);
    for reopened in [false, true] {
        for (number, (id, tag)) in live.iter().enumerate() {
            let job = trial.expect(*id, tag, at(21)).await;
            let seen = (job.state.phase, job.state.progress, job.expires_at);
            let expected = match number % 4 {
                0 => (Phase::Done, 100, Some(at(10_020))),
                1 => (Phase::Running, 50, None),
                2 => (Phase::Cancelling, 0, None),
                _ => (Phase::Failed, 0, Some(at(500))),
            };
            assert_eq!(seen, expected, "{tag}, reopened {reopened}");
        }
        assert_eq!(trial.total().jobs, 11);
        trial.reopen().await;
    }
    let results: usize = live
        .iter()
        .step_by(4)
        .map(|(_, tag)| result_of(tag).len())
        .sum();
    let payloads: usize = live.iter().map(|(_, tag)| payload_of(tag).len()).sum();
    let newest = payload_of("newest").len();
    assert_eq!(trial.total().bytes, (results + payloads + newest) as u64);
}

#[tokio::test]
async fn a_late_submit_to_a_segment_that_is_being_rewritten_is_kept() {
    let options = EmbeddedOptions {
        sweep_jobs: 10,
        ..by_count(100)
    };
    let mut trial = Trial::new(options);
    let late = trial.id().await;
    let kept = fill(&mut trial, 100, 20).await;
    trial.submit("newest").await;
    for _ in 0..5 {
        assert!(trial.store().expire(at(20)).await.unwrap().more);
    }
    trial.submit_as(job(late, "late")).await;
    let (expired, _) = trial.expire_all(at(20)).await;
    assert_eq!(expired.jobs, 95);
    for _ in 0..2 {
        trial.expect(late, "late", at(20)).await;
        for (id, tag) in &kept {
            trial.expect(*id, tag, at(20)).await;
        }
        trial.reopen().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_once_do_not_harm_each_other() {
    for pieces in [3, 1000] {
        let options = EmbeddedOptions {
            sweep_jobs: pieces,
            ..by_count(20)
        };
        let mut trial = Trial::new(options);
        let kept = fill(&mut trial, 200, 10).await;
        trial.submit("newest").await;
        let mut more = true;
        while more {
            let store = trial.store();
            let (a, b, c, d) = tokio::join!(
                store.expire(at(20)),
                store.expire(at(20)),
                store.expire(at(20)),
                store.expire(at(20)),
            );
            let done = [a.unwrap(), b.unwrap(), c.unwrap(), d.unwrap()];
            more = done.iter().any(|done| done.more);
        }
        assert_eq!(trial.total().jobs, 21);
        for _ in 0..2 {
            for (id, tag) in &kept {
                trial.expect(*id, tag, at(20)).await;
            }
            trial.reopen().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_leaves_nothing_half_done() {
    let options = EmbeddedOptions {
        sweep_jobs: 5,
        ..by_count(50)
    };
    let mut trial = Trial::new(options);
    let kept = fill(&mut trial, 100, 10).await;
    trial.submit("newest").await;
    for polls in (0..60).map(|number| number % 6) {
        let call = trial.store().expire(at(20));
        let mut call = std::pin::pin!(call);
        for _ in 0..polls {
            let polled = std::future::poll_fn(|context| {
                std::task::Poll::Ready(call.as_mut().poll(context).is_ready())
            });
            if polled.await {
                break;
            }
            // The writer and the background threads get on meanwhile.
            trial.store().reserve_ids(1).await.unwrap();
        }
    }
    trial.expire_all(at(20)).await;
    assert_eq!(trial.total().jobs, 11);
    trial.reopen().await;
    for (id, tag) in &kept {
        trial.expect(*id, tag, at(20)).await;
    }
    assert_eq!(trial.segment_files().len(), 3);
}

#[tokio::test]
async fn blobs_go_with_their_jobs() {
    let options = EmbeddedOptions {
        inline_bytes_max: 100,
        ..by_count(40)
    };
    let mut trial = Trial::new(options);
    let big = |number: usize, what: u8| Bytes::from(vec![what + number as u8; 2000]);
    let mut kept = BTreeMap::new();
    for number in 0..80 {
        let is_kept = number % 20 == 3;
        let mut job = job(trial.id().await, &format!("job-{number}"));
        job.payload = big(number, 1);
        job.header.options.retention = if is_kept { LONG } else { SHORT };
        let id = trial.submit_as(job).await;
        let finish = Finish::Complete(Output::binary(big(number, 100)));
        trial
            .store()
            .finish(id, Lease(1), finish, at(0))
            .await
            .unwrap();
        if is_kept {
            kept.insert(id, number);
        }
    }
    let newest = trial.submit("newest").await;
    let blobs = |trial: &Trial| files(&trial.dir.path().join("blobs")).len();
    assert_eq!(blobs(&trial), 160);
    trial.expire_all(at(20)).await;
    trial
        .wait("blob files are gone", || blobs(&trial) == 8)
        .await;
    for _ in 0..2 {
        for (id, number) in &kept {
            let job = trial.get(*id, at(20)).await.unwrap();
            assert_eq!(job.payload, Some(big(*number, 1)));
            let Some(kjob_core::Ending::Done(result)) = job.ending else {
                panic!("{job:?}");
            };
            assert_eq!(result.payload.data, big(*number, 100));
        }
        trial.reopen().await;
    }
    trial.finish(newest, "newest", at(20)).await;
    trial.expire_all(at(1_000_000)).await;
    trial.wait("all are gone", || blobs(&trial) == 0).await;
    assert_eq!(trial.total(), Usage::default());
}

#[tokio::test]
async fn disk_space_comes_back() {
    let mut trial = Trial::new(by_count(500));
    let empty = trial.disk();
    let payload = |number: usize| Bytes::from(vec![number as u8; 8 * 1024]);
    let mut kept = Vec::new();
    for number in 0..2000 {
        let mut job = job(trial.id().await, &format!("job-{number}"));
        job.payload = payload(number);
        let is_kept = number % 100 == 50;
        job.header.options.retention = if is_kept { LONG } else { SHORT };
        let id = trial.submit_as(job).await;
        trial.finish(id, "result", at(0)).await;
        if is_kept {
            kept.push((id, number));
        }
    }
    trial.submit("newest").await;
    let full = trial.disk();
    let stored = trial.total().bytes;
    assert!(full > stored, "{full} bytes hold {stored}");
    trial.expire_all(at(20)).await;
    // The survivors' bytes, with the pages and logs of five small files.
    let allowed = empty + trial.total().bytes * 2 + 5 * 200 * 1024;
    assert!(allowed * 8 < full, "{allowed} of {full}");
    trial
        .wait("files have shrunk", || trial.disk() < allowed)
        .await;
    for (id, number) in &kept {
        let job = trial.get(*id, at(20)).await.unwrap();
        assert_eq!(job.payload, Some(payload(*number)));
    }
    trial.reopen().await;
    assert!(trial.disk() < allowed);
    trial.expire_all(at(20_000)).await;
    trial
        .wait("only the newest is left", || {
            trial.segment_files().len() == 1
        })
        .await;
}

#[tokio::test]
async fn usage_follows_each_sweep_by_owner_and_over_a_kill() {
    let mut trial = Trial::new(by_count(30));
    let owners = [Owner::anonymous(), Owner::new("anna")];
    for number in 0..120 {
        let tag = format!("job-{number}");
        let mut job = job(trial.id().await, &tag);
        job.header.owner = owners[number % 2].clone();
        // Only anna keeps anything, and of three segments out of four.
        let is_kept = number % 10 == 1 && number >= 30;
        job.header.options.retention = if is_kept { LONG } else { SHORT };
        let id = trial.submit_as(job).await;
        trial.finish(id, &tag, at(0)).await;
    }
    trial.submit("newest").await;
    let usage = |trial: &Trial| owners.each_ref().map(|owner| trial.store().usage(owner));
    let before = usage(&trial);
    assert_eq!(before[0].owner.jobs + before[1].owner.jobs, 121);
    let (mut freed, mut more) = ((0, 0), true);
    while more {
        let done = trial.store().expire(at(20)).await.unwrap();
        more = done.more;
        freed = (freed.0 + done.jobs, freed.1 + done.bytes);
        let now = usage(&trial);
        assert_eq!(now[0].total, now[1].total);
        assert_eq!(now[0].total.jobs, 121 - freed.0);
        assert_eq!(now[0].total.bytes, before[0].total.bytes - freed.1);
        assert_eq!(
            now[0].owner.bytes + now[1].owner.bytes,
            now[0].total.bytes,
            "owners and total agree"
        );
    }
    let after = usage(&trial);
    assert_eq!(after.map(|usage| usage.owner.jobs), [1, 9]);
    assert_eq!(usage(&trial.killed()), after, "right after a kill");
    trial.reopen().await;
    assert_eq!(usage(&trial), after, "and a restart");
}

#[tokio::test]
async fn a_rewriting_that_a_kill_cut_off_leaves_no_file() {
    let options = EmbeddedOptions {
        sweep_jobs: 5,
        ..by_count(50)
    };
    let mut trial = Trial::new(options);
    let kept = fill(&mut trial, 50, 10).await;
    trial.submit("newest").await;
    for pieces in 0..12 {
        let killed = trial.killed();
        assert_eq!(killed.segment_files().len(), 2, "after {pieces} pieces");
        let left_over: Vec<_> = files(&killed.dir.path().join("segments"))
            .into_iter()
            .filter(|path| {
                let name = path.to_string_lossy();
                let base = name.trim_end_matches("-wal").trim_end_matches("-shm");
                !fs::exists(base).unwrap()
            })
            .collect();
        assert!(left_over.is_empty(), "{left_over:?}");
        for (id, tag) in &kept {
            killed.expect(*id, tag, at(20)).await;
        }
        killed.expire_all(at(20)).await;
        assert_eq!(killed.total().jobs, 6);
        trial.store().expire(at(20)).await.unwrap();
    }
}
