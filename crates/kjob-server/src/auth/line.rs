//! Lines of those who wait for one of a few places.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

/// Does something with one of these places, once there is one. `None` if it panics, or if the runtime ends.
///
/// Whoever asks may be a request that is polled in turns of its own only. A place that it was given would sleep
/// with it, and all who log in would wait for both, so a task waits for it, which runs at once when it is woken.
/// Who goes before leaves the line; what has begun goes on to its end.
pub(super) async fn in_place<T, F>(
    places: &Arc<Semaphore>,
    work: impl FnOnce(OwnedSemaphorePermit) -> F + Send + 'static,
) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let places = places.clone();
    if let Ok(place) = places.clone().try_acquire_owned() {
        return tokio::spawn(work(place)).await.ok();
    }
    let waits = async move {
        let place = places.acquire_owned().await.ok()?;
        tokio::spawn(work(place)).await.ok()
    };
    let waits = AbortOnDropHandle::new(tokio::spawn(waits));
    waits.await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    /// Polls once, as who is polled in turns of their own does, and then not for a long time.
    async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
        let polled = poll_fn(|context| {
            Poll::Ready(match future.as_mut().poll(context) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => None,
            })
        });
        let polled = polled.await;
        tokio::task::yield_now().await;
        polled
    }

    async fn give_back<T>(place: OwnedSemaphorePermit, answer: T) -> T {
        drop(place);
        answer
    }

    /// The bug: a place was given to a request that stood in a long line for its own turn, and slept with it.
    #[tokio::test]
    async fn who_is_not_polled_keeps_no_place_from_others() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().acquire_owned().await.unwrap();
        let mut sleeps = Box::pin(in_place(&places, |place| give_back(place, "sleeps")));
        let mut waits = Box::pin(in_place(&places, |place| give_back(place, "waits")));
        assert_eq!(poll_once(sleeps.as_mut()).await, None);
        assert_eq!(poll_once(waits.as_mut()).await, None);
        drop(place);
        let in_time = tokio::time::timeout(Duration::from_secs(30), waits).await;
        assert_eq!(in_time, Ok(Some("waits")));
        assert_eq!(places.available_permits(), 1, "also of the one that sleeps");
        assert_eq!(sleeps.await, Some("sleeps"));
    }

    #[tokio::test]
    async fn who_goes_leaves_the_line_and_what_has_begun_goes_on() {
        let places = Arc::new(Semaphore::new(1));
        let go_on = Arc::new(Semaphore::new(0));
        let done = Arc::new(AtomicUsize::new(0));
        let work = || {
            let (done, go_on) = (done.clone(), go_on.clone());
            |place| async move {
                go_on.acquire().await.unwrap().forget();
                done.fetch_add(1, Ordering::Relaxed);
                drop(place);
            }
        };
        // As soon as it has a place it goes on, whoever waits for it.
        let mut begins = Box::pin(in_place(&places, work()));
        assert_eq!(poll_once(begins.as_mut()).await, None);
        let mut goes = Box::pin(in_place(&places, work()));
        assert_eq!(poll_once(goes.as_mut()).await, None);
        drop((goes, begins));
        go_on.add_permits(3);
        assert_eq!(in_place(&places, work()).await, Some(()));
        assert_eq!(done.load(Ordering::Relaxed), 2, "one has gone");
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_panic_gives_the_place_back() {
        let places = Arc::new(Semaphore::new(1));
        let panics = in_place(&places, |_place| async {
            panic!("a panic that the test asks for");
        });
        assert_eq!(panics.await, None::<()>);
        assert_eq!(places.available_permits(), 1);
    }
}
