//! The thread that writes the audit log.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;

use super::event::Event;
use super::open;

/// Lines that are written at once, if they are there.
const BATCH_MAX: usize = 256;

/// How often it is logged that lines cannot be written.
const FAILURE_LOGGED_EVERY: Duration = Duration::from_secs(10);

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Message {
    Line(Vec<u8>),
    Reopen(oneshot::Sender<io::Result<()>>),
    Close(oneshot::Sender<()>),
}

/// Writes until it is told to close, or nobody can tell it anything any more.
pub(super) fn run(
    out: Box<dyn Write + Send>,
    path: Option<&Path>,
    mut messages: Receiver<Message>,
) {
    let mut log = Log::new(out);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while let Some(first) = messages.blocking_recv() {
        batch.push(first);
        while batch.len() < BATCH_MAX {
            match messages.try_recv() {
                Ok(message) => batch.push(message),
                Err(_) => break,
            }
        }
        for message in batch.drain(..) {
            match message {
                Message::Line(line) => log.add(&line),
                Message::Reopen(done) => {
                    log.write();
                    // Whoever asked may be gone.
                    let _ = done.send(log.reopen(path));
                }
                Message::Close(done) => {
                    log.write();
                    let _ = done.send(());
                    return;
                }
            }
        }
        log.write();
    }
}

struct Log {
    out: Box<dyn Write + Send>,
    /// Lines that are to be written next, and how many they are.
    lines: Vec<u8>,
    count: u64,
    /// How many could not be written since the last that could.
    lost: u64,
    failure_logged: Option<Instant>,
}

