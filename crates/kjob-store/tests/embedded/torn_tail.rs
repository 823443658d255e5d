//! Logs whose end is torn off or garbled: what is left opens, holds the steps before the damage
//! whole and none of those after it, and goes on working. Damage that no crash explains is refused
//! until the loss is accepted.
//!
//! A process that is killed leaves whole logs. A machine that loses power may not, where a disk
//! says "synced" before it is so. Then the last steps are lost; those before must not be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::trial::{Trial, at, by_count, files, job};
use bytes::Bytes;
use kjob_core::{
    Ending, Filter, Finish, Job, JobId, NewJob, OnInterrupt, Output, Owner, Parts, Status, Store,
    Submitted, TagReuse, Timestamp, Usage,
};
use kjob_proto::Text;
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};

const SEGMENT_JOBS: i64 = 18;
const JOBS: i64 = 3 * SEGMENT_JOBS;
const INLINE_MAX: usize = 20_000;
const LOG_HEADER: usize = 32;
const FRAME: usize = 24 + 4096;
/// When nothing has expired but what was told to.
const NOW: Timestamp = Timestamp::from_millis(1_700_000_100_000);
const ALL: Parts = Parts {
    payload: true,
    result: true,
};

#[tokio::test]
async fn a_segments_torn_log_keeps_every_step_before_the_damage() {
    let history = History::new().await;
    let name = history.newest();
    let log = &history.image.files[&name];
    let mut cases = Vec::new();
    for frame in 0..=frames(log) {
        // Each border is cut at; what else happens there takes turns.
        cases.push(Damage::of(0, border(frame)));
        for turn in [frame * 2, frame * 2 + 1] {
            cases.push(Damage::of(turn % 5 + 1, near(frame, turn / 5 + turn)));
        }
    }
    let expected = |intact| history.expected(intact);
    for kind in 0..Damage::KINDS {
        assert!(cases.iter().filter(|damage| damage.kind == kind).count() >= 20);
    }
    // From none of the newest segment's jobs to all of them.
    let jobs: BTreeSet<_> = cases
        .iter()
        .map(|damage| expected(damage.at).len())
        .collect();
    assert_eq!(jobs.len() as i64, SEGMENT_JOBS + 1);
    check_all(&history, &name, &cases, expected);
}

#[tokio::test]
async fn a_catalogues_torn_log_takes_no_job_with_it() {
    let history = History::new().await;
    let name = PathBuf::from("catalogue.sqlite-wal");
    let frames = frames(&history.image.files[&name]);
    assert!(frames > 3, "{frames} frames are too few to tell");
    let kinds = |frame| (0..Damage::KINDS).map(move |kind| (kind, near(frame, frame + kind)));
    let cases: Vec<_> = (0..=frames)
        .flat_map(kinds)
        .map(|(kind, at)| Damage::of(kind, at))
        .collect();
    check_all(&history, &name, &cases, |_| history.expected(usize::MAX));
}

#[tokio::test]
async fn without_any_log_what_was_in_the_files_is_there() {
    let mut history = History::new().await;
    for name in ["catalogue.sqlite-wal".into(), history.newest()] {
        history.image.files.remove(&name);
    }
    let dir = history.image.write(Path::new("LOCK"), b"");
    let expected = history.expected(0);
    check(dir.path(), &expected, &history, "no logs", Some(false)).await;
    check_work(dir.path(), &expected, &history, "no logs").await;
}

#[tokio::test]
async fn a_new_store_that_loses_its_logs_is_an_empty_one() {
    let trial = Trial::new(EmbeddedOptions::default());
    let mut image = Image::of(trial.dir.path());
    image.files.retain(|name, _| !is_log(name));
    let dir = image.write(Path::new("LOCK"), b"");
    let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
    assert_eq!(store.usage(&Owner::anonymous()).total, Usage::default());
    let id = store.reserve_ids(1).await.unwrap().take().unwrap();
    let done = store.submit(job(id, "first"), true).await.unwrap();
    assert!(matches!(done, Submitted::Created(_)), "{done:?}");
}

