//! The waiting room: who waits, who runs, and who may still come in.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::config::EngineConfig;
use super::delayed::{Delayed, Next};
use super::shares::Shares;
use super::submission::SubmitError;
use crate::{Owner, RouteId, Scheduler, Timestamp, Waiting, WaitingCounts};

/// As many runs may be ending, however few may run.
const ENDING_MIN: usize = 64;

/// One of so many places is left to other owners, if nothing else is said.
const RESERVED_OF: usize = 8;

/// Counts and queues, behind one lock that is never held for long.
///
/// **The invariant.** While the room is open and not paused, no job waits that could run: whoever
/// adds a job or frees a place calls [`Room::next`] until it gives nothing, and so does
/// [`Room::release_delayed`]'s caller once an owner need leave no places to others any more. The last places are
/// for some owners and not for all.
#[derive(Debug)]
pub(super) struct Room {
    inner: Mutex<Inner>,
    /// Told when the last run is over.
    idle: Notify,
    /// Told when there is an earlier moment to come again at.
    pub(super) delayed: Notify,
    workers: usize,
    /// How many of the last places are for owners who run nothing, while several submit.
    reserved: usize,
    /// How many runs may be ending at a time beside those that have places.
    ending_max: usize,
    max_queued: usize,
    max_queued_per_owner: usize,
}

#[derive(Debug)]
struct Inner {
    open: bool,
    /// Nothing is started for now, because the store could not be written to.
    paused: bool,
    /// Whether the newest start failed for the store.
    failing: bool,
    queue: Scheduler,
    delayed: Delayed,
    running: usize,
    /// Runs that are over but for their ends, which are on their way into the store, and whose places others have.
    ending: usize,
    /// Places that are kept for jobs that are being claimed.
    reserved: usize,
    routes: Vec<Lane>,
    /// Places of runs that are over but for their thread, which their handler does not let go.
    stuck: usize,
    waiting: usize,
    shares: Shares,
}

/// What runs on a route, and how much may.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    running: usize,
    reserved: usize,
    limit: Option<usize>,
}

/// Places that are kept for jobs that are being claimed: in all, and at most so many of each route.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    pub(super) total: usize,
    pub(super) routes: Vec<(RouteId, usize)>,
}

/// What [`Room::pause`] changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    /// Starts were not paused before: somebody is to end it.
    pub(super) begins: bool,
    /// A start had not failed before, since one that did not.
    pub(super) is_news: bool,
}

