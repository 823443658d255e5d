//! Threads that serve connections, each of which stays on one of them.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::connection::Connector;

/// After so many turns at most a thread looks at what has come meanwhile, on its connections and from other threads. A runtime
/// of several threads does after 61, which is soon where each takes ten microseconds; where clients make each of them
/// take two milliseconds, all who have the thread would wait for an eighth of a second.
const TURNS_BETWEEN_LOOKS: u32 = 5;

/// Threads for a [`Server`](crate::Server)'s connections. They end when this is dropped, and with them what they still do.
///
/// A runtime with several threads moves its tasks between them: one of them learns what has come on all connections, and
/// wakes the others, who take some of it. To answer a request takes ten microseconds, of which that is a good part. Here
/// each thread waits for its own connections, and a request is read, looked up and answered where it came. The threads
/// share no queue: who has a thread waits for the turns of all others that have it, of which long ones are taken one at
/// a time.
///
/// Jobs that are submitted over a connection run on its thread as well, unless their handlers have
/// [a runtime of their own](kjob_core::engine::EngineConfig::handlers).
///
/// ```
/// use std::num::NonZero;
/// use kjob_server::ConnectionThreads;
///
/// let threads = ConnectionThreads::start(NonZero::<usize>::MIN)?;
/// assert_eq!(threads.count(), 1);
/// # std::io::Result::Ok(())
/// ```
pub struct ConnectionThreads(Vec<Thread>);

/// One of them.
struct Thread {
    runtime: Handle,
    /// The thread ends when this is dropped.
    _stays: oneshot::Sender<()>,
    /// Hangs up when it has ended.
    ended: mpsc::Receiver<()>,
}

impl ConnectionThreads {
    /// Starts so many.
    ///
    /// # Errors
    /// The system gives no more threads, or files for them to wait with.
    pub fn start(count: NonZero<usize>) -> io::Result<Self> {
        let threads: io::Result<_> = (0..count.get()).map(|_| Thread::start()).collect();
        threads.map(Self)
    }

    /// Starts as many as the process may use processors.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn for_all_processors() -> io::Result<Self> {
        Self::start(thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN))
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Ends them, and waits for that for so long in all.
    pub fn stop(self, patience: Duration) {
        let end = Instant::now() + patience;
        // All are told first.
        let Self(threads) = self;
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.ended).collect();
        for ended in ends {
            // It never sends; when it has ended it hangs up.
            let _ = ended.recv_timeout(end.saturating_duration_since(Instant::now()));
        }
    }

    /// Their runtimes.
    pub(crate) fn runtimes(&self) -> Vec<Handle> {
        let Self(threads) = self;
        threads
            .iter()
            .map(|thread| thread.runtime.clone())
            .collect()
    }
}

impl fmt::Debug for ConnectionThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionThreads")
            .field(&self.count())
            .finish()
    }
}

impl Thread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(TURNS_BETWEEN_LOOKS)
            .global_queue_interval(TURNS_BETWEEN_LOOKS)
            .build()?;
        let handle = runtime.handle().clone();
        let (stays, stopped) = oneshot::channel::<()>();
        let (ends, ended) = mpsc::channel();
        let serve = move || {
            let _ends = ends;
            // Hung up, which is what it waits for.
            let _ = runtime.block_on(stopped);
            // Who blocks a thread of it is not waited for.
            runtime.shutdown_background();
        };
        // As long as the system shows names.
        let name = "kjob-connection".to_owned();
        thread::Builder::new().name(name).spawn(serve)?;
        Ok(Self {
            runtime: handle,
            _stays: stays,
            ended,
        })
    }
}

/// Where connections are served: there is always one.
#[derive(Debug)]
pub(crate) struct Seats {
    first: Seat,
    others: Vec<Seat>,
}

/// One thread, or one runtime of several.
#[derive(Debug)]
pub(crate) struct Seat {
    connector: Arc<Connector>,
    /// `None` is that of whoever accepts.
    runtime: Option<Handle>,
    taken: Arc<AtomicUsize>,
}

/// Counts a connection for its seat.
struct Taken(Arc<AtomicUsize>);

impl Seats {
    /// Those of these runtimes, each of which is one thread; if there are none, the one of the caller's runtime.
    pub(crate) fn new(connector: &Connector, runtimes: Vec<Handle>) -> Self {
        let seat = |runtime: Option<Handle>| Seat {
            connector: Arc::new(connector.for_runtime(runtime.as_ref())),
            runtime,
            taken: Arc::default(),
        };
        let mut runtimes = runtimes.into_iter().map(Some);
        Self {
            first: seat(runtimes.next().flatten()),
            others: runtimes.map(seat).collect(),
        }
    }

    /// Accepts a connection for the seat where the fewest are.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn accept(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, SocketAddr, &Seat)> {
        poll_fn(|context| {
            let seat = self.emptiest();
            // The runtime that it is accepted in is the one that waits for it.
            let _entered = seat.runtime.as_ref().map(Handle::enter);
            let accepted = ready!(listener.poll_accept(context));
            Poll::Ready(accepted.map(|(stream, peer)| (stream, peer, seat)))
        })
        .await
    }

    fn emptiest(&self) -> &Seat {
        let taken = |seat: &&Seat| seat.taken.load(Ordering::Relaxed);
        let others = self.others.iter().min_by_key(taken);
        others
            .filter(|seat| taken(seat) < taken(&&self.first))
            .unwrap_or(&self.first)
    }
}

impl Seat {
    /// Serves a connection that was accepted for it.
    pub(crate) fn serve<F: Future<Output = ()> + Send + 'static>(
        &self,
        tracker: &TaskTracker,
        serve: impl FnOnce(Arc<Connector>) -> F,
    ) {
        let taken = Taken::new(&self.taken);
        let serving = serve(self.connector.clone());
        let serving = async move {
            let _taken = taken;
            serving.await;
        };
        match &self.runtime {
            None => drop(tracker.spawn(serving)),
            Some(runtime) => drop(tracker.spawn_on(serving, runtime)),
        }
    }
}

impl Taken {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_end_when_they_are_told_and_what_they_do_goes_with_them() {
        let threads = ConnectionThreads::start(NonZero::new(3).unwrap()).unwrap();
        let (kept, gone) = mpsc::channel::<()>();
        for runtime in threads.runtimes() {
            let kept = kept.clone();
            runtime.spawn(async move {
                let _kept = kept;
                std::future::pending::<()>().await;
            });
        }
        drop(kept);
        assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Empty));
        threads.stop(Duration::from_secs(60));
        assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    /// A task that blocks one is not waited for longer than that.
    #[test]
    fn a_thread_that_does_not_end_is_left_behind() {
        let threads = ConnectionThreads::start(NonZero::<usize>::MIN).unwrap();
        let (blocked, is_blocked) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        threads.runtimes()[0].spawn(async move {
            blocked.send(()).unwrap();
            let _ = goes.recv();
        });
        is_blocked.recv().unwrap();
        threads.stop(Duration::from_millis(1));
        drop(go);
    }
}
