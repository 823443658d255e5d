//! How the log of the newest segment is written back: beside commits, as all that wait for one would
//! wait for that as well.
//!
//! SQLite's own way is that the commit which passes a bound copies the whole log into the file, and syncs
//! both: milliseconds, many times a second under load. A log is begun anew only once all of it is copied,
//! and a thread beside the writer never catches up with one that goes on committing. So it is done in two
//! parts: a thread copies what there is, which is nearly all, while commits go on; and then the writer
//! copies what came meanwhile, which is little, and syncs the file, as SQLite does only with the last of a log.
//! That costs two syncs however little it is, so logs are as long as the writer's share allows.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use kjob_core::StoreError;
use rusqlite::Connection;

use super::error::sql;
use super::pages::PAGE;
use super::pool::{Length, Pool};
use super::segment::{self, Access};
use super::shared::Shared;

/// Where large payloads come as fast as they are copied, the writer's share is large, and logs get shorter, but not than one
/// in so many of what they are to be.
const SHORTER_BY_MOST: i32 = 8;

/// One in so many pages of the longest log are what the writer's share is to be at most: of 32 MiB 4, which are a few
/// milliseconds.
const SHARE: i32 = 8;

/// So many times the pages of the longest log are kept of a file. Once so many have come that a thread should have copied
/// long ago, the writer waits for it no longer.
const KEPT: i32 = 2;

/// Of one segment.
#[derive(Debug)]
pub(crate) struct WriteBack {
    /// Pages in the log after the last commit of the connection that tells so, if one does.
    logged: Option<Arc<AtomicI32>>,
    /// The thread's part.
    at_work: Option<AtWork>,
    /// Pages that the log had when that was asked for, or when the writer last did it instead.
    begun_at: i32,
    /// With how many pages of a new log it is begun at most, and now.
    most: i32,
    from: i32,
    /// Likewise, of this log: more once not everything could be copied, as somebody reads what was
    /// committed long ago.
    next: i32,
}

/// A thread is copying, or about to.
#[derive(Debug)]
struct AtWork {
    /// Whoever sets it first has it: the thread that begins, or the writer that wants it no more.
    is_taken: Arc<AtomicBool>,
    /// Nothing is ever sent: it ends with the work.
    end: Receiver<()>,
}

impl WriteBack {
    /// For logs of about so many bytes.
    pub(crate) fn new(log_bytes: u64) -> Self {
        let most = i32::try_from(log_bytes / PAGE as u64).unwrap_or(i32::MAX);
        let most = most.clamp(SHORTER_BY_MOST, i32::MAX / KEPT);
        Self {
            logged: None,
            at_work: None,
            begun_at: 0,
            most,
            from: most,
            next: most,
        }
    }

    /// Has this connection tell how long its log is, instead of writing it back by itself.
    pub(crate) fn watch(&mut self, connection: &mut Connection) {
        let logged = Arc::new(AtomicI32::new(0));
        let told = Arc::clone(&logged);
        let hook = move |_: &mut _, pages: i32| {
            told.store(pages, Ordering::Relaxed);
            Ok(())
        };
        // A log that need not grow needs no more than its bytes synced.
        let kept = i64::from(KEPT * self.most) * PAGE as i64;
        let _ = connection.pragma_update(None, "journal_size_limit", kept);
        // Where it cannot be told, SQLite goes on by itself.
        self.logged = connection.wal_hook(Some(hook)).ok().map(|()| logged);
    }

