//! Whoever makes callbacks: takes those that are due, and says how each try went, or never does.

use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::{Caller, Engine, JobKey};
use kjob_core::{CallbackOutcome, CallbackTry, Clock, Job, Owner, StepError, StoreError};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::coverage::Event;
use crate::plan::millis;
use crate::sim::Sim;
use crate::users::may_fail;

/// The one of a round.
#[derive(Clone)]
pub(crate) struct Messenger {
    sim: Arc<Sim>,
    engine: Engine,
}

impl Messenger {
    pub(crate) fn new(sim: &Arc<Sim>, engine: &Engine) -> Self {
        Self {
            sim: sim.clone(),
            engine: engine.clone(),
        }
    }

    /// Takes what is due until the engine is closed.
    pub(crate) async fn live(self, mut rng: StdRng) {
        loop {
            let (limit, claim) = (rng.random_range(1..5), millis(&mut rng, 200, 10_000));
            let due = self.engine.due_callbacks(limit, claim);
            let due = if rng.random_bool(0.1) {
                let patience = millis(&mut rng, 0, 1_000);
                tokio::select! {
                    biased;
                    due = due => due,
                    () = self.sim.clock.sleep(patience) => {
                        Event::CallbacksAbandoned.happened();
                        continue;
                    }
                }
            } else {
                due.await
            };
            match due {
                Ok(jobs) => {
                    for job in jobs {
                        tokio::spawn(self.clone().tell(job));
                    }
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    if !may_fail(&self.sim) {
                        let mut history = self.sim.history();
                        history.violated(format_args!("no due callbacks: {error}"));
                    }
                    self.sim.clock.sleep(millis(&mut rng, 1, 500)).await;
                }
            }
        }
    }

    /// One try, which may take longer than its claim.
    async fn tell(self, job: Job) {
        let id = job.header.id;
        let number = self.sim.history().callback_was_given(&job);
        let mut rng = self
            .sim
            .plan
            .rng(6 ^ ((id.get() as u64) << 8) ^ (number << 40));
        self.end_is_seen(&job).await;
        let takes = match rng.random_range(0..10) {
            0 => millis(&mut rng, 0, 15_000),
            _ => millis(&mut rng, 0, 400),
        };
        self.sim.clock.sleep(takes).await;
        if rng.random_bool(0.05) {
            return Event::CallbackForgotten.happened();
        }
        let tried = self.tried(&mut rng);
        self.sim.history().callback_was_tried(id, tried.clone());
        let noted = self.engine.note_callback(id, tried.clone()).await;
        self.sim
            .note(format_args!("callback of {id}: {tried:?}: {noted:?}"));
        match noted {
            Ok(state) => self.sim.history().callback_was_noted(id, &state),
            Err(StepError::Store(_)) if may_fail(&self.sim) => {}
            Err(error) => self.sim.history().callback_was_refused(id, &error),
        }
    }

    /// Who is told of an end and asks is not told that there is none.
    async fn end_is_seen(&self, job: &Job) {
        let root = Caller::admin(Owner::new("root"));
        let key = JobKey::Id(job.header.id);
        if let Ok(Some(seen)) = self.engine.get(&root, &key).await
            && !seen.state.phase.is_terminal()
        {
            let (id, state) = (job.header.id, seen.state);
            let mut history = self.sim.history();
            history.violated(format_args!(
                "the end of {id} is handed out, and not seen: {state:?}"
            ));
        }
    }

    fn tried(&self, rng: &mut StdRng) -> CallbackTry {
        let (http_status, outcome) = match rng.random_range(0..10) {
            0..5 => (Some(204), CallbackOutcome::Delivered),
            5 => {
                let error = "by chance: gone".into();
                (Some(410), CallbackOutcome::GiveUp { error })
            }
            _ => {
                let wait = Duration::from_millis(rng.random_range(0..5_000));
                let (error, at) = ("by chance: busy".into(), self.engine.now().after(wait));
                (None, CallbackOutcome::Retry { error, at })
            }
        };
        CallbackTry {
            http_status,
            outcome,
        }
    }
}
