//! A copy of the store at one moment, made beside the writer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kjob_core::StoreError;
use tokio::sync::mpsc::WeakSender;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::backup_files::copy;
use super::layout::{self, Layout, ignore_missing, sync_dir};
use super::lock::DirLock;
use super::requests::Request;
use super::shared::Shared;
use super::snapshot::{Prepared, Snapshot};
use super::{EmbeddedStore, OpenError};

/// How often the writer is looked at for its answer.
pub(crate) const LOOKED_AT_EVERY: Duration = Duration::from_millis(1);

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// Jobs, the expired ones whose space was not yet given back included.
    pub jobs: u64,
    /// Segments.
    pub segments: u64,
    /// Packs, and files of payloads and results that are too big even for those.
    pub blobs: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The first id that a store opened from it gives: far above those given until now.
    pub next_id: i64,
}

/// Why there is no backup. The target is as it was, and so is the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is something already.
    #[error("{dir} is not an empty directory; give a directory that does not exist yet", dir = dir.display())]
    NotEmpty {
        /// The target.
        dir: PathBuf,
    },
    /// The target would become part of the store.
    #[error("{dir} is inside the data directory {data_dir}; give a directory elsewhere", dir = dir.display(), data_dir = data_dir.display())]
    Inside {
        /// The target.
        dir: PathBuf,
        /// The store's directory.
        data_dir: PathBuf,
    },
    /// Another backup of this store, or to this target, is being made.
    #[error("another backup is under way; wait for its end")]
    UnderWay,
    /// Nobody waited for it any more, or the store was closed.
    #[error("the backup was given up before its end")]
    GivenUp,
    /// A file could not be read or written.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A database could not be copied.
    #[error("cannot copy a database to {path}: {source}", path = path.display())]
    Copy {
        /// The new file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EmbeddedStore {
    /// Copies the store as it is at one moment to `dir`, which must not exist or be empty.
    ///
    /// Every step that was answered before the call is in the backup, and no step is in it half. The
    /// writer pauses between two batches for as long as it takes to begin a read transaction on each
    /// database; all copying is done beside it. Until the end there is only a directory beside `dir`
    /// named `.kjob-partial` behind it; dropping the future removes that soon after.
    ///
    /// The backup is a store's directory like any other: [open](EmbeddedStore::open) it. Jobs that
    /// ran when it was made are found there as after a crash. It leaves out the next 2^40 ids, so that
    /// a store opened from it gives none that was given after it was made.
    ///
    /// # Errors
    /// A [`BackupError`]; the store goes on as if nobody had asked.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};
    ///
    /// let dir = tempfile::tempdir()?;
    /// let store = EmbeddedStore::open(dir.path().join("data"), EmbeddedOptions::default())?;
    /// let report = store.backup(dir.path().join("backup")).await?;
    /// assert_eq!((report.jobs, report.segments), (0, 1));
    /// EmbeddedStore::open(dir.path().join("backup"), EmbeddedOptions::default())?;
    /// # Ok(()) }
    /// ```
    pub async fn backup(&self, dir: impl AsRef<Path>) -> Result<BackupReport, BackupError> {
        self.shared.check_open()?;
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        let (mut reply, answer) = oneshot::channel();
        let backup = Backup {
            shared: Arc::clone(&self.shared),
            requests: requests.downgrade(),
            target: dir.as_ref().to_owned(),
        };
        let copy = move || {
            let done = backup.run(&mut reply);
            // Nobody may be waiting any more; then it was removed.
            let _ = reply.send(done);
        };
        // A thread of its own: it takes long, and the others are for what steps wait for.
        std::thread::Builder::new()
            .name("kjob-backup".to_owned())
            .spawn(copy)
            .map_err(io_error("start a thread for", dir.as_ref()))?;
        answer.await.map_err(|_| BackupError::GivenUp)?
    }
}

/// A backup to be made.
struct Backup {
    shared: Arc<Shared>,
    requests: WeakSender<Request>,
    target: PathBuf,
}

type BackupReply = oneshot::Sender<Result<BackupReport, BackupError>>;

