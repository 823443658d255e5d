//! A few threads that do blocking work, so that no async thread ever does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, RecvError, Sender, never, select_biased, unbounded};

use crate::panics::said;

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
/// has a context of its own. Where there are several, the first does only what is done at once, and the
/// last takes what takes long first, so that neither queue can keep the other waiting for ever. A thread
/// that is alone takes from both in turn. Work that panics ends nothing but itself.
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

/// Where a thread gets its work from.
struct Sources<C> {
    own: Receiver<Work<C>>,
    short: Receiver<Work<C>>,
    long: Receiver<Work<C>>,
    preference: Preference,
}

/// What a thread takes first, where there is work of both lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preference {
    Always(Length),
    /// This now, and then the other of the one that was taken.
    InTurn(Length),
}

impl<C: 'static> Pool<C> {
    /// Starts so many threads, each with the context that `fresh` makes for its number.
    pub(crate) fn start(
        name: &str,
        count: usize,
        fresh: impl Fn(usize) -> C + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let (short, short_work) = unbounded();
        let (long, long_work) = unbounded();
        let mut pool = Self {
            queues: Some(Queues { short, long }),
            each: Vec::new(),
            threads: Vec::new(),
        };
        for number in 0..count {
            let (own, own_work) = unbounded();
            let (is_first, is_last) = (number == 0, number + 1 == count);
            let only_short = is_first && !is_last;
            let mut sources = Sources {
                own: own_work,
                short: short_work.clone(),
                long: if only_short {
                    never()
                } else {
                    long_work.clone()
                },
                preference: match (is_first, is_last) {
                    (true, true) => Preference::InTurn(Length::Short),
                    (false, true) => Preference::Always(Length::Long),
                    _ => Preference::Always(Length::Short),
                },
            };
            let fresh = fresh.clone();
            let run = move || {
                let mut context = fresh(number);
                while let Ok(work) = sources.next() {
                    // What it leaves half done is its context, which nobody sees again, or is behind locks
                    // whose users know that.
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&mut context))) {
                        let said = said(&*panic);
                        tracing::error!(said, "work of the store panicked; other work goes on");
                        context = fresh(number);
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

impl<C> Sources<C> {
    /// Waits for work; fails when there is none left, and the pool is ending.
    fn next(&mut self) -> Result<Work<C>, RecvError> {
        use Length::{Long, Short};
        let (Preference::Always(first) | Preference::InTurn(first)) = self.preference;
        let (length, work) = match first {
            Short => select_biased! {
                recv(self.own) -> work => return work,
                recv(self.short) -> work => (Short, work),
                recv(self.long) -> work => (Long, work),
            },
            Long => select_biased! {
                recv(self.own) -> work => return work,
                recv(self.long) -> work => (Long, work),
                recv(self.short) -> work => (Short, work),
            },
        };
        if let Preference::InTurn(next) = &mut self.preference {
            *next = match length {
                Short => Long,
                Long => Short,
            };
        }
        // Both queues are closed together: where one is at its end, what the other still has is what is left.
        work.or_else(|_| self.short.try_recv())
            .or_else(|_| self.long.try_recv())
            .map_err(|_| RecvError)
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

    /// Each thread has its number.
    fn pool(threads: usize) -> Pool<usize> {
        Pool::start("test", threads, |number| number).unwrap()
    }

    /// Keeps the threads from taking anything, each until its sender is dropped.
    fn held(pool: &Pool<usize>) -> Vec<Sender<()>> {
        let (begun, begins) = unbounded();
        let gates: Vec<_> = pool.each.iter().map(|_| unbounded()).collect();
        let (let_go, held): (Vec<Sender<()>>, Vec<Receiver<()>>) = gates.into_iter().unzip();
        pool.submit_to_each(move |number| {
            let _ = begun.send(());
            let _ = held[*number].recv();
        });
        for _ in &let_go {
            begins.recv().unwrap();
        }
        let_go
    }

    /// Lets go of one of the threads, and tells in which order it does three pieces of work of each length.
    fn order(threads: usize, let_go: usize) -> Vec<Length> {
        let pool = pool(threads);
        let mut gates = held(&pool);
        let (done, told) = unbounded();
        for length in [Length::Short, Length::Long].repeat(3) {
            let done = done.clone();
            pool.submit(length, move |number| {
                let _ = done.send((*number, length));
            });
        }
        gates.remove(let_go);
        let only_short = let_go == 0 && threads > 1;
        let count = if only_short { 3 } else { 6 };
        let order: Vec<_> = told.iter().take(count).collect();
        assert!(order.iter().all(|(number, _)| *number == let_go));
        order.into_iter().map(|(_, length)| length).collect()
    }

    #[test]
    fn no_queue_keeps_the_other_waiting_for_ever() {
        use Length::{Long, Short};
        let short_first = [Short, Short, Short, Long, Long, Long];
        let long_first = [Long, Long, Long, Short, Short, Short];
        assert_eq!(order(2, 0), [Short; 3]);
        assert_eq!(order(2, 1), long_first);
        assert_eq!(order(3, 0), [Short; 3]);
        assert_eq!(order(3, 1), short_first);
        assert_eq!(order(3, 2), long_first);
        assert_eq!(order(1, 0), [Short, Long].repeat(3));
    }

    #[test]
    fn what_is_done_at_once_waits_for_nothing_that_takes_long() {
        let pool = pool(2);
        let (go_on, held) = unbounded::<()>();
        let (done, told) = unbounded();
        for _ in 0..3 {
            let (held, done) = (held.clone(), done.clone());
            pool.submit(Length::Long, move |_| {
                let _ = held.recv();
                let _ = done.send("long");
            });
        }
        let at_once = done.clone();
        pool.submit(Length::Short, move |_| {
            let _ = at_once.send("at once");
        });
        assert_eq!(told.recv().unwrap(), "at once");
        drop(go_on);
        assert!((0..3).all(|_| told.recv().unwrap() == "long"));
    }

    #[test]
    fn work_that_panics_ends_no_thread_and_leaves_no_context() {
        for (threads, length) in [(1, Length::Short), (1, Length::Long), (2, Length::Long)] {
            let pool = pool(threads);
            pool.submit(length, |number| {
                *number = 77;
                panic!("as it is meant to");
            });
            let (done, told) = unbounded();
            pool.submit(length, move |number| {
                let _ = done.send(*number);
            });
            assert_eq!(told.recv(), Ok(threads - 1));
        }
    }

    #[test]
    fn a_pool_that_ends_does_all_that_was_asked_for() {
        for threads in [1, 2, 4] {
            let pool = pool(threads);
            let (done, told) = unbounded();
            for number in 0..100 {
                let done = done.clone();
                let work = move |_: &mut usize| {
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
