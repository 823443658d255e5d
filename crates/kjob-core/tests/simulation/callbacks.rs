//! Where callbacks truly stand, and what is handed out and told of them.

use kjob_core::{
    CallbackPhase, CallbackState, CallbackTry, ClaimedCallbacks, Job, JobId, Refused, State,
    StepError, Timestamp,
};

use crate::coverage::Event;
use crate::history::{History, Known};

/// What is known of a job's callback.
#[derive(Default)]
pub(crate) struct Callback {
    /// As it is stored.
    state: Option<CallbackState>,
    /// When the store is to hand it out next.
    due_at: Option<Timestamp>,
    /// The round in which it became pending.
    round: usize,
    /// How often somebody was given it.
    given: u64,
    /// What somebody wanted to be noted of it.
    tries: Vec<CallbackTry>,
}

impl Callback {
    fn is_pending(&self) -> bool {
        self.due_at.is_some()
    }
}

impl History {
    /// A step has left a job's callback so. It begins with the job's end, goes on by tries alone,
    /// and stays as it is when it is over.
    pub(crate) fn callback_stored(&mut self, known: &mut Known, job: &Job) {
        let wants = known.header.options.callback_url.is_some();
        let callback = &mut known.callback;
        let is_explained = match (&callback.state, &job.callback) {
            (None, None) => !wants || !job.state.phase.is_terminal(),
            (None, Some(new)) => {
                callback.round = self.present.round;
                let ended = job.state.ended_at;
                wants && ended.map(CallbackState::pending).as_ref() == Some(new)
            }
            (Some(old), Some(new)) if old == new => true,
            (Some(old), Some(new)) => {
                count(new.phase);
                let at = new.tried_at.unwrap_or_default();
                let mut tries = callback.tries.iter();
                tries.any(|tried| old.after(tried.clone(), at).as_ref() == Some(new))
            }
            (Some(_), None) => false,
        };
        let old = callback.state.take();
        if old != job.callback {
            callback.due_at = job.callback.as_ref().and_then(|new| new.next_at);
        }
        callback.state = job.callback.clone();
        if !is_explained {
            let (id, new) = (known.header.id, &job.callback);
            self.violated(format_args!(
                "the callback of {id} went from {old:?} to {new:?}"
            ));
        }
    }

    /// The store was opened anew: claims are over.
    pub(crate) fn reopened(&mut self) {
        for known in self.jobs.values_mut() {
            let state = known.callback.state.as_ref();
            known.callback.due_at = state.and_then(|state| state.next_at);
        }
    }

    /// The store has handed out callbacks: all that are due, up to `limit`, the longest due first.
    pub(crate) fn callbacks_claimed(
        &mut self,
        claimed: &ClaimedCallbacks,
        (now, until): (Timestamp, Timestamp),
        limit: usize,
    ) {
        let given: Vec<JobId> = claimed.jobs.iter().map(|job| job.header.id).collect();
        let is_due = |known: &Known| {
            let id = known.header.id;
            let due_at = known.callback.due_at.filter(|at| *at <= now)?;
            let is_there = known.expires_at.is_none_or(|at| at > now);
            // What has expired once is forgotten, even if the clock is set back behind that.
            let may_be_given = is_there && (given.contains(&id) || !self.may_be_gone(id));
            may_be_given.then_some((due_at, id))
        };
        let mut due: Vec<_> = self.jobs.values().filter_map(is_due).collect();
        due.sort_unstable();
        let due: Vec<JobId> = due.into_iter().map(|(_, id)| id).take(limit).collect();
        if due != given {
            self.violated(format_args!(
                "callbacks of {due:?} are due, {given:?} are given"
            ));
        }
        let later = Timestamp::from_millis(now.as_millis() + 1);
        for job in &claimed.jobs {
            let round = self.present.round;
            let Some(known) = self.jobs.get_mut(&job.header.id) else {
                continue;
            };
            known.callback.due_at = Some(until.max(later));
            Event::CallbackGiven.happened();
            if known.callback.round < round {
                Event::CallbackGivenAfterRestart.happened();
            }
            let is_it = known.header == job.header
                && known.state == job.state
                && known.callback.state == job.callback;
            if !is_it {
                let (state, callback) = (known.state, known.callback.state.clone());
                self.violated(format_args!(
                    "{job:?} is given, not {state:?}, {callback:?}"
                ));
            }
        }
    }

