//! What opening a directory refuses, what it clears away, and what it does not look at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::trial::{Trial, at, by_count, files, job, open};
use bytes::Bytes;
use kjob_core::{
    Filter, Finish, JobId, Output, Parts, Payload, Status, StepError, Store, StoreError, Submitted,
};
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
use rusqlite::Connection;

#[test]
fn another_format_is_refused_by_its_number_and_left_alone() {
    for newer in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let catalogue = dir.path().join("catalogue.sqlite");
        let connection = Connection::open(&catalogue).unwrap();
        let format: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        // Those from 2 on are converted.
        let other = if newer { format + 1 } else { 1 };
        connection
            .pragma_update(None, "user_version", other)
            .unwrap();
        connection.close().unwrap();
        let before = contents(dir.path());
        let refused = open(dir.path()).unwrap_err();
        assert!(
            matches!(&refused, OpenError::UnknownVersion { found, supported, .. }
                if (*found, *supported) == (other, format)),
            "{refused:?}"
        );
        assert_eq!(contents(dir.path()), before);
    }
}

#[test]
fn a_catalogue_of_another_program_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = dir.path().join("catalogue.sqlite");
    let connection = Connection::open(&catalogue).unwrap();
    connection
        .execute_batch("CREATE TABLE books (title)")
        .unwrap();
    connection.close().unwrap();
    refuse_as_damaged(dir.path(), "catalogue.sqlite");
}

#[test]
fn garbage_for_a_catalogue_is_refused_and_left_alone() {
    // (SQLite takes a file of a single byte for an empty one.)
    for len in [2, 99, 100, 5_000] {
        for with_jobs in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            if with_jobs {
                drop(open(dir.path()).unwrap());
            }
            let garbage: Vec<u8> = (1..=len).map(|at: u32| (at * 37 % 251) as u8).collect();
            fs::write(dir.path().join("catalogue.sqlite"), garbage).unwrap();
            refuse_as_damaged(dir.path(), "catalogue");
        }
    }
}

#[tokio::test]
async fn an_older_catalogue_is_refused_before_it_costs_the_newer_segments() {
    let mut trial = Trial::new(by_count(2));
    trial.submit("a").await;
    trial.close().await;
    let catalogue = trial.dir.path().join("catalogue.sqlite");
    let old = fs::read(&catalogue).unwrap();
    trial.open();
    for tag in ["b", "c"] {
        trial.submit(tag).await;
    }
    trial.close().await;
    let new = fs::read(&catalogue).unwrap();
    fs::write(&catalogue, old).unwrap();
    refuse_as_damaged(trial.dir.path(), "00000002-0.sqlite");
    fs::write(&catalogue, new).unwrap();
    trial.open();
    trial.expect(JobId::new(1).unwrap(), "a", at(0)).await;
    assert!(trial.find("c", at(0)).await.is_some());
}

#[tokio::test]
async fn a_segment_whose_file_is_gone_is_named() {
    let mut trial = Trial::new(by_count(2));
    for tag in ["a", "b", "c"] {
        trial.submit(tag).await;
    }
    trial.close().await;
    let file = trial.segment_files().remove(0);
    fs::remove_file(file).unwrap();
    refuse_as_damaged(trial.dir.path(), "segment 1");
}

