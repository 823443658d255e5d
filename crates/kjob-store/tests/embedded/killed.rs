//! A process that is killed in the middle of its work, again and again on one directory: whatever
//! it said to be done is there, whole, and no id is given twice.
//!
//! The process is this test itself, started anew with the name of the directory in its
//! environment. It says each acknowledged step on its error output, and is killed at an arbitrary
//! line, while other steps, rewritings of segments and deletions are under way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::trial::{files, job};
use bytes::Bytes;
use kjob_core::{
    Ending, Filter, Finish, IdBlock, Job, JobId, NewJob, Output, Owner, Parts, Phase, Status,
    Store, Submitted, Timestamp, Usage,
};
use kjob_proto::Text;
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};

const DIRECTORY: &str = "KJOB_TEST_KILLED_DIRECTORY";
const ROUNDS: u64 = 24;
/// Steps that are acknowledged before a process is killed, at most.
const LINES_MAX: u64 = 300;
const TASKS: usize = 6;
/// Where a process ends that nobody kills.
const JOBS_MAX: i64 = 2_000;
const ALL: Parts = Parts {
    payload: true,
    result: true,
};

#[test]
fn whatever_was_acknowledged_survives_being_killed() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    let mut known = Known::default();
    for round in 0..ROUNDS {
        let lines = bits(round) % LINES_MAX + 1;
        run_and_kill(dir.path(), lines, &mut known);
        runtime.block_on(known.check(dir.path()));
    }
    assert!(known.jobs.len() > 500, "only {} jobs", known.jobs.len());
    let late = known.jobs.values().filter(|job| job.gone).count();
    assert!(late > 50, "only {late} jobs expired meanwhile");
    runtime.block_on(known.finish(dir.path()));
}

/// Starts a process and kills it once it has acknowledged so many steps.
fn run_and_kill(dir: &Path, lines: u64, known: &mut Known) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "killed::the_process_that_is_killed"])
        .env(DIRECTORY, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    let mut read = 0;
    // After the kill, what was said until then is still in the pipe.
    while said.read_line(&mut line).unwrap() > 0 {
        if let Some(whole) = line.strip_suffix('\n') {
            known.hear(whole);
        }
        line.clear();
        read += 1;
        if read == lines {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(
        !status.success() && read >= lines,
        "ended by itself: {status}"
    );
}

#[test]
#[ignore = "started, and killed, by the other test"]
fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let store = Arc::new(EmbeddedStore::open(dir, options()).unwrap());
    runtime.block_on(async {
        let time = Arc::new(AtomicI64::new(0));
        let mut block = store.reserve_ids(1).await.unwrap();
        let now = block.take().unwrap();
        say(&format!("reserved {now}"));
        end_left_over(&store, time_of(now)).await;
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| tokio::spawn(live(Arc::clone(&store), Arc::clone(&time))))
            .collect();
        loop {
            let now = Timestamp::from_millis(time.load(Ordering::Relaxed));
            store.expire(now).await.unwrap();
            if tasks.iter().all(tokio::task::JoinHandle::is_finished) {
                return;
            }
        }
    });
}

/// Ends the jobs that the process before left alive, but for some that are to live long.
async fn end_left_over(store: &EmbeddedStore, now: Timestamp) {
    let live = Filter {
        statuses: vec![Status::Running],
        ..everything()
    };
    for job in store.list(&live, now).await.unwrap().jobs {
        let (id, state) = (job.header.id, job.state);
        let done = match state.phase {
            _ if id.get() % 10 == 0 => continue,
            Phase::Queued => store.request_cancel(id, now).await,
            Phase::Running => {
                let reason = Text::from("cut off");
                store
                    .finish(id, state.lease, Finish::Fail(reason), now)
                    .await
            }
            _ => store.finish(id, state.lease, Finish::Stop, now).await,
        };
        say_ended(id, &done.unwrap());
    }
}

/// One job after the other, each a bit of the way or all of it.
async fn live(store: Arc<EmbeddedStore>, time: Arc<AtomicI64>) {
    let mut ids = IdBlock::empty();
    loop {
        let Some(id) = ids.take() else {
            ids = store.reserve_ids(5).await.unwrap();
            let mut block = ids;
            while let Some(id) = block.take() {
                say(&format!("reserved {id}"));
            }
            continue;
        };
        if id.get() > JOBS_MAX * ROUNDS as i64 {
            return;
        }
        let now = time_of(id);
        time.fetch_max(now.as_millis(), Ordering::Relaxed);
        let done = store.submit(new_job(id), id.get() % 5 != 3).await.unwrap();
        let Submitted::Created(state) = done else {
            panic!("{id} is not new: {done:?}");
        };
        say(&format!("submitted {id}"));
        let finish = match id.get() % 5 {
            1 | 4 => Finish::Complete(Output::binary(bytes(id, 1))),
            2 => Finish::Fail(Text::from("it failed")),
            3 => {
                let state = store.request_cancel(id, now).await.unwrap();
                say_ended(id, &state);
                continue;
            }
            _ => continue,
        };
        let state = store.finish(id, state.lease, finish, now).await.unwrap();
        say_ended(id, &state);
    }
}