/// Damages the log `name` in each of these ways, and checks what is left against what `expected`
/// says of the bytes up to which the log is as it was.
fn check_all(
    history: &History,
    name: &Path,
    cases: &[Damage],
    expected: impl Fn(usize) -> BTreeMap<JobId, Job> + Sync,
) {
    let log = &history.image.files[name];
    let next = AtomicUsize::new(0);
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(damage) = cases.get(number) else {
                return;
            };
            let mut torn = log.clone();
            damage.apply(&mut torn);
            let intact = first_difference(log, &torn);
            let what = format!("{damage:?}, intact up to {intact} of {}", log.len());
            let dir = history.image.write(name, &torn);
            let expected = expected(intact);
            // A flipped bit is never taken for a torn end; some wrong bytes are, where they are
            // in the last commit.
            let must_refuse = match damage.kind {
                3 => Some(torn != *log),
                4 => None,
                // The last byte of a frame alone may differ by a single bit.
                _ if (damage.at + 1).saturating_sub(LOG_HEADER) % FRAME == 0 => None,
                _ => Some(false),
            };
            runtime.block_on(async {
                check(dir.path(), &expected, history, &what, must_refuse).await;
                if number.is_multiple_of(7) {
                    check_work(dir.path(), &expected, history, &what).await;
                }
            });
        }
    };
    // Most of the time goes into waiting for the disk.
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// Opens a store with a damaged log; accepts the loss if it is refused for that, which must be so
/// or must not be.
fn open(dir: &Path, must_refuse: Option<bool>, what: &str) -> EmbeddedStore {
    let refused = match EmbeddedStore::open(dir, options()) {
        Ok(store) => {
            assert_ne!(must_refuse, Some(true), "{what}: opened");
            return store;
        }
        Err(error) => error,
    };
    assert!(
        matches!(refused, OpenError::DamagedLog { .. }),
        "{what}: {refused}"
    );
    assert_ne!(must_refuse, Some(false), "{what}: {refused}");
    let accepting = EmbeddedOptions {
        accept_damaged_logs: true,
        ..options()
    };
    EmbeddedStore::open(dir, accepting).unwrap_or_else(|e| panic!("{what}: {e}"))
}

/// Frames in a log.
fn frames(log: &[u8]) -> usize {
    (log.len() - LOG_HEADER) / FRAME
}

/// Where a frame begins.
fn border(frame: usize) -> usize {
    LOG_HEADER + frame * FRAME
}

/// A place on either side of that, in the frame's head or in its page.
fn near(frame: usize, turn: usize) -> usize {
    let border = border(frame);
    [border, border + 1, border - 1, border + 24, border + 2000][turn % 5]
}

/// What happened to the store, step by step, and what its files were at the end.
struct History {
    /// By id: its tag, and each of its states with the length of the newest segment's log at
    /// which that one was durable.
    jobs: BTreeMap<JobId, (String, Vec<(usize, Job)>)>,
    image: Image,
}

impl History {
    /// Three segments of jobs in every state, made one acknowledged step after the other; jobs of
    /// all segments are still being changed while the newest one fills.
    async fn new() -> Self {
        let trial = Trial::new(options());
        let mut history = Self {
            jobs: BTreeMap::new(),
            image: Image::default(),
        };
        for number in 1..=JOBS {
            history.submit(&trial, number).await;
            // Each job goes on while later ones come: so the steps of many are mixed.
            for (age, step) in [(1, 0), (3, 1), (8, 2), (14, 3)] {
                if let Some(id) = JobId::new(number - age) {
                    history.step(&trial, id, step).await;
                }
            }
        }
        trial.settled().await;
        for _ in 0..3 {
            trial.store().reserve_ids(10).await.unwrap();
        }
        history.image = Image::of(trial.dir.path());
        history
    }

