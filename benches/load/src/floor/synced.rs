//! Bodies on disk: one thread appends all that wait to a file, syncs once, and answers for all of them.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::sync::oneshot;

/// What is appended to.
pub(super) const FILE: &str = "appended";

/// Hands bodies to the thread, which lasts as long as anybody can.
#[derive(Clone, Debug)]
pub(super) struct Appender(Sender<Waiting>);

/// A body, and who waits until it is on disk.
struct Waiting {
    body: Bytes,
    synced: oneshot::Sender<()>,
}

impl Appender {
    /// Begins a file in this directory.
    ///
    /// # Errors
    /// It is there already, or cannot be made.
    pub(super) fn start(dir: &Path) -> Result<Self> {
        let file = File::create_new(dir.join(FILE)).context("a file to append to")?;
        Self::to(file)
    }

    fn to(file: File) -> Result<Self> {
        let (sender, bodies) = mpsc::channel();
        let append = move || {
            if let Err(error) = append_all(file, &bodies) {
                // In the server's log. Whoever waits gets no answer.
                eprintln!("error: bodies cannot be kept: {error}");
            }
        };
        let thread = thread::Builder::new().name("appender".to_owned());
        thread.spawn(append).context("the thread that appends")?;
        Ok(Self(sender))
    }

    /// Returns once the body is on disk.
    ///
    /// # Errors
    /// It could not be written or synced, or one before it could not be.
    pub(super) async fn append(&self, body: Bytes) -> Result<()> {
        let (synced, is_synced) = oneshot::channel();
        let sent = self.0.send(Waiting { body, synced });
        sent.ok().context("nothing is appended any more")?;
        is_synced.await.context("the body was not kept")
    }
}

/// Goes on until nobody can hand in more, or the disk fails.
fn append_all(mut file: File, bodies: &Receiver<Waiting>) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut waiting = Vec::new();
    while let Ok(first) = bodies.recv() {
        for next in std::iter::once(first).chain(bodies.try_iter()) {
            buffer.extend_from_slice(&next.body);
            waiting.push(next.synced);
        }
        file.write_all(&buffer)?;
        file.sync_data()?;
        buffer.clear();
        for synced in waiting.drain(..) {
            // A client that went does not wait any more.
            let _ = synced.send(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::task::JoinSet;

    /// Many at once, more than one sync answers.
    #[test]
    fn all_are_answered_and_each_body_is_in_the_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let appender = Appender::start(dir.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        runtime.block_on(async {
            let mut callers = JoinSet::new();
            for number in 0..100_u8 {
                let appender = appender.clone();
                callers.spawn(async move { appender.append(Bytes::from(vec![number; 10])).await });
            }
            while let Some(ended) = callers.join_next().await {
                ended.unwrap().unwrap();
            }
        });
        let written = fs::read(dir.path().join(FILE)).unwrap();
        let mut bodies: Vec<&[u8]> = written.chunks(10).collect();
        bodies.sort_unstable();
        let sent: Vec<Vec<u8>> = (0..100_u8).map(|number| vec![number; 10]).collect();
        assert_eq!(bodies, sent);
    }

    #[test]
    fn what_cannot_be_written_is_not_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, b"").unwrap();
        // Open for reading alone.
        let appender = Appender::to(File::open(&path).unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            for _ in 0..2 {
                let body = Bytes::from_static(b"body");
                assert!(appender.append(body).await.is_err());
            }
        });
    }
}