/// Says something in one piece, so that a kill cuts no line but the last.
fn say(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn say_ended(id: JobId, state: &kjob_core::State) {
    let at = state.ended_at.unwrap().as_millis();
    say(&format!("ended {id} {} {at}", state.phase as u8));
}

/// What is known of all processes together.
#[derive(Default)]
struct Known {
    reserved: BTreeSet<i64>,
    jobs: BTreeMap<JobId, KnownJob>,
}

#[derive(Default)]
struct KnownJob {
    /// Its phase and when it ended, once that was acknowledged or seen.
    end: Option<(Phase, Timestamp)>,
    /// Whether it was seen to have expired.
    gone: bool,
}

impl Known {
    /// Takes in a line of a process.
    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| -> i64 {
            let word = words.get(at).and_then(|word| word.parse().ok());
            word.unwrap_or_else(|| panic!("the process said: {line}"))
        };
        match words[0] {
            "reserved" => self.reserve(number(1)),
            "submitted" => {
                let id = JobId::new(number(1)).unwrap();
                assert!(self.reserved.contains(&id.get()));
                let before = self.jobs.insert(id, KnownJob::default());
                assert!(before.is_none(), "job {id} was submitted twice");
            }
            "ended" => {
                let job = self.jobs.get_mut(&JobId::new(number(1)).unwrap()).unwrap();
                let phase = Phase::from_u8(number(2).try_into().unwrap()).unwrap();
                assert_eq!(job.end, None, "{line}: it had ended");
                job.end = Some((phase, Timestamp::from_millis(number(3))));
            }
            _ => panic!("the process said: {line}"),
        }
    }

    fn reserve(&mut self, id: i64) {
        assert!(self.reserved.insert(id), "id {id} was given twice");
    }

    /// Compares what is known with what is there.
    async fn check(&mut self, dir: &Path) {
        let store = EmbeddedStore::open(dir, options()).unwrap();
        let owner = Owner::anonymous();
        let last = self.reserved.last().copied().unwrap_or(1);
        let now = time_of(JobId::new(last).unwrap());
        // What was under way may be done, but nothing that nobody asked for.
        let mut after = None;
        loop {
            let filter = Filter {
                after,
                ..everything()
            };
            let page = store.list(&filter, now).await.unwrap();
            for job in &page.jobs {
                let known = self.jobs.entry(job.header.id).or_default();
                assert!(!known.gone, "job {} came back", job.header.id);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut present = Usage::default();
        for (id, known) in &mut self.jobs {
            let id = *id;
            let job = store.get(id, ALL, now).await.unwrap();
            let found = store.find(&owner, &tag(id).parse().unwrap(), now).await;
            assert_eq!(
                found.unwrap(),
                job.as_ref().map(|_| id),
                "by the tag of {id}"
            );
            let ended = known.end.map(|(_, at)| at.after(retention(id)));
            let Some(job) = job else {
                assert!(ended.is_some_and(|at| at <= now), "job {id} is lost");
                known.gone = true;
                continue;
            };
            assert!(ended.is_none_or(|at| at > now), "job {id} is late");
            check_job(&job, known);
            known.end = job.state.ended_at.map(|at| (job.state.phase, at));
            present.jobs += 1;
            present.bytes += job.payload.unwrap().len() as u64;
        }
        let total = store.usage(&owner).total;
        assert!(total.jobs >= present.jobs && total.bytes >= present.bytes);
        self.ask_again(&store, now).await;
        store.close().await.unwrap();
    }

    /// Whoever got no answer asks again with the same tag, and gets the same job.
    async fn ask_again(&mut self, store: &EmbeddedStore, now: Timestamp) {
        let there = self.jobs.iter().rev().filter(|(_, job)| !job.gone);
        let newest: Vec<_> = there.map(|(id, _)| *id).take(4).collect();
        for id in newest {
            let other = store.reserve_ids(1).await.unwrap().take().unwrap();
            self.reserve(other.get());
            let mut again = new_job(id);
            again.header.id = other;
            again.header.received_at = now;
            match store.submit(again, true).await.unwrap() {
                Submitted::Existing(job) => assert_eq!(job.header.id, id),
                other => panic!("{id}: {other:?}"),
            }
        }
    }

    /// Ends and expires everything: then nothing is left of it, in memory or on disk.
    async fn finish(&mut self, dir: &Path) {
        let store = EmbeddedStore::open(dir, options()).unwrap();
        let now = time_of(JobId::new(*self.reserved.last().unwrap()).unwrap());
        for (id, known) in self.jobs.iter().filter(|(_, job)| job.end.is_none()) {
            assert!(known.end.is_none());
            let state = store.request_cancel(*id, now).await.unwrap();
            if !state.phase.is_terminal() {
                let stop = Finish::Stop;
                store.finish(*id, state.lease, stop, now).await.unwrap();
            }
        }
        let far = now.after(Duration::from_secs(1_000_000));
        let begin = Instant::now();
        while store.expire(far).await.unwrap().more {
            assert!(begin.elapsed() < Duration::from_secs(60), "no end of it");
        }
        assert_eq!(store.usage(&Owner::anonymous()).total, Usage::default());
        assert_eq!(store.statistics().segments, 1);
        store.close().await.unwrap();
        drop(store);
        // What is deleted beside the store's work is deleted by the time it is opened.
        let store = EmbeddedStore::open(dir, options()).unwrap();
        store.close().await.unwrap();
        drop(store);
        assert_eq!(files(&dir.join("blobs")), Vec::<std::path::PathBuf>::new());
        assert_eq!(files(&dir.join("segments")).len(), 1);
    }
}

/// Checks a stored job against what its id says of it.
fn check_job(job: &Job, known: &KnownJob) {
    let id = job.header.id;
    let submitted = new_job(id);
    assert_eq!(job.header, submitted.header);
    assert_eq!(job.payload, Some(submitted.payload), "the payload of {id}");
    if let Some((phase, at)) = known.end {
        assert_eq!(
            (job.state.phase, job.state.ended_at),
            (phase, Some(at)),
            "{id}"
        );
    }
    match &job.ending {
        Some(Ending::Done(result)) => {
            assert_eq!(*result, Output::binary(bytes(id, 1)), "the result of {id}");
            assert!(matches!(id.get() % 5, 1 | 4));
            assert_eq!((job.state.phase, job.state.progress), (Phase::Done, 100));
        }
        Some(Ending::Failed(reason)) => {
            assert!(
                ["it failed", "cut off"].contains(&reason.as_str()),
                "{reason:?}"
            );
            assert_eq!(job.state.phase, Phase::Failed);
        }
        Some(Ending::Cancelled) => assert_eq!(job.state.phase, Phase::Cancelled),
        None => assert!(!job.state.phase.is_terminal()),
    }
}

/// So small that segments begin, go and are rewritten all the time.
fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        segment_jobs: 25,
        row_bytes_max: 500,
        inline_bytes_max: 3_000,
        readers: 1,
        batch_max: 8,
        cached_headers: 16,
        log_bytes: 64 * 1024,
        sweep_jobs: 10,
        ..EmbeddedOptions::default()
    }
}

