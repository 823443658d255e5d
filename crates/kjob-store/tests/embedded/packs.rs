//! Payloads and results too big for a row: appended to packs, read from there, moved and given back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::trial::{Trial, at, by_count, files, job};
use bytes::Bytes;
use kjob_core::{
    Ending, Finish, Job, JobId, Lease, NewJob, Output, Parts, Store, StoreError, Submitted,
    TagReuse, Timestamp,
};
use kjob_store::embedded::{EmbeddedOptions, check};

const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(10_000);
const LEN: usize = 3_000;
const ALL: Parts = Parts {
    payload: true,
    result: true,
};

/// With bytes above 1,000 in packs.
fn options(segment_jobs: u64) -> EmbeddedOptions {
    EmbeddedOptions {
        row_bytes_max: 1_000,
        // So that files are read.
        recent_bytes: 0,
        waiting_bytes: 0,
        ..by_count(segment_jobs)
    }
}

/// Bytes of a job's own.
fn bytes(id: JobId, part: u8) -> Bytes {
    let id = id.get() as usize;
    (0..LEN).map(|at| (at * 31 + id * 7) as u8 ^ part).collect()
}

async fn new(trial: &mut Trial, retention: Duration) -> NewJob {
    let id = trial.id().await;
    let mut new = job(id, &format!("tag-{id}"));
    new.payload = bytes(id, 1);
    new.header.options.retention = retention;
    new
}

async fn submit(trial: &mut Trial, retention: Duration) -> JobId {
    let new = new(trial, retention).await;
    trial.submit_as(new).await
}

async fn finish(trial: &Trial, id: JobId, now: Timestamp) {
    let finish = Finish::Complete(Output::binary(bytes(id, 2)));
    trial
        .store()
        .finish(id, Lease(1), finish, now)
        .await
        .unwrap();
}

/// Ends so many jobs, of which one in ten is kept long, and begins the next segment; gives those that are kept.
async fn fill(trial: &mut Trial, count: usize) -> Vec<JobId> {
    let mut kept = Vec::new();
    for number in 0..count {
        let is_kept = number % 10 == 3;
        let id = submit(trial, if is_kept { LONG } else { SHORT }).await;
        finish(trial, id, at(0)).await;
        if is_kept {
            kept.push(id);
        }
    }
    submit(trial, LONG).await;
    kept
}

fn expect(found: Option<Job>, id: JobId, is_done: bool) {
    let job = found.unwrap();
    assert_eq!(job.payload, Some(bytes(id, 1)), "{id}");
    match job.ending {
        Some(Ending::Done(result)) if is_done => assert_eq!(result.payload.data, bytes(id, 2)),
        None if !is_done => {}
        ending => panic!("{ending:?}"),
    }
}

fn packs(dir: &Path) -> Vec<PathBuf> {
    let mut packs = files(&dir.join("blobs"));
    packs.retain(|path| path.extension().is_some_and(|e| e == "pack"));
    packs.sort();
    packs
}

fn packed(dir: &Path) -> u64 {
    // One may go while this looks.
    let lens = packs(dir)
        .into_iter()
        .filter_map(|path| fs::metadata(path).ok());
    lens.map(|metadata| metadata.len()).sum()
}

#[tokio::test]
async fn large_bytes_are_written_once_and_found_again() {
    let mut trial = Trial::new(options(1_000));
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(submit(&mut trial, LONG).await);
    }
    for id in &ids[..20] {
        finish(&trial, *id, at(0)).await;
    }
    let dir = trial.dir.path().to_owned();
    assert_eq!(packs(&dir).len(), 1);
    assert_eq!(packed(&dir), 60 * LEN as u64);
    let rows = trial.disk() - packed(&dir);
    let killed = trial.killed();
    for (number, id) in ids.iter().enumerate() {
        for store in [&trial, &killed] {
            expect(store.get(*id, at(0)).await, *id, number < 20);
        }
    }
    trial.reopen().await;
    for (number, id) in ids.iter().enumerate() {
        expect(trial.get(*id, at(0)).await, *id, number < 20);
    }
    // What is written then goes to another.
    let id = submit(&mut trial, LONG).await;
    assert_eq!(packs(&dir).len(), 2);
    expect(trial.get(id, at(0)).await, id, false);
    trial.close().await;
    let report = check(&dir).unwrap();
    assert_eq!((report.jobs, report.findings), (41, Vec::new()));

    // The same in rows.
    let mut in_rows = Trial::new(EmbeddedOptions {
        row_bytes_max: LEN,
        ..options(1_000)
    });
    for number in 0..40 {
        let id = submit(&mut in_rows, LONG).await;
        if number < 20 {
            finish(&in_rows, id, at(0)).await;
        }
    }
    assert_eq!(packs(in_rows.dir.path()), Vec::<PathBuf>::new());
    let disk = in_rows.disk();
    assert!(disk > rows + 60 * LEN as u64, "{disk}, {rows} without");
}

