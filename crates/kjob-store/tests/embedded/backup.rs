//! A backup is the store at one moment, made while steps go on, and a store like any other.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::trial::{Trial, at, by_count, files, job, payload_of, result_of};
use bytes::Bytes;
use kjob_core::{
    Ending, Filter, Finish, JobId, Lease, Output, Owner, Parts, Payload, Phase, Store, Submitted,
};
use kjob_store::embedded::{BackupError, EmbeddedOptions, EmbeddedStore};
use tempfile::TempDir;

/// Small segments, and most payloads in files of their own.
fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        row_bytes_max: 8,
        inline_bytes_max: 20,
        ..by_count(16)
    }
}

fn target() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("backup");
    (dir, target)
}

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, options()).unwrap()
}

/// Phase and bytes of every job.
async fn contents(store: &EmbeddedStore) -> BTreeMap<String, (JobId, Phase, Bytes, Bytes)> {
    let mut found = BTreeMap::new();
    let mut filter = Filter::ALL;
    loop {
        let page = store.list(&filter, at(0)).await.unwrap();
        for listed in page.jobs {
            let (id, tag) = (listed.header.id, listed.header.tag);
            let all = Parts {
                payload: true,
                result: true,
            };
            let job = store.get(id, all, at(0)).await.unwrap().unwrap();
            let result = match job.ending {
                Some(Ending::Done(result)) => result.payload.data,
                _ => Bytes::new(),
            };
            let by_tag = store.find(&Owner::anonymous(), &tag, at(0)).await.unwrap();
            assert_eq!(by_tag, Some(id), "{tag}");
            let entry = (id, job.state.phase, job.payload.unwrap(), result);
            found.insert(tag.as_str().to_owned(), entry);
        }
        filter.after = page.next;
        if page.next.is_none() {
            return found;
        }
    }
}

/// One caller who does one thing after the other, over many segments: whatever moment a backup is
/// of, it has all of the caller's steps up to some point, and none after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_of_one_moment_and_has_all_that_was_answered_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (caller_store, caller_stop, caller_done) = (store.clone(), stop.clone(), done.clone());
    let caller = tokio::spawn(async move {
        let mut ids = caller_store.reserve_ids(100_000).await.unwrap();
        let mut running: Vec<(JobId, String)> = Vec::new();
        for number in 0.. {
            if caller_stop.load(Ordering::SeqCst) {
                return;
            }
            // Ends are in older segments than submits.
            let ends = number % 2 == 1 && running.len() > 40;
            let step = if ends {
                let (id, tag) = running.remove(0);
                let finish = Finish::Complete(Output::binary(result_of(&tag)));
                caller_store
                    .finish(id, Lease(1), finish, at(0))
                    .await
                    .unwrap();
                (tag, Phase::Done)
            } else {
                let id = ids.take().unwrap();
                let tag = format!("job-{number}");
                let submitted = caller_store.submit(job(id, &tag), true).await.unwrap();
                assert!(matches!(submitted, Submitted::Created(_)));
                running.push((id, tag.clone()));
                (tag, Phase::Running)
            };
            caller_done.lock().unwrap().push(step);
        }
    });

    let (keep, _) = target();
    let mut seen = Vec::new();
    for round in 0..4 {
        let enough = Instant::now() + Duration::from_secs(120);
        while done.lock().unwrap().len() < (round + 1) * 120 {
            assert!(Instant::now() < enough, "the caller goes on");
            tokio::task::yield_now().await;
        }
        let before = done.lock().unwrap().len();
        let target = keep.path().join(round.to_string());
        let report = store.backup(&target).await.unwrap();
        seen.push((target, before, report));
    }
    stop.store(true, Ordering::SeqCst);
    caller.await.unwrap();

    let done = done.lock().unwrap().clone();
    for (target, before, report) in seen {
        let restored = open(&target);
        let found = contents(&restored).await;
        let steps = found.values().map(|(_, phase, ..)| match phase {
            Phase::Done => 2,
            _ => 1,
        });
        let steps: usize = steps.sum();
        assert!(steps >= before, "{steps} of {before}");
        let mut expected = BTreeMap::new();
        for (tag, phase) in &done[..steps.min(done.len())] {
            expected.insert(tag.clone(), *phase);
        }
        let phases: BTreeMap<_, _> = found
            .iter()
            .map(|(tag, (_, phase, ..))| (tag.clone(), *phase))
            .collect();
        assert_eq!(phases, expected);
        for (tag, (_, phase, payload, result)) in &found {
            assert_eq!(*payload, payload_of(tag));
            if *phase == Phase::Done {
                assert_eq!(*result, result_of(tag));
            }
        }
        assert_eq!(report.jobs, found.len() as u64);
        assert_eq!(restored.usage(&Owner::anonymous()).total.jobs, report.jobs);
        assert!(report.segments > 4 && report.blobs > 0, "{report:?}");
        let on_disk: u64 = files(&target)
            .iter()
            .filter(|path| {
                path.extension()
                    .is_some_and(|e| e != "sqlite-shm" && e != "sqlite-wal")
            })
            .map(|path| fs::metadata(path).unwrap().len())
            .sum();
        assert!(on_disk >= report.bytes, "{on_disk} {report:?}");
    }
}

