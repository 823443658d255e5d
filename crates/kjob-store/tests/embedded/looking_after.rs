//! What an operator asks of a store: what is in it, and to give back all the space it can.

use std::time::Duration;

use crate::trial::{Trial, at, by_count, files, job, payload_of, result_of};
use bytes::Bytes;
use kjob_core::{Finish, Lease, Output, Owner, Phase, Store};
use kjob_store::embedded::{EmbeddedOptions, JobCounts};

const SHORT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn stats_count_every_job_once_and_every_file() {
    let options = EmbeddedOptions {
        inline_bytes_max: 100,
        ..by_count(4)
    };
    let mut trial = Trial::new(options);
    let queued = trial.id().await;
    trial
        .store()
        .submit(job(queued, "queued"), false)
        .await
        .unwrap();
    trial.submit("running").await;
    let cancelling = trial.submit("cancelling").await;
    let state = trial
        .store()
        .request_cancel(cancelling, at(1))
        .await
        .unwrap();
    assert_eq!(state.phase, Phase::Cancelling);
    let mut others = job(trial.id().await, "of-another");
    others.header.owner = Owner::new("ann");
    others.payload = Bytes::from(vec![7; 1000]);
    trial.submit_as(others).await;
    for tag in ["done-1", "done-2"] {
        let id = trial.submit(tag).await;
        trial.finish(id, tag, at(0)).await;
    }
    let failed = trial.submit("failed").await;
    let finish = Finish::Fail("no".into());
    trial
        .store()
        .finish(failed, Lease(1), finish, at(0))
        .await
        .unwrap();
    let expired = trial.submit_kept("expired", SHORT).await;
    trial.finish(expired, "expired", at(0)).await;
    trial.submit("newest").await;

    // What the store notes by itself would come between.
    trial.settled().await;
    let stats = trial.store().stats(at(20)).await.unwrap();
    let JobCounts {
        queued,
        running,
        cancelling,
        ended,
        expired,
        ..
    } = stats.jobs;
    assert_eq!((queued, running, cancelling), (1, 3, 1));
    assert_eq!((ended, expired), (3, 1));
    assert_eq!(stats.jobs.total(), 9);
    assert_eq!(stats.owners, 2);
    assert_eq!(stats.bytes, trial.total().bytes);
    assert_eq!(stats.oldest_received_at, Some(at(0)));
    assert!(stats.next_id > 9);
    let rows: Vec<_> = stats
        .segments
        .iter()
        .map(|s| (s.number, s.is_sealed, s.jobs, s.live, s.expired))
        .collect();
    assert_eq!(
        rows,
        [(1, true, 4, 4, 0), (2, true, 4, 0, 1), (3, false, 1, 1, 0)]
    );
    assert_eq!(stats.segments[0].disk.blob_files, 1);
    assert_eq!((stats.disk.blobs, stats.disk.blob_files), (1000, 1));
    let on_disk: u64 = files(trial.dir.path())
        .iter()
        .filter(|path| !path.ends_with("LOCK"))
        .filter(|path| path.extension().is_none_or(|e| e != "sqlite-shm"))
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert_eq!(stats.disk.total(), on_disk);
    assert!(stats.disk.logs > 0, "nothing was moved out of the logs yet");

    let earlier = trial.store().stats(at(9)).await.unwrap().jobs;
    assert_eq!(
        (earlier.ended, earlier.expired),
        (4, 0),
        "at the time that is asked about"
    );
}

#[tokio::test]
async fn stats_of_an_empty_store_are_nothing() {
    let trial = Trial::new(EmbeddedOptions::default());
    let stats = trial.store().stats(at(0)).await.unwrap();
    assert_eq!(stats.jobs, JobCounts::default());
    assert_eq!(
        (stats.bytes, stats.owners, stats.oldest_received_at),
        (0, 0, None)
    );
    assert_eq!(stats.segments.len(), 1);
}

