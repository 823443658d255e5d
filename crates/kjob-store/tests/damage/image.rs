//! The files of a store at a moment, all that it has to answer, and what comes of damage to them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kjob_core::{
    Ending, Filter, Job, JobId, NewJob, Owner, Parts, Phase, Status, Store, StoreError, Submitted,
    TagReuse, Timestamp,
};
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, check};

use crate::naming::Place;
use crate::stores::Made;
use crate::trial::{at, files};

/// Most of a case is waiting for threads of its store.
const THREADS: usize = 12;

pub const ALL: Parts = Parts {
    payload: true,
    result: true,
};
/// When everything that was made to expire early has, and nothing else.
pub const NOW: Timestamp = at(100);
/// When more has.
pub const LATER: Timestamp = at(5_000);

type Damage = Box<dyn Fn(&mut Vec<u8>) + Send + Sync>;

/// A place that is damaged, and how.
pub struct Case {
    name: PathBuf,
    what: String,
    /// The byte that is damaged, if it is one.
    at: Option<usize>,
    damage: Damage,
}

impl Case {
    pub fn new(
        name: &Path,
        what: String,
        damage: impl Fn(&mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            what,
            at: None,
            damage: Box::new(damage),
        }
    }
}

pub fn flip(name: &Path, bit: usize) -> Case {
    let what = format!("bit {} of byte {}", bit % 8, bit / 8);
    let case = Case::new(name, what, move |bytes| {
        if let Some(byte) = bytes.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    });
    let at = Some(bit / 8);
    Case { at, ..case }
}

/// What was wrong, a line each. Kept until all images were tried, so that one run tells everything.
#[must_use]
pub struct Wrong(Vec<String>);

impl Wrong {
    /// Fails if anything was wrong with any of them.
    pub fn fail_if_any(all: impl IntoIterator<Item = Self>) {
        let wrong: Vec<String> = all.into_iter().flat_map(|wrong| wrong.0).collect();
        let shown = wrong.iter().take(80).cloned().collect::<Vec<_>>();
        assert!(
            wrong.is_empty(),
            "{} wrong:\n{}",
            wrong.len(),
            shown.join("\n")
        );
    }
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
pub struct Image {
    what: &'static str,
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    options: EmbeddedOptions,
    ids: Vec<JobId>,
    tags: Vec<String>,
    /// The segment of each job.
    segments: BTreeMap<JobId, u32>,
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
    /// As the store leaves them when it is closed.
    pub async fn closed(mut made: Made) -> Self {
        made.trial.close().await;
        Self::of("closed", made).await
    }

    /// As the store leaves them when its process is killed.
    pub async fn killed(made: Made) -> Self {
        Self::of("killed", made).await
    }

    async fn of(what: &'static str, made: Made) -> Self {
        let Made { trial, ids, tags } = made;
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
            options: trial.options.clone(),
            ids,
            tags,
            segments: BTreeMap::new(),
            answers: Vec::new(),
        };
        let whole = image.write(None);
        let report = check(whole.path()).unwrap();
        assert_eq!(report.findings, [], "{what}");
        let logs = image.files.keys().filter(|name| is_log(name)).count();
        assert_eq!(logs > 1, what == "killed");
        for now in [NOW, LATER] {
            let store = EmbeddedStore::open(whole.path(), image.options.clone()).unwrap();
            assert!(store.damaged_jobs().is_empty());
            let answers = image.ask(&store, now).await;
            image.answers.push((now, answers));
            image.segments = image.segments_in(&store, now).await;
            store.close().await.unwrap();
        }
        let sound = image.answers.iter().all(|(_, answers)| {
            answers.jobs.values().all(Result::is_ok) && answers.tags.values().all(Result::is_ok)
        });
        assert!(sound);
        image
    }

