//! Who did what, for the record: one JSON object a line, in a file that the usual tools rotate.

mod event;
mod writer;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub(crate) use event::Event;
use writer::Message;

/// Lines that may wait to be written: some 2 MiB.
const QUEUE_MAX: usize = 8192;

/// How often the same refusal of the same source is written.
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// How many refusals are remembered for that.
const REFUSED_MAX: usize = 4096;

/// An audit log. Clones write to the same one.
///
/// Lines are written by a thread of their own, in the order in which they came, and are handed to the
/// operating system at once: they survive the end of the process, though not a power cut. **No line is
/// dropped**: when the queue of 8192 lines is full, whoever has the next one waits. Lines that cannot
/// be written, as the disk is full, are counted; the log of the server says so, and the audit log says
/// how many they were as soon as it can be written to again.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use kjob_server::AuditLog;
///
/// let dir = tempfile::tempdir()?;
/// let audit = AuditLog::open(&dir.path().join("audit.log"))?;
/// // The file was renamed: the lines that come go to a new one.
/// let renamed = audit.clone();
/// tokio::task::spawn_blocking(move || renamed.reopen()).await??;
/// audit.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct AuditLog {
    queue: mpsc::Sender<Message>,
    refused: Arc<Cache<(&'static str, IpAddr), Instant>>,
}

impl AuditLog {
    /// Writes to the end of a file, which is made with the mode 600 if it is not there.
    ///
    /// # Errors
    /// The file cannot be made or written to, or there is no thread to be had.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        Self::start(Box::new(file), Some(path.to_owned()))
    }

    /// Writes to something else, such as the standard output.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn to_writer(out: impl Write + Send + 'static) -> io::Result<Self> {
        Self::start(Box::new(out), None)
    }

    fn start(out: Box<dyn Write + Send>, path: Option<PathBuf>) -> io::Result<Self> {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name("kjob-audit".to_owned())
            .spawn(move || writer::run(out, path.as_deref(), messages))?;
        Ok(Self {
            queue,
            refused: Arc::new(Cache::new(REFUSED_MAX)),
        })
    }

    /// Opens the file anew, by its name, once all lines that came before are written. Blocks until then:
    /// not to be called on a thread that runs tasks. What is written to something else stays as it is.
    ///
    /// # Errors
    /// The file cannot be opened; the one that was open is written to as before.
    pub fn reopen(&self) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let sent = self.queue.blocking_send(Message::Reopen(done));
        sent.map_err(|_| ended())?;
        answer.blocking_recv().map_err(|_| ended())?
    }

    /// Waits until all lines that came before are written. Those that come later are lost.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            // It fails if the thread has ended: then there is nothing to wait for.
            let _ = closed.await;
        }
    }

    /// Writes an event, if there is an audit log. Waits while the queue is full.
    pub(crate) async fn note(audit: Option<&Self>, event: Event) {
        let Some(audit) = audit else { return };
        if audit.is_repeated(&event) {
            return;
        }
        if audit.queue.send(Message::Line(event.line())).await.is_err() {
            event.log_lost();
        }
    }

    /// As [`note`](Self::note), on a thread that may block.
    pub(crate) fn note_blocking(audit: Option<&Self>, event: Event) {
        let Some(audit) = audit else { return };
        if audit.is_repeated(&event) {
            return;
        }
        let sent = audit.queue.blocking_send(Message::Line(event.line()));
        if sent.is_err() {
            event.log_lost();
        }
    }

    /// Whether the event is a refusal of which there is a line not long ago. Whoever is nobody could
    /// fill the disk otherwise.
    fn is_repeated(&self, event: &Event) -> bool {
        let Some(key) = event.refusal() else {
            return false;
        };
        let now = Instant::now();
        let before = self.refused.get(&key);
        if before.is_some_and(|before| now - before < REFUSED_EVERY) {
            return true;
        }
        self.refused.insert(key, now);
        false
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

fn ended() -> io::Error {
    io::Error::other("the audit log has ended")
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
