//! What the store has made durable, and what handlers did: the truth that answers are held
//! against.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use kjob_core::{Ending, Header, Job, JobId, JobTag, Owner, Phase, State, Timestamp};

use crate::callbacks::Callback;
use crate::coverage::Event;
use crate::plan::{Plan, Round, RoundEnd};
use crate::sim::Present;

/// All that was ever stored, done and told.
pub(crate) struct History {
    pub(crate) plan: Plan,
    /// The moment of the newest look, in microseconds.
    pub(crate) at: u64,
    pub(crate) wall_max: Timestamp,
    pub(crate) present: Present,
    pub(crate) jobs: BTreeMap<JobId, Known>,
    /// The newest state of each job that anybody was told.
    pub(crate) told: BTreeMap<JobId, State>,
    /// Jobs that somebody was told are accepted, in that order.
    pub(crate) accepted: Vec<JobId>,
    /// How many jobs had been stored when the newest acknowledged job of a tag was.
    pub(crate) named: BTreeMap<(Owner, JobTag), usize>,
    /// Tags by which somebody wanted a job to stop.
    pub(crate) tags_cancelled: BTreeSet<(Owner, JobTag)>,
    pub(crate) violations: Vec<String>,
    /// Handlers that run, by route.
    running: BTreeMap<&'static str, usize>,
}

/// What is known of a job.
pub(crate) struct Known {
    pub(crate) header: Header,
    pub(crate) payload: Bytes,
    pub(crate) state: State,
    pub(crate) ending: Option<Ending>,
    pub(crate) expires_at: Option<Timestamp>,
    /// Its place in the order of all submits.
    pub(crate) number: usize,
    /// When its newest state was stored, and in which round.
    pub(crate) changed: (u64, usize),
    /// When its newest start was stored, and in which round.
    started: Option<(u64, usize)>,
    pub(crate) deleted: bool,
    /// Whether somebody was told that this job is new.
    pub(crate) told_new: bool,
    pub(crate) cancel_asked: bool,
    /// When somebody was told that it is being cancelled, and in which round.
    pub(crate) told_cancelling: Option<(u64, usize)>,
    /// The first time that its result was said to be delivered.
    pub(crate) delivered: Option<Timestamp>,
    pub(crate) callback: Callback,
    pub(crate) begun: u32,
    /// When the newest handler began, and in which round.
    pub(crate) began: Option<(u64, usize)>,
    progress_asked: u64,
    pub(crate) reported: u8,
    pub(crate) did: Vec<Did>,
}

/// How a handler left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    Returned(Bytes),
    ReturnedTooMuch,
    Failed,
    Transient,
    Panicked,
    StoppedUnasked,
}