    async fn segments_in(&self, store: &EmbeddedStore, now: Timestamp) -> BTreeMap<JobId, u32> {
        let segments = store.stats(now).await.unwrap().segments;
        let of = |id: &JobId| {
            let begun = segments.iter().rev().find(|s| s.first_id <= id.get());
            (*id, begun.unwrap().number)
        };
        self.ids.iter().map(of).collect()
    }

    /// The job of whose payload or result a byte of a database is.
    fn record_at(&self, name: &Path, at: usize) -> Option<JobId> {
        if name.extension()? != "sqlite" {
            return None;
        }
        let file = &self.files[name];
        let jobs = self.answers[0].1.jobs.values().flatten().flatten();
        let is_of = |job: &&Job| {
            let result = match &job.ending {
                Some(Ending::Done(result)) => Some(&result.payload.data),
                _ => None,
            };
            let parts = job.payload.iter().chain(result);
            // A few bytes may be there by chance.
            parts.filter(|bytes| bytes.len() >= 10).any(|bytes| {
                let first = (at + 1).saturating_sub(bytes.len());
                (first..=at).any(|from| file[from..].starts_with(bytes))
            })
        };
        let mut owners = jobs.filter(is_of).map(|job| job.header.id);
        owners.next().filter(|_| owners.next().is_none())
    }

