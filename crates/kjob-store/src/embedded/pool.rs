//! A few threads that do blocking work, so that no async thread ever does.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{RecvError, Sender, never, unbounded};

type Work<C> = Box<dyn FnOnce(&mut C) + Send>;

/// How long a piece of work takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// It is done at once.
    Short,
    /// Others would wait for it.
    Long,
}

/// Threads that share two queues, one for what is done at once and one for what takes long; each thread
/// has a context of its own. What is done at once comes first, and where there are several threads one of
/// them does nothing else.
///
/// The queues have no limit of their own: each entry belongs to a future that somebody waits for.
pub(crate) struct Pool<C> {
    queues: Option<Queues<C>>,
    /// One more for each thread: work that each of them must do.
    each: Vec<Sender<Work<C>>>,
    threads: Vec<JoinHandle<()>>,
}

struct Queues<C> {
    short: Sender<Work<C>>,
    long: Sender<Work<C>>,
}

impl<C: 'static> Pool<C> {
    /// Starts a thread for each context.
    pub(crate) fn start(name: &str, contexts: impl IntoIterator<Item = C>) -> std::io::Result<Self>
    where
        C: Send,
    {
        let (short, shared) = unbounded::<Work<C>>();
        let (long, shared_long) = unbounded::<Work<C>>();
        let contexts: Vec<C> = contexts.into_iter().collect();
        let count = contexts.len();
        let mut pool = Self {
            queues: Some(Queues { short, long }),
            each: Vec::new(),
            threads: Vec::new(),
        };
        for (number, mut context) in contexts.into_iter().enumerate() {
            let (own, mine) = unbounded::<Work<C>>();
            let shared = shared.clone();
            let takes_long = count == 1 || number > 0;
            let shared_long = if takes_long {
                shared_long.clone()
            } else {
                never()
            };
            let run = move || {
                loop {
                    let work = crossbeam_channel::select_biased! {
                        recv(mine) -> work => work,
                        recv(shared) -> work => work.or_else(|_| shared_long.try_recv().map_err(|_| RecvError)),
                        recv(shared_long) -> work => work,
                    };
                    match work {
                        Ok(work) => work(&mut context),
                        Err(_) => return,
                    }
                }
            };
            let thread = thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(run)?;
            pool.each.push(own);
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Has one of the threads do `work`. Lost if the pool is stopping.
    pub(crate) fn submit(&self, length: Length, work: impl FnOnce(&mut C) + Send + 'static) {
        if let Some(queues) = &self.queues {
            let queue = match length {
                Length::Short => &queues.short,
                Length::Long => &queues.long,
            };
            let _ = queue.send(Box::new(work));
        }
    }

    /// Has every thread do `work`, before anything that is still in the queue.
    pub(crate) fn submit_to_each(&self, work: impl Fn(&mut C) + Clone + Send + 'static) {
        for own in &self.each {
            let work = work.clone();
            let _ = own.send(Box::new(move |context| work(context)));
        }
    }
}

impl<C> Drop for Pool<C> {
    /// Lets the threads finish what was asked for, and waits for them.
    fn drop(&mut self) {
        self.queues = None;
        let here = thread::current().id();
        // A thread ends when the shared queues are empty and closed; its own stays open until then.
        for thread in self.threads.drain(..) {
            // The last owner may be one of the threads themselves.
            if thread.thread().id() != here {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn pool(threads: usize) -> Pool<()> {
        Pool::start("test", std::iter::repeat_n((), threads)).unwrap()
    }

    #[test]
    fn what_is_done_at_once_waits_for_nothing_that_takes_long() {
        let pool = pool(2);
        let (go_on, held) = unbounded::<()>();
        let (done, told) = unbounded();
        for _ in 0..3 {
            let (held, done) = (held.clone(), done.clone());
            pool.submit(Length::Long, move |()| {
                let _ = held.recv();
                let _ = done.send("long");
            });
        }
        let at_once = done.clone();
        pool.submit(Length::Short, move |()| {
            let _ = at_once.send("at once");
        });
        assert_eq!(told.recv().unwrap(), "at once");
        drop(go_on);
        assert!((0..3).all(|_| told.recv().unwrap() == "long"));
    }

    #[test]
    fn a_pool_that_ends_does_all_that_was_asked_for() {
        for threads in [1, 2, 4] {
            let pool = pool(threads);
            let (done, told) = unbounded();
            for number in 0..100 {
                let done = done.clone();
                let work = move |_: &mut ()| {
                    let _ = done.send(number);
                };
                let length = [Length::Short, Length::Long][number % 2];
                pool.submit(length, work);
            }
            drop((pool, done));
            assert_eq!(told.iter().count(), 100, "{threads} threads");
        }
    }
}
