//! The stores that are damaged.

use std::time::Duration;

use bytes::Bytes;
use kjob_core::{Finish, JobId, Output, Store, Submitted, TagReuse};
use kjob_store::embedded::{EmbeddedOptions, check};

use crate::image::NOW;
use crate::trial::{Trial, at, by_count, files, job};

/// A store, the ids that were given, and the tags to ask for.
pub struct Made {
    pub trial: Trial,
    pub ids: Vec<JobId>,
    pub tags: Vec<String>,
}

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        row_bytes_max: 250,
        inline_bytes_max: 600,
        readers: 1,
        ..by_count(8)
    }
}

/// A store with a rewritten segment, a sealed one of which every job has ended, and the newest with
/// jobs in every phase; with payloads and results in rows and in files, tags of every form, some of
/// them given away, and expiries that were moved.
pub async fn everything() -> Made {
    let mut trial = Trial::new(options());
    let (mut ids, mut tags) = (Vec::new(), Vec::new());
    for number in 0..22 {
        let id = trial.id().await;
        let tag = match number % 3 {
            0 => format!("00000000-0000-4000-8000-{number:012x}"),
            1 => format!("tag_{number}"),
            _ => format!("a-{number}"),
        };
        let mut new = job(id, &tag);
        // Three of the first eight stay.
        let short = number < 8 && number % 3 != 0;
        let retention = if short { 10 } else { 2_000 + number * 400 };
        new.header.options.retention = Duration::from_secs(retention);
        new.payload = Bytes::from(vec![number as u8; [20, 300, 700][number as usize % 3]]);
        let start = number != 16 && number != 17;
        let done = trial.store().submit(new, start).await.unwrap();
        assert!(matches!(done, Submitted::Created(_)), "{done:?}");
        ids.push(id);
        tags.push(tag);
        let lease = trial.get(id, at(0)).await.unwrap().state.lease;
        let finish = match number {
            // The newest segment's stay as they are, or nearly.
            16 | 18 => continue,
            17 | 19 | 20 => {
                let steps = trial.store();
                match number {
                    17 => drop(steps.start(id, at(0)).await.unwrap()),
                    19 => drop(steps.progress(id, lease, 40, at(0)).await.unwrap()),
                    _ => drop(steps.request_cancel(id, at(0)).await.unwrap()),
                }
                continue;
            }
            _ if number % 4 == 1 => Finish::Fail("it failed".into()),
            _ => Finish::Complete(Output::binary(vec![
                number as u8 + 100;
                [10, 900][number as usize % 2]
            ])),
        };
        trial
            .store()
            .finish(id, lease, finish, at(0))
            .await
            .unwrap();
        if number == 7 {
            trial.store().expire_at(ids[0], at(3_000)).await.unwrap();
        }
    }
    trial.settled().await;
    trial.expire_all(NOW).await;
    // A failed job's tag goes on to another, in another segment.
    let id = trial.id().await;
    let mut new = job(id, &tags[9]);
    new.tag_reuse = TagReuse::IfFailed;
    trial.submit_as(new).await;
    ids.push(id);
    trial.store().expire_at(ids[10], at(1_000)).await.unwrap();
    // An id that nobody has.
    ids.push(trial.id().await);
    tags.push("nobody_has_it".to_owned());
    assert_eq!(trial.segments(), 3);
    assert!(
        trial
            .segment_files()
            .iter()
            .any(|path| path.ends_with("00000001-1.sqlite"))
    );
    assert!(files(&trial.dir.path().join("blobs")).len() > 4);
    trial.settled().await;
    // Also while it is open.
    let report = check(trial.dir.path()).unwrap();
    assert!(report.in_use);
    assert_eq!((report.findings, report.segments), (Vec::new(), 3));
    Made { trial, ids, tags }
}

/// A store with a job that has ended, with its payload in a file, and one that runs.
pub async fn smallest() -> Made {
    let options = EmbeddedOptions {
        inline_bytes_max: 40,
        readers: 1,
        ..by_count(8)
    };
    let mut trial = Trial::new(options);
    let ids = [trial.id().await, trial.id().await, trial.id().await];
    let mut new = job(ids[0], "ended");
    new.payload = Bytes::from(vec![0x5a; 41]);
    new.header.options.retention = Duration::from_secs(2_000);
    trial.submit_as(new).await;
    let finish = Finish::Complete(Output::binary("the result"));
    let lease = trial.get(ids[0], at(0)).await.unwrap().state.lease;
    let done = trial.store().finish(ids[0], lease, finish, at(0));
    done.await.unwrap();
    trial.submit_as(job(ids[1], "runs")).await;
    trial.settled().await;
    let tags = ["ended", "runs", "nobody_has_it"].map(str::to_owned);
    Made {
        trial,
        ids: ids.to_vec(),
        tags: tags.to_vec(),
    }
}
