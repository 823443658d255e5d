//! The store's handle: hands steps to the writer, reads to the readers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_core::{
    CallbackState, CallbackTry, ClaimedCallbacks, Expired, Filter, Finish, IdBlock, Job, JobId,
    JobTag, Lease, LivePage, NewJob, Owner, Page, Parts, Started, State, StepError, Store,
    StoreError, StoreUsage, Submitted, Timestamp,
};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::blobs::{BlobKind, Content, NewBlob};
use super::due::Due;
use super::error::{self, is_fatal};
use super::layout::Layout;
use super::live::detached;
use super::lock::DirLock;
use super::pool::{Length, Pool};
use super::query::Found;
use super::reader::Reader;
use super::requests::{Action, NewFinish, Reply, Request, Step, Submit, Thoroughness};
use super::reserve::Reserve;
use super::rewrite::{Progress, Rewrite, RewritePlan};
use super::room::Lacking;
use super::shared::Shared;
use super::writer::Writer;
use super::{EmbeddedOptions, OpenError, open};

/// Steps that may wait for the writer before those who ask have to wait for room.
const REQUESTS_MAX: usize = 16 * 1024;

/// Threads for what takes long: writing blob files, building filters, rewriting segments.
const BACKGROUND_THREADS: usize = 2;

/// Jobs in a directory of SQLite files. Durable before acknowledged: each step is synced to disk
/// before it is answered, together with all others of the moment.
///
/// Dropping the store finishes what was asked for and lets go of the directory; it blocks for
/// that long. [`close`](Store::close) does the same and says how it went.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use kjob_core::Store;
/// use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};
///
/// let dir = tempfile::tempdir()?;
/// let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default())?;
/// let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// let mut ids = runtime.block_on(store.reserve_ids(100))?;
/// assert_eq!(ids.take().map(|id| id.get()), Some(1));
/// # Ok(()) }
/// ```
pub struct EmbeddedStore {
    pub(crate) shared: Arc<Shared>,
    /// `None` only while the store is dropped.
    pub(crate) requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Pool<Reader>>,
    background: Arc<Pool<()>>,
    /// A segment that is being rewritten, between two calls of `expire`.
    pub(crate) rewriting: Mutex<Option<Rewrite>>,
    files_opened: usize,
}

