//! A job that has not ended, as this engine sees it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::handler::Attachment;
use crate::{Age, CallbackState, Ending, Header, Job, Lease, Phase, State};

/// A job from just before its submit is durable until just after its end is.
///
/// The store decides what happens to a job; this mirrors the newest that the store has answered.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) header: Header,
    pub(super) attachment: Option<Attachment>,
    cell: Mutex<Cell>,
    changed: Notify,
}

#[derive(Debug)]
struct Cell {
    state: State,
    /// Whether the store has the job. Before that nobody may be told of it.
    stored: bool,
    /// Whether the job counts as waiting.
    waiting: bool,
    /// Whether this engine has it: it runs or waits here, or is on its way into the store. Of others' jobs
    /// this is no more than what was heard last.
    local: bool,
    /// The newest run that this engine was given by a shared store; zero if none.
    taken: Lease,
    stop: Option<Stop>,
    run: Option<CancellationToken>,
    ended: Option<Arc<Job>>,
    /// An end of its run is on its way to the store, or was and had no answer.
    ending: bool,
    /// The submit made no job after all.
    void: bool,
}

/// Why a run is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Deadline,
    Drain,
    /// The job may be another node's by now.
    Lost,
    Cancel,
}

impl Live {
    /// A job that is about to be stored and counts as waiting.
    pub(super) fn new(header: Header, attachment: Option<Attachment>) -> Arc<Self> {
        let state = State::queued(header.options.not_before);
        Self::with(header, attachment, state, false, true)
    }

    /// A job that the store has, and that counts as waiting.
    pub(super) fn stored(header: Header, state: State) -> Arc<Self> {
        Self::with(header, None, state, true, true)
    }

    /// A job of a shared store that this engine is given a run of, and that counts as waiting nowhere here.
    pub(super) fn taken(header: Header, state: State) -> Arc<Self> {
        let live = Self::with(header, None, state, true, true);
        live.stop_waiting();
        live
    }

    /// A job of a shared store that another engine has, if any, and that counts as waiting nowhere here.
    pub(super) fn remote(header: Header, state: State) -> Arc<Self> {
        let live = Self::with(header, None, state, true, false);
        live.stop_waiting();
        live
    }

    fn with(
        header: Header,
        attachment: Option<Attachment>,
        state: State,
        stored: bool,
        local: bool,
    ) -> Arc<Self> {
        let cell = Cell {
            state,
            stored,
            waiting: true,
            local,
            taken: Lease(0),
            stop: None,
            run: None,
            ended: None,
            ending: false,
            void: false,
        };
        Arc::new(Self {
            header,
            attachment,
            cell: Mutex::new(cell),
            changed: Notify::new(),
        })
    }

    fn cell(&self) -> MutexGuard<'_, Cell> {
        // Nothing that holds the lock can panic half way.
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the store has answered, if it is news, and gives the newest state.
    pub(super) fn observe(&self, state: State) -> State {
        if self.hears(state) {
            state
        } else {
            self.state()
        }
    }

    /// As [`observe`](Self::observe); whether it was news.
    pub(super) fn hears(&self, state: State) -> bool {
        let is_news = self.cell().hears(state);
        if is_news {
            self.changed.notify_waiters();
        }
        is_news
    }

    /// This engine was given a run of the job, whatever it has heard of it before.
    pub(super) fn take(&self, state: State) {
        let mut cell = self.cell();
        cell.local = true;
        cell.taken = cell.taken.max(state.lease);
        let is_news = cell.hears(state);
        drop(cell);
        if is_news {
            self.changed.notify_waiters();
        }
    }

    /// The job is whoever's claims it, once its run of this lease is over, or none has begun (zero); unless that
    /// was this engine, which may be quicker than the answer to what it did before.
    pub(super) fn leave(&self, after: Lease) {
        let mut cell = self.cell();
        if cell.taken <= after {
            cell.local = false;
        }
    }

    /// Begins a run, and gives the token by which it is stopped.
    pub(super) fn begin_run(&self) -> CancellationToken {
        let mut cell = self.cell();
        let token = CancellationToken::new();
        cell.ending = false;
        if cell.state.phase != Phase::Cancelling {
            // What stopped an earlier run does not stop this one.
            cell.stop = None;
        } else {
            token.cancel();
        }
        cell.run = Some(token.clone());
        token
    }

    /// Tells the run to stop, if there is one.
    pub(super) fn stop(&self, why: Stop) {
        self.cell().stop(why);
    }

    /// Why the run was told to stop, if it was.
    pub(super) fn stopped_by(&self) -> Option<Stop> {
        self.cell().stop
    }