    fn newest(&self) -> PathBuf {
        PathBuf::from("segments/00000003-0.sqlite-wal")
    }

    async fn submit(&mut self, trial: &Trial, number: i64) {
        let id = trial.store().reserve_ids(1).await.unwrap().take().unwrap();
        assert_eq!(id.get(), number);
        let (job, start) = new_job(id);
        let tag = job.header.tag.as_str().to_owned();
        let done = trial.store().submit(job, start).await.unwrap();
        assert!(matches!(done, Submitted::Created(_)), "{done:?}");
        self.jobs.insert(id, (tag, Vec::new()));
        self.note(trial, id).await;
    }

    /// Brings a job a step on its way, if its way has that step.
    async fn step(&mut self, trial: &Trial, id: JobId, step: usize) {
        let store = trial.store();
        let Some(now) = self.jobs.get(&id).and_then(|(_, states)| states.last()) else {
            return;
        };
        let lease = now.1.state.lease;
        let finish = |finish| store.finish(id, lease, finish, at(2));
        let done = match (id.get() % 6, step) {
            // 0: stays queued, 1: runs on.
            (1, 1) => store.progress(id, lease, 40, at(2)).await,
            (2, 0) | (5, 0) => store.request_cancel(id, at(2)).await,
            (3, 1) => store.progress(id, lease, 7, at(2)).await,
            (3, 2) => finish(Finish::Complete(Output::binary(bytes(id, 1)))).await,
            (4, 1) => {
                let then = OnInterrupt::Retry {
                    max_attempts: 3,
                    not_before: at(50),
                    charged: true,
                };
                let reason = Text::from("cut off");
                finish(Finish::Interrupt { reason, then }).await
            }
            (4, 2) => store.start(id, at(60)).await.map(|started| started.state),
            (4, 3) => finish(Finish::Fail(Text::from("it failed"))).await,
            (5, 2) => finish(Finish::Stop).await,
            (3, 3) => {
                store.expire_at(id, at(1000)).await.unwrap();
                return self.note(trial, id).await;
            }
            _ => return,
        };
        done.unwrap();
        self.note(trial, id).await;
    }

    async fn note(&mut self, trial: &Trial, id: JobId) {
        let job = trial.store().get(id, ALL, NOW).await.unwrap().unwrap();
        let log = fs::metadata(trial.dir.path().join(self.newest()));
        let in_newest = id.get() > JOBS - SEGMENT_JOBS;
        let at = if in_newest {
            log.unwrap().len() as usize
        } else {
            0
        };
        let (_, states) = self.jobs.get_mut(&id).unwrap();
        assert_ne!(states.last().map(|(_, last)| last), Some(&job), "no change");
        assert!(!in_newest || states.last().is_none_or(|(last, _)| *last < at));
        states.push((at, job));
    }

    /// The jobs that must be there when the newest segment's log is intact up to a place.
    fn expected(&self, intact: usize) -> BTreeMap<JobId, Job> {
        let at = |states: &[(usize, Job)]| {
            let durable = states.iter().rev().find(|(log, _)| *log <= intact);
            durable.map(|(_, job)| job.clone())
        };
        let jobs = self.jobs.iter();
        jobs.filter_map(|(id, (_, states))| Some((*id, at(states)?)))
            .collect()
    }
}

/// The files of a store at one moment.
#[derive(Clone, Default, PartialEq)]
struct Image {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Image {
    /// Reads the files of an open store without its help: what a copy of the disk would have.
    fn of(dir: &Path) -> Self {
        let read = || Self {
            files: files(dir)
                .into_iter()
                // Lives in memory; a crash leaves nothing of it that is used.
                .filter(|path| path.extension().is_none_or(|e| e != "sqlite-shm"))
                .map(|path| {
                    let name = path.strip_prefix(dir).unwrap().to_owned();
                    (name, fs::read(&path).unwrap_or_default())
                })
                .collect(),
        };
        // The store's own threads may be at work; twice the same is one moment.
        loop {
            let image = read();
            if image == read() {
                return image;
            }
        }
    }