impl Room {
    pub(super) fn new(config: &EngineConfig, limits: &[Option<usize>], is_shared: bool) -> Self {
        let workers = config.workers.max(1);
        let reserved = match is_shared {
            true => 0,
            false => config.reserved_workers.unwrap_or(workers / RESERVED_OF),
        };
        let lane = |limit: &Option<usize>| Lane {
            running: 0,
            reserved: 0,
            limit: *limit,
        };
        let inner = Inner {
            open: true,
            paused: false,
            failing: false,
            queue: Scheduler::new(config.ageing),
            delayed: Delayed::default(),
            running: 0,
            ending: 0,
            reserved: 0,
            routes: limits.iter().map(lane).collect(),
            stuck: 0,
            waiting: 0,
            shares: Shares::default(),
        };
        Self {
            inner: Mutex::new(inner),
            idle: Notify::new(),
            delayed: Notify::new(),
            workers,
            reserved,
            ending_max: config.workers.max(ENDING_MIN),
            max_queued: config.max_queued,
            max_queued_per_owner: config.max_queued_per_owner,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that holds the lock can panic half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more waiting job, if the budgets allow beside those that wait elsewhere.
    pub(super) fn admit(
        &self,
        owner: &Owner,
        elsewhere: WaitingCounts,
        now: Timestamp,
    ) -> Result<(), SubmitError> {
        let mut inner = self.lock();
        let elsewhere_of_owner = usize::try_from(elsewhere.owner).unwrap_or(usize::MAX);
        let elsewhere = usize::try_from(elsewhere.total).unwrap_or(usize::MAX);
        let of_owner = inner.shares.waiting(owner);
        let of_owner = of_owner.saturating_add(elsewhere_of_owner);
        let waiting = inner.waiting.saturating_add(elsewhere);
        let busy = |what, found: usize, limit: usize| SubmitError::Busy {
            what,
            found: found as u64,
            limit: limit as u64,
            retry_after: super::RETRY_AFTER,
        };
        if waiting >= self.max_queued {
            return Err(busy("queued jobs", waiting + 1, self.max_queued));
        }
        if of_owner >= self.max_queued_per_owner {
            return Err(busy(
                "queued jobs of one user",
                of_owner + 1,
                self.max_queued_per_owner,
            ));
        }
        inner.count(owner);
        let is_news = inner.shares.submits(owner, now);
        drop(inner);
        if is_news && self.reserved > 0 {
            // Whoever waits for the next moment learns of the one at which somebody may be alone again.
            self.delayed.notify_one();
        }
        Ok(())
    }

    /// Counts one more waiting job that was let in before.
    pub(super) fn readmit(&self, owner: &Owner) {
        self.lock().count(owner);
    }

    /// Counts one waiting job fewer: it runs, has ended, or was not stored.
    pub(super) fn leave(&self, owner: &Owner) {
        let mut inner = self.lock();
        inner.waiting = inner.waiting.saturating_sub(1);
        inner.shares.leaves(owner);
    }

    /// A place to run for a job that need not wait. By the invariant no job that waits could have
    /// it; during a pause some could, and nobody gets it. (Where the clock jumps ahead, one may that is about to be
    /// told.)
    pub(super) fn try_place(&self, route: RouteId, owner: &Owner, now: Timestamp) -> bool {
        let mut inner = self.lock();
        let free = inner.open
            && !inner.paused
            && inner.used() < self.workers
            && has_room(&inner.routes, route)
            && (!self.are_last(&inner) || inner.shares.may_have_last(owner, now));
        if free {
            inner.take(route, owner);
        }
        free
    }

    /// Queues a job, until `not_before` aside.
    pub(super) fn enqueue(&self, job: Waiting, not_before: Option<Timestamp>) {
        let mut inner = self.lock();
        match not_before {
            None => inner.queue.push(job),
            Some(at) => {
                let is_next = inner.delayed.insert(at, &job);
                drop(inner);
                // Whoever waits for the next one waits for the right one otherwise.
                if is_next {
                    self.delayed.notify_one();
                }
            }
        }
    }

    /// Takes a waiting job out, and says whether it waited: who took it out is alone with it.
    pub(super) fn remove(&self, job: &Waiting, not_before: Option<Timestamp>) -> bool {
        let mut inner = self.lock();
        let was_delayed = not_before.is_some_and(|at| inner.delayed.remove(at, job.id));
        inner.queue.remove(job) || was_delayed
    }

    /// Changes the limits of all routes. Routes that have gone have none, so that nothing waits for
    /// them.
    pub(super) fn set_limits(&self, limits: &[Option<usize>]) {
        let mut inner = self.lock();
        if inner.routes.len() < limits.len() {
            inner.routes.resize(limits.len(), Lane::default());
        }
        for (index, lane) in inner.routes.iter_mut().enumerate() {
            lane.limit = limits.get(index).copied().flatten();
        }
    }

    /// Lets a waiting job wait for another route, no less long than so far.
    pub(super) fn reroute(&self, job: &Waiting, not_before: Option<Timestamp>, to: RouteId) {
        let mut inner = self.lock();
        if let Some(at) = not_before {
            inner.delayed.reroute(at, job.id, to);
        }
        inner.queue.reroute(job, to);
    }

    /// Moves delayed jobs whose time has come to the queue, and says when to come again: for the next one, or
    /// when an owner may have places that were left to others.
    pub(super) fn release_delayed(&self, now: Timestamp) -> Option<Timestamp> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        loop {
            match inner.delayed.next(now) {
                Next::Due(job) => inner.queue.push(job),
                Next::At(at) => {
                    let changes = inner.shares.changes_at(now).filter(|_| self.reserved > 0);
                    return [at, changes].into_iter().flatten().min();
                }
            }
        }
    }

    /// Starts nothing until [`Room::resume`]: the store could not be written to.
    pub(super) fn pause(&self) -> Pause {
        let mut inner = self.lock();
        Pause {
            begins: !std::mem::replace(&mut inner.paused, true),
            is_news: !std::mem::replace(&mut inner.failing, true),
        }
    }

    /// Ends a pause.
    pub(super) fn resume(&self) {
        self.lock().paused = false;
    }

    /// Notes that a job was started, and says whether the store had failed before.
    pub(super) fn started(&self) -> bool {
        std::mem::take(&mut self.lock().failing)
    }

    /// The next job to run, with a place taken for it.
    pub(super) fn next(&self, now: Timestamp) -> Option<Waiting> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let may_start = inner.open && !inner.paused && inner.used() < self.workers;
        if !may_start || inner.queue.is_empty() {
            return None;
        }
        let are_last = self.are_last(inner);
        let (routes, shares) = (&inner.routes, &inner.shares);
        let free = |route| has_room(routes, route);
        let next = if !are_last {
            inner.queue.pop(now, free)
        } else if shares.anyone_may_have_last(now) {
            let may = |owner: &Owner| shares.may_have_last(owner, now);
            inner.queue.pop_of(now, free, may)
        } else {
            None
        }?;
        inner.take(next.route, &next.owner);
        Some(next)
    }

    /// Keeps places that are free for jobs of these routes, so large a part of them that `takers` find some each,
    /// of whom whoever asks is one. Each reservation is to be [given back](Self::release).
    pub(super) fn reserve(
        &self,
        routes: impl Iterator<Item = RouteId>,
        takers: usize,
    ) -> Reservation {
        let share = |free: usize| free.div_ceil(takers.max(1));
        let mut inner = self.lock();
        let total = match inner.open && !inner.paused {
            true => share(self.workers.saturating_sub(inner.used())),
            false => 0,
        };
        let mut reservation = Reservation::default();
        if total == 0 {
            return reservation;
        }
        for route in routes {
            if let Some(lane) = inner.routes.get_mut(usize::from(route.0)) {
                let free = share(lane.free()).min(total);
                lane.reserved += free;
                reservation.routes.push((route, free));
            }
        }
        reservation.total = total;
        inner.reserved += total;
        reservation
    }

