//! Threads that serve connections, each of which stays on one of them.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::Connector;

/// After so many turns at most a thread looks at what has come on its connections. A runtime of several threads does after
/// 61, which is soon where each takes ten microseconds; where clients make each of them take two milliseconds, all who
/// have the thread would wait for an eighth of a second.
const TURNS_BETWEEN_LOOKS: u32 = 5;

/// What other threads have woken comes first: commits, reads, ends of handlers. There is no more of it than was asked, and
/// a connection whose turns are long is always there.
const TURNS_BEFORE_OTHERS: u32 = 1;

/// Threads for a [`Server`](crate::Server)'s connections. Clones are the same threads, which end with the last of them; what
/// they still do then is dropped.
///
/// A runtime with several threads moves its tasks between them: one of them learns what has come on all connections, and
/// wakes the others, who take some of it. To answer a request takes ten microseconds, of which that is a good part. Here
/// each thread waits for its own connections, and a request is read, looked up and answered where it came. The threads
/// share no queue: who has a thread waits for the turns of all others that have it, of which long ones are taken one at
/// a time.
///
/// Jobs that are submitted over a connection run on its thread as well, unless their handlers have
/// [a runtime of their own](kjob_core::engine::EngineConfig::handlers). They should, unless it is known of all that they never
/// block: one that does holds up all connections of the thread, its own cancel among them. Keep a clone until the engine is
/// shut down.
///
/// ```
/// use std::num::NonZero;
/// use kjob_server::ConnectionThreads;
///
/// let threads = ConnectionThreads::start(NonZero::<usize>::MIN)?;
/// assert_eq!(threads.count(), 1);
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct ConnectionThreads(Arc<Inner>);

struct Inner {
    threads: Vec<Thread>,
    stopping: CancellationToken,
}

/// One of them.
struct Thread {
    runtime: Handle,
    /// Hangs up when it has ended.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl ConnectionThreads {
    /// Starts so many.
    ///
    /// # Errors
    /// The system gives no more threads, or files for them to wait with.
    pub fn start(count: NonZero<usize>) -> io::Result<Self> {
        let mut inner = Inner {
            threads: Vec::new(),
            stopping: CancellationToken::new(),
        };
        for _ in 0..count.get() {
            inner.threads.push(Thread::start(&inner.stopping)?);
        }
        Ok(Self(Arc::new(inner)))
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
        self.0.threads.len()
    }

    /// Ends them, whoever has clones, and blocks until they have ended, for so long at most. Not to be called on one of
    /// them.
    pub fn stop(&self, patience: Duration) {
        let end = Instant::now() + patience;
        self.0.stopping.cancel();
        for thread in &self.0.threads {
            let ended = thread.ended.lock().unwrap_or_else(PoisonError::into_inner);
            // It never sends; when it has ended it hangs up.
            let _ = ended.recv_timeout(end.saturating_duration_since(Instant::now()));
        }
    }

    /// Their runtimes.
    fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.0.threads.iter().map(|thread| &thread.runtime)
    }
}

impl fmt::Debug for ConnectionThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionThreads")
            .field(&self.count())
            .finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

