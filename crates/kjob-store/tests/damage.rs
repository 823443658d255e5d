//! Damage to any file of a store: each answer is right, or an error that names what is damaged.
//! Never a wrong answer, never one that silently lacks something, never a panic, and never a job
//! that is run again.
//!
//! A store with everything in it is damaged at one place, checked, opened, asked for all it has in
//! every way, told to expire, opened again and asked again. `KJOB_FLIP_EVERY=n` flips every nth bit
//! of every file (1: all of them, which takes hours) instead of a sample.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "the table is what people read")]

mod trial;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kjob_core::{
    Filter, Finish, Job, JobId, NewJob, Output, Owner, Parts, Phase, Status, Store, StoreError,
    Submitted, TagReuse, Timestamp,
};
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError, check};
use trial::{Trial, at, by_count, files, job};

const PAGE: usize = 4096;
const ALL: Parts = Parts {
    payload: true,
    result: true,
};
/// When everything that was made to expire early has, and nothing else.
const NOW: Timestamp = at(100);
/// When more has.
const LATER: Timestamp = at(5_000);

#[test]
fn a_flipped_bit_anywhere_gives_the_right_answer_or_an_error_that_names_it() {
    for image in [Image::closed(), Image::killed()] {
        let every: Option<usize> = std::env::var("KJOB_FLIP_EVERY")
            .ok()
            .map(|every| every.parse().unwrap());
        let mut cases = Vec::new();
        for (name, bytes) in &image.files {
            let bits = bytes.len() * 8;
            match every {
                Some(every) => cases.extend((0..bits).step_by(every).map(|bit| flip(name, bit))),
                // Most of a page is empty: more of what is not.
                None => {
                    let used: Vec<usize> =
                        (0..bytes.len()).filter(|byte| bytes[*byte] != 0).collect();
                    let is_database = name.extension().is_some_and(|e| e == "sqlite");
                    let (samples, spread) = match (is_database, is_log(name)) {
                        (true, _) => (80, 10),
                        (_, true) => (30, 10),
                        _ => (6, 2),
                    };
                    for number in 0..samples.min(used.len()) {
                        let place = used[number * used.len() / samples.min(used.len())];
                        cases.push(flip(name, place * 8 + number % 8));
                    }
                    cases.extend((0..spread).map(|n| flip(name, n * bits / spread)));
                }
            }
        }
        image.try_all(&cases);
    }
}

#[test]
fn lost_and_misplaced_pages_are_found() {
    let image = Image::closed();
    let mut cases = Vec::new();
    for (name, bytes) in &image.files {
        let pages = bytes.len() / PAGE;
        for page in 0..pages {
            cases.push(Case::new(name, format!("page {page} zeroed"), {
                move |bytes| bytes[page * PAGE..(page + 1) * PAGE].fill(0)
            }));
            cases.push(Case::new(name, format!("cut off at page {page}"), {
                move |bytes| bytes.truncate(page * PAGE + 7)
            }));
            let other = (page + 1) % pages;
            cases.push(Case::new(
                name,
                format!("pages {page} and {other} swapped"),
                {
                    move |bytes| {
                        let first = bytes[page * PAGE..(page + 1) * PAGE].to_vec();
                        bytes.copy_within(other * PAGE..(other + 1) * PAGE, page * PAGE);
                        bytes[other * PAGE..(other + 1) * PAGE].copy_from_slice(&first);
                    }
                },
            ));
        }
    }
    image.try_all(&cases);
}

#[tokio::test]
async fn a_settled_segments_file_that_is_another_is_found() {
    let mut trial = Trial::new(by_count(4));
    let mut ids = Vec::new();
    for number in 0..9 {
        let tag = format!("job-{number}");
        let id = trial.submit(&tag).await;
        if number != 3 {
            trial.finish(id, &tag, at(0)).await;
        }
        ids.push(id);
    }
    trial.close().await;
    let file = trial.segment_files().remove(0);
    let older = fs::read(&file).unwrap();
    let anothers = fs::read(trial.segment_files().remove(1)).unwrap();
    trial.open();
    trial.finish(ids[3], "job-3", at(0)).await;
    trial.settled().await;
    trial.close().await;
    let right = fs::read(&file).unwrap();
    assert_ne!(older, right);
    for (contents, is_right) in [(right, true), (older, false), (anothers, false)] {
        fs::write(&file, contents).unwrap();
        assert_eq!(
            check(trial.dir.path()).unwrap().findings.is_empty(),
            is_right
        );
        trial.open();
        for id in &ids[..4] {
            let got = trial.store().get(*id, ALL, at(1)).await;
            match got {
                Ok(Some(_)) if is_right => {}
                Err(StoreError::Corrupt { what }) if !is_right => {
                    assert!(
                        what.contains("segment 1") || what.contains("00000001-0"),
                        "{what}"
                    );
                }
                other => panic!("job {id}: {:?}", other.map(|job| job.map(|job| job.state))),
            }
        }
        assert!(trial.get(ids[5], at(1)).await.is_some());
        trial.close().await;
    }
}