    /// Takes a kept place. One that was not kept is taken all the same: its job is started already.
    pub(super) fn take_reserved(
        &self,
        reservation: &mut Reservation,
        route: RouteId,
        owner: &Owner,
    ) {
        let mut inner = self.lock();
        if reservation.total > 0 {
            reservation.total -= 1;
            inner.reserved -= 1;
        }
        let kept = reservation.routes.iter_mut().find(|(id, _)| *id == route);
        if let Some((_, kept)) = kept.filter(|(_, kept)| *kept > 0) {
            *kept -= 1;
            if let Some(lane) = inner.routes.get_mut(usize::from(route.0)) {
                lane.reserved -= 1;
            }
        }
        inner.take(route, owner);
    }

    /// Takes a place where there may be none, for a job that is started already.
    pub(super) fn take_beyond(&self, route: RouteId, owner: &Owner) {
        self.lock().take(route, owner);
    }

    /// Gives back what was kept and not taken.
    pub(super) fn release(&self, reservation: Reservation) {
        let mut inner = self.lock();
        inner.reserved -= reservation.total;
        for (route, kept) in reservation.routes {
            if let Some(lane) = inner.routes.get_mut(usize::from(route.0)) {
                lane.reserved -= kept;
            }
        }
        if inner.is_idle() {
            drop(inner);
            self.idle.notify_waiters();
        }
    }

    /// Gives back the place of a run that is over but for its end; `false` where so many are ending that it is to
    /// be kept until then.
    pub(super) fn begin_ending(&self, route: RouteId, owner: &Owner) -> bool {
        let mut inner = self.lock();
        let may = inner.ending < self.ending_max;
        if may {
            inner.ending += 1;
            inner.give_back(route, owner);
        }
        may
    }

    /// The end of such a run is stored, or somebody else's matter.
    pub(super) fn ended(&self) {
        let mut inner = self.lock();
        inner.ending -= 1;
        if inner.is_idle() {
            drop(inner);
            self.idle.notify_waiters();
        }
    }

    /// Gives a place back.
    pub(super) fn free(&self, route: RouteId, owner: &Owner, stuck: bool) {
        let mut inner = self.lock();
        inner.stuck -= usize::from(stuck);
        inner.give_back(route, owner);
        if inner.is_idle() {
            drop(inner);
            self.idle.notify_waiters();
        }
    }

    /// Notes that a place is held by nothing but a thread that its handler does not let go.
    pub(super) fn stuck(&self) {
        let mut inner = self.lock();
        inner.stuck += 1;
        if inner.is_idle() {
            drop(inner);
            self.idle.notify_waiters();
        }
    }

    /// Starts no more jobs.
    pub(super) fn close(&self) {
        self.lock().open = false;
    }

    /// How many jobs wait, how many of those are delayed, how many run or are ending, and how many of those are
    /// stuck.
    pub(super) fn counts(&self) -> (usize, usize, usize, usize) {
        let inner = self.lock();
        (
            inner.waiting,
            inner.delayed.len(),
            inner.running + inner.ending,
            inner.stuck,
        )
    }

    /// Since when the longest-waiting head has waited.
    pub(super) fn waiting_since(&self) -> Option<Timestamp> {
        self.lock().queue.waiting_since()
    }

    /// Completes when nothing runs, but for what is stuck.
    pub(super) async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            // Listen first, look second: the last end in between is not missed.
            idle.as_mut().enable();
            if self.lock().is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// Whether no more places are free than are left to owners who run nothing.
    fn are_last(&self, inner: &Inner) -> bool {
        self.workers.saturating_sub(inner.used()) <= self.reserved
    }
}

fn has_room(routes: &[Lane], route: RouteId) -> bool {
    let lane = routes.get(usize::from(route.0));
    lane.is_none_or(|lane| lane.free() > 0)
}

impl Lane {
    /// How many more may run, the server's own limit aside.
    fn free(&self) -> usize {
        let used = self.running + self.reserved;
        self.limit
            .map_or(usize::MAX, |limit| limit.saturating_sub(used))
    }
}

impl Inner {
    fn is_idle(&self) -> bool {
        // What is being claimed may run yet.
        self.running == self.stuck && self.reserved == 0 && self.ending == 0
    }

    fn used(&self) -> usize {
        self.running + self.reserved
    }

    fn take(&mut self, route: RouteId, owner: &Owner) {
        self.running += 1;
        self.shares.begins(owner);
        if let Some(lane) = self.routes.get_mut(usize::from(route.0)) {
            lane.running += 1;
        }
    }

    fn give_back(&mut self, route: RouteId, owner: &Owner) {
        self.running -= 1;
        self.shares.ends(owner);
        if let Some(lane) = self.routes.get_mut(usize::from(route.0)) {
            lane.running -= 1;
        }
    }

    fn count(&mut self, owner: &Owner) {
        self.waiting += 1;
        self.shares.waits(owner);
    }
}
