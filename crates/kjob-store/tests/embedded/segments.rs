//! Jobs in more than one segment: when a segment begins, what can be done with jobs of older
//! ones, and which files a tag is looked up in.

use std::fs;
use std::time::Duration;

use crate::trial::{Trial, at, by_count, job, payload_of, result_of};
use kjob_core::{
    Difference, Filter, Finish, JobId, JobTag, Owner, Parts, Phase, Refused, Status, StepError,
    Store, StoreError, Submitted, TagReuse, Usage,
};
use kjob_proto::Text;
use kjob_store::embedded::EmbeddedOptions;

#[tokio::test]
async fn a_segment_begins_once_the_newest_holds_its_number_of_jobs() {
    let mut trial = Trial::new(by_count(10));
    let mut segments = Vec::new();
    for number in 0..31 {
        trial.submit(&format!("job-{number}")).await;
        segments.push(trial.segments());
    }
    let expected: Vec<_> = (0..31).map(|number| number / 10 + 1).collect();
    assert_eq!(segments, expected);
    assert_eq!(trial.segment_files().len(), 4);
    trial.reopen().await;
    assert_eq!(trial.segments(), 4, "opening begins none");
}

#[tokio::test]
async fn a_segment_begins_once_the_newest_is_of_its_age() {
    let options = EmbeddedOptions {
        segment_age: Duration::from_secs(60),
        ..EmbeddedOptions::default()
    };
    let mut trial = Trial::new(options);
    let mut submit_at = async |seconds| {
        let id = trial.id().await;
        let mut job = job(id, &format!("at-{seconds}"));
        job.header.received_at = at(seconds);
        trial.submit_as(job).await;
        // The age counts from the first submit, over a restart too.
        trial.reopen().await;
        trial.segments()
    };
    let mut segments = Vec::new();
    for seconds in [100, 130, 159, 160, 200, 219, 500] {
        segments.push(submit_at(seconds).await);
    }
    assert_eq!(segments, [1, 1, 1, 2, 2, 2, 3]);
    trial.store().expire(at(559)).await.unwrap();
    assert_eq!(trial.segments(), 3);
    trial.store().expire(at(560)).await.unwrap();
    assert_eq!(trial.segments(), 4, "an idle store seals by age as well");
    trial.store().expire(at(10_000)).await.unwrap();
    assert_eq!(trial.segments(), 4, "but an empty segment never");
}

#[tokio::test]
async fn jobs_of_older_segments_take_every_step() {
    let mut trial = Trial::new(by_count(4));
    let mut jobs = Vec::new();
    for number in 0..40 {
        let tag = format!("job-{number}");
        jobs.push((trial.submit(&tag).await, tag));
    }
    for round in 0..2 {
        for (number, (id, tag)) in jobs.iter().enumerate() {
            let live = trial.expect(*id, tag, at(1)).await;
            let store = trial.store();
            let lease = live.state.lease;
            let phase = match (number % 4, round) {
                (0, 0) => trial.finish(*id, tag, at(1)).await.phase,
                (1, 0) => store.request_cancel(*id, at(1)).await.unwrap().phase,
                (2, 0) => store.progress(*id, lease, 40, at(1)).await.unwrap().phase,
                (1, _) => {
                    let stop = store.finish(*id, lease, Finish::Stop, at(2)).await;
                    stop.unwrap().phase
                }
                (2, _) => {
                    let fail = Finish::Fail(Text::from("no"));
                    store.finish(*id, lease, fail, at(2)).await.unwrap().phase
                }
                _ => live.state.phase,
            };
            let expected = match (number % 4, round) {
                (0, _) => Phase::Done,
                (1, 0) => Phase::Cancelling,
                (1, _) => Phase::Cancelled,
                (2, 0) | (3, _) => Phase::Running,
                _ => Phase::Failed,
            };
            assert_eq!(phase, expected, "{tag} in round {round}");
            assert_eq!(trial.expect(*id, tag, at(2)).await.state.phase, expected);
        }
        trial.reopen().await;
    }
    assert_eq!(trial.store().statistics().live_jobs, 10);
    for (id, tag) in jobs.iter().step_by(4) {
        let again = trial.store().request_cancel(*id, at(3)).await;
        assert!(
            matches!(again, Err(StepError::Refused(Refused::Ended(Phase::Done)))),
            "{tag}: {again:?}"
        );
    }
    let filter = |statuses: &[Status]| Filter {
        statuses: statuses.to_vec(),
        limit: 100,
        ..Filter::ALL
    };
    let listed = trial.store().list(&filter(&[]), at(3)).await.unwrap().jobs;
    let ids: Vec<_> = listed.iter().map(|job| job.header.id).collect();
    let expected: Vec<_> = jobs.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, expected, "a list goes over all segments, in order");
}