type Damage = Box<dyn Fn(&mut Vec<u8>) + Send + Sync>;

/// A place that is damaged, and how.
struct Case {
    name: PathBuf,
    what: String,
    damage: Damage,
}

impl Case {
    fn new(
        name: &Path,
        what: String,
        damage: impl Fn(&mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            what,
            damage: Box::new(damage),
        }
    }
}

fn flip(name: &Path, bit: usize) -> Case {
    let what = format!("bit {} of byte {}", bit % 8, bit / 8);
    Case::new(name, what, move |bytes| {
        if let Some(byte) = bytes.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    })
}

/// What came of the damage to a kind of file.
#[derive(Default, Clone)]
struct Tally {
    cases: usize,
    /// Not opened.
    refused: usize,
    /// Opened, with a job that is known to be damaged.
    known: usize,
    /// Opened, and something that was asked for got an error.
    at_read: usize,
    /// Everything was right.
    harmless: usize,
    /// Of those, how many a check finds.
    only_by_check: usize,
}

/// The files of a store at a moment, and everything it has to answer.
struct Image {
    what: &'static str,
    files: BTreeMap<PathBuf, Vec<u8>>,
    ids: Vec<JobId>,
    tags: Vec<String>,
    /// By the time of asking.
    answers: Vec<(Timestamp, Answers)>,
}

/// All that can be asked.
#[derive(Default)]
struct Answers {
    jobs: BTreeMap<JobId, Asked<Option<Job>>>,
    tags: BTreeMap<String, Asked<Option<JobId>>>,
    all: Option<Asked<Vec<JobId>>>,
    live: Option<Asked<Vec<(JobId, Phase, u8)>>>,
}

type Asked<T> = Result<T, StoreError>;

impl Image {
    fn closed() -> Self {
        block_on(async {
            let (mut trial, ids, tags) = everything().await;
            trial.close().await;
            Self::of("closed", &trial, ids, tags).await
        })
    }

    fn killed() -> Self {
        block_on(async {
            let (trial, ids, tags) = everything().await;
            Self::of("killed", &trial, ids, tags).await
        })
    }

    async fn of(what: &'static str, trial: &Trial, ids: Vec<JobId>, tags: Vec<String>) -> Self {
        let dir = trial.dir.path();
        let names = files(dir).into_iter();
        let files = names
            .filter(|path| path.extension().is_none_or(|e| e != "sqlite-shm"))
            .map(|path| {
                let name = path.strip_prefix(dir).unwrap().to_owned();
                (name, fs::read(&path).unwrap())
            });
        let mut image = Self {
            what,
            files: files.collect(),
            ids,
            tags,
            answers: Vec::new(),
        };
        let whole = image.write(None);
        let report = check(whole.path()).unwrap();
        assert_eq!(report.findings, [], "{what}");
        let logs = image.files.keys().filter(|name| is_log(name)).count();
        assert_eq!(logs > 1, what == "killed");
        for now in [NOW, LATER] {
            let store = EmbeddedStore::open(whole.path(), options()).unwrap();
            assert!(store.damaged_jobs().is_empty());
            let answers = image.ask(&store, now).await;
            image.answers.push((now, answers));
            store.close().await.unwrap();
        }
        let sound = image.answers.iter().all(|(_, answers)| {
            answers.jobs.values().all(Result::is_ok) && answers.tags.values().all(Result::is_ok)
        });
        assert!(sound);
        image
    }

