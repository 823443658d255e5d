//! A store in a directory of its own, with what it takes to fill it with jobs and look at its files.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use kjob_core::{
    Expired, Finish, Header, IdBlock, Job, JobId, JobOptions, NewJob, Output, Owner, Parts,
    QueryId, State, Store, Submitted, TagReuse, Timestamp, Usage,
};
use kjob_proto::{Encoding, Text};
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
use tempfile::TempDir;

pub struct Trial {
    pub dir: TempDir,
    pub options: EmbeddedOptions,
    store: Option<EmbeddedStore>,
    ids: IdBlock,
}

/// The moment `seconds` after the beginning of time.
pub const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + seconds * 1000)
}

/// Segments of so many jobs, of any age.
pub fn by_count(segment_jobs: u64) -> EmbeddedOptions {
    EmbeddedOptions {
        segment_jobs,
        segment_age: Duration::from_secs(1_000_000_000),
        // Files are copied and counted in these tests, and no disk is full.
        reserve_bytes: 0,
        ..EmbeddedOptions::default()
    }
}

/// Opens a store with the usual options.
pub fn open(dir: &Path) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(dir, EmbeddedOptions::default())
}

/// A job of the anonymous owner, received at the beginning of time and kept for an hour.
pub fn job(id: JobId, tag: &str) -> NewJob {
    NewJob {
        header: Header {
            id,
            tag: tag.parse().unwrap(),
            owner: Owner::anonymous(),
            endpoint: Text::from("/demo/echo"),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).unwrap(),
            parent_span: 0,
            received_at: at(0),
            source_ip: Text::from("127.0.0.1"),
            options: JobOptions {
                retention: Duration::from_secs(3600),
                ..JobOptions::default()
            },
        },
        payload: payload_of(tag),
        tag_reuse: TagReuse::Never,
    }
}

/// Bytes that tell which job they belong to.
pub fn payload_of(tag: &str) -> Bytes {
    Bytes::from(format!("the payload of {tag}"))
}

/// And those of its result.
pub fn result_of(tag: &str) -> Bytes {
    Bytes::from(format!("the result of {tag}"))
}

impl Trial {
    pub fn new(options: EmbeddedOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
        Self {
            dir,
            options,
            store: Some(store),
            ids: IdBlock::empty(),
        }
    }

    pub fn store(&self) -> &EmbeddedStore {
        self.store.as_ref().unwrap()
    }

    /// Closes the store, and lets it finish what it does beside.
    pub async fn close(&mut self) {
        if let Some(store) = self.store.take() {
            store.close().await.unwrap();
        }
    }

    pub fn open(&mut self) {
        self.store = Some(EmbeddedStore::open(self.dir.path(), self.options.clone()).unwrap());
    }

    pub async fn reopen(&mut self) {
        self.close().await;
        self.open();
    }