#[tokio::test]
async fn a_repeated_submit_is_compared_with_what_is_in_a_pack() {
    let mut trial = Trial::new(options(1_000));
    let first = new(&mut trial, LONG).await;
    let id = trial.submit_as(first.clone()).await;
    let mut again = first;
    again.header.id = trial.id().await;
    again.tag_reuse = TagReuse::Never;
    let done = trial.store().submit(again.clone(), true).await.unwrap();
    assert!(matches!(&done, Submitted::Existing(job) if job.header.id == id));
    again.payload = bytes(id, 9);
    let done = trial.store().submit(again, true).await.unwrap();
    assert!(matches!(done, Submitted::Conflict { id: found, .. } if found == id));
    assert_eq!(packed(trial.dir.path()), LEN as u64);
}

/// Of jobs that expire and stay by turns, so that every pack has something of both.
#[tokio::test]
async fn what_stays_is_moved_and_the_room_of_the_rest_comes_back() {
    let mut trial = Trial::new(options(40));
    let (mut kept, mut living) = (Vec::new(), Vec::new());
    for number in 0..80 {
        let is_kept = number % 10 == 3;
        let retention = if is_kept { LONG } else { SHORT };
        let id = submit(&mut trial, retention).await;
        if number % 40 == 39 {
            living.push(id);
            continue;
        }
        finish(&trial, id, at(0)).await;
        if is_kept {
            kept.push(id);
        }
    }
    let newest = submit(&mut trial, LONG).await;
    let dir = trial.dir.path().to_owned();
    let before = packs(&dir);
    assert_eq!(before.len(), 3);
    trial.expire_all(at(20)).await;
    let left = (kept.len() * 2 + living.len() + 1) * LEN;
    trial
        .wait("only what is needed is left", || {
            packed(&dir) == left as u64
        })
        .await;
    let after = packs(&dir);
    assert_eq!(after.len(), 3);
    assert!(after.iter().filter(|pack| before.contains(pack)).count() == 1);
    for round in 0..2 {
        for id in &kept {
            expect(trial.get(*id, at(20)).await, *id, true);
        }
        for id in &living {
            expect(trial.get(*id, at(20)).await, *id, round == 1);
            if round == 0 {
                // Its result goes to a new pack of a rewritten segment.
                finish(&trial, *id, at(20)).await;
            }
        }
        trial.reopen().await;
    }
    trial.close().await;
    assert_eq!(check(&dir).unwrap().findings, []);
    trial.open();
    finish(&trial, newest, at(20)).await;
    trial.expire_all(at(1_000_000)).await;
    trial.wait("all are gone", || packed(&dir) == 0).await;
}

/// A result that comes while its segment is rewritten, and a job of which somebody is yet to be told, keep no more of the packs
/// than they need.
#[tokio::test]
async fn late_results_and_pending_callbacks_keep_no_old_packs() {
    let mut trial = Trial::new(EmbeddedOptions {
        sweep_jobs: 5,
        ..options(40)
    });
    let (mut kept, mut late) = (Vec::new(), None);
    for number in 0..40 {
        let is_kept = number % 10 == 3;
        let mut new = new(&mut trial, if is_kept { LONG } else { SHORT }).await;
        if is_kept {
            new.header.options.callback_url = Some("http://127.0.0.1:9/hook".into());
        }
        let id = trial.submit_as(new).await;
        if number == 35 {
            late = Some(id);
            continue;
        }
        finish(&trial, id, at(0)).await;
        if is_kept {
            kept.push(id);
        }
    }
    let late = late.unwrap();
    submit(&mut trial, LONG).await;
    let dir = trial.dir.path().to_owned();
    let before = packs(&dir);
    // A piece of the rewriting, and then the result.
    assert!(trial.store().expire(at(20)).await.unwrap().more);
    finish(&trial, late, at(20)).await;
    trial.expire_all(at(20)).await;
    let left = ((kept.len() * 2 + 2 + 1) * LEN) as u64;
    trial
        .wait("only what is needed is left", || packed(&dir) == left)
        .await;
    assert!(!before[0].exists());
    for _ in 0..2 {
        for id in kept.iter().chain([&late]) {
            expect(trial.get(*id, at(20)).await, *id, true);
        }
        trial.reopen().await;
    }
    trial.close().await;
    assert_eq!(check(&dir).unwrap().findings, []);
}