    fn write(&self, damaged: Option<&Case>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &self.files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut bytes = bytes.clone();
            if let Some(case) = damaged.filter(|case| case.name == *name) {
                (case.damage)(&mut bytes);
            }
            fs::write(&path, bytes).unwrap();
        }
        dir
    }

    async fn ask(&self, store: &EmbeddedStore, now: Timestamp) -> Answers {
        let mut answers = Answers::default();
        for id in &self.ids {
            answers.jobs.insert(*id, store.get(*id, ALL, now).await);
        }
        for text in &self.tags {
            let tag = text.parse().unwrap();
            let found = store.find(&Owner::anonymous(), &tag, now).await;
            answers.tags.insert(text.clone(), found);
        }
        let all = store.list(&filter(&[]), now).await;
        answers.all = Some(all.map(|page| page.jobs.iter().map(|j| j.header.id).collect()));
        let live = store.list(&filter(&[Status::Running]), now).await;
        let state = |job: &Job| (job.header.id, job.state.phase, job.state.progress);
        answers.live = Some(live.map(|page| page.jobs.iter().map(state).collect()));
        answers
    }

    /// Tries all cases, prints what came of them, and fails if anything was wrong.
    fn try_all(&self, cases: &[Case]) {
        let next = AtomicUsize::new(0);
        let tallies: Mutex<BTreeMap<String, Tally>> = Mutex::default();
        let wrong: Mutex<Vec<String>> = Mutex::default();
        let work = || {
            while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut tally = Tally::default();
                tally.cases += 1;
                let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    block_on(self.try_one(case, &mut tally))
                }));
                let tried = tried.unwrap_or_else(|_| Err("a panic".to_owned()));
                if let Err(error) = tried {
                    let name = case.name.display();
                    wrong
                        .lock()
                        .unwrap()
                        .push(format!("{name}, {}: {error}", case.what));
                }
                let kind = kind(&case.name);
                let mut tallies = tallies.lock().unwrap();
                let sum = tallies.entry(kind).or_default();
                sum.cases += 1;
                sum.refused += tally.refused;
                sum.known += tally.known;
                sum.at_read += tally.at_read;
                sum.harmless += tally.harmless;
                sum.only_by_check += tally.only_by_check;
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
        });
        let mut table = format!(
            "{:<22}{:>8}{:>10}{:>12}{:>10}{:>10}{:>15}\n",
            self.what, "damaged", "refused", "known job", "at read", "harmless", "only by check"
        );
        for (kind, sum) in tallies.lock().unwrap().iter() {
            writeln!(
                table,
                "{kind:<22}{:>8}{:>10}{:>12}{:>10}{:>10}{:>15}",
                sum.cases, sum.refused, sum.known, sum.at_read, sum.harmless, sum.only_by_check
            )
            .unwrap();
        }
        println!("{table}");
        let wrong = wrong.lock().unwrap();
        assert!(
            wrong.is_empty(),
            "{} of {} wrong:\n{}",
            wrong.len(),
            cases.len(),
            wrong
                .iter()
                .take(40)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n")
        );
    }

    async fn try_one(&self, case: &Case, tally: &mut Tally) -> Result<(), String> {
        let dir = self.write(Some(case));
        let found = match check(dir.path()) {
            Ok(report) => !report.findings.is_empty(),
            Err(error) => {
                named(&error)?;
                true
            }
        };
        let store = match EmbeddedStore::open(dir.path(), options()) {
            Ok(store) => store,
            Err(error) => {
                tally.refused += 1;
                named(&error)?;
                return if found {
                    Ok(())
                } else {
                    Err(format!("check finds nothing: {error}"))
                };
            }
        };
        let mut errors = 0;
        let known = !store.damaged_jobs().is_empty();
        errors += self
            .hold(&store, NOW)
            .await
            .map_err(|e| format!("opened: {e}"))?;
        errors += self.ask_again(&store).await?;
        errors += expire(&store, NOW).await?;
        errors += self
            .hold(&store, NOW)
            .await
            .map_err(|e| format!("expired: {e}"))?;
        errors += usize::from(corrupt(store.close().await)?.is_none());
        drop(store);
        match EmbeddedStore::open(dir.path(), options()) {
            Ok(store) => {
                errors += expire(&store, LATER).await?;
                errors += self
                    .hold(&store, LATER)
                    .await
                    .map_err(|e| format!("later: {e}"))?;
                let _ = store.close().await;
            }
            Err(error) => {
                named(&error)?;
                errors += 1;
            }
        }
        tally.known += usize::from(known);
        tally.at_read += usize::from(!known && errors > 0);
        tally.harmless += usize::from(!known && errors == 0);
        tally.only_by_check += usize::from(!known && errors == 0 && found);
        if !found && (known || errors > 0) {
            return Err("check finds nothing".to_owned());
        }
        Ok(())
    }

    /// Holds all answers to what they must be; gives how many were errors.
    async fn hold(&self, store: &EmbeddedStore, now: Timestamp) -> Result<usize, String> {
        let (_, right) = self.answers.iter().find(|(at, _)| *at == now).unwrap();
        let found = self.ask(store, now).await;
        let mut errors = 0;
        for (id, right) in &right.jobs {
            match corrupt(found.jobs[id].clone())? {
                None => errors += 1,
                Some(job) if job == *right.as_ref().unwrap() => {}
                Some(job) => {
                    let state = |job: &Option<Job>| job.as_ref().map(|j| (j.state, j.expires_at));
                    let right = state(right.as_ref().unwrap());
                    return Err(format!(
                        "job {id} is {:?} instead of {right:?}",
                        state(&job)
                    ));
                }
            }
        }
        for (tag, right) in &right.tags {
            match corrupt(found.tags[tag].clone())? {
                None => errors += 1,
                Some(id) if id == *right.as_ref().unwrap() => {}
                Some(id) => return Err(format!("tag {tag} is {id:?} instead of {right:?}")),
            }
        }
        let right_all = right.all.as_ref().unwrap().as_ref().unwrap();
        match corrupt(found.all.unwrap())? {
            None => errors += 1,
            Some(all) if all == *right_all => {}
            Some(all) => return Err(format!("listed are {all:?} instead of {right_all:?}")),
        }
        // Those that are known to be damaged are not to be taken up; none other may be missing,
        // and none may be taken up that is not as it was.
        let damaged = store.damaged_jobs();
        let right_live = right.live.as_ref().unwrap().as_ref().unwrap();
        let right_live: Vec<_> = right_live
            .iter()
            .filter(|(id, ..)| !damaged.contains_key(id))
            .copied()
            .collect();
        match corrupt(found.live.unwrap())? {
            None => errors += 1,
            Some(live) if live == right_live => {}
            Some(live) => return Err(format!("{live:?} live instead of {right_live:?}")),
        }
        Ok(errors)
    }

    /// Submits every call again.
    async fn ask_again(&self, store: &EmbeddedStore) -> Result<usize, String> {
        let (_, right) = &self.answers[0];
        let mut errors = 0;
        for tag in &self.tags {
            let Some(Ok(Some(id))) = right.tags.get(tag) else {
                continue;
            };
            let Some(Ok(Some(job))) = right.jobs.get(id) else {
                continue;
            };
            let Some(mut ids) = corrupt(store.reserve_ids(1).await)? else {
                errors += 1;
                continue;
            };
            let new = ids.take().unwrap();
            if self.ids.contains(&new) {
                return Err(format!("id {new} is given again"));
            }
            let mut header = job.header.clone();
            header.id = new;
            header.received_at = NOW;
            let again = NewJob {
                header,
                payload: job.payload.clone().unwrap(),
                tag_reuse: TagReuse::Never,
            };
            match corrupt(store.submit(again, true).await)? {
                None => errors += 1,
                Some(Submitted::Existing(same)) if same.header.id == *id => {
                    if same.state != job.state {
                        return Err(format!("tag {tag} again: {:?}", same.state));
                    }
                }
                Some(other) => return Err(format!("tag {tag} again: {other:?}")),
            }
        }
        Ok(errors)
    }
}