#[tokio::test]
async fn a_repeated_call_is_known_whatever_segment_has_it() {
    let mut trial = Trial::new(by_count(5));
    let mut jobs = Vec::new();
    for number in 0..50 {
        // Both forms of tags that segments keep.
        let tag = match number % 2 {
            0 => format!("job-{number}"),
            _ => format!("01890000-0000-7000-8000-{number:012x}"),
        };
        jobs.push((trial.submit(&tag).await, tag));
    }
    for reopened in [false, true] {
        trial.settled().await;
        for (id, tag) in &jobs {
            let again = job(trial.id().await, tag);
            let done = trial.store().submit(again.clone(), true).await.unwrap();
            assert!(
                matches!(&done, Submitted::Existing(job) if job.header.id == *id),
                "{tag}: {done:?}, reopened {reopened}"
            );
            let mut other = again;
            other.payload = payload_of("another");
            let done = trial.store().submit(other, true).await.unwrap();
            let difference = Difference::Payload;
            assert_eq!(
                done,
                Submitted::Conflict {
                    id: *id,
                    difference
                }
            );
        }
        trial.reopen().await;
    }
}

#[tokio::test]
async fn a_failed_jobs_tag_moves_on_to_the_newest_segment() {
    let mut trial = Trial::new(by_count(5));
    let generated = trial.id().await;
    let own = format!("job-{generated}-abcdefghijkl");
    assert_eq!(own.parse::<JobTag>().unwrap().carried_id(), Some(generated));
    trial.submit("job-0").await;
    trial.submit_as(job(generated, &own)).await;
    for number in 1..20 {
        trial.submit(&format!("filler-{number}")).await;
    }
    trial.settled().await;
    let mut given = Vec::new();
    for tag in ["job-0", &own] {
        let old = trial.find(tag, at(0)).await.unwrap();
        let lease = trial.get(old, at(0)).await.unwrap().state.lease;
        let fail = Finish::Fail(Text::from("no"));
        trial.store().finish(old, lease, fail, at(0)).await.unwrap();
        let mut again = job(trial.id().await, tag);
        again.tag_reuse = TagReuse::IfFailed;
        again.header.options.retention = Duration::from_secs(60);
        let new = trial.submit_as(again).await;
        given.push((old, new, tag));
    }
    for _ in 0..2 {
        for (old, new, tag) in &given {
            assert_eq!(trial.find(tag, at(1)).await, Some(*new));
            let there = trial.get(*old, at(1)).await.unwrap();
            assert_eq!(there.state.phase, Phase::Failed, "it stays, by its id");
        }
        trial.reopen().await;
    }
    for (old, new, tag) in &given {
        trial.finish(*new, tag, at(1)).await;
        assert_eq!(
            trial.find(tag, at(61)).await,
            None,
            "what was given is gone"
        );
        assert!(trial.get(*old, at(61)).await.is_some());
    }
}

#[tokio::test]
async fn filters_spare_the_files_that_cannot_have_a_tag() {
    let mut trial = Trial::new(by_count(20));
    let mut jobs = Vec::new();
    for number in 0..60 {
        let tag = format!("job-{number}");
        let id = trial.submit(&tag).await;
        trial.finish(id, &tag, at(0)).await;
        jobs.push((id, tag));
    }
    trial.submit("newest").await;
    trial.settled().await;
    trial.reopen().await;
    let statistics = trial.store().statistics();
    assert_eq!(statistics.segments, 4);
    assert_eq!(
        statistics.segments_read_at_open, 1,
        "ended jobs are not read"
    );
    trial.close().await;

    // Whoever reads a sealed segment notices.
    let files = trial.segment_files();
    for file in &files[..3] {
        fs::write(file, b"not a database").unwrap();
    }
    trial.open();
    let find = async |tag: String| {
        let tag: JobTag = tag.parse().unwrap();
        trial.store().find(&Owner::anonymous(), &tag, at(1)).await
    };
    assert!(find("newest".to_owned()).await.unwrap().is_some());
    let mut read_in_vain = 0;
    for number in 0..1000 {
        match find(format!("absent-{number}")).await {
            Ok(found) => assert_eq!(found, None),
            Err(_) => read_in_vain += 1,
        }
    }
    // Three filters, each wrong for one in 65536.
    assert!(read_in_vain < 3, "{read_in_vain} of 1000");
    for (id, tag) in &jobs {
        let found = find(tag.clone()).await;
        assert!(
            matches!(found, Err(StoreError::Corrupt { .. })),
            "{tag}: {found:?}"
        );
        let got = trial.store().get(*id, Parts::NONE, at(1)).await;
        assert!(matches!(got, Err(StoreError::Corrupt { .. })), "{got:?}");
    }
    // Neither does a submit of a new tag look there, nor are others harmed.
    let mut created = 0;
    for number in 0..100 {
        let id = trial.id().await;
        let submit = trial
            .store()
            .submit(job(id, &format!("new-{number}")), true);
        created += usize::from(submit.await.is_ok());
    }
    assert!(created > 97, "{created} of 100");
}