    /// Ends the run.
    pub(super) fn end_run(&self) {
        self.cell().run = None;
    }

    /// Counts the job as waiting no longer; says whether it did.
    pub(super) fn stop_waiting(&self) -> bool {
        std::mem::take(&mut self.cell().waiting)
    }

    /// Counts the job as waiting again, as the store has queued it; says whether it is to wait.
    /// It is not if it has ended since.
    pub(super) fn wait_again(&self, queued: State) -> bool {
        self.observe(queued);
        let mut cell = self.cell();
        cell.waiting = cell.state.phase == Phase::Queued && cell.ended.is_none();
        cell.waiting
    }

    /// The job is over: whoever waits for it is told. Says whether that is news.
    pub(super) fn end(&self, state: State, ending: Ending) -> bool {
        let expires_at = state
            .ended_at
            .map(|at| at.after(self.header.options.retention));
        let has_callback = self.header.options.callback_url.is_some();
        let callback = state.ended_at.filter(|_| has_callback);
        let callback = callback.map(CallbackState::pending);
        let job = Job {
            header: self.header.clone(),
            state,
            payload: None,
            ending: Some(ending),
            expires_at,
            callback,
        };
        let mut cell = self.cell();
        if cell.ended.is_some() {
            return false;
        }
        cell.stored = true;
        cell.state = state;
        cell.run = None;
        cell.ended = Some(Arc::new(job));
        drop(cell);
        self.changed.notify_waiters();
        true
    }

    /// Whether the job has ended.
    pub(super) fn is_over(&self) -> bool {
        self.cell().ended.is_some()
    }

    /// Whether this engine has the job.
    pub(super) fn is_local(&self) -> bool {
        self.cell().local
    }

    /// Whether the store may know of an end of its run of which nobody here has heard.
    pub(super) fn is_ending(&self) -> bool {
        self.cell().ending
    }

    /// An end of its run goes on its way to the store.
    pub(super) fn begin_ending(&self) {
        self.cell().ending = true;
    }

    /// Whether all that there is to know of the job is in the store, and nothing is under way.
    pub(super) fn may_doze(&self) -> bool {
        let cell = self.cell();
        let waits = cell.stored && cell.waiting && cell.state.phase == Phase::Queued;
        // What came with a submit for its handler's eyes only is in no store.
        waits && cell.ended.is_none() && !cell.void && self.attachment.is_none()
    }

    /// The newest state.
    pub(super) fn state(&self) -> State {
        self.cell().state
    }

    /// The job as it stands; `None` while the store does not have it.
    pub(super) fn job(&self) -> Option<Job> {
        let cell = self.cell();
        if let Some(job) = &cell.ended {
            return Some(Job::clone(job));
        }
        let (header, state) = (self.header.clone(), cell.state);
        cell.stored.then_some(Job {
            header,
            state,
            payload: None,
            ending: None,
            expires_at: None,
            callback: None,
        })
    }

    /// The submit made no job after all: nobody is to wait for it.
    pub(super) fn void(&self) {
        let mut cell = self.cell();
        cell.void = true;
        drop(cell);
        self.changed.notify_waiters();
    }

    /// Completes when the job has ended, or will never have been.
    pub(super) async fn ended(&self) {
        self.newer_than(Age::LIVE_MAX).await;
    }

    /// Completes when the job is in a newer state, or will never have been.
    pub(super) async fn newer_than(&self, seen: Age) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Listen first, look second: a change in between is not missed.
            changed.as_mut().enable();
            if self.cell().is_newer_than(seen) {
                return;
            }
            changed.await;
        }
    }
}

impl Cell {
    fn hears(&mut self, state: State) -> bool {
        self.stored = true;
        if !state.is_newer_than(&self.state) {
            return false;
        }
        self.state = state;
        if state.phase == Phase::Cancelling {
            self.stop(Stop::Cancel);
        }
        true
    }

    /// Whether there is news for who has seen the job at this age. An end is none before it can be
    /// told with its result.
    fn is_newer_than(&self, seen: Age) -> bool {
        if self.ended.is_some() || self.void {
            return true;
        }
        self.stored && !self.state.phase.is_terminal() && self.state.age() > seen
    }

    fn stop(&mut self, why: Stop) {
        // A cancel is what the user sees, so it is the reason whatever else stops the run.
        if self.stop.is_none() || why == Stop::Cancel {
            self.stop = Some(why);
        }
        if let Some(run) = &self.run {
            run.cancel();
        }
    }
}