impl Log {
    fn new(out: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            lines: Vec::new(),
            count: 0,
            lost: 0,
            failure_logged: None,
        }
    }

    fn add(&mut self, line: &[u8]) {
        self.lines.extend_from_slice(line);
        self.count += 1;
    }

    fn reopen(&mut self, path: Option<&Path>) -> io::Result<()> {
        if let Some(path) = path {
            self.out = Box::new(open(path)?);
        }
        Ok(())
    }

    /// Writes what there is to write, after a line about those that were lost.
    fn write(&mut self) {
        if self.count == 0 {
            return;
        }
        let written = self.write_lost().and_then(|()| {
            self.out.write_all(&self.lines)?;
            self.out.flush()
        });
        if let Err(error) = written {
            // Some of them may be there: it is better to count too many.
            self.lost += self.count;
            self.log_failure(&error);
        }
        self.lines.clear();
        self.count = 0;
    }

    fn write_lost(&mut self) -> io::Result<()> {
        if self.lost == 0 {
            return Ok(());
        }
        // The last line may have been written in part: this ends it.
        let lost = Event::Lost { lines: self.lost }.line();
        self.out.write_all(&[b"\n", lost.as_slice()].concat())?;
        tracing::error!(
            lines = self.lost,
            "the audit log can be written again; lines are lost"
        );
        self.lost = 0;
        self.failure_logged = None;
        Ok(())
    }

    fn log_failure(&mut self, error: &io::Error) {
        let is_due = |logged: Instant| logged.elapsed() >= FAILURE_LOGGED_EVERY;
        if self.failure_logged.is_none_or(is_due) {
            tracing::error!(%error, lines = self.lost, "the audit log cannot be written; lines are lost");
            self.failure_logged = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use super::super::AuditLog;
    use super::*;

    #[derive(Clone, Default)]
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        is_full: Arc<AtomicBool>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.is_full.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn events(text: &[u8]) -> Vec<serde_json::Value> {
        let lines = text.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    fn users(count: usize) -> Event {
        Event::Users { count }
    }

    #[tokio::test]
    async fn lines_come_in_order_and_none_is_dropped() {
        let disk = Disk::default();
        let audit = AuditLog::to_writer(disk.clone()).unwrap();
        // More than the queue takes.
        for count in 0..20_000 {
            AuditLog::note(Some(&audit), users(count)).await;
        }
        audit.close().await;
        let events = events(&disk.bytes.lock().unwrap());
        let counts: Vec<_> = events.iter().map(|event| event["count"].as_u64()).collect();
        assert_eq!(counts, (0..20_000).map(Some).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn lines_that_cannot_be_written_are_counted_in_the_log_itself() {
        let disk = Disk::default();
        let mut log = Log::new(Box::new(disk.clone()));
        let mut write = |event: Event| {
            log.add(&event.line());
            log.write();
        };
        write(users(1));
        disk.is_full.store(true, Ordering::SeqCst);
        write(users(2));
        write(users(3));
        disk.is_full.store(false, Ordering::SeqCst);
        write(users(4));
        write(users(5));
        let events = events(&disk.bytes.lock().unwrap());
        let told: Vec<_> = events
            .iter()
            .map(|event| (event["count"].as_u64(), event["lines"].as_u64()))
            .collect();
        let expected = [
            (Some(1), None),
            (None, Some(2)),
            (Some(4), None),
            (Some(5), None),
        ];
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn a_file_that_was_renamed_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        fs::write(&path, "{\"before\":true}\n").unwrap();
        let audit = AuditLog::open(&path).unwrap();
        AuditLog::note(Some(&audit), users(1)).await;
        fs::rename(&path, &old).unwrap();
        AuditLog::note(Some(&audit), users(2)).await;
        let reopened = audit.clone();
        let reopened = tokio::task::spawn_blocking(move || reopened.reopen()).await;
        reopened.unwrap().unwrap();
        AuditLog::note(Some(&audit), users(3)).await;
        audit.close().await;
        let counts = |path| {
            let events = events(&fs::read(path).unwrap());
            events
                .iter()
                .map(|event| event["count"].as_u64())
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(&old), [None, Some(1), Some(2)]);
        assert_eq!(counts(&path), [Some(3)]);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_anew_stays_open() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log/audit.log"), dir.path().join("moved"));
        fs::create_dir(dir.path().join("log")).unwrap();
        let audit = AuditLog::open(&path).unwrap();
        fs::rename(dir.path().join("log"), &moved).unwrap();
        let reopened = audit.clone();
        let reopened = tokio::task::spawn_blocking(move || reopened.reopen()).await;
        assert!(reopened.unwrap().is_err());
        AuditLog::note(Some(&audit), users(1)).await;
        audit.close().await;
        assert_eq!(events(&fs::read(moved.join("audit.log")).unwrap()).len(), 1);
    }

    #[tokio::test]
    async fn what_a_stranger_does_again_is_one_line_with_a_count() {
        let disk = Disk::default();
        let audit = AuditLog::to_writer(disk.clone()).unwrap();
        for _ in 0..100 {
            for peer in ["192.0.2.1", "192.0.2.2"] {
                for why in ["no credentials", "host"] {
                    let event = Event::refused(why, peer.parse().unwrap());
                    AuditLog::note(Some(&audit), event).await;
                }
            }
        }
        audit.close().await;
        let events = events(&disk.bytes.lock().unwrap());
        let counts: Vec<_> = events.iter().map(|event| event["count"].as_u64()).collect();
        assert_eq!(counts, [[None; 4], [Some(99); 4]].concat());
    }

    /// Though nothing else happens. The paused clock goes on by itself when all wait for it.
    #[tokio::test(start_paused = true)]
    async fn what_a_stranger_does_again_is_told_within_a_minute() {
        let disk = Disk::default();
        let audit = AuditLog::to_writer(disk.clone()).unwrap();
        let refused = || Event::refused("host", "192.0.2.1".parse().unwrap());
        for minute in 1..=2 {
            let began = tokio::time::Instant::now();
            AuditLog::note(Some(&audit), refused()).await;
            AuditLog::note(Some(&audit), refused()).await;
            tokio::time::sleep(Duration::from_secs(61)).await;
            let told = || events(&disk.bytes.lock().unwrap());
            while told().len() < 2 * minute {
                std::thread::yield_now();
                assert_eq!(began.elapsed(), Duration::from_secs(61));
            }
            assert_eq!(told()[2 * minute - 1]["count"], 1);
        }
    }
}
