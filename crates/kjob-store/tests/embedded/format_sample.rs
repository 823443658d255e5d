//! A directory of each format that there was is kept under `tests/format`, as a killed process left
//! it; this version opens it, finds in it what was there, and goes on.
//!
//! The current format's sample is made by
//! `cargo test -p kjob-store --test embedded -- --ignored make_the_sample`.
//! **When the format changes**, make a new sample beside the old ones, and keep those: every later
//! version must open them. What they hold is in their `contents.txt`, which only ever changes if a
//! sample was made anew before its format was released.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::trial::{Trial, at, by_count, files, job};
use bytes::Bytes;
use kjob_core::{
    CallbackOutcome, CallbackTry, Ending, Filter, Finish, Job, JobId, Lease, NewJob, OnInterrupt,
    Output, Owner, Parts, Phase, Store, Submitted, TagReuse, Timestamp,
};
use kjob_proto::Encoding;
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};
use rusqlite::Connection;

/// The moment at which the samples are looked at.
const NOW: Timestamp = at(100);

/// A payload of more bytes than this is in a pack.
const ROW_BYTES_MAX: usize = 20;

/// And one of more than this in a file of its own.
const INLINE_BYTES_MAX: usize = 100;

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        row_bytes_max: ROW_BYTES_MAX,
        inline_bytes_max: INLINE_BYTES_MAX,
        ..by_count(6)
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format")
}

#[tokio::test]
async fn every_format_that_ever_was_is_opened_and_holds_what_it_held() {
    let mut formats: Vec<PathBuf> = fs::read_dir(samples())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    formats.sort();
    assert!(
        formats.iter().any(|path| path.ends_with(current_format())),
        "the format has changed: make a sample of it (see the top of this file)"
    );
    for sample in formats {
        let dir = tempfile::tempdir().unwrap();
        copy(&sample.join("data"), dir.path());
        let expected = fs::read_to_string(sample.join("contents.txt")).unwrap();
        // As a killed process left it, then as this version left it.
        for _ in 0..2 {
            let store = EmbeddedStore::open(dir.path(), options()).unwrap();
            assert_eq!(contents(&store).await, expected, "{}", sample.display());
            store.close().await.unwrap();
        }
        goes_on(dir.path()).await;
    }
}

/// The sample is worth its name: it has one of everything.
#[tokio::test]
async fn the_current_sample_has_everything_in_it() {
    let sample = samples().join(current_format());
    let contents = fs::read_to_string(sample.join("contents.txt")).unwrap();
    for phase in Phase::ALL {
        assert!(contents.contains(&format!(" {phase} ")), "{phase}");
    }
    for what in [
        "content_type=",
        "phase: Pending",
        "phase: Delivered",
        "phase: GivenUp",
    ] {
        assert!(contents.contains(what), "{what}");
    }
    let names: Vec<String> = files(&sample.join("data"))
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let has = |end: &str| names.iter().any(|name| name.ends_with(end));
    assert!(has("00000001-1.sqlite"), "a rewritten segment: {names:?}");
    assert!(
        has("00000002-0.sqlite") && has("00000003-0.sqlite"),
        "{names:?}"
    );
    assert!(has(".payload") && has(".result"), "blobs: {names:?}");
    assert!(has(".pack"), "packs: {names:?}");
    assert!(
        !names.iter().any(|name| name.starts_with("00000004")),
        "a dropped one: {names:?}"
    );
    let logs = files(&sample.join("data"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "sqlite-wal"));
    let logged: u64 = logs.map(|path| path.metadata().unwrap().len()).sum();
    assert!(logged > 10_000, "logs that were not moved back: {logged}");
}