/// Whoever reads a row while its segment is rewritten finds what it names, before and after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_what_is_moved() {
    for _ in 0..5 {
        let mut trial = Trial::new(options(200));
        let kept = fill(&mut trial, 200).await;
        let dir = trial.dir.path().to_owned();
        let (before, left) = (packed(&dir), ((kept.len() * 2 + 1) * LEN) as u64);
        let expire = async {
            trial.expire_all(at(20)).await;
            trial.wait("it is moved", || packed(&dir) == left).await;
        };
        let mut reads = 0;
        let read = async {
            while packed(&dir) != left {
                for id in &kept {
                    expect(trial.get(*id, at(20)).await, *id, true);
                    reads += 1;
                }
            }
        };
        tokio::join!(expire, read);
        assert!(before > left && reads > 0);
    }
}

/// A rewriting that was cut off leaves its file, and packs; one that was just done the old ones.
#[tokio::test]
async fn packs_that_a_crash_left_over_go_when_the_store_is_opened() {
    let mut trial = Trial::new(options(1_000));
    let id = submit(&mut trial, LONG).await;
    trial.close().await;
    let dir = trial.dir.path().to_owned();
    let kept = packs(&dir);
    let left_over = dir.join("blobs/00000001/7000000.pack");
    fs::write(&left_over, [1; 100]).unwrap();
    // Without a sign of a rewriting nobody looks for them.
    trial.reopen().await;
    trial.close().await;
    assert!(left_over.exists());
    let generation = dir.join("segments/00000001-3.sqlite");
    fs::write(&generation, b"").unwrap();
    trial.open();
    // The sign goes last.
    trial.wait("it is gone", || !generation.exists()).await;
    assert!(!left_over.exists());
    assert_eq!(packs(&dir), kept);
    expect(trial.get(id, at(0)).await, id, false);
    // Its number is not given again.
    submit(&mut trial, LONG).await;
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u32>().ok();
    assert!(
        packs(&dir)
            .iter()
            .filter_map(number)
            .any(|number| number > 7_000_000)
    );
}

#[tokio::test]
async fn damage_in_a_pack_is_told_of_the_jobs_that_it_hits() {
    let mut trial = Trial::new(options(1_000));
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(submit(&mut trial, LONG).await);
    }
    trial.close().await;
    let dir = trial.dir.path().to_owned();
    let pack = packs(&dir).remove(0);
    let sound = fs::read(&pack).unwrap();
    let mut flipped = sound.clone();
    flipped[LEN + 5] ^= 1;
    let damages = [
        ("checksum", Some(&flipped[..]), vec![1]),
        ("ends after", Some(&sound[..2 * LEN + 1]), vec![2]),
        ("missing", None, vec![0, 1, 2]),
    ];
    for (how, damaged, hit) in damages {
        match damaged {
            Some(bytes) => fs::write(&pack, bytes).unwrap(),
            None => fs::remove_file(&pack).unwrap(),
        }
        let findings = check(&dir).unwrap().findings;
        assert_eq!(findings.len(), hit.len(), "{findings:?}");
        assert!(findings.iter().all(|found| found.to_string().contains(how)));
        trial.open();
        let mut found = BTreeMap::new();
        for (number, id) in ids.iter().enumerate() {
            match trial.store().get(*id, ALL, at(0)).await {
                Err(StoreError::Corrupt { what }) => drop(found.insert(number, what)),
                job => expect(job.unwrap(), *id, false),
            }
        }
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), hit);
        assert!(found.values().all(|what| what.contains(how)), "{found:?}");
        trial.close().await;
        fs::write(&pack, &sound).unwrap();
    }
}

/// What is damaged in a pack does not keep the space of the others from coming back, nor does it go: it may be repaired.
#[tokio::test]
async fn what_is_damaged_stays_where_it_is() {
    let mut trial = Trial::new(options(20));
    let kept = fill(&mut trial, 20).await;
    let dir = trial.dir.path().to_owned();
    let pack = packs(&dir).remove(0);
    let sound = fs::read(&pack).unwrap();
    let mut damaged = sound.clone();
    let place = damaged
        .windows(LEN)
        .position(|found| found == bytes(kept[0], 1))
        .unwrap();
    damaged[place] ^= 1;
    fs::write(&pack, &damaged).unwrap();
    trial.expire_all(at(20)).await;
    trial
        .wait("it is rewritten", || {
            trial.segment_files()[0].ends_with("00000001-1.sqlite")
        })
        .await;
    trial.reopen().await;
    expect(trial.get(kept[1], at(20)).await, kept[1], true);
    let found = trial.store().get(kept[0], ALL, at(20)).await;
    assert!(
        matches!(found, Err(StoreError::Corrupt { .. })),
        "{found:?}"
    );
    fs::write(&pack, &sound).unwrap();
    expect(trial.get(kept[0], at(20)).await, kept[0], true);
}