#[tokio::test]
async fn a_damaged_filter_is_built_anew() {
    let mut trial = Trial::new(by_count(50));
    let mut jobs = Vec::new();
    for number in 0..50 {
        let tag = format!("job-{number}");
        let id = trial.submit(&tag).await;
        trial.finish(id, &tag, at(0)).await;
        jobs.push((id, tag));
    }
    trial.submit("newest").await;
    trial.settled().await;
    trial.close().await;
    let catalogue = rusqlite::Connection::open(trial.dir.path().join("catalogue.sqlite")).unwrap();
    let query = "SELECT filter FROM filters WHERE number = 1";
    let filter: Vec<u8> = catalogue.query_row(query, [], |row| row.get(0)).unwrap();
    for byte in (0..filter.len()).step_by(7) {
        // A bit that is lost denies a tag that is there, and would let its call run twice.
        let mut damaged = filter.clone();
        damaged[byte] = 0;
        if damaged == filter {
            continue;
        }
        let update = "UPDATE filters SET filter = ?1 WHERE number = 1";
        catalogue.execute(update, [damaged]).unwrap();
        trial.open();
        for (id, tag) in &jobs {
            assert_eq!(trial.find(tag, at(1)).await, Some(*id), "byte {byte}");
        }
        trial.close().await;
    }
}

#[tokio::test]
async fn headers_of_recent_live_jobs_are_in_memory() {
    let options = EmbeddedOptions {
        cached_headers: 3,
        ..EmbeddedOptions::default()
    };
    let mut trial = Trial::new(options);
    let mut jobs = Vec::new();
    for number in 0..8 {
        jobs.push(trial.submit(&format!("job-{number}")).await);
    }
    // Readers, which open files by name, find none.
    let file = trial.segment_files().remove(0);
    let hidden = trial.dir.path().join("hidden");
    fs::rename(&file, &hidden).unwrap();
    for (number, id) in jobs.iter().enumerate() {
        let got = trial.store().get(*id, Parts::RESULT, at(0)).await;
        let in_memory = number >= 5;
        assert_eq!(got.is_ok(), in_memory, "job {number}: {got:?}");
        if let Ok(job) = got {
            assert_eq!(job.unwrap().header.tag.as_str(), format!("job-{number}"));
        }
    }
    fs::rename(&hidden, &file).unwrap();
    for (number, id) in jobs.iter().enumerate() {
        trial.expect(*id, &format!("job-{number}"), at(0)).await;
    }
}

#[tokio::test]
async fn usage_is_right_by_owner_over_segments_and_restarts() {
    let mut trial = Trial::new(by_count(6));
    let owners = ["", "anna", "öz"].map(Owner::new);
    let mut expected = [Usage::default(); 3];
    for number in 0..60 {
        let which = number % 3;
        let tag = format!("job-{number}");
        let mut job = job(trial.id().await, &tag);
        job.header.owner = owners[which].clone();
        expected[which].jobs += 1;
        expected[which].bytes += job.payload.len() as u64;
        let id = trial.submit_as(job).await;
        // Ends come in other segments than the newest as well.
        if number % 2 == 0 {
            trial.finish(id, &tag, at(0)).await;
            expected[which].bytes += result_of(&tag).len() as u64;
        }
        if number % 17 == 16 {
            trial.reopen().await;
        }
        for (owner, expected) in owners.iter().zip(expected) {
            assert_eq!(
                trial.store().usage(owner).owner,
                expected,
                "{owner:?} at {number}"
            );
        }
    }
    let sum = |usages: &[Usage]| Usage {
        jobs: usages.iter().map(|usage| usage.jobs).sum(),
        bytes: usages.iter().map(|usage| usage.bytes).sum(),
    };
    assert_eq!(trial.total(), sum(&expected));
    // The numbers that decide whether a submit is let in are the same right after a kill.
    let killed = trial.killed();
    for (owner, expected) in owners.iter().zip(expected) {
        assert_eq!(killed.store().usage(owner).owner, expected, "{owner:?}");
    }
    assert_eq!(killed.total(), sum(&expected));
}

#[tokio::test]
async fn a_submit_that_comes_late_goes_to_the_segment_of_its_id() {
    let mut trial = Trial::new(by_count(5));
    let mut late: Vec<JobId> = Vec::new();
    for number in 0..30 {
        late.push(trial.id().await);
        let tag = format!("job-{number}");
        let id = trial.submit(&tag).await;
        trial.finish(id, &tag, at(0)).await;
    }
    trial.settled().await;
    trial.reopen().await;
    let segments = trial.segments();
    for (number, id) in late.iter().enumerate() {
        let tag = format!("late-{number}");
        trial.submit_as(job(*id, &tag)).await;
        trial.expect(*id, &tag, at(0)).await;
    }
    assert_eq!(trial.segments(), segments);
    for _ in 0..2 {
        for (number, id) in late.iter().enumerate() {
            trial.expect(*id, &format!("late-{number}"), at(0)).await;
        }
        assert_eq!(trial.total().jobs, 60);
        assert_eq!(trial.store().statistics().live_jobs, 30);
        trial.reopen().await;
    }
}