impl Thread {
    fn start(stopping: &CancellationToken) -> io::Result<Self> {
        let stopping = stopping.clone();
        let (started, has_started) = mpsc::channel();
        let (ends, ended) = mpsc::channel();
        // The runtime is made and dropped there: whoever starts threads may be in another one, which forbids it.
        let serve = move || {
            let _ends = ends;
            let runtime = Builder::new_current_thread()
                .enable_all()
                .event_interval(TURNS_BETWEEN_LOOKS)
                .global_queue_interval(TURNS_BEFORE_OTHERS)
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(runtime.handle().clone()));
            runtime.block_on(stopping.cancelled());
            // Who blocks a thread of it is not waited for.
            runtime.shutdown_background();
        };
        // As long as the system shows names.
        let name = "kjob-connection".to_owned();
        thread::Builder::new().name(name).spawn(serve)?;
        let runtime = has_started.recv().map_err(io::Error::other)??;
        Ok(Self {
            runtime,
            ended: Mutex::new(ended),
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
#[derive(Debug)]
pub(crate) struct Taken(Arc<AtomicUsize>);

impl Seats {
    /// Those of these threads; if there are none, the one of the caller's runtime.
    pub(crate) fn new(connector: &Connector, threads: Option<&ConnectionThreads>) -> Self {
        let seat = |runtime: Option<Handle>| Seat {
            connector: Arc::new(match &runtime {
                Some(runtime) => connector.for_runtime(runtime),
                None => connector.clone(),
            }),
            runtime,
            taken: Arc::default(),
        };
        let runtimes = threads.into_iter().flat_map(ConnectionThreads::runtimes);
        let mut runtimes = runtimes.cloned();
        Self {
            first: seat(runtimes.next()),
            others: runtimes.map(Some).map(seat).collect(),
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
        let seats = iter::once(&self.first).chain(&self.others);
        let emptiest = seats.min_by_key(|seat| seat.taken.load(Ordering::Relaxed));
        emptiest.unwrap_or(&self.first)
    }
}

impl Seat {
    /// Serves a connection that was accepted for it, and counts for it as long as the future has what it is given. It is not
    /// put into another future here, which would take as much memory again.
    pub(crate) fn serve<F: Future<Output = ()> + Send + 'static>(
        &self,
        tracker: &TaskTracker,
        serve: impl FnOnce(Arc<Connector>, Taken) -> F,
    ) {
        let serving = serve(self.connector.clone(), Taken::new(&self.taken));
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

    /// Gives each thread a task that never ends; hangs up once all of them were dropped.
    fn busy(threads: &ConnectionThreads) -> mpsc::Receiver<()> {
        let (kept, gone) = mpsc::channel();
        for runtime in threads.runtimes() {
            let kept = kept.clone();
            runtime.spawn(async move {
                let _kept = kept;
                std::future::pending::<()>().await;
            });
        }
        gone
    }

    #[test]
    fn they_end_when_they_are_told_and_what_they_do_goes_with_them() {
        let threads = ConnectionThreads::start(NonZero::new(3).unwrap()).unwrap();
        let gone = busy(&threads);
        assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Empty));
        let clone = threads.clone();
        threads.stop(Duration::from_secs(60));
        drop(clone);
        assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn they_end_with_the_last_clone() {
        let threads = ConnectionThreads::start(NonZero::<usize>::MIN).unwrap();
        let gone = busy(&threads);
        drop(threads.clone());
        assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(threads);
        assert_eq!(gone.recv(), Err(mpsc::RecvError));
    }

    /// What other threads wake is not kept waiting by a task that is always ready, nor is what comes to its connections.
    #[test]
    fn a_task_that_is_always_ready_is_not_in_the_way_of_what_others_wake() {
        let threads = ConnectionThreads::start(NonZero::<usize>::MIN).unwrap();
        let runtime = threads.runtimes().next().unwrap();
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = turns.clone();
        let (begun, has_begun) = mpsc::channel();
        runtime.spawn(poll_fn(move |context| {
            // Its turn lasts until all of these are there.
            if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                let (go, goes) = mpsc::channel::<()>();
                begun.send(go).unwrap();
                let _ = goes.recv();
            }
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let go = has_begun.recv().unwrap();
        let (told, seen) = mpsc::channel();
        for _ in 0..20 {
            let (turns, told) = (turns.clone(), told.clone());
            runtime.spawn(async move { told.send(turns.load(Ordering::Relaxed)).unwrap() });
        }
        drop((go, told));
        let seen: Vec<usize> = seen.iter().collect();
        assert_eq!(seen.len(), 20);
        assert!(seen.iter().all(|turns| *turns <= 2), "{seen:?}");
    }

    /// A task that blocks one is not waited for longer than that.
    #[test]
    fn a_thread_that_does_not_end_is_left_behind() {
        let threads = ConnectionThreads::start(NonZero::<usize>::MIN).unwrap();
        let (blocked, is_blocked) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        threads.runtimes().next().unwrap().spawn(async move {
            blocked.send(()).unwrap();
            let _ = goes.recv();
        });
        is_blocked.recv().unwrap();
        threads.stop(Duration::from_millis(1));
        drop(go);
    }
}