/// `expire` leaves a segment alone of which most is needed. Compacting does not, and takes nothing
/// else; nor does it begin anew what is compact.
#[tokio::test]
async fn compacting_deletes_every_expired_job_and_no_other() {
    let options = EmbeddedOptions {
        inline_bytes_max: 1000,
        sweep_jobs: 7,
        ..by_count(40)
    };
    let mut trial = Trial::new(options);
    let mut kept = Vec::new();
    let live = trial.submit("live").await;
    for number in 0..150 {
        let short = number % 4 == 0;
        let tag = format!("{}-{number}", if short { "short" } else { "kept" });
        let mut new = job(trial.id().await, &tag);
        if short {
            new.header.options.retention = SHORT;
            new.payload = Bytes::from(vec![7; if number % 8 == 0 { 2000 } else { 900 }]);
        }
        let id = trial.submit_as(new).await;
        trial.finish(id, &tag, at(0)).await;
        if !short {
            kept.push((id, tag));
        }
    }
    let (expired, _) = trial.expire_all(at(20)).await;
    assert_eq!(expired.jobs, 0, "too little to be worth copying the rest");
    let stats = trial.store().stats(at(20)).await.unwrap();
    assert_eq!(stats.jobs.expired, 38);

    let of_segments = stats.segments.iter().map(|segment| segment.expired_bytes);
    assert_eq!(of_segments.sum::<u64>(), stats.expired_bytes);

    let done = trial.store().compact(at(20)).await.unwrap();
    assert_eq!((done.jobs, done.bytes), (38, stats.expired_bytes));
    assert!(done.bytes > 19 * (2000 + 900), "{done:?}");
    assert!(done.disk_after < done.disk_before, "{done:?}");
    let stats = trial.store().stats(at(20)).await.unwrap();
    assert_eq!(
        (stats.jobs.expired, stats.jobs.ended, stats.jobs.running),
        (0, 112, 1)
    );
    assert_eq!(stats.expired_bytes, 0);
    assert_eq!(
        stats.disk.blob_files, 0,
        "the blobs of expired jobs are gone"
    );
    assert_eq!(stats.disk.total(), done.disk_after);
    let logs = stats.segments.iter().map(|segment| segment.disk.logs);
    assert_eq!(logs.sum::<u64>(), 0, "{stats:?}");
    let bytes: usize = kept
        .iter()
        .map(|(_, tag)| payload_of(tag).len() + result_of(tag).len())
        .sum();
    assert_eq!(
        trial.total().bytes,
        (bytes + payload_of("live").len()) as u64
    );

    let again = trial.store().compact(at(20)).await.unwrap();
    assert_eq!((again.jobs, again.bytes), (0, 0));
    let generations = |stats: kjob_store::embedded::StoreStats| -> Vec<_> {
        stats
            .segments
            .iter()
            .map(|s| (s.number, s.generation))
            .collect()
    };
    let before = generations(stats);
    assert_eq!(
        generations(trial.store().stats(at(20)).await.unwrap()),
        before
    );
    for _ in 0..2 {
        for (id, tag) in &kept {
            trial.expect(*id, tag, at(20)).await;
        }
        trial.expect(live, "live", at(20)).await;
        trial.reopen().await;
    }
    trial.finish(live, "live", at(20)).await;
}

/// Steps on the jobs of a segment that is being compacted are in the new file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_go_on_while_a_store_is_compacted() {
    let options = EmbeddedOptions {
        sweep_jobs: 5,
        ..by_count(50)
    };
    let mut trial = Trial::new(options);
    let mut running = Vec::new();
    for number in 0..200 {
        let tag = format!("job-{number}");
        if number % 3 == 0 {
            let id = trial.submit_kept(&tag, SHORT).await;
            trial.finish(id, &tag, at(0)).await;
        } else {
            running.push((trial.submit(&tag).await, tag));
        }
    }
    let end = async {
        for (id, tag) in &running {
            let finish = Finish::Complete(Output::binary(result_of(tag)));
            trial
                .store()
                .finish(*id, Lease(1), finish, at(21))
                .await
                .unwrap();
        }
    };
    let (done, ()) = tokio::join!(trial.store().compact(at(20)), end);
    assert_eq!(done.unwrap().jobs, 67);
    assert_eq!(trial.total().jobs, running.len() as u64);
    for (id, tag) in &running {
        let job = trial.expect(*id, tag, at(21)).await;
        assert_eq!(job.state.phase, Phase::Done);
    }
}
