//! The way of a progress report from a handler to the task that runs it.

use tokio::sync::watch;

/// The newest report of one run. Reports are joined: only the highest counts.
#[derive(Clone, Debug)]
pub(super) struct Progress(watch::Sender<u8>);

impl Progress {
    /// Nothing reported yet.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(super) fn report(&self, percent: u8) {
        let percent = percent.min(99);
        self.0.send_if_modified(|highest| {
            let rises = percent > *highest;
            *highest = percent.max(*highest);
            rises
        });
    }

    /// Completes once something above `seen` was reported, with what it was.
    pub(super) async fn above(&self, seen: u8) -> u8 {
        let mut reports = self.0.subscribe();
        let risen = reports
            .wait_for(|percent| *percent > seen)
            .await
            .map(|percent| *percent);
        match risen {
            Ok(percent) => percent,
            // The sender is `self`, which is there.
            Err(_) => std::future::pending().await,
        }
    }
}
