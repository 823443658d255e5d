//! Work that goes on when whoever waits for it goes away.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// A future that is polled to its end: dropped before, it becomes a task of its own.
///
/// A task from the start would do as well, and costs two changes of task where nobody goes away,
/// which is nearly always.
pub(super) struct ToEnd<F: Future<Output: Send> + Send + 'static> {
    /// `None` once it is over.
    work: Option<Pin<Box<F>>>,
    runtime: Handle,
}

impl<F: Future<Output: Send> + Send + 'static> ToEnd<F> {
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn new(work: F) -> Self {
        Self {
            work: Some(Box::pin(work)),
            runtime: Handle::current(),
        }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for ToEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Polled again after its end, like any future that has nothing to say any more.
        let Some(mut work) = self.work.take() else {
            return Poll::Pending;
        };
        // Out of its place meanwhile: what panicked is not gone on with.
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for ToEnd<F> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::{Notify, oneshot};

    use super::*;

    #[tokio::test]
    async fn it_goes_on_when_nobody_waits_any_more() {
        let (go_on, wait) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut work = Box::pin(ToEnd::new(async move {
            wait.await.unwrap();
            tell.send(7).unwrap();
        }));
        tokio::select! {
            biased;
            () = &mut work => panic!("nobody has told it to go on"),
            () = std::future::ready(()) => {}
        }
        drop(work);
        go_on.send(()).unwrap();
        assert_eq!(told.await, Ok(7));
    }

    #[tokio::test]
    async fn what_is_over_or_was_never_begun_is_done_once() {
        let done = Arc::new(AtomicUsize::new(0));
        let over = Arc::new(Notify::new());
        let work = || {
            let (done, over) = (done.clone(), over.clone());
            ToEnd::new(async move {
                done.fetch_add(1, Ordering::SeqCst);
                over.notify_one();
            })
        };
        work().await;
        over.notified().await;
        assert_eq!(done.load(Ordering::SeqCst), 1);
        drop(work());
        over.notified().await;
        assert_eq!(done.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_panicked_is_not_gone_on_with() {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        let caller = tokio::spawn(async move {
            ToEnd::new(async move {
                counted.fetch_add(1, Ordering::SeqCst);
                panic!("on purpose");
            })
            .await;
        });
        assert!(caller.await.unwrap_err().is_panic());
        tokio::task::yield_now().await;
        assert_eq!(polls.load(Ordering::SeqCst), 1);
    }
}
