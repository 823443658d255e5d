//! Who did what, for the record: one JSON object a line, in a file that the usual tools rotate.

mod event;
mod repeats;
mod writer;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub(crate) use event::Event;
use repeats::Repeats;
use writer::Message;

/// Lines that may wait to be written: some 2 MiB.
const QUEUE_MAX: usize = 8192;

/// An audit log. Clones write to the same one.
///
/// Lines are written by a thread of their own, in the order in which they came, and are handed to the
/// operating system at once: they survive the end of the process, though not a power cut. **No line is
/// dropped**: when the queue of 8192 lines is full, whoever has the next one waits. Lines that cannot
/// be written, as the disk is full, are counted; the log of the server says so, and the audit log says
/// how many they were as soon as it can be written to again. What the same stranger does again within
/// a minute, to fail a login or to be refused, is one line with a count at the end of it.
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
    strangers: Arc<Mutex<Strangers>>,
}

/// What strangers did not long ago, and whether a task waits to tell of what they do again.
#[derive(Debug, Default)]
struct Strangers {
    repeats: Repeats,
    is_awaited: bool,
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
            strangers: Arc::default(),
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
        self.tell_all_repeats().await;
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            // It fails if the thread has ended: then there is nothing to wait for.
            let _ = closed.await;
        }
    }

    /// Writes an event, if there is an audit log. Waits while the queue is full.
    pub(crate) async fn note(audit: Option<&Self>, event: Event) {
        let Some(audit) = audit else { return };
        if matches!(event, Event::Stop) {
            audit.tell_all_repeats().await;
        }
        for event in audit.pass(event) {
            audit.send(event).await;
        }
    }

    /// As [`note`](Self::note), on a thread that may block.
    pub(crate) fn note_blocking(audit: Option<&Self>, event: Event) {
        let Some(audit) = audit else { return };
        for event in audit.pass(event) {
            let sent = audit.queue.blocking_send(Message::Line(event.line()));
            if sent.is_err() {
                event.log_lost();
            }
        }
    }

    async fn send(&self, event: Event) {
        if self.queue.send(Message::Line(event.line())).await.is_err() {
            event.log_lost();
        }
    }

    /// What is to be written now that there is another event.
    fn pass(&self, event: Event) -> Vec<Event> {
        let now = Instant::now();
        let mut strangers = self.strangers();
        let mut events = strangers.repeats.close_ended(now);
        events.extend(strangers.repeats.pass(event, now));
        if !strangers.is_awaited
            && strangers.repeats.next_end().is_some()
            && let Ok(runtime) = Handle::try_current()
        {
            strangers.is_awaited = true;
            runtime.spawn(self.clone().tell_repeats());
        }
        events
    }

    /// Writes what strangers did again, when it is time, until there is nothing more.
    async fn tell_repeats(self) {
        loop {
            let (due, next) = {
                let mut strangers = self.strangers();
                let due = strangers.repeats.close_ended(Instant::now());
                let next = strangers.repeats.next_end();
                strangers.is_awaited = next.is_some();
                (due, next)
            };
            for event in due {
                self.send(event).await;
            }
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => return,
            }
        }
    }

    async fn tell_all_repeats(&self) {
        let events = self.strangers().repeats.close_all();
        for event in events {
            self.send(event).await;
        }
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        // Nothing that holds the lock can panic half way.
        self.strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