/// Segments are dropped and rewritten while they are copied: their files were deleted then, and the
/// backup lacked blobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_that_is_given_back_meanwhile_takes_nothing_from_a_backup() {
    let mut trial = Trial::new(options());
    let (keep, _) = target();
    for round in 0..5_i64 {
        let now = at(round * 100);
        let mut expected = BTreeMap::new();
        for number in 0..60 {
            let tag = format!("round-{round}-{number}");
            let kept = if number % 5 == 0 { 100_000 } else { 10 };
            let id = trial.submit_kept(&tag, Duration::from_secs(kept)).await;
            trial.finish(id, &tag, now).await;
            expected.insert(id, tag);
        }
        let target = keep.path().join(round.to_string());
        // Its moment has come once there is a file; the oldest segments are copied last.
        let copied = keep.path().join(format!("{round}.kjob-partial/segments"));
        let expire = async {
            trial
                .wait("copying begins", || !files(&copied).is_empty())
                .await;
            trial.expire_all(at(round * 100 + 50)).await
        };
        let (backup, expired) = tokio::join!(trial.store().backup(&target), expire);
        assert!(expired.0.jobs > 0);
        backup.unwrap();
        let restored = open(&target);
        for (id, tag) in &expected {
            let all = Parts {
                payload: true,
                result: true,
            };
            let job = restored.get(*id, all, now).await.unwrap().unwrap();
            assert_eq!(job.payload, Some(payload_of(tag)));
            let result = Payload::binary(result_of(tag));
            assert_eq!(job.ending, Some(Ending::Done(result.into())));
        }
        // What was put off is done in the end; but for the newest segment, which is too small yet.
        let gone = || {
            let left = files(&trial.dir.path().join("blobs"));
            left.len() <= 2 * (12 * usize::try_from(round + 1).unwrap() + 16)
        };
        trial.wait("blobs of expired jobs are gone", gone).await;
    }
}

#[tokio::test]
async fn a_restored_store_gives_no_id_that_the_first_one_gave_since() {
    let mut trial = Trial::new(options());
    for number in 0..40 {
        trial.submit(&format!("before-{number}")).await;
    }
    let (_keep, target) = target();
    let report = trial.store().backup(&target).await.unwrap();
    let after = trial.store().reserve_ids(1_000_000).await.unwrap();
    let restored = open(&target);
    let mut ids = restored.reserve_ids(1).await.unwrap();
    let first = ids.take().unwrap().get();
    assert_eq!(first, report.next_id);
    let mut after = after;
    let given = after.take().unwrap().get();
    assert!(first >= given + (1 << 40) - 1_000, "{first} {given}");
    // The jobs that are there are those that were, and go on.
    let running = contents(&restored).await;
    assert_eq!(running.len(), 40);
    let (id, ..) = running["before-7"];
    let finish = Finish::Complete(Output::binary("late"));
    restored.finish(id, Lease(1), finish, at(1)).await.unwrap();
    let new = JobId::new(first).unwrap();
    let stored = restored.submit(job(new, "after"), true).await.unwrap();
    assert!(matches!(stored, Submitted::Created(_)));
    restored.close().await.unwrap();
}