#[tokio::test]
async fn what_a_crash_left_over_is_removed_and_nothing_else() {
    let mut trial = Trial::new(EmbeddedOptions {
        inline_bytes_max: 10,
        ..by_count(2)
    });
    for tag in ["aaaaaaaaaaaaa", "b", "c"] {
        let id = trial.submit(tag).await;
        trial.finish(id, tag, at(0)).await;
    }
    trial.settled().await;
    trial.close().await;
    let dir = &trial.dir.path().to_owned();
    let kept = contents(dir);
    let left_over = [
        // A rewriting that was not finished, and a segment that was about to begin.
        "segments/00000001-1.sqlite",
        "segments/00000001-1.sqlite-wal",
        "segments/00000003-0.sqlite",
        // A segment that was dropped.
        "segments/00000000-0.sqlite",
        "blobs/00000000/5.0.payload",
        "blobs/00000009/900.0.payload",
        // Blobs that no commit came to name: of no job, and of jobs that have another or none.
        "blobs/00000002/99.0.payload",
        "blobs/00000002/3.7.payload",
        "blobs/00000002/3.7.result",
    ];
    for name in left_over {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    let foreign = [
        "notes.txt",
        "segments/notes.txt",
        "blobs/notes/x",
        "blobs/00000002/x",
    ];
    for name in foreign {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    trial.open();
    trial.close().await;
    let names = contents(dir).into_keys().collect::<Vec<_>>();
    let mut expected: Vec<_> = kept.into_keys().chain(foreign.map(PathBuf::from)).collect();
    expected.sort();
    assert_eq!(names, expected);
    trial.open();
    trial
        .expect(JobId::new(1).unwrap(), "aaaaaaaaaaaaa", at(0))
        .await;
    trial.expect(JobId::new(3).unwrap(), "c", at(0)).await;
}

#[tokio::test]
async fn opening_reads_no_segment_whose_jobs_have_ended() {
    let mut trial = Trial::new(by_count(5));
    let mut ids = Vec::new();
    for number in 0..22 {
        let tag = format!("tag_{number}");
        let id = trial.submit(&tag).await;
        // One job of the third segment lives on.
        if number != 12 {
            trial.finish(id, &tag, at(0)).await;
        }
        ids.push(id);
    }
    trial.settled().await;
    trial.close().await;
    let files = trial.segment_files();
    assert_eq!(files.len(), 5);
    // If any of these were read, opening would fail.
    for settled in [0, 1, 3] {
        fs::write(&files[settled], vec![0xAA; 8192]).unwrap();
    }
    trial.open();
    assert_eq!(trial.store().statistics().segments_read_at_open, 2);
    assert_eq!(trial.store().statistics().live_jobs, 1);
    assert_eq!(trial.total().jobs, 22);
    trial.expect(ids[12], "tag_12", at(0)).await;
    trial.expect(ids[21], "tag_21", at(0)).await;
    // Reading one of their jobs tells where the damage is.
    for (job, file) in [(0, "00000001-0.sqlite"), (19, "00000004-0.sqlite")] {
        let read = trial.store().get(ids[job], Parts::NONE, at(0)).await;
        expect_corrupt(read, file);
        let tag = format!("tag_{job}").parse().unwrap();
        let owner = kjob_core::Owner::anonymous();
        expect_corrupt(trial.store().find(&owner, &tag, at(0)).await, file);
    }
    // And the store goes on.
    let id = trial.submit("another").await;
    trial.finish(id, "another", at(0)).await;
    trial.finish(ids[12], "tag_12", at(0)).await;
}

#[tokio::test]
async fn a_changed_value_in_any_column_is_reported_and_never_handed_out() {
    let (mut trial, ids) = one_of_each().await;
    trial.close().await;
    let file = trial.segment_files().remove(0);
    let original = fs::read(&file).unwrap();
    let mut tried = 0;
    for table in ["jobs", "states", "ends", "expiries"] {
        for (column, row) in values(&file, table) {
            let connection = Connection::open(&file).unwrap();
            let id: i64 = connection
                .query_row(
                    &format!("SELECT id FROM {table} WHERE rowid = {row}"),
                    [],
                    |r| r.get(0),
                )
                .unwrap();
            let unused = format!("SELECT {column} IS NULL FROM {table} WHERE rowid = {row}");
            let unused = connection.query_row(&unused, [], |r| r.get(0)).unwrap();
            // Where there are no bytes, or they are in a file, nobody reads this.
            if unused && ["payload", "result"].contains(&column.as_str()) {
                continue;
            }
            // One more, another byte at the end, or a value where there was none.
            let change = format!(
                "UPDATE {table} SET {column} = CASE typeof({column}) \
                 WHEN 'integer' THEN {column} + 1 WHEN 'text' THEN {column} || 'x' \
                 WHEN 'null' THEN 1 ELSE CAST({column} || x'00' AS BLOB) END WHERE rowid = {row}"
            );
            connection.execute_batch(&change).unwrap();
            connection.close().unwrap();
            let what = format!("{table}.{column} of job {id}");
            match EmbeddedStore::open(trial.dir.path(), trial.options.clone()) {
                Ok(store) => {
                    // A live job's row is read when the store is opened.
                    let of_payload = ["payload"].contains(&column.as_str());
                    let live = ids.live.contains(&id) && !of_payload;
                    let named: Vec<_> = store.damaged_jobs().keys().map(|id| id.get()).collect();
                    assert_eq!(named, if live { vec![id] } else { vec![] }, "{what}");
                    let all = Parts {
                        payload: true,
                        result: true,
                    };
                    let read = store.get(JobId::new(id).unwrap(), all, at(0)).await;
                    match read {
                        Err(StoreError::Corrupt { what: named }) => {
                            assert!(named.contains(&id.to_string()), "{what}: {named}");
                        }
                        other => panic!("{what}: {:?}", other.map(|job| job.map(|j| j.state))),
                    }
                    // The others are as they were.
                    for other in ids.all.iter().filter(|other| other.get() != id) {
                        let read = store.get(*other, all, at(0)).await;
                        assert!(matches!(read, Ok(Some(_))), "{what}: job {other}: {read:?}");
                    }
                }
                Err(other) => panic!("{what}: {other:?}"),
            }
            tried += 1;
            fs::write(&file, &original).unwrap();
        }
    }
    assert!(tried > 80, "{tried}");
}

#[tokio::test]
async fn a_flipped_bit_in_a_file_gives_the_right_bytes_or_an_error() {
    let (mut trial, ids) = one_of_each().await;
    let all = Parts {
        payload: true,
        result: true,
    };
    let mut right = Vec::new();
    for id in &ids.all {
        right.push(trial.store().get(*id, all, at(0)).await.unwrap().unwrap());
    }
    trial.close().await;
    let file = trial.segment_files().remove(0);
    let mut targets: Vec<PathBuf> = files(&trial.dir.path().join("blobs"));
    assert_eq!(targets.len(), 2);
    targets.push(file);
    let mut reported = 0;
    for target in targets {
        let original = fs::read(&target).unwrap();
        let is_blob = target.extension().is_none_or(|e| e != "sqlite");
        // Every place where there is something, up to a number of them.
        let places: Vec<_> = (0..original.len())
            .filter(|at| original[*at] != 0)
            .collect();
        for place in places.iter().step_by((places.len() / 150).max(1)) {
            let mut damaged = original.clone();
            damaged[*place] ^= 1 << (place % 8);
            fs::write(&target, damaged).unwrap();
            let Ok(store) = EmbeddedStore::open(trial.dir.path(), trial.options.clone()) else {
                reported += 1;
                continue;
            };
            for (id, right) in ids.all.iter().zip(&right) {
                match store.get(*id, all, at(0)).await {
                    Ok(Some(job)) => {
                        let what = format!("byte {place} of {}: job {id}", target.display());
                        // Not the whole jobs: their bytes are long.
                        assert_eq!(job.header, right.header, "{what}");
                        assert!(job.payload == right.payload, "{what}: other bytes");
                        assert!(job.ending == right.ending, "{what}: another end");
                        assert_eq!(job.state, right.state, "{what}");
                        assert_eq!(job.expires_at, right.expires_at, "{what}");
                    }
                    Ok(None) | Err(_) => reported += 1,
                }
            }
            if is_blob {
                let big = store.get(ids.big, all, at(0)).await;
                expect_corrupt(big, &format!("{}.0.", ids.big));
            }
        }
        fs::write(&target, original).unwrap();
    }
    assert!(reported > 300, "{reported}");
}

#[tokio::test]
async fn an_ended_job_does_not_come_back_to_life_where_its_end_is_not_found() {
    let (mut trial, ids) = one_of_each().await;
    trial.close().await;
    let connection = Connection::open(trial.segment_files().remove(0)).unwrap();
    let lose = "DELETE FROM expiries WHERE id = ?1";
    assert_eq!(connection.execute(lose, [ids.big.get()]).unwrap(), 1);
    connection.close().unwrap();
    trial.open();
    let damaged: Vec<_> = trial.store().damaged_jobs().keys().copied().collect();
    assert_eq!(damaged, [ids.big]);
    let name = format!("job {}", ids.big);
    expect_corrupt(trial.store().get(ids.big, Parts::NONE, at(0)).await, &name);
    let started = trial.store().start(ids.big, at(0)).await;
    assert!(
        matches!(&started, Err(StepError::Store(StoreError::Corrupt { what })) if what.contains(&name)),
        "{started:?}"
    );
    // Whoever takes up the jobs that are to be run does not see it.
    let running = Filter {
        statuses: vec![Status::Running],
        limit: 100,
        ..Filter::ALL
    };
    let page = trial.store().list(&running, at(0)).await.unwrap();
    let live: Vec<_> = page.jobs.iter().map(|job| job.header.id.get()).collect();
    assert_eq!(live, ids.live);
    // Whoever lists all is told of it.
    let all = Filter {
        statuses: Vec::new(),
        ..running
    };
    expect_corrupt(trial.store().list(&all, at(0)).await, &name);
}

#[tokio::test]
async fn a_tag_that_leads_to_another_job_is_reported() {
    let (mut trial, ids) = one_of_each().await;
    trial.close().await;
    let connection = Connection::open(trial.segment_files().remove(0)).unwrap();
    let change = "UPDATE tags SET id = ?1 WHERE id = ?2";
    let (wrong, right) = (ids.all[1].get(), ids.big.get());
    assert_eq!(connection.execute(change, [wrong, right]).unwrap(), 1);
    connection.close().unwrap();
    trial.open();
    let owner = kjob_core::Owner::anonymous();
    let found = trial
        .store()
        .find(&owner, &"big".parse().unwrap(), at(0))
        .await;
    expect_corrupt(found, "tag big");
    // Nor is a repeated call taken for the other job's.
    let id = trial.id().await;
    let again = trial.store().submit(job(id, "big"), true).await;
    expect_corrupt(again, "tag big");
}

/// The jobs of [`one_of_each`].
struct Ids {
    all: Vec<JobId>,
    live: Vec<i64>,
    /// The one whose bytes are in files.
    big: JobId,
}

/// A closed store's segment with a row of every kind.
async fn one_of_each() -> (Trial, Ids) {
    let mut trial = Trial::new(EmbeddedOptions {
        inline_bytes_max: 6_000,
        ..EmbeddedOptions::default()
    });
    let big = trial.id().await;
    let mut new = job(big, "big");
    new.payload = Bytes::from(vec![7; 6_001]);
    trial.submit_as(new).await;
    let result = Payload::binary(vec![9; 6_002]);
    end(&trial, big, Finish::Complete(result.into())).await;
    let done = trial.id().await;
    let mut new = job(done, "11111111-2222-3333-4444-555555555555");
    new.payload = Bytes::from(vec![3; 5_000]);
    trial.submit_as(new).await;
    end(
        &trial,
        done,
        Finish::Complete(Output::binary(vec![5; 4_500])),
    )
    .await;
    trial.store().expire_at(done, at(1_000)).await.unwrap();
    let failed = trial.submit("failed").await;
    end(&trial, failed, Finish::Fail("it failed".into())).await;
    let cancelled = trial.id().await;
    let queued = trial.id().await;
    for (id, tag) in [(cancelled, "cancelled"), (queued, "queued")] {
        let done = trial.store().submit(job(id, tag), false).await.unwrap();
        assert!(matches!(done, Submitted::Created(_)), "{done:?}");
    }
    trial
        .store()
        .request_cancel(cancelled, at(0))
        .await
        .unwrap();
    let running = trial.submit("running").await;
    let lease = trial.get(running, at(0)).await.unwrap().state.lease;
    trial
        .store()
        .progress(running, lease, 40, at(0))
        .await
        .unwrap();
    let ids = Ids {
        all: vec![big, done, failed, cancelled, queued, running],
        live: vec![queued.get(), running.get()],
        big,
    };
    (trial, ids)
}

async fn end(trial: &Trial, id: JobId, finish: Finish) {
    let lease = trial.get(id, at(0)).await.unwrap().state.lease;
    trial
        .store()
        .finish(id, lease, finish, at(0))
        .await
        .unwrap();
}

/// Each column of each row of a table, but for the keys.
fn values(file: &Path, table: &str) -> Vec<(String, i64)> {
    let connection = Connection::open(file).unwrap();
    let columns = format!("SELECT name FROM pragma_table_info('{table}')");
    let mut columns = connection.prepare(&columns).unwrap();
    let columns: Vec<String> = columns
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .map(Result::unwrap)
        .filter(|name| !["id", "seq"].contains(&name.as_str()))
        .collect();
    let mut rows = connection
        .prepare(&format!("SELECT rowid FROM {table}"))
        .unwrap();
    let rows: Vec<i64> = rows
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(!rows.is_empty(), "{table}");
    rows.iter()
        .flat_map(|row| columns.iter().map(|column| (column.clone(), *row)))
        .collect()
}

/// Checks that a directory is refused for something of this name, twice, and stays as it is.
fn refuse_as_damaged(dir: &Path, name: &str) {
    let before = contents(dir);
    for _ in 0..2 {
        match open(dir) {
            Err(OpenError::Corrupt { what, .. }) => assert!(what.contains(name), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(contents(dir), before);
}

/// All files below a directory with what is in them, but for the lock's.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let name = |path: &Path| path.strip_prefix(dir).unwrap().to_owned();
    let files = files(dir)
        .into_iter()
        .filter(|path| !path.ends_with("LOCK"));
    files
        .map(|path| (name(&path), fs::read(&path).unwrap()))
        .collect()
}

fn expect_corrupt<T: std::fmt::Debug>(read: Result<T, StoreError>, name: &str) {
    match read {
        Err(StoreError::Corrupt { what }) => assert!(what.contains(name), "{what}"),
        other => panic!("{name}: {other:?}"),
    }
}