    /// What a process killed at this moment leaves behind, opened.
    pub fn killed(&self) -> Self {
        let begin = Instant::now();
        // A copy takes longer than a moment: what the store does beside must not change it.
        let dir = loop {
            let dir = tempfile::tempdir().unwrap();
            let before = stamps(self.dir.path());
            let copied = copy(self.dir.path(), dir.path());
            if copied.is_ok() && before == stamps(self.dir.path()) {
                break dir;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{copied:?}");
            std::thread::yield_now();
        };
        let store = EmbeddedStore::open(dir.path(), self.options.clone()).unwrap();
        Self {
            dir,
            options: self.options.clone(),
            store: Some(store),
            ids: IdBlock::empty(),
        }
    }

    pub async fn id(&mut self) -> JobId {
        if self.ids.remaining() == 0 {
            self.ids = self.store().reserve_ids(1000).await.unwrap();
        }
        self.ids.take().unwrap()
    }

    /// Submits and starts a job.
    pub async fn submit(&mut self, tag: &str) -> JobId {
        let id = self.id().await;
        self.submit_as(job(id, tag)).await
    }

    /// Submits and starts a job that is kept for so long.
    pub async fn submit_kept(&mut self, tag: &str, retention: Duration) -> JobId {
        let id = self.id().await;
        let mut job = job(id, tag);
        job.header.options.retention = retention;
        self.submit_as(job).await
    }

    pub async fn submit_as(&self, job: NewJob) -> JobId {
        let id = job.header.id;
        let done = self.store().submit(job, true).await.unwrap();
        assert!(matches!(done, Submitted::Created(_)), "{done:?}");
        id
    }

    /// Completes a running job with [`result_of`] its tag.
    pub async fn finish(&self, id: JobId, tag: &str, now: Timestamp) -> State {
        let lease = self.get(id, now).await.unwrap().state.lease;
        let finish = Finish::Complete(Output::binary(result_of(tag)));
        self.store().finish(id, lease, finish, now).await.unwrap()
    }

    /// A job with all its bytes.
    pub async fn get(&self, id: JobId, now: Timestamp) -> Option<Job> {
        let all = Parts {
            payload: true,
            result: true,
        };
        self.store().get(id, all, now).await.unwrap()
    }

    pub async fn find(&self, tag: &str, now: Timestamp) -> Option<JobId> {
        let tag = tag.parse().unwrap();
        self.store()
            .find(&Owner::anonymous(), &tag, now)
            .await
            .unwrap()
    }

    /// Checks that a job is found by id and by tag, with the bytes that belong to it.
    pub async fn expect(&self, id: JobId, tag: &str, now: Timestamp) -> Job {
        assert_eq!(self.find(tag, now).await, Some(id), "by tag {tag}");
        let job = self.get(id, now).await.unwrap();
        assert_eq!(job.header.tag.as_str(), tag);
        assert_eq!(job.payload, Some(payload_of(tag)));
        if let Some(kjob_core::Ending::Done(result)) = &job.ending {
            assert_eq!(result.payload.data, result_of(tag));
        }
        job
    }

    pub fn segments(&self) -> usize {
        self.store().statistics().segments
    }

    pub fn total(&self) -> Usage {
        self.store().usage(&Owner::anonymous()).total
    }

    /// Expires until nothing is left to do; what came of it, and how many calls it took.
    pub async fn expire_all(&self, now: Timestamp) -> (Expired, usize) {
        let mut sum = Expired::default();
        for calls in 1..10_000 {
            let done = self.store().expire(now).await.unwrap();
            sum.jobs += done.jobs;
            sum.bytes += done.bytes;
            if !done.more {
                return (sum, calls);
            }
        }
        panic!("expiring never ends");
    }

    /// Waits until the catalogue has what is to be known of sealed segments.
    pub async fn settled(&self) {
        // Noted after each batch; the second request belongs to a later one.
        for _ in 0..2 {
            self.store().reserve_ids(1).await.unwrap();
        }
    }

    /// Gives way to the store's own threads until something is so.
    pub async fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            assert!(begin.elapsed() < Duration::from_secs(60), "until {what}");
            self.store().reserve_ids(1).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// The files of segments, oldest first; not their logs.
    pub fn segment_files(&self) -> Vec<PathBuf> {
        let mut files = files(&self.dir.path().join("segments"));
        files.retain(|path| path.extension().is_some_and(|e| e == "sqlite"));
        files.sort();
        files
    }

    /// Bytes of all files.
    pub fn disk(&self) -> u64 {
        let sizes = files(self.dir.path()).into_iter();
        // A file may go while this looks.
        sizes
            .filter_map(|path| fs::metadata(path).ok())
            .map(|m| m.len())
            .sum()
    }
}

/// All files below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// What tells whether any file has changed.
fn stamps(dir: &Path) -> BTreeMap<PathBuf, Option<(u64, SystemTime)>> {
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    };
    let files = files(dir).into_iter();
    // The index of a log is made anew from it.
    let files = files.filter(|path| path.extension().is_none_or(|e| e != "sqlite-shm"));
    files.map(|path| (path.clone(), stamp(&path))).collect()
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target)?;
        } else if path.extension().is_none_or(|e| e != "sqlite-shm") {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