#[tokio::test]
async fn an_empty_directory_is_taken_and_anything_else_is_left_alone() {
    let mut trial = Trial::new(options());
    trial.submit("job").await;
    let (keep, target) = target();
    fs::create_dir(&target).unwrap();
    trial.store().backup(&target).await.unwrap();
    assert_eq!(contents(&open(&target)).await.len(), 1);

    let again = trial.store().backup(&target).await;
    assert!(
        matches!(again, Err(BackupError::NotEmpty { .. })),
        "{again:?}"
    );
    let file = keep.path().join("file");
    fs::write(&file, "mine").unwrap();
    let refused = trial.store().backup(&file).await;
    assert!(
        matches!(refused, Err(BackupError::NotEmpty { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read(&file).unwrap(), b"mine");

    for inside in ["backup", "segments/backup"] {
        let refused = trial.store().backup(trial.dir.path().join(inside)).await;
        assert!(
            matches!(refused, Err(BackupError::Inside { .. })),
            "{refused:?}"
        );
    }
    let nowhere = trial.store().backup(keep.path().join("no/such")).await;
    assert!(
        matches!(nowhere, Err(BackupError::Io { .. })),
        "{nowhere:?}"
    );
    assert_eq!(names(keep.path()), ["backup", "file"]);
    trial
        .expect(trial.find("job", at(0)).await.unwrap(), "job", at(0))
        .await;
}

#[tokio::test]
async fn a_backup_that_fails_leaves_nothing_behind() {
    let mut trial = Trial::new(options());
    let id = trial.submit("a-payload-for-a-file").await;
    let blob = files(&trial.dir.path().join("blobs")).pop().unwrap();
    let aside = trial.dir.path().join("aside");
    fs::rename(&blob, &aside).unwrap();
    fs::create_dir(&blob).unwrap();
    let (keep, target) = target();
    let failed = trial.store().backup(&target).await.unwrap_err();
    assert!(matches!(failed, BackupError::Io { .. }), "{failed:?}");
    assert_eq!(names(keep.path()), [""; 0]);

    fs::remove_dir(&blob).unwrap();
    fs::rename(&aside, &blob).unwrap();
    trial.store().backup(&target).await.unwrap();
    assert_eq!(contents(&open(&target)).await["a-payload-for-a-file"].0, id);
}

#[tokio::test]
async fn what_a_killed_backup_left_is_replaced() {
    let mut trial = Trial::new(options());
    trial.submit("job").await;
    let (keep, target) = target();
    let partial = keep.path().join("backup.kjob-partial");
    fs::create_dir_all(partial.join("segments")).unwrap();
    fs::write(partial.join("segments/00000001-0.sqlite"), "half").unwrap();
    fs::write(partial.join("catalogue.sqlite"), "half").unwrap();
    trial.store().backup(&target).await.unwrap();
    assert_eq!(names(keep.path()), ["backup"]);
    assert_eq!(contents(&open(&target)).await.len(), 1);
}

/// Nobody who was told nothing finds half a backup: neither after its caller has gone, nor after
/// the store was closed; and the store is free for the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_nobody_waits_for_is_given_up() {
    let mut trial = Trial::new(options());
    for number in 0..100 {
        trial.submit(&format!("job-{number}")).await;
    }
    let (keep, target) = target();
    {
        let mut backup = pin!(trial.store().backup(&target));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(backup.as_mut().poll(&mut context), Poll::Pending));
        let other = keep.path().join("other");
        let second = trial.store().backup(&other).await;
        // The first may be over by now.
        assert!(
            matches!(second, Ok(_) | Err(BackupError::UnderWay)),
            "{second:?}"
        );
    }
    // The next one can be made once the first has noticed.
    let enough = Instant::now() + Duration::from_secs(60);
    while let Err(error) = trial.store().backup(keep.path().join("next")).await {
        assert!(matches!(error, BackupError::UnderWay), "{error:?}");
        assert!(Instant::now() < enough, "given up in time");
        tokio::task::yield_now().await;
    }
    let left = names(keep.path());
    assert!(!left.iter().any(|n| n.ends_with("partial")), "{left:?}");
    for round in 0..5 {
        let target = keep.path().join(format!("closing-{round}"));
        let mut context = Context::from_waker(Waker::noop());
        let mut backup = Box::pin(trial.store().backup(&target));
        assert!(matches!(backup.as_mut().poll(&mut context), Poll::Pending));
        trial.store().close().await.unwrap();
        let done = backup.await;
        let is_there = target.exists();
        assert_eq!(done.is_ok(), is_there, "{done:?}");
        if !is_there {
            let over = matches!(&done, Err(BackupError::GivenUp | BackupError::Store(_)));
            assert!(over, "{done:?}");
        }
        assert!(
            !keep
                .path()
                .join(format!("closing-{round}.kjob-partial"))
                .exists()
        );
        trial.reopen().await;
        assert_eq!(trial.total().jobs, 100);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
