//! Steps that gather while batches are under way, and the lanes that carry them off together.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kjob_core::StoreError;
use tokio::sync::{Notify, oneshot};

use super::error::{is_of_a_row, is_without_part, sql};
use super::finish::{CancelRun, End, Requeue};
use super::gets::Get;
use super::session::{Link, Session};
use super::shared::Shared;
use super::start::{Progress, Start};
use super::submit::Submit;
use crate::panics::{panicked, said};

/// A step that goes with others of its kind in one statement.
#[async_trait]
pub(crate) trait Step: Send + Sync + Sized + 'static {
    /// What it gives where it was done.
    type Answer: Send + 'static;

    /// For errors.
    const DOING: &'static str;

    /// Whether it changes anything.
    const WRITES: bool = true;

    /// The queue of its kind.
    fn queue(queues: &mut Queues) -> &mut VecDeque<Pending<Self>>;

    /// How many bytes it brings along.
    fn bytes(&self) -> usize {
        0
    }

    /// Does all that can be done, in one round trip; gives what was, by its place among `steps`. What is not
    /// there was not done, and why is to be looked up.
    async fn run(
        lane: &Lane,
        session: &Session,
        steps: &[&Self],
    ) -> Result<Vec<(usize, Self::Answer)>, tokio_postgres::Error>;

    /// Makes what was missing, after an error that says that something was.
    async fn prepare(_: &Shared, _: &[&Self]) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A step, and who waits for it.
pub(crate) struct Pending<S: Step> {
    step: S,
    reply: oneshot::Sender<Result<Option<S::Answer>, StoreError>>,
}

/// What waits for a lane, by its kind.
#[derive(Default)]
pub(crate) struct Queues {
    pub(crate) submits: VecDeque<Pending<Submit>>,
    pub(crate) starts: VecDeque<Pending<Start>>,
    pub(crate) progress: VecDeque<Pending<Progress>>,
    pub(crate) ends: VecDeque<Pending<End>>,
    pub(crate) requeues: VecDeque<Pending<Requeue>>,
    pub(crate) cancels: VecDeque<Pending<CancelRun>>,
    pub(crate) gets: VecDeque<Pending<Get>>,
    /// The kind that has the next turn.
    next: usize,
    is_closed: bool,
}

/// Where steps wait.
#[derive(Default)]
pub(crate) struct Gathering {
    queues: Mutex<Queues>,
    arrived: Notify,
    batches: AtomicU64,
}

/// A connection that carries batches, and whose row of the usage it writes.
pub(crate) struct Lane {
    pub(crate) link: Link,
    pub(crate) tally: i64,
    pub(crate) shared: Arc<Shared>,
    /// From where: what is read waits for nothing that is written.
    pub(crate) from: fn(&Shared) -> &Gathering,
}

/// Some steps of one kind.
trait Batch: Send {
    fn run<'a>(self: Box<Self>, lane: &'a Lane) -> BoxFuture<'a, ()>;
}

impl Gathering {
    /// Has a step done. `None` where it cannot be, for a reason that is to be looked up.
    pub(crate) async fn ask<S: Step>(&self, step: S) -> Result<Option<S::Answer>, StoreError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut queues = self.lock();
            if queues.is_closed {
                return Err(StoreError::Closed);
            }
            S::queue(&mut queues).push_back(Pending { step, reply });
        }
        self.arrived.notify_one();
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Takes no more steps; those that wait are done.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// How many batches were begun.
    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// The next batch, as soon as there is a step; `None` once it is closed and nothing waits.
    async fn next(&self, shared: &Shared) -> Option<Box<dyn Batch>> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut queues = self.lock();
                if let Some(batch) = queues.take(shared) {
                    self.batches.fetch_add(1, Ordering::Relaxed);
                    return Some(batch);
                }
                if queues.is_closed {
                    // The others are to see it too.
                    self.arrived.notify_one();
                    return None;
                }
            }
            arrived.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// What waits of the kind whose turn it is, or of the next of which something does.
    fn take(&mut self, shared: &Shared) -> Option<Box<dyn Batch>> {
        const KINDS: usize = 7;
        for _ in 0..KINDS {
            let kind = self.next;
            self.next = (kind + 1) % KINDS;
            let batch = match kind {
                0 => batch::<Submit>(self, shared),
                1 => batch::<End>(self, shared),
                2 => batch::<Start>(self, shared),
                3 => batch::<Progress>(self, shared),
                4 => batch::<Requeue>(self, shared),
                5 => batch::<CancelRun>(self, shared),
                _ => batch::<Get>(self, shared),
            };
            if batch.is_some() {
                return batch;
            }
        }
        None
    }
}