/// Works in a copy of a sample.
async fn goes_on(dir: &Path) {
    let store = EmbeddedStore::open(dir, options()).unwrap();
    let mut ids = store.reserve_ids(100).await.unwrap();
    let tagged = |tag: &str| {
        let tag = tag.parse().unwrap();
        let store = &store;
        async move { store.find(&Owner::anonymous(), &tag, NOW).await.unwrap() }
    };
    // The same call again is the same job, another call is refused.
    let kept = tagged("kept").await.unwrap();
    let mut again = job(ids.take().unwrap(), "kept");
    again.header.received_at = NOW;
    let done = store.submit(again.clone(), true).await.unwrap();
    assert!(
        matches!(&done, Submitted::Existing(job) if job.header.id == kept),
        "{done:?}"
    );
    again.payload = Bytes::from_static(b"other");
    let done = store.submit(again, true).await.unwrap();
    assert!(
        matches!(done, Submitted::Conflict { id, .. } if id == kept),
        "{done:?}"
    );
    // The tag of an expired job is free.
    let mut new = job(ids.take().unwrap(), "short-1");
    new.header.received_at = NOW;
    let created = store.submit(new, true).await.unwrap();
    assert!(matches!(created, Submitted::Created(_)), "{created:?}");
    // What waited is started with its payload; what ran ends.
    let queued = tagged("queued").await.unwrap();
    let started = store.start(queued, NOW).await.unwrap();
    assert_eq!(started.payload, Some(crate::trial::payload_of("queued")));
    for (tag, lease) in [("running", Lease(1)), ("queued", started.state.lease)] {
        let id = tagged(tag).await.unwrap();
        let finish = Finish::Complete(Output::binary("late"));
        let ended = store.finish(id, lease, finish, NOW).await.unwrap();
        assert_eq!(ended.phase, Phase::Done);
    }
    let cancelling = tagged("cancelling").await.unwrap();
    store
        .finish(cancelling, Lease(1), Finish::Stop, NOW)
        .await
        .unwrap();
    // And expires.
    let later = NOW.after(Duration::from_secs(1_000_000));
    while store.expire(later).await.unwrap().more {}
    store.compact(later).await.unwrap();
    let left = list(&store, later).await;
    store.close().await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(dir, options()).unwrap();
    assert_eq!(list(&store, later).await, left);
    assert!(left.len() >= 2, "those that live on: {left:?}");
    store.close().await.unwrap();
}

async fn list(store: &EmbeddedStore, now: Timestamp) -> Vec<JobId> {
    let filter = Filter {
        limit: 10_000,
        ..Filter::ALL
    };
    let page = store.list(&filter, now).await.unwrap();
    page.jobs.iter().map(|job| job.header.id).collect()
}

/// All that a store says of what it holds, as text.
async fn contents(store: &EmbeddedStore) -> String {
    let mut text = String::new();
    for id in list(store, NOW).await {
        let all = Parts {
            payload: true,
            result: true,
        };
        let job = store.get(id, all, NOW).await.unwrap().unwrap();
        let header = &job.header;
        let by_tag = store.find(&header.owner, &header.tag, NOW).await.unwrap();
        let state = &job.state;
        let moment = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_millis);
        let ending = match &job.ending {
            None => "none".to_owned(),
            Some(Ending::Done(result)) => {
                format!(
                    "{} {}",
                    result.payload.encoding.as_str(),
                    bytes(&result.payload.data)
                )
            }
            Some(Ending::Failed(message)) => format!("{message:?}"),
            Some(Ending::Cancelled) => "cancelled".to_owned(),
        };
        writeln!(
            text,
            "job {id} {tag} {phase} by_tag={by_tag:?} owner={owner} endpoint={endpoint} \
             encoding={encoding} query_id={query_id} span={span} received={received} from={source} \
             priority={priority} not_before={not_before} timeout={timeout:?} retention={retention:?} \
             remove={remove} user_data={user_data:?} progress={progress} attempt={attempt} \
             lease={lease:?} waits_for={waits_for} started={started} ended={ended} \
             expires={expires} payload={payload} ending={ending}{later}",
            tag = header.tag,
            phase = state.phase,
            owner = header.owner,
            endpoint = header.endpoint.as_str(),
            encoding = header.encoding.as_str(),
            query_id = header.query_id,
            span = header.parent_span,
            received = header.received_at.as_millis(),
            source = header.source_ip.as_str(),
            priority = header.options.priority.get(),
            not_before = moment(header.options.not_before),
            timeout = header.options.timeout,
            retention = header.options.retention,
            remove = header.options.remove_on_complete,
            user_data = header.options.user_data.as_str(),
            progress = state.progress,
            attempt = state.attempt,
            lease = state.lease,
            waits_for = moment(state.not_before),
            started = moment(state.started_at),
            ended = moment(state.ended_at),
            expires = moment(job.expires_at),
            payload = bytes(job.payload.as_ref().unwrap()),
            later = since_format_3(&job),
        )
        .unwrap();
    }
    for tag in ["short-1", "given-away", "job-of-nobody"] {
        let tag = tag.parse().unwrap();
        let found = store.find(&Owner::anonymous(), &tag, NOW).await.unwrap();
        writeln!(text, "tag {tag} {found:?}").unwrap();
    }
    for owner in ["anonymous", "ann", "bob"] {
        let usage = store.usage(&Owner::new(owner));
        let (total, own) = (usage.total, usage.owner);
        writeln!(text, "usage {owner} {own:?} of {total:?}").unwrap();
    }
    let stats = store.stats(NOW).await.unwrap();
    writeln!(text, "next_id {}", stats.next_id).unwrap();
    for segment in stats.segments {
        let (number, generation) = (segment.number, segment.generation);
        writeln!(
            text,
            "segment {number}-{generation} first_id={} sealed={} jobs={} live={} expired={}",
            segment.first_id, segment.is_sealed, segment.jobs, segment.live, segment.expired
        )
        .unwrap();
    }
    text
}