    fn write(&self, damaged: Option<&Case>) -> tempfile::TempDir {
        let dir = home();
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

    /// Tries cases, prints what came of them, and gives what was wrong.
    pub fn try_all(&self, cases: &[Case]) -> Wrong {
        self.try_each(cases.len(), |number| &cases[number])
    }

    /// As [`try_all`](Self::try_all), of cases that are made when they are tried: for very many.
    pub fn try_each<C: std::borrow::Borrow<Case>>(
        &self,
        count: usize,
        case: impl Fn(usize) -> C + Sync,
    ) -> Wrong {
        let next = AtomicUsize::new(0);
        let tallies: Mutex<BTreeMap<String, Tally>> = Mutex::default();
        let wrong: Mutex<Vec<String>> = Mutex::default();
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                if number > 0 && number.is_multiple_of(10_000) {
                    println!("{}: {number} of {count} places", self.what);
                }
                let case = case(number);
                let case = case.borrow();
                let mut tally = Tally::default();
                tally.cases += 1;
                let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    block_on(self.try_one(case, &mut tally))
                }));
                let tried = tried.unwrap_or_else(|_| Err("a panic".to_owned()));
                if let Err(error) = tried {
                    let (image, name) = (self.what, case.name.display());
                    let what = format!("{image}: {name}, {}: {error}", case.what);
                    wrong.lock().unwrap().push(what);
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
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
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
        let wrong = wrong.into_inner().unwrap();
        println!("{}: {} of {count} wrong\n", self.what, wrong.len());
        Wrong(wrong)
    }

    async fn try_one(&self, case: &Case, tally: &mut Tally) -> Result<(), String> {
        let dir = self.write(Some(case));
        let mut place = Place::of(&case.name, &self.segments);
        let within = case.at.and_then(|at| self.record_at(&case.name, at));
        place.record = place.record.or(within);
        let place = &place;
        let found = match check(dir.path()) {
            Ok(report) => !report.findings.is_empty(),
            Err(error) => {
                place.refused(&error)?;
                true
            }
        };
        let store = match EmbeddedStore::open(dir.path(), self.options.clone()) {
            Ok(store) => store,
            Err(error) => {
                tally.refused += 1;
                place.refused(&error)?;
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
            .hold(&store, place, NOW)
            .await
            .map_err(|e| format!("opened: {e}"))?;
        errors += self.ask_again(&store, place).await?;
        errors += expire(&store, place, NOW).await?;
        errors += self
            .hold(&store, place, NOW)
            .await
            .map_err(|e| format!("expired: {e}"))?;
        errors += usize::from(place.corrupt(None, store.close().await)?.is_none());
        drop(store);
        match EmbeddedStore::open(dir.path(), self.options.clone()) {
            Ok(store) => {
                errors += expire(&store, place, LATER).await?;
                errors += self
                    .hold(&store, place, LATER)
                    .await
                    .map_err(|e| format!("later: {e}"))?;
                let _ = store.close().await;
            }
            Err(error) => {
                place.refused(&error)?;
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
    async fn hold(
        &self,
        store: &EmbeddedStore,
        place: &Place,
        now: Timestamp,
    ) -> Result<usize, String> {
        let (_, right) = self.answers.iter().find(|(at, _)| *at == now).unwrap();
        let found = self.ask(store, now).await;
        let mut errors = 0;
        for (id, right) in &right.jobs {
            match place.corrupt(Some(*id), found.jobs[id].clone())? {
                None if place.record.is_some_and(|record| record != *id) => {
                    return Err(format!("job {id} is not damaged"));
                }
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
            match place.corrupt(None, found.tags[tag].clone())? {
                None => errors += 1,
                Some(id) if id == *right.as_ref().unwrap() => {}
                Some(id) => return Err(format!("tag {tag} is {id:?} instead of {right:?}")),
            }
        }
        let right_all = right.all.as_ref().unwrap().as_ref().unwrap();
        match place.corrupt(None, found.all.unwrap())? {
            None => errors += 1,
            Some(all) if all == *right_all => {}
            Some(all) => return Err(format!("listed are {all:?} instead of {right_all:?}")),
        }
        // Those that are known to be damaged are not to be taken up; none other may be missing,
        // and none may be taken up that is not as it was.
        let damaged = store.damaged_jobs();
        for (id, what) in damaged {
            place.names(Some(*id), what)?;
        }
        let right_live = right.live.as_ref().unwrap().as_ref().unwrap();
        let right_live: Vec<_> = right_live
            .iter()
            .filter(|(id, ..)| !damaged.contains_key(id))
            .copied()
            .collect();
        match place.corrupt(None, found.live.unwrap())? {
            None => errors += 1,
            Some(live) if live == right_live => {}
            Some(live) => return Err(format!("{live:?} live instead of {right_live:?}")),
        }
        Ok(errors)
    }

    /// Submits every call again.
    async fn ask_again(&self, store: &EmbeddedStore, place: &Place) -> Result<usize, String> {
        let (_, right) = &self.answers[0];
        let mut errors = 0;
        for tag in &self.tags {
            let Some(Ok(Some(id))) = right.tags.get(tag) else {
                continue;
            };
            let Some(Ok(Some(job))) = right.jobs.get(id) else {
                continue;
            };
            let Some(mut ids) = place.corrupt(None, store.reserve_ids(1).await)? else {
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
            match place.corrupt(None, store.submit(again, true).await)? {
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

async fn expire(store: &EmbeddedStore, place: &Place, now: Timestamp) -> Result<usize, String> {
    for _ in 0..100 {
        match place.corrupt(None, store.expire(now).await)? {
            None => return Ok(1),
            Some(done) if !done.more => return Ok(0),
            Some(_) => {}
        }
    }
    Err("expiring never ends".to_owned())
}

fn kind(name: &Path) -> String {
    let name = name.to_string_lossy();
    match name.split_once('/') {
        Some(("blobs", file)) if file.ends_with(".pack") => "a pack".to_owned(),
        Some(("blobs", _)) => "a blob".to_owned(),
        Some((_, file)) => file.to_owned(),
        None => name.into_owned(),
    }
}

pub fn is_log(name: &Path) -> bool {
    name.extension().is_some_and(|e| e == "sqlite-wal")
}

fn filter(statuses: &[Status]) -> Filter {
    Filter {
        statuses: statuses.to_vec(),
        ..Filter::ALL
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// A directory of its own, in memory where the system has such: what is synced does not matter.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir_in("/dev/shm");
    home.unwrap_or_else(|_| tempfile::tempdir().unwrap())
}