    /// Somebody was given a callback; says how often that happened.
    pub(crate) fn callback_was_given(&mut self, job: &Job) -> u64 {
        let Some(known) = self.jobs.get_mut(&job.header.id) else {
            return 0;
        };
        known.callback.given += 1;
        known.callback.given
    }

    /// Somebody wants a try to be noted.
    pub(crate) fn callback_was_tried(&mut self, id: JobId, tried: CallbackTry) {
        if let Some(known) = self.jobs.get_mut(&id) {
            known.callback.tries.push(tried);
        }
    }

    /// Somebody was told what a try has made of a callback.
    pub(crate) fn callback_was_noted(&mut self, id: JobId, told: &CallbackState) {
        let stored = self
            .jobs
            .get(&id)
            .and_then(|known| known.callback.state.as_ref());
        let is_true = stored.is_some_and(|stored| is_from(told, stored));
        if !is_true {
            let stored = stored.cloned();
            self.violated(format_args!(
                "the callback of {id} is told as {told:?}: {stored:?}"
            ));
        }
    }

    /// A try was not noted: only what is over, or gone, may be so.
    pub(crate) fn callback_was_refused(&mut self, id: JobId, error: &StepError) {
        let known = self.jobs.get(&id);
        let is_explained = match error {
            StepError::Refused(Refused::NoCallback) => {
                Event::CallbackNotedTooLate.happened();
                known.is_some_and(|known| !known.callback.is_pending())
            }
            StepError::Unknown(_) => {
                Event::CallbackExpired.happened();
                self.may_be_gone(id)
            }
            _ => false,
        };
        if !is_explained {
            self.violated(format_args!(
                "a try of the callback of {id} is refused: {error}"
            ));
        }
    }

    /// Whether what is told of a job's callback may be: it has one when it has ended, which is not
    /// ahead of the store.
    pub(crate) fn callback_told_wrong(known: &Known, state: &State, told: &Job) -> bool {
        let wants = known.header.options.callback_url.is_some();
        match (&told.callback, &known.callback.state) {
            (None, _) => wants && state.phase.is_terminal(),
            (Some(told), Some(stored)) => !is_from(told, stored),
            (Some(_), None) => true,
        }
    }

    /// Callbacks that are still to be made, and whose jobs have not expired.
    pub(crate) fn callbacks_pending(&self) -> Vec<JobId> {
        let left = self
            .jobs
            .iter()
            .filter(|(_, known)| known.callback.is_pending());
        let left = left.map(|(id, _)| *id);
        left.filter(|id| !self.may_be_gone(*id)).collect()
    }

    /// In a round whose store is reliable and whose clock was never set: a callback that is due is
    /// handed out.
    pub(crate) fn no_callback_is_overdue(&mut self) {
        let Some(opened) = self.present.opened.filter(|_| !self.present.closing) else {
            return;
        };
        let pending = self.callbacks_pending();
        // They are taken one after the other.
        let slack = self.slack() * (1 + pending.len() as u64);
        for id in pending {
            let known = &self.jobs[&id];
            let due_at = known.callback.due_at.unwrap_or_default();
            let due_for = self.wall_max.since(due_at).as_micros() as u64;
            let due_for = due_for.min(self.at - opened);
            if due_for > slack {
                self.violated(format_args!("the callback of {id} is due for {due_for} us"));
            }
        }
    }
}

/// Whether the one is the other, or was before it.
fn is_from(told: &CallbackState, stored: &CallbackState) -> bool {
    told == stored || (told.phase == CallbackPhase::Pending && told.attempts < stored.attempts)
}

fn count(phase: CallbackPhase) {
    match phase {
        CallbackPhase::Pending => Event::CallbackRetried,
        CallbackPhase::Delivered => Event::CallbackDelivered,
        CallbackPhase::GivenUp => Event::CallbackGivenUp,
    }
    .happened();
}