impl History {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            at: 0,
            wall_max: Timestamp::default(),
            present: Present::default(),
            jobs: BTreeMap::new(),
            told: BTreeMap::new(),
            accepted: Vec::new(),
            named: BTreeMap::new(),
            tags_cancelled: BTreeSet::new(),
            violations: Vec::new(),
            running: BTreeMap::new(),
        }
    }

    pub(crate) fn violated(&mut self, what: fmt::Arguments<'_>) {
        let at = self.at as f64 / 1e6;
        self.violations.push(format!("{what} (at {at:.6} s)"));
    }

    /// How late an answer may be in a round whose store is reliable.
    pub(crate) fn slack(&self) -> u64 {
        self.present.trouble.latency_max * 8 + 100_000
    }

    fn in_round(&self) -> (u64, usize) {
        (self.at, self.present.round)
    }

    /// Ids of jobs that are still in the store.
    pub(crate) fn kept(&self) -> Vec<JobId> {
        let kept = self.jobs.iter().filter(|(_, job)| !job.deleted);
        kept.map(|(id, _)| *id).collect()
    }

    /// A step has left `job` in the store, as of `at` on the wall clock.
    pub(crate) fn stored(&mut self, job: Job, at: Timestamp) {
        let id = job.header.id;
        let now = self.in_round();
        let Some(mut known) = self.jobs.remove(&id) else {
            self.created(job);
            return;
        };
        if known.state != job.state || known.ending != job.ending {
            self.moved(&known, &job);
            known.changed = now;
            if job.state.lease > known.state.lease {
                known.started = Some(now);
            }
        }
        if known.expires_at != job.expires_at
            && let Some(expires_at) = job.expires_at
        {
            self.retention_set(&known, &job, expires_at, at);
        }
        self.callback_stored(&mut known, &job);
        known.state = job.state;
        known.ending = job.ending;
        known.expires_at = job.expires_at;
        self.jobs.insert(id, known);
    }

    fn created(&mut self, job: Job) {
        let id = job.header.id;
        let header = &job.header;
        let mut problems = Vec::new();
        for (other, known) in &self.jobs {
            if (&known.header.owner, &known.header.tag) != (&header.owner, &header.tag) {
                continue;
            }
            let expired = known.expires_at.is_some_and(|at| at <= self.wall_max);
            if expired {
                Event::TagReusedAfterExpiry.happened();
            } else if matches!(known.state.phase, Phase::Failed | Phase::Cancelled) {
                Event::TagReusedAfterFailure.happened();
            } else {
                problems.push(format!("{id} has the tag of {other}, {:?}", known.state));
            }
        }
        for problem in problems {
            self.violated(format_args!("{problem}"));
        }
        let started = job.state.phase == Phase::Running;
        if started {
            Event::StartedWithSubmit.happened();
        }
        let known = Known {
            payload: job.payload.clone().unwrap_or_default(),
            header: job.header,
            state: job.state,
            ending: None,
            expires_at: None,
            number: self.jobs.len(),
            changed: self.in_round(),
            started: started.then(|| self.in_round()),
            deleted: false,
            told_new: false,
            cancel_asked: false,
            told_cancelling: None,
            delivered: None,
            callback: Callback::default(),
            begun: 0,
            began: None,
            progress_asked: 0,
            reported: 0,
            did: Vec::new(),
        };
        self.jobs.insert(id, known);
    }

    fn moved(&mut self, known: &Known, job: &Job) {
        let id = job.header.id;
        if known.state.phase.is_terminal() || !job.state.is_newer_than(&known.state) {
            let (old, new) = (known.state, job.state);
            self.violated(format_args!("{id} went from {old:?} to {new:?}"));
        }
        let next = &job.state;
        match (known.state.phase, next.phase) {
            (Phase::Queued, Phase::Running) => {
                Event::StartedLater.happened();
                if known.header.options.not_before.is_some() {
                    Event::DelayedStart.happened();
                }
            }
            (Phase::Running, Phase::Running) => {
                Event::ProgressStored.happened();
                if next.progress > known.reported {
                    let reported = known.reported;
                    self.violated(format_args!(
                        "{id} is at {next:?}, its handler at {reported}"
                    ));
                }
            }
            (Phase::Running, Phase::Queued) => self.queued_again(known, next),
            (Phase::Queued, Phase::Cancelled) => Event::CancelledWaiting.happened(),
            (Phase::Cancelling, Phase::Cancelled) => Event::CancelledRunning.happened(),
            (Phase::Cancelling, Phase::Done) => Event::DoneThoughCancelled.happened(),
            _ => {}
        }
        if let Some(ending) = &job.ending {
            self.ended(known, next, ending);
        }
    }

    fn queued_again(&mut self, known: &Known, next: &State) {
        let id = known.header.id;
        let Some(attempts_max) = self.plan.route(&known.header.endpoint).attempts_max else {
            return self.violated(format_args!(
                "{id} is queued again, which its route forbids"
            ));
        };
        if next.attempt < known.state.attempt {
            Event::RetriedAfterDrain.happened();
        } else if known.did.last() == Some(&Did::Transient) {
            Event::RetriedAfterError.happened();
        } else {
            Event::RetriedAfterKill.happened();
        }
        if next.attempt >= attempts_max {
            self.violated(format_args!("{id} is queued again after {next:?}"));
        }
    }

    /// Every end has its reason in what happened before.
    fn ended(&mut self, known: &Known, state: &State, ending: &Ending) {
        let id = known.header.id;
        let route = self.plan.route(&known.header.endpoint).clone();
        let did = |what: Did| known.did.contains(&what);
        let used_up = route.attempts_max.is_none_or(|max| state.attempt >= max);
        let is_explained = match ending {
            Ending::Done(result) => {
                Event::Done.happened();
                did(Did::Returned(result.payload.data.clone()))
            }
            Ending::Cancelled => {
                let name = (known.header.owner.clone(), known.header.tag.clone());
                known.cancel_asked || self.tags_cancelled.contains(&name)
            }
            Ending::Failed(why) if why.starts_with("by chance: failed") => {
                Event::Failed.happened();
                did(Did::Failed)
            }
            Ending::Failed(why) if why.starts_with("by chance: transient") => {
                if route.attempts_max.is_some() {
                    Event::RetriesUsedUp.happened();
                }
                did(Did::Transient) && used_up
            }
            Ending::Failed(why) if why.starts_with("interrupted: the server stopped") => {
                Event::InterruptedByKill.happened();
                self.present.round > 0 && used_up
            }
            Ending::Failed(why) if why.starts_with("interrupted: the server was") => {
                Event::InterruptedByDrain.happened();
                self.present.draining && route.attempts_max.is_none()
            }
            Ending::Failed(why) if why.starts_with("deadline: ") => {
                Event::DeadlinePassed.happened();
                self.is_past_deadline(known, state)
            }
            Ending::Failed(why) if why.contains("panicked") => {
                Event::Panicked.happened();
                did(Did::Panicked)
            }
            Ending::Failed(why) if why.starts_with("result too large") => {
                Event::ResultTooLarge.happened();
                did(Did::ReturnedTooMuch)
            }
            Ending::Failed(why) if why.contains("though nobody asked") => {
                Event::StoppedUnasked.happened();
                did(Did::StoppedUnasked)
            }
            Ending::Failed(why) if why.contains("no longer served") => {
                Event::NoLongerServed.happened();
                let gone = self.plan.rounds[self.present.round].gone;
                gone.is_some_and(|gone| self.plan.routes[gone].endpoint == route.endpoint)
            }
            Ending::Failed(_) => false,
        };
        if !is_explained {
            let did = &known.did;
            self.violated(format_args!(
                "{id} ended as {ending:?} in {state:?}, after {did:?}"
            ));
        }
    }

    fn is_past_deadline(&self, known: &Known, state: &State) -> bool {
        let (Some(started), Some(ended)) = (state.started_at, state.ended_at) else {
            return false;
        };
        self.present.jumped || ended >= started.after(self.timeout(known))
    }

    /// How long one attempt of a job may run.
    fn timeout(&self, known: &Known) -> Duration {
        let limits = [
            known.header.options.timeout,
            self.plan.route(&known.header.endpoint).timeout,
        ];
        let least = limits.into_iter().flatten().min();
        least.unwrap_or(Duration::MAX)
    }

    fn retention_set(&mut self, known: &Known, job: &Job, expires_at: Timestamp, at: Timestamp) {
        let id = job.header.id;
        let options = &job.header.options;
        let by_end = job.state.ended_at.map(|end| end.after(options.retention));
        let by_delivery = known
            .delivered
            .map(|first| first.after(self.plan.config.remove_grace));
        let expected = if known.expires_at.is_none() {
            Some(expires_at) == by_end
        } else {
            Event::RemovedOnComplete.happened();
            let earliest = by_delivery.is_some_and(|earliest| expires_at >= earliest);
            options.remove_on_complete && (earliest || self.present.jumped)
        };
        if !expected {
            self.violated(format_args!(
                "{id} expires at {expires_at:?}, set at {at:?}, {by_end:?} or {by_delivery:?}"
            ));
        }
    }

    /// Jobs that an expiry has taken out of the store.
    pub(crate) fn deleted(&mut self, gone: &[JobId], at: Timestamp) {
        let mut early = Vec::new();
        for id in gone {
            let Some(known) = self.jobs.get_mut(id) else {
                continue;
            };
            known.deleted = true;
            Event::Deleted.happened();
            if known
                .expires_at
                .is_none_or(|due| due > at.max(self.wall_max))
            {
                early.push((*id, known.expires_at));
            }
        }
        for (id, due) in early {
            self.violated(format_args!("{id} is deleted, but expires at {due:?}"));
        }
    }

    /// A handler begins.
    pub(crate) fn begins(&mut self, id: JobId, attempt: u32, endpoint: &str) {
        let now = self.in_round();
        let route = self.plan.route(endpoint).clone();
        let running = self.running.entry(route.endpoint).or_default();
        *running += 1;
        let on_route = *running;
        let in_all: usize = self.running.values().sum();
        let too_many = route.concurrency.is_some_and(|limit| on_route > limit);
        if too_many || in_all > self.plan.config.workers {
            self.violated(format_args!(
                "{on_route} of {endpoint} run, {in_all} in all"
            ));
        }
        let Some(known) = self.jobs.get_mut(&id) else {
            return self.violated(format_args!("{id} began before it was stored"));
        };
        known.begun += 1;
        known.began = Some(now);
        known.reported = known.reported.max(known.state.progress);
        known.progress_asked = 0;
        let (begun, state) = (known.begun, known.state);
        let runs = matches!(state.phase, Phase::Running | Phase::Cancelling);
        if !runs || begun > state.lease.0 || state.attempt != attempt {
            self.violated(format_args!(
                "{id} began {begun} times, attempt {attempt}, in {state:?}"
            ));
        }
        match route.attempts_max {
            None if begun > 1 => self.violated(format_args!("{id} began {begun} times")),
            Some(max) if attempt > max => {
                self.violated(format_args!("{id} is at attempt {attempt} of {max}"));
            }
            _ => {}
        }
    }

    /// A handler has left, and said so.
    pub(crate) fn did(&mut self, id: JobId, did: Did) {
        if let Some(known) = self.jobs.get_mut(&id) {
            known.did.push(did);
        }
    }

    /// A handler's future is gone.
    pub(crate) fn gone(&mut self, id: JobId, endpoint: &str) {
        if let Some(running) = self.running.get_mut(endpoint) {
            *running -= 1;
        }
        if self.present.killing {
            return;
        }
        let Some((known, began)) = self
            .jobs
            .get(&id)
            .and_then(|known| known.began.map(|(at, _)| (known, at)))
        else {
            return;
        };
        let ran = Duration::from_micros(self.at - began).as_millis();
        let reports_max = 2 + ran / self.plan.config.progress_interval.as_millis();
        let asked = u128::from(known.progress_asked);
        if asked > reports_max && !self.present.jumped {
            self.violated(format_args!("{asked} reports of {id} in {ran} ms"));
        }
    }

    pub(crate) fn reported(&mut self, id: JobId, percent: u8) {
        if let Some(known) = self.jobs.get_mut(&id) {
            known.reported = known.reported.max(percent.min(99));
        }
    }

    pub(crate) fn progress_asked(&mut self, id: JobId) {
        if let Some(known) = self.jobs.get_mut(&id) {
            known.progress_asked += 1;
        }
    }

    /// Every job that waits counts as waiting: budgets hold only then. `counted` is how many the
    /// engine says do.
    pub(crate) fn who_waits_is_counted(&mut self, counted: usize) {
        let Present { round, closing, .. } = self.present;
        let Round { gone, .. } = self.plan.rounds[round];
        if closing {
            return;
        }
        let reliable = self.plan.rounds[round].is_reliable();
        let gone = gone.map(|gone| self.plan.routes[gone].endpoint);
        let slack = self.slack();
        let waits = |known: &Known| {
            let (at, when) = known.changed;
            // One that was queued just now may be counted in a moment.
            let is_settled = when < round || (reliable && at + slack < self.at);
            let is_served = gone.is_none_or(|gone| known.header.endpoint != gone);
            known.state.phase == Phase::Queued && is_settled && is_served
        };
        let waiting = self.jobs.values().filter(|known| waits(known)).count();
        if waiting > counted {
            self.violated(format_args!("{waiting} jobs wait, {counted} are counted"));
        }
    }

    /// At the end of a round whose store was reliable: nothing is later than it may be.
    pub(crate) fn nothing_is_overdue(&mut self) {
        let round = self.present.round;
        if !self.plan.rounds[round].is_reliable() || self.present.jumped {
            return;
        }
        let shut_down = matches!(self.plan.rounds[round].end, RoundEnd::ShutDown(_));
        let slack = self.slack();
        let grace = self.plan.config.stop_grace.as_micros() as u64;
        let mut late = Vec::new();
        for (id, known) in &self.jobs {
            if known.state.phase.is_terminal() {
                continue;
            }
            let is_past = |since: Option<(u64, usize)>, most: u64| {
                since.is_some_and(|(at, when)| when == round && at + most + slack < self.at)
            };
            let runs = known.state.phase != Phase::Queued;
            if is_past(known.told_cancelling, grace) {
                late.push(format!("{id} was told to stop and has not"));
            }
            let timeout = self.timeout(known).as_micros() as u64;
            // An earlier attempt's handler may be long ago.
            let has_begun = known.began >= known.started;
            if runs && has_begun && is_past(known.began, timeout + grace) {
                late.push(format!("{id} runs past its deadline"));
            }
            let waits_for_handler = known.state.phase == Phase::Running && !has_begun;
            if waits_for_handler && is_past(known.started, 0) {
                late.push(format!("{id} was started, but no handler has begun"));
            }
            if shut_down && runs {
                late.push(format!("{id} is left running by a shut-down"));
            }
        }
        for late in late {
            self.violated(format_args!("{late}"));
        }
        self.no_callback_is_overdue();
    }
}