/// What no job has in a sample of format 2.
fn since_format_3(job: &Job) -> String {
    let mut text = String::new();
    if let Some(url) = &job.header.options.callback_url {
        write!(text, " callback_url={url} callback={:?}", job.callback).unwrap();
    }
    if let Some(Ending::Done(result)) = &job.ending {
        for (name, value) in result.info.iter() {
            write!(text, " {name}={value:?}").unwrap();
        }
    }
    text
}

fn bytes(bytes: &Bytes) -> String {
    if bytes.len() <= INLINE_BYTES_MAX {
        format!("{:?}", String::from_utf8_lossy(bytes))
    } else {
        format!("{} bytes, crc {:08x}", bytes.len(), crc32fast::hash(bytes))
    }
}

/// The format that this version writes.
fn current_format() -> String {
    let dir = tempfile::tempdir().unwrap();
    drop(EmbeddedStore::open(dir.path(), options()).unwrap());
    let catalogue = Connection::open(dir.path().join("catalogue.sqlite")).unwrap();
    let format = catalogue.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    format.unwrap().to_string()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if path.extension().is_none_or(|e| e != "sqlite-shm") {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn called_back(id: JobId, tag: &str) -> NewJob {
    let mut new = job(id, tag);
    new.header.options.callback_url = Some("http://127.0.0.1:9/hook".into());
    new
}

async fn note(trial: &Trial, id: JobId, outcome: CallbackOutcome, now: Timestamp) {
    let tried = CallbackTry {
        http_status: Some(202),
        outcome,
    };
    let noted = trial.store().note_callback(id, tried, now).await;
    noted.unwrap();
}

/// Not a test: writes the sample of the current format. Does nothing to one that is there; delete it
/// first if the format was not yet released.
#[tokio::test]
#[ignore = "writes into the source tree; run it when the format has changed"]
async fn make_the_sample() {
    let target = samples().join(current_format());
    assert!(!target.exists(), "{} is there already", target.display());
    let mut trial = Trial::new(options());

    // The first segment will be rewritten: two of six jobs are kept.
    for number in 0..4 {
        let tag = format!("short-{number}");
        let id = trial.submit_kept(&tag, Duration::from_secs(10)).await;
        trial.finish(id, &tag, at(0)).await;
    }
    let kept = called_back(trial.id().await, "kept");
    let kept = trial.submit_as(kept).await;
    trial.finish(kept, "kept", at(2)).await;
    note(&trial, kept, CallbackOutcome::Delivered, at(3)).await;
    let mut big = job(trial.id().await, "big");
    big.header.encoding = Encoding::Json;
    big.payload = Bytes::from(vec![b'p'; 5000]);
    let big = trial.submit_as(big).await;
    let mut result = Output::json("r".repeat(9000));
    result.info.insert("content_type", "text/x-ä").unwrap();
    result.info.insert("upstream_status", "200").unwrap();
    let finish = Finish::Complete(result);
    trial
        .store()
        .finish(big, Lease(1), finish, at(3))
        .await
        .unwrap();

    // The second has all that lives, and stays so.
    let queued = job(trial.id().await, "queued");
    trial.store().submit(queued, false).await.unwrap();
    let running = trial.submit("running").await;
    trial
        .store()
        .progress(running, Lease(1), 40, at(4))
        .await
        .unwrap();
    let cancelling = trial.submit("cancelling").await;
    trial
        .store()
        .request_cancel(cancelling, at(5))
        .await
        .unwrap();
    let mut delayed = called_back(trial.id().await, "delayed");
    delayed.header.options.not_before = Some(at(5000));
    delayed.header.options.timeout = Some(Duration::from_millis(1234));
    delayed.header.options.user_data = "a user's text".into();
    trial.store().submit(delayed, true).await.unwrap();
    let retried = trial.submit("retried").await;
    let then = OnInterrupt::Retry {
        max_attempts: 3,
        not_before: at(6000),
        charged: true,
    };
    let interrupt = Finish::Interrupt {
        reason: "cut off".into(),
        then,
    };
    trial
        .store()
        .finish(retried, Lease(1), interrupt, at(6))
        .await
        .unwrap();
    let failed = trial.submit("given-away").await;
    let fail = Finish::Fail("it failed: äöü".into());
    trial
        .store()
        .finish(failed, Lease(1), fail.clone(), at(7))
        .await
        .unwrap();

    // The third has ended jobs only, of several owners, and tags of every kind.
    for (owner, tag) in [
        ("ann", "0195d3a0-0000-7000-8000-0123456789ab"),
        ("bob", "kept"),
    ] {
        let mut new = job(trial.id().await, tag);
        new.header.owner = Owner::new(owner);
        let id = trial.submit_as(new).await;
        trial
            .store()
            .finish(id, Lease(1), fail.clone(), at(8))
            .await
            .unwrap();
    }
    let id = trial.id().await;
    let own = format!("job-{id}-abcdefghijkl");
    let generated = trial.submit_as(job(id, &own)).await;
    let ended = trial
        .store()
        .finish(generated, Lease(1), fail.clone(), at(9))
        .await;
    ended.unwrap();
    let cancelled = called_back(trial.id().await, "cancelled");
    let id = cancelled.header.id;
    trial.store().submit(cancelled, false).await.unwrap();
    trial.store().request_cancel(id, at(10)).await.unwrap();
    let error = "it is gone".into();
    note(&trial, id, CallbackOutcome::GiveUp { error }, at(11)).await;
    let sooner = called_back(trial.id().await, "expires-sooner");
    let sooner = trial.submit_as(sooner).await;
    trial.finish(sooner, "expires-sooner", at(11)).await;
    let (error, next) = ("it is busy".into(), at(1500));
    let retry = CallbackOutcome::Retry { error, at: next };
    note(&trial, sooner, retry, at(12)).await;
    trial.store().expire_at(sooner, at(2000)).await.unwrap();
    let removed = trial.submit("removed").await;
    trial.finish(removed, "removed", at(12)).await;
    trial.store().expire_at(removed, at(50)).await.unwrap();

    // The fourth goes as a whole.
    for number in 4..10 {
        let tag = format!("short-{number}");
        let id = trial.submit_kept(&tag, Duration::from_secs(10)).await;
        trial.finish(id, &tag, at(0)).await;
    }

    // The newest has two jobs to whom tags were given anew.
    for tag in ["given-away", &own] {
        let mut new: NewJob = job(trial.id().await, tag);
        new.tag_reuse = TagReuse::IfFailed;
        trial.submit_as(new).await;
    }
    trial.expire_all(at(20)).await;
    trial
        .wait("the files are gone", || trial.segment_files().len() == 4)
        .await;
    trial.settled().await;
    // What follows is in the logs.
    let last = trial.submit("last").await;
    trial
        .store()
        .progress(last, Lease(1), 7, at(30))
        .await
        .unwrap();

    let before = contents(trial.store()).await;
    let killed = trial.killed();
    let found = contents(killed.store()).await;
    assert_eq!(found, before, "what is kept is what was there");
    drop(killed);
    copy(trial.dir.path(), &target.join("data"));
    fs::remove_file(target.join("data/LOCK")).unwrap();
    fs::write(target.join("contents.txt"), before).unwrap();
}
