//! Steps that gather while batches are under way, and the lanes that carry them off together.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kjob_core::StoreError;
use tokio::sync::{Notify, oneshot};

use super::error::{is_of_a_row, is_without_part, sql};
use super::finish::{CancelRun, End, Requeue};
use super::gets::Get;
use super::options::PostgresOptions;
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

/// While a lane is at work, another helps where so many of a kind wait, or all that a batch takes. Fewer go with the
/// next batch: each costs the database as much as some tens of steps.
const HELP_MIN: usize = 64;

/// How long a batch may be under way before what gathers meanwhile is carried by another lane, however little that is.
const PATIENCE: Duration = Duration::from_millis(4);

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
    /// Lanes that have a batch under way.
    at_work: usize,
    /// An idle lane looks after a while whether those at work are long about it.
    is_watched: bool,
    is_closed: bool,
}

/// Where steps wait.
pub(crate) struct Gathering {
    /// The most steps in a batch, and the most bytes.
    batch_max: usize,
    batch_bytes_max: usize,
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

/// That a lane is at work.
struct AtWork<'a>(&'a Gathering);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.lock().at_work -= 1;
    }
}

impl Gathering {
    pub(crate) fn new(options: &PostgresOptions) -> Self {
        Self {
            batch_max: options.batch_max.max(1),
            batch_bytes_max: options.batch_bytes_max,
            queues: Mutex::default(),
            arrived: Notify::new(),
            batches: AtomicU64::new(0),
        }
    }

    /// Has a step done. `None` where it cannot be, for a reason that is to be looked up.
    pub(crate) async fn ask<S: Step>(&self, step: S) -> Result<Option<S::Answer>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let is_worth_a_look = {
            let mut queues = self.lock();
            if queues.is_closed {
                return Err(StoreError::Closed);
            }
            let queue = S::queue(&mut queues);
            queue.push_back(Pending { step, reply });
            let waiting = queue.len();
            queues.at_work == 0 || !queues.is_watched || waiting >= self.help_min()
        };
        if is_worth_a_look {
            self.arrived.notify_one();
        }
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

    /// The next batch, as soon as there is enough for one; `None` once it is closed and nothing waits.
    async fn next(&self) -> Option<(Box<dyn Batch>, AtWork<'_>)> {
        let mut is_patient = true;
        loop {
            let arrived = self.arrived.notified();
            let is_watching = {
                let mut queues = self.lock();
                let is_alone = queues.at_work == 0 || queues.is_closed;
                let min = match is_alone || !is_patient {
                    true => 1,
                    false => self.help_min(),
                };
                if let Some(batch) = queues.take(self, min) {
                    queues.at_work += 1;
                    self.batches.fetch_add(1, Ordering::Relaxed);
                    return Some((batch, AtWork(self)));
                }
                if queues.is_closed {
                    // The others are to see it too.
                    self.arrived.notify_one();
                    return None;
                }
                let is_watching = !is_alone && !queues.is_watched;
                queues.is_watched |= is_watching;
                is_watching
            };
            is_patient = true;
            if is_watching {
                let begun = self.batches();
                let woken = tokio::time::timeout(PATIENCE, arrived).await;
                self.lock().is_watched = false;
                is_patient = woken.is_ok() || self.batches() != begun;
            } else {
                arrived.await;
            }
        }
    }