impl Backup {
    fn run(&self, reply: &mut BackupReply) -> Result<BackupReport, BackupError> {
        if reply.is_closed() {
            return Err(BackupError::GivenUp);
        }
        self.check_target()?;
        let deletions = &self.shared.deletions;
        let held = deletions.hold().ok_or(BackupError::UnderWay)?;
        let partial = Partial::make(&self.target)?;
        let wanted = || !reply.is_closed() && self.shared.check_open().is_ok();
        let snapshot = self.snapshot()?;
        let report = copy(&self.shared.layout, snapshot, &partial.layout, &wanted)?;
        // Nothing of the store is needed any more.
        drop(held);
        partial.complete(&self.target)?;
        Ok(report)
    }

    fn check_target(&self) -> Result<(), BackupError> {
        let target = &self.target;
        match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) if target.file_name().is_some() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() != io::ErrorKind::NotADirectory => {
                return Err(io_error("read", target)(error));
            }
            // Neither can a file be replaced, nor a directory without a name of its own (`.`).
            Ok(_) | Err(_) => {
                let dir = target.clone();
                return Err(BackupError::NotEmpty { dir });
            }
        }
        let data_dir = self.shared.layout.root();
        let parent = parent_of(target);
        let root = fs::canonicalize(data_dir).map_err(io_error("find", data_dir))?;
        let parent = fs::canonicalize(parent).map_err(io_error("find", parent))?;
        if parent.starts_with(&root) {
            return Err(BackupError::Inside {
                dir: target.clone(),
                data_dir: data_dir.to_owned(),
            });
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, BackupError> {
        let table = self.shared.table();
        let prepared = Box::new(Prepared::open(&self.shared.layout, &table)?);
        let (reply, mut answer) = oneshot::channel();
        // The handle to ask with is let go of at once: it would keep the writer going.
        let requests = self.requests.upgrade().ok_or(BackupError::GivenUp)?;
        let asked = requests.blocking_send(Request::Snapshot { prepared, reply });
        drop(requests);
        asked.map_err(|_| BackupError::GivenUp)?;
        // A closing writer waits for this thread, so this does not wait for its answer blindly.
        loop {
            match answer.try_recv() {
                Ok(snapshot) => return Ok(snapshot?),
                Err(TryRecvError::Empty) if self.shared.check_open().is_ok() => {
                    std::thread::sleep(LOOKED_AT_EVERY);
                }
                Err(_) => return Err(BackupError::GivenUp),
            }
        }
    }
}

/// A directory that is not yet what it is to be: removed when dropped.
struct Partial {
    layout: Layout,
    lock: Option<DirLock>,
    is_complete: bool,
}

impl Partial {
    fn make(target: &Path) -> Result<Self, BackupError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".kjob-partial");
        let dir = target.with_file_name(name);
        layout::make_dirs(&dir).map_err(io_error("make", &dir))?;
        let layout = Layout::new(&dir);
        let lock = DirLock::take(&layout).map_err(|error| match error {
            OpenError::Io {
                doing,
                path,
                source,
            } => BackupError::Io {
                doing,
                path,
                source,
            },
            // Whoever holds it is at work in it.
            _ => BackupError::UnderWay,
        })?;
        let partial = Self {
            layout,
            lock: Some(lock),
            is_complete: false,
        };
        partial.clear().map_err(io_error("clear", &dir))?;
        for dir in [partial.layout.segments(), partial.layout.blobs()] {
            fs::create_dir(&dir).map_err(io_error("make", &dir))?;
        }
        Ok(partial)
    }

    /// Removes what a backup that was killed has left.
    fn clear(&self) -> io::Result<()> {
        for dir in [self.layout.segments(), self.layout.blobs()] {
            ignore_missing(fs::remove_dir_all(dir))?;
        }
        super::layout::remove_database(&self.layout.catalogue())
    }

    /// Gives the directory its name, durably.
    fn complete(mut self, target: &Path) -> Result<(), BackupError> {
        let dir = self.layout.root().to_owned();
        let sync = || -> io::Result<()> {
            sync_dir(&self.layout.segments())?;
            sync_dir(&self.layout.blobs())?;
            ignore_missing(fs::remove_file(self.layout.lock()))?;
            sync_dir(&dir)?;
            // An empty directory may be there.
            ignore_missing(fs::remove_dir(target))?;
            fs::rename(&dir, target)
        };
        sync().map_err(io_error("complete", &dir))?;
        self.is_complete = true;
        sync_dir(parent_of(target)).map_err(io_error("sync the directory of", target))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_complete {
            // The next backup to the same place removes what is left over.
            let _ = fs::remove_dir_all(self.layout.root());
        }
        self.lock = None;
    }
}