/// What the store's files are like; for metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Segments there are.
    pub segments: usize,
    /// Segment files that were read when the store was opened: the newest, and older ones that
    /// had live jobs.
    pub segments_read_at_open: usize,
    /// Jobs that have not ended.
    pub live_jobs: usize,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, or makes one there.
    ///
    /// Blocks on files: call it from `spawn_blocking` where that matters. It reads the catalogue,
    /// the newest segment from its first live job on, and older segments only if they have live
    /// jobs; so the time it takes does not grow with finished jobs.
    ///
    /// # Errors
    /// An [`OpenError`] that says what is in the way; nothing that is stored has changed then.
    pub fn open(dir: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Self, OpenError> {
        let layout = Layout::new(dir.as_ref());
        open::prepare(&layout)?;
        let lock = DirLock::take(&layout)?;
        let reserve = Reserve::new(&layout, &options);
        let threads = |source| OpenError::Io {
            doing: "start the threads of",
            path: dir.as_ref().to_owned(),
            source,
        };
        let fresh = || Arc::new(Shared::new(layout.clone(), options.clone()));
        let (shared, opened) = {
            let shared = fresh();
            match open::open(&shared) {
                Err(OpenError::Store {
                    source: StoreError::Full,
                    ..
                }) if reserve.let_go() => {
                    let shared = fresh();
                    let opened = open::open(&shared)?;
                    (shared, opened)
                }
                opened => (shared, opened?),
            }
        };
        match shared.noted(reserve.make()) {
            Err(StoreError::Full) => shared.room.set_short(true),
            Err(error) if is_fatal(&error) => return Err(open::open_error(&layout, error)),
            // Without it the store is as good, until the disk is full.
            _ => {}
        }
        let reader = {
            let shared = Arc::clone(&shared);
            move |_| Reader::new(Arc::clone(&shared))
        };
        let readers = Pool::start("kjob-read", shared.options.readers.max(1), reader);
        let readers = Arc::new(readers.map_err(threads)?);
        let background = Pool::start("kjob-work", BACKGROUND_THREADS, |_| ());
        let background = Arc::new(background.map_err(threads)?);
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let mut due = Due::default();
        opened.segments.keys().for_each(|number| due.note(*number));
        let writer = Writer {
            shared: Arc::clone(&shared),
            catalogue: opened.catalogue,
            segments: opened.segments,
            connections: opened.connections,
            pending: BTreeMap::new(),
            readers: Arc::clone(&readers),
            background: Arc::clone(&background),
            due,
            failed_commits: BTreeMap::new(),
            taken: Vec::new(),
            reserve,
            lock,
        };
        writer.publish_table();
        let shared_tags = opened.shared_tags;
        let writer = std::thread::Builder::new()
            .name("kjob-write".to_owned())
            .spawn(move || writer.run(waiting, shared_tags))
            .map_err(threads)?;
        Ok(Self {
            shared,
            requests: Some(requests),
            writer: Some(writer),
            readers,
            background,
            rewriting: Mutex::new(None),
            files_opened: opened.files_opened,
        })
    }

    /// What the store's files are like now.
    pub fn statistics(&self) -> Statistics {
        let table = self.shared.table();
        Statistics {
            segments: table.segments.len(),
            segments_read_at_open: self.files_opened,
            live_jobs: self.shared.live().len(),
        }
    }

    /// Jobs that had not ended when the store was opened and cannot be read, each with what is
    /// wrong. They are not run, their calls get [`StoreError::Corrupt`], and their segments stay.
    pub fn damaged_jobs(&self) -> &BTreeMap<JobId, String> {
        self.shared.damaged()
    }

    /// Whether the disk is full, as far as is known, and each change of that: while it is, submits get
    /// [`StoreError::Full`], and all other steps go on in the room that was kept for them.
    pub fn watch_full(&self) -> watch::Receiver<bool> {
        self.shared.room.watch()
    }

    /// Has the writer do something, and waits for its answer.
    pub(crate) async fn ask<T, E: From<StoreError>>(
        &self,
        request: impl FnOnce(Reply<T, E>) -> Request,
    ) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        requests
            .send(request(reply))
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// As [`ask`](Self::ask), for what has to go on when the disk is full: where it finds no room, room
    /// is made, and it is asked for once more.
    async fn insist<T, E: From<StoreError> + Lacking>(
        &self,
        request: impl Fn(Reply<T, E>) -> Request + Send + Sync,
    ) -> Result<T, E> {
        let seen = self.shared.room.releases();
        match self.ask(&request).await {
            Err(error) if error.is_full() && self.makes_room(seen).await => {
                self.ask(&request).await
            }
            done => done,
        }
    }

    /// Makes room for something that found none, and was begun after so many releases.
    async fn makes_room(&self, seen: u64) -> bool {
        let made = self.ask(|reply| Request::Release { seen, reply });
        matches!(made.await, Ok::<_, StoreError>(true))
    }

    /// Has a reader thread read something, unless the caller is gone when its turn comes. That may
    /// need a little room too: for the index of the log of a file that nobody has open.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&mut Reader) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_in(Length::Short, read).await
    }

    /// Likewise something that takes long, such as a list: others do not wait for it.
    async fn read_long<T: Send + 'static>(
        &self,
        read: impl Fn(&mut Reader) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_in(Length::Long, read).await
    }

    /// Has a job read as that is done at once, and once more, beside lists, if it has bytes for which that does
    /// not do. What they are is known only from its rows, which are read again then: small reads pay nothing
    /// for it, and beside many bytes it is nothing.
    async fn read_job(
        &self,
        read: impl Fn(&mut Reader, Length) -> Result<Option<Found>, StoreError> + Clone + Send + 'static,
    ) -> Result<Option<Job>, StoreError> {
        let at_once = read.clone();
        let mut found = self
            .read(move |reader| at_once(reader, Length::Short))
            .await?;
        if found.as_ref().is_some_and(|found| found.lacks_bytes) {
            found = self
                .read_long(move |reader| read(reader, Length::Long))
                .await?;
        }
        Ok(found.map(|found| found.job))
    }

    async fn read_in<T: Send + 'static>(
        &self,
        length: Length,
        read: impl Fn(&mut Reader) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        let seen = self.shared.room.releases();
        match self.read_once(length, read.clone()).await {
            Err(StoreError::Full) if self.makes_room(seen).await => {
                self.read_once(length, read).await
            }
            done => done,
        }
    }

    async fn read_once<T: Send + 'static>(
        &self,
        length: Length,
        read: impl FnOnce(&mut Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.check_open()?;
        let (reply, answer) = oneshot::channel();
        self.readers.submit(length, move |reader| {
            // Large results that nobody waits for any more would keep others waiting.
            if !reply.is_closed() {
                let done = read(reader).map_err(|error| reader.shared().judged(error));
                // Whoever went away meanwhile needs no answer.
                let _ = reply.send(done);
            }
        });
        answer.await.map_err(|_| self.unanswered())?
    }

    /// Has a background thread do something.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.work_for(Length::Long, work).await
    }

    async fn work_for<T: Send + 'static>(
        &self,
        length: Length,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.background.submit(length, move |()| {
            let done = shared.check_open().and_then(|()| work());
            drop(reply.send(done));
        });
        answer.await.map_err(|_| self.unanswered())?
    }

    /// Why a piece of work gave no answer: unless the store was closed meanwhile, it panicked. Callers take
    /// a closed store for the end of all, so they are told the difference.
    fn unanswered(&self) -> StoreError {
        let closed = self.shared.check_open().err();
        closed.unwrap_or_else(error::panicked)
    }

    async fn step(
        &self,
        id: JobId,
        action: impl Fn() -> Action + Send + Sync,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.insist(|reply| step(id, action(), at, reply)).await
    }

    async fn finish_once(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let content = match &finish {
            Finish::Complete(result) => Some(
                self.content(id, BlobKind::Result, result.payload.data.clone())
                    .await?,
            ),
            _ => None,
        };
        let finish = NewFinish::new(finish, content);
        let action = Action::Finish { lease, finish };
        self.ask(|reply| step(id, action, at, reply)).await
    }

    /// Big bytes are durable in a file of their own before the commit that will name it.
    async fn content(&self, id: JobId, kind: BlobKind, data: Bytes) -> Result<Content, StoreError> {
        if data.len() <= self.shared.options.inline_bytes_max {
            return Ok(Content::Inline(data));
        }
        self.shared.check_open()?;
        let shared = Arc::clone(&self.shared);
        self.work_for(Length::Short, move || {
            let segment = shared.table().of(id).map_or(0, |entry| entry.number);
            let blob = NewBlob::write(&shared.layout, segment, id, kind, &data);
            let blob = shared.noted(blob)?;
            Ok(Content::File { blob, data })
        })
        .await
    }

    /// A job that is in memory: it lives, or ended a short while ago.
    fn at_hand(&self, id: JobId, parts: Parts, now: Timestamp) -> Option<Job> {
        let live = self.live_job(id, parts);
        live.or_else(|| self.shared.recent.get(id, parts, now))
    }

    /// A live job whose header is at hand, from memory, on the spot; none if its payload is asked for,
    /// which is not there.
    fn live_job(&self, id: JobId, parts: Parts) -> Option<Job> {
        if parts.payload {
            return None;
        }
        let state = self.shared.live().get(id)?.state();
        let header = (*self.shared.header(id)?).clone();
        Some(Job {
            header,
            state,
            payload: None,
            ending: None,
            expires_at: None,
            callback: None,
        })
    }

    /// Drops and rewrites segments; a bounded piece of work.
    pub(crate) async fn give_back(
        &self,
        now: Timestamp,
        thoroughness: Thoroughness,
    ) -> Result<Expired, StoreError> {
        let swept = self
            .insist(|reply| Request::Sweep {
                now,
                thoroughness,
                reply,
            })
            .await?;
        let rewritten = self.rewrite(swept.rewrite).await?;
        Ok(Expired {
            jobs: swept.expired.jobs + rewritten.jobs,
            bytes: swept.expired.bytes + rewritten.bytes,
            more: swept.expired.more || rewritten.more,
        })
    }

    /// Goes on with rewriting a segment, or begins to; one piece of it.
    async fn rewrite(&self, plan: Option<RewritePlan>) -> Result<Expired, StoreError> {
        let mut rewriting = self.rewriting.lock().await;
        let (current, shared) = (rewriting.take(), Arc::clone(&self.shared));
        let jobs = shared.options.sweep_jobs;
        // Another call may have carried out the same plan since it was made.
        let plan = plan.filter(|plan| {
            let table = shared.table();
            let segment = table.by_number(plan.number);
            segment.is_some_and(|segment| segment.generation == plan.generation)
        });
        let progress = match (current, plan) {
            (Some(current), _) => self.work(move || current.advance(jobs)).await?,
            (None, Some(plan)) => {
                let begin = move || Rewrite::begin(&shared.layout, plan)?.advance(jobs);
                self.work(begin).await?
            }
            (None, None) => return Ok(Expired::default()),
        };
        match progress {
            Progress::Going(current) => {
                *rewriting = Some(current);
                Ok(Expired {
                    more: true,
                    ..Expired::default()
                })
            }
            Progress::Copied(copied) => self.ask(|reply| Request::Swap { copied, reply }).await,
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        self.insist(|reply| Request::Reserve { count, reply }).await
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        let header = Arc::new(detached(&job));
        let NewJob {
            payload, tag_reuse, ..
        } = job;
        let payload = if self.shared.room.is_short() {
            // No file is begun for it. The writer knows whether it is a repeated one.
            Content::Inline(payload)
        } else {
            self.content(header.id, BlobKind::Payload, payload).await?
        };
        self.ask(|reply| {
            Request::Submit(Box::new(Submit {
                header,
                payload,
                tag_reuse,
                start,
                reply,
            }))
        })
        .await
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        if let Some(payload) = self.shared.waiting.get(id) {
            let state = self.step(id, || Action::Start, at).await?;
            return Ok(Started {
                state,
                payload: Some(payload),
            });
        }
        // Read first: once the start is durable, there is no way back to waiting.
        let parts = Parts {
            payload: true,
            result: false,
        };
        let read = move |reader: &mut Reader, length| match reader.get_within(id, parts, at, length)
        {
            // SQLite tells a read that failed as damage. That may pass; a job cannot be unfailed.
            Err(StoreError::Corrupt { .. }) => reader.get_within(id, parts, at, length),
            other => other,
        };
        let payload = match self.read_job(read).await {
            Ok(job) => job.and_then(|job| job.payload),
            Err(StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let state = self.step(id, || Action::Start, at).await?;
        Ok(Started { state, payload })
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.step(id, || Action::Progress { lease, percent }, at)
            .await
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let seen = self.shared.room.releases();
        let again = finish.clone();
        match self.finish_once(id, lease, finish, at).await {
            Err(error) if error.is_full() && self.makes_room(seen).await => {
                self.finish_once(id, lease, again, at).await
            }
            done => done,
        }
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        self.step(id, || Action::Cancel, at).await
    }

    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        self.shared.check_open()?;
        if let Some(id) = self.shared.recent.find(owner, tag, now) {
            return Ok(Some(id));
        }
        let (owner, tag) = (owner.clone(), tag.clone());
        self.read(move |reader| reader.find(&owner, &tag, now))
            .await
    }

    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.shared.check_open()?;
        if let Some(job) = self.at_hand(id, parts, now) {
            return Ok(Some(job));
        }
        self.read_job(move |reader, length| reader.get_within(id, parts, now, length))
            .await
    }

    async fn get_of(
        &self,
        owner: &Owner,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.shared.check_open()?;
        let at_hand = self.at_hand(id, parts, now);
        if let Some(job) = at_hand.filter(|job| job.header.owner == *owner) {
            return Ok(Some(job));
        }
        // Another's job that is at hand is looked for on disk as well, as one that is not there.
        let owner = owner.clone();
        self.read_job(move |reader, length| {
            let found = reader.get_within(id, Parts::NONE, now, Length::Short)?;
            match found.filter(|found| found.job.header.owner == owner) {
                Some(_) if parts != Parts::NONE => reader.get_within(id, parts, now, length),
                own => Ok(own),
            }
        })
        .await
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        let filter = filter.clone();
        self.read_long(move |reader| reader.list(&filter, now))
            .await
    }

    async fn live(
        &self,
        after: Option<JobId>,
        limit: usize,
        _now: Timestamp,
    ) -> Result<LivePage, StoreError> {
        self.read(move |reader| Ok(reader.live(after, limit))).await
    }

    async fn bytes_of(&self, id: JobId, now: Timestamp) -> Result<Option<u64>, StoreError> {
        self.read(move |reader| reader.bytes_of(id, now)).await
    }

    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        self.read(move |reader| reader.claim_callbacks(now, until, limit))
            .await
    }

    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        self.insist(|reply| Request::NoteCallback {
            id,
            tried: Box::new(tried.clone()),
            at,
            reply,
        })
        .await
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        self.insist(|reply| Request::ExpireAt { id, at, reply })
            .await
    }

    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        self.give_back(now, Thoroughness::WhatPays).await
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        self.shared.usage(owner)
    }

    fn failure(&self) -> Option<StoreError> {
        self.shared.failure()
    }

    async fn close(&self) -> Result<(), StoreError> {
        // Its files go while the directory is still ours.
        let mut rewriting = self.rewriting.lock().await;
        *rewriting = None;
        match self.ask(|reply| Request::Close { reply }).await {
            Err(StoreError::Closed) => Ok(()),
            done => done,
        }
    }
}

