//! The way of a progress report from a handler to the task that runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// The newest report of one run. Reports are joined: only the highest counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Reported>);

#[derive(Debug, Default)]
struct Reported {
    percent: AtomicU8,
    risen: Notify,
}

impl Progress {
    pub(super) fn report(&self, percent: u8) {
        let percent = percent.min(99);
        // The value stands alone: nothing else is published with it.
        if self.0.percent.fetch_max(percent, Ordering::Relaxed) < percent {
            self.0.risen.notify_one();
        }
    }

    /// Completes once something above `seen` was reported, with what it was.
    pub(super) async fn above(&self, seen: u8) -> u8 {
        loop {
            let percent = self.0.percent.load(Ordering::Relaxed);
            if percent > seen {
                return percent;
            }
            self.0.risen.notified().await;
        }
    }
}