    fn help_min(&self) -> usize {
        HELP_MIN.min(self.batch_max)
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// What waits of the kind whose turn it is, or of the next of which at least so many do.
    fn take(&mut self, limits: &Gathering, min: usize) -> Option<Box<dyn Batch>> {
        const KINDS: usize = 7;
        for _ in 0..KINDS {
            let kind = self.next;
            self.next = (kind + 1) % KINDS;
            let batch = match kind {
                0 => batch::<Submit>(self, limits, min),
                1 => batch::<End>(self, limits, min),
                2 => batch::<Start>(self, limits, min),
                3 => batch::<Progress>(self, limits, min),
                4 => batch::<Requeue>(self, limits, min),
                5 => batch::<CancelRun>(self, limits, min),
                _ => batch::<Get>(self, limits, min),
            };
            if batch.is_some() {
                return batch;
            }
        }
        None
    }
}

/// The longest waiting steps of a kind, as many as go together; none where fewer than so many wait.
fn batch<S: Step>(queues: &mut Queues, limits: &Gathering, min: usize) -> Option<Box<dyn Batch>> {
    let queue = S::queue(queues);
    if queue.len() < min {
        return None;
    }
    let mut steps = Vec::new();
    let mut bytes = 0_usize;
    while steps.len() < limits.batch_max
        && let Some(first) = queue.front()
    {
        bytes = bytes.saturating_add(first.step.bytes());
        if !steps.is_empty() && bytes > limits.batch_bytes_max {
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
        while let Some((batch, _at_work)) = (self.from)(&shared).next().await {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kjob_core::{JobId, Parts, Timestamp};
    use tokio::time;

    use super::*;

    fn gathering() -> Arc<Gathering> {
        Arc::new(Gathering::new(&PostgresOptions::default()))
    }

    /// Steps that wait from now on.
    async fn ask(gathering: &Arc<Gathering>, count: usize) {
        for number in 0..count {
            let id = JobId::new(number as i64 + 1).unwrap();
            let get = Get::new(id, Parts::NONE, Timestamp::from_millis(0));
            let gathering = Arc::clone(gathering);
            tokio::spawn(async move { gathering.ask(get).await });
        }
        // The runtime runs some tens of tasks at a time.
        for _ in 0..=count / 16 {
            tokio::task::yield_now().await;
        }
    }

    fn waiting(gathering: &Gathering) -> usize {
        gathering.lock().gets.len()
    }

    #[tokio::test(start_paused = true)]
    async fn few_steps_go_with_the_next_batch_of_the_lane_at_work() {
        let gathering = gathering();
        ask(&gathering, 1).await;
        let (_, at_work) = gathering.next().await.unwrap();
        let mut other = Box::pin(gathering.next());
        ask(&gathering, HELP_MIN - 1).await;
        assert!(futures_util::poll!(&mut other).is_pending());
        assert_eq!(waiting(&gathering), HELP_MIN - 1);
        drop(at_work);
        let _batch = gathering.next().await.unwrap();
        assert_eq!((waiting(&gathering), gathering.batches()), (0, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn many_steps_are_carried_by_another_lane_at_once() {
        let gathering = gathering();
        ask(&gathering, 1).await;
        let _first = gathering.next().await.unwrap();
        let other = tokio::spawn({
            let gathering = Arc::clone(&gathering);
            async move { gathering.next().await.map(drop) }
        });
        ask(&gathering, 1).await;
        let begun = time::Instant::now();
        ask(&gathering, HELP_MIN - 1).await;
        other.await.unwrap().unwrap();
        assert_eq!((waiting(&gathering), begun.elapsed()), (0, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_long_for_a_lane_that_is_long_about_its_work() {
        let gathering = gathering();
        ask(&gathering, 1).await;
        let _first = gathering.next().await.unwrap();
        let other = tokio::spawn({
            let gathering = Arc::clone(&gathering);
            async move { gathering.next().await.map(drop) }
        });
        // Not looked after by anybody while there is nothing to do.
        time::sleep(10 * PATIENCE).await;
        let begun = time::Instant::now();
        ask(&gathering, 1).await;
        other.await.unwrap().unwrap();
        assert_eq!(waiting(&gathering), 0);
        assert!(begun.elapsed() <= 2 * PATIENCE, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_when_it_is_closed_is_carried_and_nothing_more() {
        let gathering = gathering();
        ask(&gathering, 1).await;
        let _first = gathering.next().await.unwrap();
        ask(&gathering, 1).await;
        gathering.close();
        assert!(gathering.next().await.is_some());
        assert!(gathering.next().await.is_none());
        let get = Get::new(
            JobId::new(1).unwrap(),
            Parts::NONE,
            Timestamp::from_millis(0),
        );
        assert!(gathering.ask(get).await.is_err());
    }
}