    /// To be called after each commit, when those who waited for it have their answers.
    pub(crate) fn go_on(
        &mut self,
        connection: &Connection,
        path: impl FnOnce() -> PathBuf,
        threads: &Pool<()>,
        shared: &Arc<Shared>,
    ) {
        let Some(logged) = &self.logged else {
            return;
        };
        let pages = logged.load(Ordering::Relaxed);
        let ended = |at_work: &AtWork| at_work.end.try_recv() == Err(TryRecvError::Disconnected);
        if self.at_work.take_if(|at_work| ended(at_work)).is_some() {
            let share = pages.saturating_sub(self.begun_at);
            self.adapt(share);
            // Below nothing, everything was copied, and this commit has begun the log anew.
            if share >= 0 {
                self.finish(connection, pages, shared);
            }
        } else if self.at_work.is_some() {
            if pages < self.begun_at {
                // The log was begun anew since.
                self.begun_at = 0;
            }
            if pages.saturating_sub(self.begun_at) >= self.most {
                self.begun_at = pages;
                self.finish(connection, pages, shared);
            }
        } else if pages < self.least() {
            self.next = self.from;
        } else if pages >= self.next {
            self.begun_at = pages;
            self.begin(path(), threads, Arc::clone(shared));
        }
    }

    /// Learns from the writer's share how long the next log may be.
    fn adapt(&mut self, share: i32) {
        let share_max = self.most / SHARE;
        if share > share_max {
            self.from = (self.from / 2).max(self.least());
        } else if share < share_max / 4 {
            self.from = self.from.saturating_mul(2).min(self.most);
        }
    }

    fn least(&self) -> i32 {
        self.most / SHORTER_BY_MOST
    }

    /// Has a thread copy what there is.
    fn begin(&mut self, path: PathBuf, threads: &Pool<()>, shared: Arc<Shared>) {
        let (done, end) = channel::<()>();
        let is_taken = Arc::new(AtomicBool::new(false));
        let taken = Arc::clone(&is_taken);
        threads.submit(Length::Short, move |()| {
            if !taken.swap(true, Ordering::Relaxed) {
                let copied = segment::connect(&path, Access::Read)
                    .map_err(sql("write a log back"))
                    .and_then(|connection| segment::reuse_log(&connection));
                note(&shared, copied);
            }
            drop(done);
        });
        self.at_work = Some(AtWork { is_taken, end });
    }

    /// Copies what is left.
    fn finish(&mut self, connection: &Connection, pages: i32, shared: &Shared) {
        self.next = if note(shared, segment::reuse_log(connection)) {
            self.from
        } else {
            pages.saturating_add(self.from)
        };
    }

    /// Sees to it that no thread has a hand in the segment's files.
    pub(crate) fn wait(&mut self) {
        if let Some(AtWork { is_taken, end }) = self.at_work.take()
            && is_taken.swap(true, Ordering::Relaxed)
        {
            let _ = end.recv();
        }
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        self.wait();
    }
}

