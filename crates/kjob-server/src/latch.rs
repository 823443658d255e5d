//! Latches: set once, for all who wait for it, and cheap to look at.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use tokio_util::sync::CancellationToken;

/// Something that happens once. Clones are the same.
///
/// Each connection looks at each of its turns whether it is to end. A [`CancellationToken`] takes a lock for that,
/// which is the same for all connections; this reads a word that nobody writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_set: AtomicBool,
    waiting: CancellationToken,
}

impl Latch {
    /// Sets it: for good.
    pub(crate) fn set(&self) {
        // First, so that whoever is woken sees it.
        self.0.is_set.store(true, Ordering::Release);
        self.0.waiting.cancel();
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Acquire)
    }

    /// Completes once it is set.
    pub(crate) async fn wait(&self) {
        let mut waiting = pin!(self.0.waiting.cancelled());
        let mut registered: Option<Waker> = None;
        poll_fn(|context| {
            if self.is_set() {
                return Poll::Ready(());
            }
            // Who is told already need not say so again.
            let waker = context.waker();
            if registered
                .as_ref()
                .is_some_and(|told| told.will_wake(waker))
            {
                return Poll::Pending;
            }
            registered = Some(waker.clone());
            waiting.as_mut().poll(context)
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_are_told_and_who_comes_later_need_not_wait() {
        let latch = Latch::default();
        let waits = || {
            let latch = latch.clone();
            tokio::spawn(async move { latch.wait().await })
        };
        let waiting = [waits(), waits()];
        yield_now().await;
        assert!(!latch.is_set() && waiting.iter().all(|task| !task.is_finished()));
        latch.set();
        for task in waiting {
            task.await.unwrap();
        }
        latch.wait().await;
        assert!(latch.is_set());
    }

    /// As a connection does: it is polled for other reasons as well, and may move to another task.
    #[tokio::test(start_paused = true)]
    async fn who_is_polled_by_another_task_is_told_there() {
        let latch = Latch::default();
        let setter = latch.clone();
        let mut waiting = Box::pin(async move { latch.wait().await });
        let polled = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context)));
        assert!(polled.await.is_pending());
        let elsewhere = tokio::spawn(async move {
            let mut turns = 0;
            tokio::select! {
                biased;
                () = &mut waiting => {}
                () = async { loop { turns += 1; tokio::time::sleep(Duration::from_millis(1)).await } } => {}
            }
            turns
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        setter.set();
        assert!(elsewhere.await.unwrap() > 5);
    }
}