    /// A new directory with these files, but for one.
    fn write(&self, changed: &Path, contents: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &self.files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, if name == changed { contents } else { bytes }).unwrap();
        }
        dir
    }
}

/// Something that happens to a file at a place.
#[derive(Debug)]
struct Damage {
    kind: usize,
    at: usize,
}

impl Damage {
    const KINDS: usize = 6;

    fn of(kind: usize, at: usize) -> Self {
        Self { kind, at }
    }

    fn apply(&self, log: &mut Vec<u8>) {
        let Self { kind, at } = *self;
        let at = at.min(log.len());
        match kind {
            0 => log.truncate(at),
            1 => log[at..].fill(0),
            2 => noise(at as u64, &mut log[at..]),
            3 => log[at..]
                .iter_mut()
                .take(1)
                .for_each(|byte| *byte ^= 1 << (at % 8)),
            4 => {
                let end = log.len().min(at + 512);
                noise(at as u64, &mut log[at..end]);
            }
            // The end is lost, and what is there instead was never written.
            _ => {
                log.truncate(at);
                let mut more = vec![0; FRAME * 2];
                noise(at as u64, &mut more);
                log.extend(more);
            }
        }
    }
}

/// The place up to which two files are the same.
fn first_difference(a: &[u8], b: &[u8]) -> usize {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b);
    same.count()
}

fn noise(seed: u64, bytes: &mut [u8]) {
    let mut state = seed;
    for chunk in bytes.chunks_mut(8) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        inline_bytes_max: INLINE_MAX,
        readers: 1,
        ..by_count(SEGMENT_JOBS as u64)
    }
}

/// Bytes of a job's own: a few, several pages full, or too many for a row.
fn bytes(id: JobId, part: u64) -> Bytes {
    let len = [10, 9_000, 0, INLINE_MAX + 5][(id.get() as usize / 2) % 4];
    let mut bytes = vec![0; len];
    noise(id.get() as u64 * 2 + part, &mut bytes);
    bytes.into()
}

/// Tags of every form, by turns, and jobs that start at once or wait.
fn new_job(id: JobId) -> (NewJob, bool) {
    let number = id.get();
    let tag = match number % 3 {
        0 => format!("job-{number}-abcdefghijkl"),
        1 => format!("00000000-0000-4000-8000-{number:012x}"),
        _ => format!("tag_{number}"),
    };
    let mut job = job(id, &tag);
    job.payload = bytes(id, 0);
    (job, !matches!(number % 6, 0 | 2))
}

fn is_log(name: &Path) -> bool {
    name.extension().is_some_and(|e| e == "sqlite-wal")
}

fn everything() -> Filter {
    Filter::ALL
}

/// Checks that a directory holds these jobs and no others, by every way to find them.
async fn check(
    dir: &Path,
    expected: &BTreeMap<JobId, Job>,
    history: &History,
    what: &str,
    must_refuse: Option<bool>,
) {
    let store = open(dir, must_refuse, what);
    let mut usage = Usage::default();
    let mut blobs = 0;
    for (id, (tag, _)) in &history.jobs {
        let found = store.get(*id, ALL, NOW).await;
        let job = found.unwrap_or_else(|e| panic!("{what}: job {id}: {e}"));
        assert_eq!(job.as_ref(), expected.get(id), "{what}: job {id}");
        let tag = tag.parse().unwrap();
        let found = store.find(&Owner::anonymous(), &tag, NOW).await;
        let found = found.unwrap_or_else(|e| panic!("{what}: tag {tag}: {e}"));
        assert_eq!(found, job.as_ref().map(|_| *id), "{what}: tag {tag}");
        let Some(job) = job else { continue };
        let result = match job.ending {
            Some(Ending::Done(result)) => result.payload.data,
            _ => Bytes::new(),
        };
        usage.jobs += 1;
        for part in [job.payload.unwrap(), result] {
            usage.bytes += part.len() as u64;
            blobs += usize::from(part.len() > INLINE_MAX);
        }
    }
    let total = store.usage(&Owner::anonymous()).total;
    assert_eq!(total, usage, "{what}");
    let ids = |page: kjob_core::Page| page.jobs.iter().map(|j| j.header.id).collect::<Vec<_>>();
    let listed = ids(store.list(&everything(), NOW).await.unwrap());
    assert_eq!(
        listed,
        expected.keys().copied().collect::<Vec<_>>(),
        "{what}"
    );
    let live = Filter {
        statuses: vec![Status::Running],
        ..everything()
    };
    let live = ids(store.list(&live, NOW).await.unwrap());
    let unended = expected.values().filter(|job| job.ending.is_none());
    assert_eq!(
        live,
        unended.map(|j| j.header.id).collect::<Vec<_>>(),
        "{what}"
    );
    assert_eq!(
        files(&dir.join("blobs")).len(),
        blobs,
        "{what}: left-over blobs"
    );
    store.close().await.unwrap();
}

