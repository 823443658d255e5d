//! The store's handle: how it is opened, and let go of.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use kjob_core::{JobId, StoreError};
use tokio::sync::{Mutex, mpsc, watch};

use super::due::Due;
use super::error::is_fatal;
use super::layout::Layout;
use super::lock::DirLock;
use super::pool::Pool;
use super::reader::Reader;
use super::requests::Request;
use super::reserve::Reserve;
use super::rewrite::Rewrite;
use super::shared::Shared;
use super::write_back::WriteBack;
use super::writer::Writer;
use super::{EmbeddedOptions, OpenError, open};
use crate::panics::{panicked, said};

/// Steps that may wait for the writer before those who ask have to wait for room.
const REQUESTS_MAX: usize = 16 * 1024;

/// Threads that work beside the writer: write blob files, rewrite segments, delete files.
const BACKGROUND_THREADS: usize = 2;

/// Jobs in a directory of SQLite files. Durable before acknowledged: each step is synced to disk
/// before it is answered, together with all others of the moment.
///
/// Dropping the store finishes what was asked for and lets go of the directory; it blocks for
/// that long. [`close`](kjob_core::Store::close) does the same and says how it went.
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
    pub(crate) readers: Arc<Pool<Reader>>,
    pub(crate) background: Arc<Pool<()>>,
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
        let mut writer = Writer {
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
            write_back: WriteBack::new(shared.options.log_bytes),
            packs: BTreeMap::new(),
            reserve,
            lock,
        };
        writer.publish_table();
        for (path, number) in opened.rewritten {
            writer.prune_packs(number, path);
        }
        let shared_tags = opened.shared_tags;
        let write = {
            let shared = Arc::clone(&shared);
            move || {
                // What it leaves half done is its own, or is behind locks whose users know that.
                let run = AssertUnwindSafe(|| writer.run(waiting, shared_tags));
                if let Err(panic) = catch_unwind(run) {
                    let said = said(&*panic);
                    tracing::error!(
                        said,
                        "the store's writer panicked; nothing is written any more"
                    );
                    shared.writer_panicked();
                }
            }
        };
        let writer = std::thread::Builder::new()
            .name("kjob-write".to_owned())
            .spawn(write)
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

    /// Why the writer gave no answer: unless the store was closed, it panicked, and nothing is written any more.
    pub(crate) fn unwritten(&self) -> StoreError {
        let closed = self.shared.check_open().err();
        closed.unwrap_or_else(|| self.shared.writer_panicked())
    }

    /// Why a piece of work gave no answer: unless the store was closed meanwhile, it panicked. Callers take
    /// a closed store for the end of all, so they are told the difference.
    pub(crate) fn unanswered(&self) -> StoreError {
        let closed = self.shared.check_open().err();
        closed.unwrap_or_else(|| panicked("do what was asked"))
    }
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

    use bytes::Bytes;
    use kjob_core::{
        Filter, Finish, Header, JobOptions, Lease, NewJob, Order, Output, Owner, Parts, QueryId,
        Store, Submitted, TagReuse, Timestamp,
    };
    use kjob_proto::{Encoding, Text};

    use super::super::requests::Inspect;
    use super::*;

    pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

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

    #[tokio::test]
    async fn a_writer_that_panics_is_a_failure_of_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let id = store.reserve_ids(1).await.unwrap().take().unwrap();
        let submit = store.submit(job(id, "tag", Bytes::new()), true);
        submit.await.unwrap();
        inspect(&store, |_| panic!("as it is meant to")).await;
        // It waits for an answer while the writer ends; the next one finds nobody to ask.
        for _ in 0..2 {
            let failed = store.reserve_ids(1).await;
            assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
            let failure = store.failure().unwrap().to_string();
            let wanted = "the store cannot write any more: it panicked; the log says more";
            assert_eq!(failure, wanted);
            assert_eq!(failed.unwrap_err().to_string(), wanted);
        }
        let read = store.get(id, Parts::NONE, NOW).await.unwrap();
        assert!(read.is_some(), "what was written is there");
        let closed = store.close().await;
        assert!(matches!(closed, Err(StoreError::Io { .. })), "{closed:?}");
    }

    #[tokio::test]
    async fn a_writer_that_panics_is_seen_by_who_asks_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        inspect(&store, |_| panic!("as it is meant to")).await;
        let begun = std::time::Instant::now();
        while store.failure().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            tokio::task::yield_now().await;
        }
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
            row_bytes_max: usize::MAX,
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