fn step(id: JobId, action: Action, at: Timestamp, reply: Reply<State, StepError>) -> Request {
    Request::Step(Box::new(Step {
        id,
        action,
        at,
        reply,
    }))
}

impl Drop for EmbeddedStore {
    /// The writer ends when nobody can ask any more, and lets go of the lock as the last thing.
    fn drop(&mut self) {
        *self.rewriting.get_mut() = None;
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so; there is nobody to tell here.
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("EmbeddedStore");
        debug
            .field("dir", &self.shared.layout.root())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use kjob_core::{Ending, Header, JobOptions, Order, Output, QueryId, TagReuse};
    use kjob_proto::{Encoding, Text};

    use super::super::requests::Inspect;
    use super::super::writer::Writer;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    pub(crate) fn job(id: JobId, tag: &str, payload: Bytes) -> NewJob {
        let header = Header {
            id,
            tag: tag.parse().unwrap(),
            owner: Owner::anonymous(),
            endpoint: Text::from("/demo/echo"),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).unwrap(),
            parent_span: 0,
            received_at: NOW,
            source_ip: Text::new(),
            options: JobOptions::default(),
        };
        NewJob {
            header,
            payload,
            tag_reuse: TagReuse::Never,
        }
    }

    /// Has a future do what it can do at once; whether it then waits.
    async fn has_begun<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(future.as_mut().poll(context).is_pending())
        })
        .await
    }

    /// Does something inside the writer, before any step asked for later.
    pub(crate) async fn inspect(
        store: &EmbeddedStore,
        inspect: impl FnOnce(&mut Writer) + Send + 'static,
    ) {
        let requests = store.requests.as_ref().unwrap();
        let request = Request::Inspect(Inspect(Box::new(inspect)));
        assert!(requests.send(request).await.is_ok());
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            readers: 1,
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        store.readers.submit(Length::Short, move |_| {
            let _ = wait.recv();
        });
        let done = Arc::new(std::sync::Mutex::new(Vec::new()));
        let read = |name: &'static str| {
            let done = Arc::clone(&done);
            store.read(move |_| {
                done.lock().unwrap().push(name);
                Ok(())
            })
        };
        let mut given_up = Box::pin(read("given up"));
        assert!(has_begun(given_up.as_mut()).await);
        let mut waited_for = Box::pin(read("waited for"));
        assert!(has_begun(waited_for.as_mut()).await);
        drop(given_up);
        go_on.send(()).unwrap();
        waited_for.await.unwrap();
        assert_eq!(*done.lock().unwrap(), ["waited for"]);
    }

    #[tokio::test]
    async fn large_payloads_and_results_are_read_beside_lists() {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            readers: 2,
            recent_bytes: 0,
            waiting_bytes: 0,
            inline_bytes_max: 100_000,
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        let mut ids = store.reserve_ids(4).await.unwrap();
        // In the row of the job, in a large one, and in a file of its own.
        let lens = [64 << 10, (64 << 10) + 1, 100_001];
        let jobs: Vec<_> = lens.map(|len| (ids.take().unwrap(), len)).into();
        for (id, len) in jobs.clone() {
            let bytes = Bytes::from(vec![7; len]);
            let job = job(id, &format!("job-{id}"), bytes.clone());
            store.submit(job, true).await.unwrap();
            let finish = Finish::Complete(Output::binary(bytes));
            store.finish(id, Lease(1), finish, NOW).await.unwrap();
        }
        let waiting = ids.take().unwrap();
        let job = job(waiting, "waits", Bytes::from(vec![7; 100_000]));
        store.submit(job, false).await.unwrap();

        // The thread that takes what takes long is held up by a list.
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        store.readers.submit(Length::Long, move |_| {
            let _ = begun.send(());
            let _ = wait.recv();
        });
        begins.await.unwrap();
        let parts = [(true, false), (false, true), (true, true)];
        let parts = parts.map(|(payload, result)| Parts { payload, result });
        let owner = Owner::anonymous();
        let mut large = Vec::new();
        for (id, len) in jobs {
            for parts in parts {
                let bytes_in = move |job: Result<Option<Job>, StoreError>| {
                    let job = job.unwrap().unwrap();
                    let payload = job.payload.map(|payload| payload.len());
                    assert_eq!(payload, parts.payload.then_some(len));
                    let Some(Ending::Done(done)) = job.ending else {
                        panic!("it is done");
                    };
                    let result = if parts.result { len } else { 0 };
                    assert_eq!(done.payload.data.len(), result);
                };
                let (get, get_of) = (
                    store.get(id, parts, NOW),
                    store.get_of(&owner, id, parts, NOW),
                );
                if len <= 64 << 10 {
                    bytes_in(get.await);
                    bytes_in(get_of.await);
                } else {
                    large.push((Box::pin(get), bytes_in));
                    large.push((Box::pin(get_of), bytes_in));
                }
            }
        }
        let mut start = Box::pin(store.start(waiting, NOW));
        // As often as there are turns: to the thread for what is done at once, and to the other.
        for _ in 0..2 {
            for (get, _) in &mut large {
                assert!(has_begun(get.as_mut()).await);
            }
            assert!(has_begun(start.as_mut()).await);
            // This one comes after them.
            assert!(store.bytes_of(waiting, NOW).await.unwrap().is_some());
        }
        go_on.send(()).unwrap();
        for (get, bytes_in) in large {
            bytes_in(get.await);
        }
        let started = start.await.unwrap();
        assert_eq!(started.payload.unwrap().len(), 100_000);
    }

    #[tokio::test]
    async fn a_read_that_panics_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let id = store.reserve_ids(1).await.unwrap().take().unwrap();
        let submit = store.submit(job(id, "tag", Bytes::new()), true);
        submit.await.unwrap();
        // In the midst of a query, in a transaction of its own.
        let panics = move |reader: &mut Reader| {
            reader.in_segment_of(id, |segment| {
                segment.scan((0, id.get()), Order::OldestFirst, |_| {
                    panic!("as it is meant to")
                })
            })
        };
        let failed = store.read_long(panics).await;
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
        let listed = store.list(&Filter::ALL, NOW).await.unwrap();
        assert_eq!(listed.jobs.len(), 1);

        let failed = store.work::<()>(|| panic!("as it is meant to")).await;
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
        assert_eq!(store.stats(NOW).await.unwrap().jobs.running, 1);
        store.close().await.unwrap();
        let closed = store.list(&Filter::ALL, NOW).await;
        assert!(matches!(closed, Err(StoreError::Closed)), "{closed:?}");
    }

    /// Lets the newest segment grow by so many pages and no more.
    fn limit_growth(pages: i64) -> impl FnOnce(&mut Writer) + Send {
        move |writer| {
            let (_, connection) = writer.connections.last_key_value().unwrap();
            let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
            let now = connection.query_row("PRAGMA page_count", [], count);
            let set = format!("PRAGMA max_page_count = {}", now.unwrap() + pages);
            connection.query_row(&set, [], count).unwrap();
        }
    }

    #[tokio::test]
    async fn a_full_disk_refuses_what_has_no_room_and_nothing_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            reserve_retry: Duration::ZERO,
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        let mut ids = store.reserve_ids(3).await.unwrap();
        let (small, big) = (ids.take().unwrap(), ids.take().unwrap());
        let small_job = job(small, "small", Bytes::from_static(b"payload"));
        store.submit(small_job, true).await.unwrap();
        let before = store.usage(&Owner::anonymous());

        inspect(&store, limit_growth(2)).await;
        let big_job = job(big, "big", Bytes::from(vec![7; 100_000]));
        for _ in 0..2 {
            let refused = store.submit(big_job.clone(), true).await;
            assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
            assert!(store.failure().is_none(), "it can go on");
            assert!(store.get(big, Parts::NONE, NOW).await.unwrap().is_none());
            let tag = big_job.header.tag.clone();
            let found = store.find(&Owner::anonymous(), &tag, NOW).await;
            assert_eq!(found.unwrap(), None);
            assert_eq!(store.usage(&Owner::anonymous()), before);
            assert_eq!(store.statistics().live_jobs, 1);
        }

        inspect(&store, limit_growth(1_000)).await;
        let stored = store.submit(big_job.clone(), true).await.unwrap();
        assert!(matches!(stored, Submitted::Created(_)), "{stored:?}");
        let finish = Finish::Complete(Output::binary("result"));
        store.finish(small, Lease(1), finish, NOW).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let payload = Parts {
            payload: true,
            result: false,
        };
        let read = store.get(big, payload, NOW).await.unwrap().unwrap();
        assert_eq!(read.payload, Some(big_job.payload));
        assert_eq!(store.usage(&Owner::anonymous()).total.jobs, 2);
    }
}