/// Where a path's name is; a relative path of one name has an empty parent.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(crate) fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |source| BackupError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kjob_core::{
        Finish, Header, JobId, JobOptions, Lease, NewJob, Output, Owner, QueryId, Store, TagReuse,
        Timestamp,
    };
    use kjob_proto::{Encoding, Text};

    use super::super::EmbeddedOptions;
    use super::super::backup_files::IDS_LEFT_OUT;
    use super::super::blobs;
    use super::super::catalogue::Catalogue;
    use super::*;

    /// While a backup copies, the files of expired jobs stay; then they go.
    #[tokio::test]
    async fn no_file_goes_while_it_may_be_copied() {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            segment_jobs: 1,
            inline_bytes_max: 1,
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        let now = Timestamp::from_millis(1_700_000_000_000);
        let mut ids = store.reserve_ids(4).await.unwrap();
        while let Some(id) = ids.take() {
            store.submit(job(id, now), true).await.unwrap();
            let finish = Finish::Complete(Output::binary("result"));
            store.finish(id, Lease(1), finish, now).await.unwrap();
        }
        let layout = &store.shared.layout;
        let blobs = |number| blobs::names(&layout.blobs_of(number)).unwrap().len();
        let held = store.shared.deletions.hold().unwrap();
        let target = dir.path().with_extension("backup");
        let second = store.backup(&target).await;
        assert!(matches!(second, Err(BackupError::UnderWay)), "{second:?}");

        let later = now.after(Duration::from_secs(100_000));
        while store.expire(later).await.unwrap().more {}
        store.shared.deletions.done().await;
        assert_eq!(store.usage(&Owner::anonymous()).total.jobs, 0);
        for number in 1..=4 {
            assert!(layout.segment(number, 0).is_file(), "segment {number}");
            assert_eq!(blobs(number), 2, "segment {number}");
        }
        drop(held);
        for number in 1..=4 {
            assert!(!layout.segment(number, 0).exists(), "segment {number}");
            assert_eq!(blobs(number), 0, "segment {number}");
        }
        store.shared.deletions.wait_released();
    }

    #[test]
    fn ids_left_out_never_reach_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalogue.sqlite");
        let mut catalogue = Catalogue::open(&path, true).unwrap();
        assert_eq!(catalogue.leave_out(IDS_LEFT_OUT).unwrap(), 1 + IDS_LEFT_OUT);
        let last = catalogue.leave_out(i64::MAX).unwrap();
        let half = (JobId::MAX + 1 - (1 + IDS_LEFT_OUT)) / 2;
        assert_eq!(last, 1 + IDS_LEFT_OUT + half);
        for _ in 0..100 {
            let next = catalogue.leave_out(IDS_LEFT_OUT).unwrap();
            assert!(next <= JobId::MAX, "{next}");
        }
        let next = catalogue.leave_out(0).unwrap();
        catalogue.close().unwrap();
        let mut again = Catalogue::open_copy(&path).unwrap();
        assert_eq!(again.reserve(1).unwrap().take().unwrap().get(), next);
    }

    fn job(id: JobId, now: Timestamp) -> NewJob {
        let header = Header {
            id,
            tag: format!("job-{id}").parse().unwrap(),
            owner: Owner::anonymous(),
            endpoint: Text::from("/demo/echo"),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).unwrap(),
            parent_span: 0,
            received_at: now,
            source_ip: Text::new(),
            options: JobOptions::default(),
        };
        NewJob {
            header,
            payload: Bytes::from_static(b"payload"),
            tag_reuse: TagReuse::Never,
        }
    }
}