/// `None` for damage that is reported; any other error is wrong.
fn corrupt<T>(asked: Asked<T>) -> Result<Option<T>, String> {
    match asked {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Corrupt { what }) if is_named(&what) => Ok(None),
        Err(error) => Err(format!("an error that names nothing: {error}")),
    }
}

async fn expire(store: &EmbeddedStore, now: Timestamp) -> Result<usize, String> {
    for _ in 0..100 {
        match corrupt(store.expire(now).await)? {
            None => return Ok(1),
            Some(done) if !done.more => return Ok(0),
            Some(_) => {}
        }
    }
    Err("expiring never ends".to_owned())
}

/// Whether the store may be refused with this.
fn named(error: &OpenError) -> Result<(), String> {
    let right = match error {
        OpenError::Corrupt { what, .. } => is_named(what),
        OpenError::DamagedLog { .. } | OpenError::UnknownVersion { .. } => true,
        _ => false,
    };
    if right {
        Ok(())
    } else {
        Err(format!("an error that names nothing: {error} {error:?}"))
    }
}

fn is_named(what: &str) -> bool {
    ["segment ", "catalogue", "job ", "blob "]
        .iter()
        .any(|name| what.contains(name))
}

fn kind(name: &Path) -> String {
    let name = name.to_string_lossy();
    match name.split_once('/') {
        Some(("blobs", _)) => "a blob".to_owned(),
        Some((_, file)) => file.to_owned(),
        None => name.into_owned(),
    }
}

fn is_log(name: &Path) -> bool {
    name.extension().is_some_and(|e| e == "sqlite-wal")
}

fn filter(statuses: &[Status]) -> Filter {
    Filter {
        owner: None,
        statuses: statuses.to_vec(),
        endpoint: None,
        after: None,
        limit: 1000,
    }
}

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        inline_bytes_max: 600,
        readers: 1,
        ..by_count(8)
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// A store with a rewritten segment, a sealed one of which every job has ended, and the newest with
/// jobs in every phase; with payloads and results in rows and in files, tags of every form, some of
/// them given away, and expiries that were moved.
async fn everything() -> (Trial, Vec<JobId>, Vec<String>) {
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
    (trial, ids, tags)
}
