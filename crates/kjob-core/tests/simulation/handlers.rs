//! Handlers that do anything a handler may do, and some things that none should.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_core::engine::{Handler, HandlerError, JobContext, Registry};
use kjob_core::{Clock, JobId, Output, Payload};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use crate::coverage::Event;
use crate::history::Did;
use crate::plan::millis;
use crate::sim::Sim;

/// What unexpected panics are told from expected ones by.
pub(crate) const BY_CHANCE: &str = "by chance: a panic";

/// The routes of a round.
pub(crate) fn routes(sim: &Arc<Sim>, gone: Option<usize>) -> Registry {
    let mut registry = Registry::default();
    for (number, route) in sim.plan.routes.iter().enumerate() {
        if gone != Some(number) {
            let handler = Anything {
                sim: sim.clone(),
                endpoint: route.endpoint,
            };
            registry
                .route(route.endpoint, handler, route.options())
                .unwrap();
        }
    }
    registry
}

struct Anything {
    sim: Arc<Sim>,
    endpoint: &'static str,
}

/// Notes when the future of a run is gone.
struct Running<'a> {
    sim: &'a Sim,
    id: JobId,
    endpoint: &'static str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.sim.is_killing() {
            self.sim
                .note(format_args!("handler of {} is gone", self.id));
        }
        self.sim.history().gone(self.id, self.endpoint);
    }
}

#[async_trait]
impl Handler for Anything {
    async fn call(&self, context: JobContext, payload: Payload) -> Result<Output, HandlerError> {
        let sim = &*self.sim;
        let job = context.job();
        let (id, attempt) = (job.id, job.attempt);
        let lease = {
            let mut history = sim.history();
            history.begins(id, attempt, &job.endpoint);
            history.jobs.get(&id).map_or(0, |known| known.begun)
        };
        let _running = Running {
            sim,
            id,
            endpoint: self.endpoint,
        };
        sim.note(format_args!("handler of {id} begins, attempt {attempt}"));
        let mut rng = sim
            .plan
            .rng(2 ^ ((id.get() as u64) << 8) ^ (u64::from(lease) << 40));
        self.work(&context, &mut rng).await;
        let did = self.leave(&context, &payload, &mut rng).await;
        sim.note(format_args!("handler of {id} leaves: {did:?}"));
        let Some(did) = did else {
            return Err(HandlerError::Stopped);
        };
        sim.history().did(id, did.clone());
        match did {
            Did::Returned(data) => Ok(Output::binary(data)),
            Did::ReturnedTooMuch => Ok(Output::binary(vec![0; 101])),
            Did::Failed => Err(HandlerError::failed("by chance: failed")),
            Did::Transient => Err(HandlerError::transient("by chance: transient")),
            Did::StoppedUnasked => Err(HandlerError::Stopped),
            Did::Panicked => panic!("{BY_CHANCE}"),
        }
    }
}

impl Anything {
    /// Takes some time, or none, and reports how far it is.
    async fn work(&self, context: &JobContext, rng: &mut StdRng) {
        let sim = &*self.sim;
        if rng.random_bool(0.1) {
            self.storm(context);
        }
        if rng.random_bool(0.05) {
            self.leave_a_task_behind(context, rng);
        }
        let steps = if rng.random_bool(0.3) {
            0
        } else {
            rng.random_range(1..6u8)
        };
        for step in 1..=steps {
            sim.clock.sleep(millis(rng, 0, 800)).await;
            // Reports may fall; what is shown may not.
            let percent = step * 20 - rng.random_range(0..30).min(step * 20);
            self.report(context, percent);
            if context.is_cancelled() && rng.random_bool(0.5) {
                return;
            }
        }
    }

    fn report(&self, context: &JobContext, percent: u8) {
        self.sim.history().reported(context.job().id, percent);
        context.progress(percent);
    }

    fn storm(&self, context: &JobContext) {
        Event::ProgressStorm.happened();
        for n in 0..2_000u32 {
            self.report(context, (n % 90) as u8);
        }
    }

    /// A task that outlives the job and goes on talking about it.
    fn leave_a_task_behind(&self, context: &JobContext, rng: &mut StdRng) {
        let (sim, context) = (self.sim.clone(), context.clone());
        let wait = millis(rng, 0, 20_000);
        tokio::spawn(async move {
            sim.clock.sleep(wait).await;
            sim.history().reported(context.job().id, 99);
            context.progress(99);
            Event::OutlivedByTask.happened();
        });
    }

    /// How the handler leaves; `None` if it stops as it was told.
    async fn leave(
        &self,
        context: &JobContext,
        payload: &Payload,
        rng: &mut StdRng,
    ) -> Option<Did> {
        let mut data = payload.data.to_vec();
        data.extend_from_slice(&context.job().attempt.to_be_bytes());
        let result = Did::Returned(Bytes::from(data));
        if context.is_cancelled() && rng.random_bool(0.7) {
            return None;
        }
        Some(match rng.random_range(0..20) {
            0 | 1 => Did::Failed,
            2..5 => Did::Transient,
            5 => Did::Panicked,
            6 => Did::ReturnedTooMuch,
            7 => Did::StoppedUnasked,
            8 => {
                context.cancelled().await;
                return None;
            }
            9 => self.never_end(context).await,
            10 => {
                // Takes its time to stop, and has a result all the same.
                context.cancelled().await;
                let grace = self.sim.plan.config.stop_grace;
                let most = grace.mul_f64(rng.random_range(0.0..1.5));
                self.sim.clock.sleep(most).await;
                result
            }
            _ => result,
        })
    }

    async fn never_end(&self, context: &JobContext) -> Did {
        let _dropped = Dropped;
        context.cancelled().await;
        self.sim.clock.sleep(Duration::from_secs(100_000)).await;
        Did::Failed
    }
}

/// Notes that a run which ignored all words was dropped.
struct Dropped;

impl Drop for Dropped {
    fn drop(&mut self) {
        Event::DroppedAfterGrace.happened();
    }
}

/// A draw from a generator, for those who only need a seed.
pub(crate) fn seed(rng: &mut StdRng) -> u64 {
    rng.next_u64()
}
