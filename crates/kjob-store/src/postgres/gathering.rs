//! Steps that gather while batches are under way, and when there are enough of them for the next.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kjob_core::StoreError;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::finish::{CancelRun, End, Requeue};
use super::gets::Get;
use super::lanes::{Batch, Step};
use super::options::PostgresOptions;
use super::start::{Progress, Start};
use super::submit::Submit;

/// While a lane is at work, another carries what waits of a kind once that are so many, or as many as go together.
/// Fewer go with the next batch, as each costs the database as much as some tens of steps.
const HELP_MIN: usize = 64;

/// But no step waits longer than this for others while a lane is idle.
const PATIENCE: Duration = Duration::from_millis(4);

/// A step, and who waits for it.
pub(crate) struct Pending<S: Step> {
    pub(crate) step: S,
    pub(crate) reply: oneshot::Sender<Result<Option<S::Answer>, StoreError>>,
    since: Instant,
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
    /// Lanes that have a batch under way.
    at_work: usize,
    /// An idle lane sees to it that nothing waits for too long.
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

/// That a lane is at work.
pub(crate) struct AtWork<'a>(&'a Gathering);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.lock().at_work -= 1;
    }
}

/// That an idle lane watches.
struct Watching<'a>(&'a Gathering);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.lock().is_watched = false;
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
        let since = Instant::now();
        let is_worth_a_look = {
            let mut queues = self.lock();
            if queues.is_closed {
                return Err(StoreError::Closed);
            }
            let queue = S::queue(&mut queues);
            queue.push_back(Pending { step, reply, since });
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
    pub(crate) async fn next(&self) -> Option<(Box<dyn Batch>, AtWork<'_>)> {
        loop {
            let arrived = self.arrived.notified();
            let watch = {
                let mut queues = self.lock();
                let taken = queues.take(self);
                let oldest = queues.oldest();
                if let Some(batch) = taken {
                    queues.at_work += 1;
                    self.batches.fetch_add(1, Ordering::Relaxed);
                    if oldest.is_some() && !queues.is_watched {
                        // Another is to watch over the rest.
                        self.arrived.notify_one();
                    }
                    return Some((batch, AtWork(self)));
                }
                if queues.is_closed {
                    // The others are to see it too.
                    self.arrived.notify_one();
                    return None;
                }
                let oldest = oldest.filter(|_| !queues.is_watched);
                queues.is_watched |= oldest.is_some();
                oldest.map(|since| (Watching(self), since + PATIENCE))
            };
            match watch {
                // Whichever it was, it is looked what there is.
                Some((_watching, until)) => drop(timeout_at(until, arrived).await),
                None => arrived.await,
            }
        }
    }

    fn help_min(&self) -> usize {
        HELP_MIN.min(self.batch_max)
    }

    /// Whether what waits of a kind is enough for a batch beside those that are under way.
    fn is_enough<S: Step>(&self, queue: &VecDeque<Pending<S>>, now: Instant) -> bool {
        let bytes = || queue.iter().map(|it| it.step.bytes());
        queue.len() >= self.help_min()
            || queue.front().is_some_and(|it| now >= it.since + PATIENCE)
            || bytes().fold(0, usize::saturating_add) >= self.batch_bytes_max
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// What waits of the kind whose turn it is, or of the next of which enough does: any for a lane that is the
    /// only one at work.
    fn take(&mut self, limits: &Gathering) -> Option<Box<dyn Batch>> {
        const KINDS: usize = 7;
        let is_alone = self.at_work == 0 || self.is_closed;
        let beside = (!is_alone).then(Instant::now);
        for _ in 0..KINDS {
            let kind = self.next;
            self.next = (kind + 1) % KINDS;
            let batch = match kind {
                0 => batch::<Submit>(self, limits, beside),
                1 => batch::<End>(self, limits, beside),
                2 => batch::<Start>(self, limits, beside),
                3 => batch::<Progress>(self, limits, beside),
                4 => batch::<Requeue>(self, limits, beside),
                5 => batch::<CancelRun>(self, limits, beside),
                _ => batch::<Get>(self, limits, beside),
            };
            if batch.is_some() {
                return batch;
            }
        }
        None
    }

    /// Since when the one waits that waits longest.
    fn oldest(&self) -> Option<Instant> {
        let fronts = [
            self.submits.front().map(|it| it.since),
            self.starts.front().map(|it| it.since),
            self.progress.front().map(|it| it.since),
            self.ends.front().map(|it| it.since),
            self.requeues.front().map(|it| it.since),
            self.cancels.front().map(|it| it.since),
            self.gets.front().map(|it| it.since),
        ];
        fronts.into_iter().flatten().min()
    }
}

/// The longest waiting steps of a kind, as many as go together. None if others are under way and what waits now is
/// not enough.
fn batch<S: Step>(
    queues: &mut Queues,
    limits: &Gathering,
    beside: Option<Instant>,
) -> Option<Box<dyn Batch>> {
    let queue = S::queue(queues);
    if beside.is_some_and(|now| !limits.is_enough(queue, now)) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use kjob_core::{JobId, Parts, Timestamp};
    use tokio::task::JoinHandle;
    use tokio::time;

    use super::*;

    fn gathering(change: impl FnOnce(&mut PostgresOptions)) -> Arc<Gathering> {
        let mut options = PostgresOptions::default();
        change(&mut options);
        Arc::new(Gathering::new(&options))
    }

    fn id(number: usize) -> JobId {
        JobId::new(number as i64 + 1).unwrap()
    }

    fn get(number: usize) -> Get {
        Get::new(id(number), Parts::NONE, Timestamp::from_millis(0))
    }

    /// Steps that wait from now on.
    async fn ask_each<S: Step>(gathering: &Arc<Gathering>, steps: impl Iterator<Item = S>) {
        let mut count = 0;
        for step in steps {
            let gathering = Arc::clone(gathering);
            tokio::spawn(async move { gathering.ask(step).await });
            count += 1;
        }
        // The runtime runs some tens of tasks at a time.
        for _ in 0..=count / 16 {
            tokio::task::yield_now().await;
        }
    }

    async fn ask(gathering: &Arc<Gathering>, count: usize) {
        ask_each(gathering, (0..count).map(get)).await;
    }

    fn waiting(gathering: &Gathering) -> usize {
        gathering.lock().gets.len()
    }

    /// A lane that waits for a batch, and is at work for so long then.
    fn lane(gathering: &Arc<Gathering>, work: Duration) -> JoinHandle<()> {
        let gathering = Arc::clone(gathering);
        tokio::spawn(async move {
            let taken = gathering.next().await;
            time::sleep(work).await;
            drop(taken);
        })
    }

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn few_steps_go_with_the_next_batch_of_the_lane_at_work() {
        let gathering = gathering(|_| {});
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
        for batch_max in [256, 8] {
            let gathering = gathering(|options| options.batch_max = batch_max);
            ask(&gathering, 1).await;
            let _first = gathering.next().await.unwrap();
            lane(&gathering, LONG);
            ask(&gathering, 1).await;
            let begun = Instant::now();
            assert_eq!(gathering.batches(), 1);
            ask(&gathering, batch_max.min(HELP_MIN) - 1).await;
            assert_eq!((gathering.batches(), waiting(&gathering)), (2, 0));
            assert_eq!(begun.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_long_for_a_lane_that_is_long_about_its_work() {
        let gathering = gathering(|_| {});
        ask(&gathering, 1).await;
        let _first = gathering.next().await.unwrap();
        for _ in 0..3 {
            let other = lane(&gathering, Duration::ZERO);
            time::sleep(10 * PATIENCE).await;
            let begun = Instant::now();
            ask(&gathering, 1).await;
            other.await.unwrap();
            assert_eq!(waiting(&gathering), 0);
            assert!(begun.elapsed() <= PATIENCE + Duration::from_millis(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_of_which_little_waits_has_its_turn_among_others_of_which_much_does() {
        let gathering = gathering(|options| options.batch_max = 8);
        ask(&gathering, 1).await;
        let _first = gathering.next().await.unwrap();
        ask_each(&gathering, [CancelRun::new(id(0))].into_iter()).await;
        let mut batches = 0;
        while !gathering.lock().cancels.is_empty() {
            // There are always enough of these.
            ask(&gathering, 16).await;
            time::sleep(Duration::from_millis(1)).await;
            drop(gathering.next().await.unwrap());
            batches += 1;
            assert!(batches <= 8, "it waits for ever");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_idle_lane_takes_what_the_one_before_has_left() {
        let gathering = gathering(|_| {});
        ask(&gathering, 1).await;
        let _first = gathering.next().await.unwrap();
        lane(&gathering, LONG);
        lane(&gathering, LONG);
        ask(&gathering, 1).await;
        ask_each(&gathering, [CancelRun::new(id(0))].into_iter()).await;
        time::sleep(2 * PATIENCE).await;
        assert_eq!(gathering.batches(), 3);
        assert!(gathering.lock().oldest().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_when_it_is_closed_is_carried_and_nothing_more() {
        let gathering = gathering(|_| {});
        ask(&gathering, 1).await;
        let _first = gathering.next().await.unwrap();
        let idle = lane(&gathering, Duration::ZERO);
        ask(&gathering, 1).await;
        let begun = Instant::now();
        gathering.close();
        idle.await.unwrap();
        assert_eq!((waiting(&gathering), begun.elapsed()), (0, Duration::ZERO));
        assert!(gathering.next().await.is_none());
        assert!(gathering.ask(get(0)).await.is_err());
    }
}
