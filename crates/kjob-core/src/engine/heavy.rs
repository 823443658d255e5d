//! Work that would hold up a thread of the runtime.

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

/// Turns of heavy work: decoding, unpacking, checking or turning so many bytes that others would
/// feel it. Clones share their turns.
///
/// Work that is not heavy is done on the spot, as changing threads costs more than it saves. Heavy
/// work waits for its turn, and is done on a thread for blocking work; there are few turns, so that
/// it leaves a processor to everybody else.
///
/// ```
/// use kjob_core::engine::HeavyWork;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let heavy = HeavyWork::default();
/// let text = "x".repeat(1 << 20);
/// let count = heavy.run(text.len(), move || text.chars().count()).await;
/// assert_eq!(count, Some(1 << 20));
/// # }
/// ```
#[derive(Clone)]
pub struct HeavyWork {
    turns: Arc<Semaphore>,
    at_once: usize,
}

impl HeavyWork {
    /// How many bytes make work heavy. Decoding so much JSON takes some 100 µs, and checking it by a
    /// schema longer, which would hold up others.
    pub const LEN_MIN: usize = 128 << 10;

    /// So many turns at a time; at least one.
    pub fn new(at_once: usize) -> Self {
        let at_once = at_once.clamp(1, Semaphore::MAX_PERMITS);
        let turns = Arc::new(Semaphore::new(at_once));
        Self { turns, at_once }
    }

    /// Does work on `len` bytes: here, or in its turn elsewhere if they are many. Goes on to its
    /// end also if this future is dropped once it has begun. `None` if the runtime ends.
    ///
    /// # Panics
    /// If the work does.
    pub async fn run<T: Send + 'static>(
        &self,
        len: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if len < Self::LEN_MIN {
            return Some(work());
        }
        let turns = self.turns.clone();
        let done = match turns.clone().try_acquire_owned() {
            Ok(turn) => in_turn(turn, work).await,
            // The caller may be a request that is polled in turns of its own only. A turn of ours that it was
            // given would sleep with it, so a task waits for it, which runs at once when it is woken.
            Err(_) => {
                let waits = async move {
                    // Never closed, so there is always a turn.
                    let turn = turns.acquire_owned().await;
                    in_turn(turn, work).await
                };
                let waits = AbortOnDropHandle::new(tokio::spawn(waits));
                waits.await.flatten()
            }
        };
        match done {
            Ok(done) => Some(done),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that shuts down cancels such work.
                Err(_) => None,
            },
        }
    }
}

/// Does work on a thread for it. The turn is kept by the work itself: a caller who goes away does not end it.
async fn in_turn<T: Send + 'static, Turn: Send + 'static>(
    turn: Turn,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let work = move || {
        let _turn = turn;
        work()
    };
    tokio::task::spawn_blocking(work).await
}

impl Default for HeavyWork {
    /// One turn for each processor but one, if there is another. Dozens at once would leave the few
    /// threads of a runtime hardly any time.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::new(processors.saturating_sub(1))
    }
}

impl fmt::Debug for HeavyWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeavyWork")
            .field("at_once", &self.at_once)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn only_work_on_many_bytes_goes_to_another_thread() {
        let heavy = HeavyWork::new(1);
        let here = thread::current().id();
        let of = |len| heavy.run(len, || thread::current().id());
        assert_eq!(of(HeavyWork::LEN_MIN - 1).await, Some(here));
        assert_ne!(of(HeavyWork::LEN_MIN).await, Some(here));
    }

    #[tokio::test]
    async fn a_turn_is_held_until_the_work_is_done_and_then_given_on() {
        let heavy = HeavyWork::new(1);
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
        let first = {
            let (heavy, begun) = (heavy.clone(), begun.clone());
            tokio::spawn(async move {
                let work = move || {
                    begun.send("first").unwrap();
                    wait.recv()
                };
                heavy.run(HeavyWork::LEN_MIN, work).await
            })
        };
        assert_eq!(has_begun.recv().await, Some("first"));
        // Whoever gives up while the work is done does not free its turn.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let second = tokio::spawn(async move {
            let work = move || begun.send("second").unwrap();
            heavy.run(HeavyWork::LEN_MIN, work).await
        });
        tokio::task::yield_now().await;
        assert!(has_begun.try_recv().is_err());
        go_on.send(()).unwrap();
        assert_eq!(has_begun.recv().await, Some("second"));
        assert_eq!(second.await.unwrap(), Some(()));
    }

    /// The bug: a turn was given to a request that stood in a long line for its own, and slept with it.
    #[tokio::test]
    async fn who_is_not_polled_keeps_no_turn_from_others() {
        let heavy = HeavyWork::new(1);
        let turn = heavy.turns.clone().acquire_owned().await.unwrap();
        let mut sleeps = Box::pin(heavy.run(HeavyWork::LEN_MIN, || "sleeps"));
        let mut waits = Box::pin(heavy.run(HeavyWork::LEN_MIN, || "waits"));
        assert_eq!((&mut sleeps).now_or_never(), None);
        tokio::task::yield_now().await;
        assert_eq!((&mut waits).now_or_never(), None);
        drop(turn);
        let in_time = tokio::time::timeout(Duration::from_secs(30), waits).await;
        assert_eq!(in_time, Ok(Some("waits")));
        assert_eq!(sleeps.await, Some("sleeps"));
    }

    #[tokio::test]
    async fn who_goes_before_their_turn_leaves_the_line_and_nothing_is_done() {
        let heavy = HeavyWork::new(1);
        let turn = heavy.turns.clone().acquire_owned().await.unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        let mut goes = Box::pin(heavy.run(HeavyWork::LEN_MIN, move || done.send(())));
        assert!((&mut goes).now_or_never().is_none());
        tokio::task::yield_now().await;
        drop(goes);
        drop(turn);
        assert_eq!(heavy.run(HeavyWork::LEN_MIN, || 7).await, Some(7));
        assert!(is_done.recv().is_err(), "it was never begun");
    }

    #[tokio::test]
    async fn a_panic_is_that_of_the_caller_and_gives_the_turn_back() {
        let heavy = HeavyWork::new(1);
        let panics = {
            let heavy = heavy.clone();
            let work = || -> () { panic!("a panic that the test asks for") };
            tokio::spawn(async move { heavy.run(HeavyWork::LEN_MIN, work).await })
        };
        assert!(panics.await.unwrap_err().is_panic());
        assert_eq!(heavy.run(HeavyWork::LEN_MIN, || 7).await, Some(7));
    }
}