/// Time goes by with the ids.
fn time_of(id: JobId) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + id.get() * 10)
}

/// Most jobs are gone two hundred ids after they ended.
fn retention(id: JobId) -> Duration {
    Duration::from_secs(if id.get() % 9 == 0 { 1_000 } else { 2 })
}

/// A tag of every form, by turns.
fn tag(id: JobId) -> String {
    match id.get() % 3 {
        0 => format!("job-{id}-abcdefghijkl"),
        1 => format!(
            "{:08x}-0000-4000-8000-{:012x}",
            bits(id.get() as u64) >> 32,
            id.get()
        ),
        _ => format!("tag_{id}"),
    }
}

fn new_job(id: JobId) -> NewJob {
    let mut job = job(id, &tag(id));
    job.header.received_at = time_of(id);
    job.header.options.retention = retention(id);
    job.payload = bytes(id, 0);
    job
}

/// Bytes of a job's own, some too many for a row.
fn bytes(id: JobId, part: u64) -> Bytes {
    let seed = id.get() as u64 * 2 + part;
    let len = [20, 300, 2_999, 5_000][(bits(seed) % 4) as usize];
    (0..len).map(|at| bits(seed ^ (at << 32)) as u8).collect()
}

/// SplitMix64.
fn bits(seed: u64) -> u64 {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn everything() -> Filter {
    Filter {
        limit: 10_000,
        ..Filter::ALL
    }
}
