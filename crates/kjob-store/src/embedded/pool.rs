//! A few threads that do blocking work, so that no async thread ever does.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, unbounded};

type Work<C> = Box<dyn FnOnce(&mut C) + Send>;

/// Threads that share a queue; each has a context of its own.
///
/// The queue has no limit of its own: each entry belongs to a future that somebody waits for.
pub(crate) struct Pool<C> {
    queue: Option<Sender<Work<C>>>,
    /// One more for each thread: work that each of them must do.
    each: Vec<Sender<Work<C>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<C: 'static> Pool<C> {
    /// Starts a thread for each context.
    pub(crate) fn start(name: &str, contexts: impl IntoIterator<Item = C>) -> std::io::Result<Self>
    where
        C: Send,
    {
        let (queue, shared) = unbounded::<Work<C>>();
        let mut pool = Self {
            queue: Some(queue),
            each: Vec::new(),
            threads: Vec::new(),
        };
        for (number, mut context) in contexts.into_iter().enumerate() {
            let (own, mine) = unbounded::<Work<C>>();
            let shared = shared.clone();
            let run = move || {
                loop {
                    let work = crossbeam_channel::select_biased! {
                        recv(mine) -> work => work,
                        recv(shared) -> work => work,
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
    pub(crate) fn submit(&self, work: impl FnOnce(&mut C) + Send + 'static) {
        if let Some(queue) = &self.queue {
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
        self.queue = None;
        let here = thread::current().id();
        // A thread ends when the shared queue is empty and closed; its own stays open until then.
        for thread in self.threads.drain(..) {
            // The last owner may be one of the threads themselves.
            if thread.thread().id() != here {
                let _ = thread.join();
            }
        }
    }
}