/// Checks that the store goes on: ids are new, live jobs are taken further, and all that stays.
async fn check_work(dir: &Path, expected: &BTreeMap<JobId, Job>, history: &History, what: &str) {
    let store = EmbeddedStore::open(dir, options()).unwrap();
    let id = store.reserve_ids(1).await.unwrap().take().unwrap();
    let last = expected.last_key_value().map(|(id, _)| *id);
    assert!(Some(id) > last, "{what}: id {id} is given anew");
    let mut new = job(id, "a_later_one");
    new.payload = Bytes::from_static(b"later");
    let done = store.submit(new, true).await.unwrap();
    assert!(matches!(done, Submitted::Created(_)), "{what}: {done:?}");
    let mut ended = vec![id];
    let lost: Vec<_> = history
        .jobs
        .keys()
        .filter(|id| !expected.contains_key(id))
        .collect();
    for (id, job) in expected.iter().filter(|(_, job)| job.ending.is_none()) {
        store.request_cancel(*id, at(3)).await.unwrap();
        if job.state.phase != kjob_core::Phase::Queued {
            let stop = Finish::Stop;
            store
                .finish(*id, job.state.lease, stop, at(3))
                .await
                .unwrap();
        }
        ended.push(*id);
    }
    let state = store.get(id, ALL, NOW).await.unwrap().unwrap().state;
    let result = Finish::Complete(Output::binary(bytes(id, 1)));
    store.finish(id, state.lease, result, at(3)).await.unwrap();
    // The caller of a lost submit asks again.
    if let Some(lost) = lost.first() {
        let id = store.reserve_ids(1).await.unwrap().take().unwrap();
        let (mut again, start) = new_job(**lost);
        again.header.id = id;
        again.tag_reuse = TagReuse::Never;
        let done = store.submit(again, start).await.unwrap();
        let Submitted::Created(state) = done else {
            panic!("{what}: {done:?}");
        };
        store.request_cancel(id, at(3)).await.unwrap();
        if start {
            let stop = Finish::Stop;
            store.finish(id, state.lease, stop, at(3)).await.unwrap();
        }
        ended.push(id);
    }
    store.close().await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(dir, options()).unwrap();
    for id in ended {
        let job = store.get(id, ALL, NOW).await.unwrap().unwrap();
        assert!(job.ending.is_some(), "{what}: job {id}");
    }
    let far = NOW.after(Duration::from_secs(1_000_000));
    let before = store.usage(&Owner::anonymous()).total.jobs;
    let mut gone = 0;
    loop {
        let done = store.expire(far).await.unwrap();
        gone += done.jobs;
        if !done.more {
            break;
        }
    }
    assert_eq!(gone, before, "{what}");
    assert_eq!(
        store.usage(&Owner::anonymous()).total,
        Usage::default(),
        "{what}"
    );
}