/// Whether everything was copied. After a failed sync, that of the log may be among what is lost, and nothing more is
/// acknowledged. Whatever else fails, as where there is no room, the log stays as it is, and all of it is copied later.
pub(crate) fn note(shared: &Shared, copied: Result<bool, StoreError>) -> bool {
    shared.noted_beside(copied).unwrap_or_else(|error| {
        tracing::debug!(%error, "a log was not written back");
        false
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::EmbeddedOptions;
    use super::super::layout::Layout;
    use super::*;

    const LOG_BYTES: u64 = 32 << 20;

    const BIG: &str = "INSERT INTO jobs_of_test VALUES (zeroblob(1000000))";

    /// A segment whose log is about to be written back, its layout, and one thread.
    struct Bench {
        _dir: tempfile::TempDir,
        connection: Connection,
        write_back: WriteBack,
        threads: Pool<()>,
        shared: Arc<Shared>,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let layout = Layout::new(dir.path());
            fs::create_dir(layout.segments()).unwrap();
            let mut connection = segment::create(&layout, 1, 0).unwrap();
            let mut write_back = WriteBack::new(LOG_BYTES);
            write_back.watch(&mut connection);
            let table = "CREATE TABLE jobs_of_test (bytes)";
            connection.execute_batch(table).unwrap();
            Self {
                shared: Arc::new(Shared::new(layout, EmbeddedOptions::default())),
                _dir: dir,
                connection,
                write_back,
                threads: Pool::start("test", 1, |_| ()).unwrap(),
            }
        }

        fn path(&self) -> PathBuf {
            self.shared.layout.segment(1, 0)
        }

        fn log_bytes(&self) -> u64 {
            let mut log = self.path().into_os_string();
            log.push("-wal");
            fs::metadata(log).unwrap().len()
        }

        /// Commits a megabyte so many times.
        fn commit(&mut self, times: usize) {
            for _ in 0..times {
                self.connection.execute_batch(BIG).unwrap();
                let path = self.path();
                let (connection, threads) = (&self.connection, &self.threads);
                self.write_back
                    .go_on(connection, || path, threads, &self.shared);
            }
        }

        /// Waits for what the thread was asked for.
        fn wait_for_thread(&self) {
            let (done, wait) = channel::<()>();
            self.threads.submit(Length::Short, move |()| drop(done));
            let _ = wait.recv();
        }

        /// Keeps the thread from all else until the sender is dropped.
        fn hold_thread(&self) -> std::sync::mpsc::Sender<()> {
            let (go_on, held) = channel::<()>();
            self.threads.submit(Length::Short, move |()| {
                let _ = held.recv();
            });
            go_on
        }
    }

    #[test]
    fn a_log_is_written_by_a_thread_and_then_begun_anew() {
        let mut bench = Bench::new();
        let go_on = bench.hold_thread();
        bench.commit(30);
        assert!(bench.write_back.at_work.is_none());
        bench.commit(5);
        assert!(bench.write_back.at_work.is_some());
        drop(go_on);
        let file = fs::metadata(bench.path()).unwrap().len();
        for _ in 0..100 {
            bench.wait_for_thread();
            bench.commit(1);
        }
        assert!(fs::metadata(bench.path()).unwrap().len() > file + 60_000_000);
        let log = bench.log_bytes();
        assert!((32_000_000..48_000_000).contains(&log), "{log}");
    }

    #[test]
    fn where_no_thread_is_free_the_writer_does_it_before_the_log_grows_without_end() {
        let mut bench = Bench::new();
        let go_on = bench.hold_thread();
        let mut longest = 0;
        for _ in 0..150 {
            bench.commit(1);
            longest = longest.max(bench.log_bytes());
        }
        assert!((64_000_000..80_000_000).contains(&longest), "{longest}");
        assert!(bench.write_back.at_work.is_some());
        // What has not begun is not waited for, and is not done any more.
        bench.write_back.wait();
        drop(go_on);
        bench.wait_for_thread();
    }

    #[test]
    fn somebody_who_reads_an_old_commit_is_not_asked_about_with_each_new_one() {
        let mut bench = Bench::new();
        let reader = segment::connect(&bench.path(), Access::Read).unwrap();
        let read = "BEGIN; SELECT count(*) FROM jobs_of_test";
        reader.execute_batch(read).unwrap();
        let mut begun = 0;
        for _ in 0..160 {
            bench.commit(1);
            begun += usize::from(bench.write_back.at_work.is_some());
            bench.wait_for_thread();
        }
        assert!((3..=5).contains(&begun), "{begun}");
        let log = bench.log_bytes();
        assert!(log > 160_000_000, "{log}");
        reader.execute_batch("COMMIT").unwrap();
        // The next attempt comes; then the log is begun anew.
        for _ in 0..40 {
            bench.commit(1);
            bench.wait_for_thread();
        }
        let pages = bench.write_back.logged.as_ref().unwrap();
        assert!(pages.load(Ordering::Relaxed) < bench.write_back.most);
    }

    #[test]
    fn the_log_is_as_long_as_the_writers_share_allows() {
        let mut write_back = WriteBack::new(LOG_BYTES);
        let mut after = |share| {
            write_back.adapt(share);
            write_back.from
        };
        // Pages of 4 KiB.
        assert_eq!(after(0), 8192);
        assert_eq!(after(1025), 4096);
        assert_eq!(after(1024), 4096);
        assert_eq!(after(1025), 2048);
        assert_eq!(after(256), 2048);
        assert_eq!(after(255), 4096);
        for _ in 0..10 {
            after(i32::MAX);
        }
        assert_eq!(after(1024), 1024);
    }
}