/// The longest waiting steps of a kind, as many as go together.
fn batch<S: Step>(queues: &mut Queues, shared: &Shared) -> Option<Box<dyn Batch>> {
    let options = &shared.options;
    let queue = S::queue(queues);
    let mut steps = Vec::new();
    let mut bytes = 0_usize;
    while steps.len() < options.batch_max.max(1)
        && let Some(first) = queue.front()
    {
        bytes = bytes.saturating_add(first.step.bytes());
        if !steps.is_empty() && bytes > options.batch_bytes_max {
            break;
        }
        steps.extend(queue.pop_front());
    }
    (!steps.is_empty()).then(|| Box::new(steps) as Box<dyn Batch>)
}

/// What was done, or why the database did not, or why it could not be asked.
type Done<S> = Result<Result<Vec<(usize, <S as Step>::Answer)>, tokio_postgres::Error>, StoreError>;

impl Lane {
    /// Carries batches until there are no more.
    pub(crate) async fn run(self) {
        let shared = Arc::clone(&self.shared);
        while let Some(batch) = (self.from)(&shared).next(&shared).await {
            batch.run(&self).await;
        }
        self.link.close();
    }

    /// Does all of them or none. A panic ends nothing but that: the lane goes on, on another connection, as nobody
    /// knows what this one was in the middle of.
    async fn commit<S: Step>(&self, steps: &[&S]) -> Done<S> {
        match AssertUnwindSafe(self.commit_all(steps))
            .catch_unwind()
            .await
        {
            Ok(done) => done,
            Err(panic) => {
                let (said, doing) = (said(&*panic), S::DOING);
                tracing::error!(
                    said,
                    doing,
                    "work of the store panicked; other work goes on"
                );
                self.link.close();
                Err(panicked(doing))
            }
        }
    }

    /// Does all of them or none, and tells who counts that.
    async fn commit_all<S: Step>(&self, steps: &[&S]) -> Done<S> {
        let begun = Instant::now();
        let mut done = self.try_all(steps).await;
        if let Ok(Err(error)) = &done
            && is_without_part(error)
        {
            done = match S::prepare(&self.shared, steps).await {
                Ok(()) => self.try_all(steps).await,
                Err(error) => Err(error),
            };
        }
        if S::WRITES {
            let observer = &self.shared.options.observer;
            observer.committed(steps.len(), begun.elapsed(), matches!(done, Ok(Ok(_))));
        }
        done
    }

    async fn try_all<S: Step>(&self, steps: &[&S]) -> Done<S> {
        self.link
            .attempt(|session| Box::pin(async move { S::run(self, &session, steps).await }))
            .await
    }
}

impl<S: Step> Batch for Vec<Pending<S>> {
    fn run<'a>(self: Box<Self>, lane: &'a Lane) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let (steps, replies): (Vec<S>, Vec<_>) =
                self.into_iter().map(|it| (it.step, it.reply)).unzip();
            let all: Vec<&S> = steps.iter().collect();
            match lane.commit(&all).await {
                Ok(Ok(answers)) => answer::<S>(answers, replies),
                Ok(Err(error)) if all.len() > 1 && is_of_a_row(&error) => {
                    // So that the one which the database does not take harms itself alone.
                    for (step, reply) in all.into_iter().zip(replies) {
                        match lane.commit(&[step]).await {
                            Ok(Ok(answers)) => answer::<S>(answers, vec![reply]),
                            Ok(Err(error)) => fail::<S>(sql(S::DOING)(error), vec![reply]),
                            Err(error) => fail::<S>(error, vec![reply]),
                        }
                    }
                }
                Ok(Err(error)) => fail::<S>(sql(S::DOING)(error), replies),
                Err(error) => fail::<S>(error, replies),
            }
        })
    }
}

type Replies<S> = Vec<oneshot::Sender<Result<Option<<S as Step>::Answer>, StoreError>>>;

// That nobody waits for an answer any more is no failure.

fn answer<S: Step>(answers: Vec<(usize, S::Answer)>, replies: Replies<S>) {
    let mut replies: Vec<_> = replies.into_iter().map(Some).collect();
    for (place, answer) in answers {
        if let Some(reply) = replies.get_mut(place).and_then(Option::take) {
            let _ = reply.send(Ok(Some(answer)));
        }
    }
    for reply in replies.into_iter().flatten() {
        let _ = reply.send(Ok(None));
    }
}

fn fail<S: Step>(error: StoreError, replies: Replies<S>) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}
