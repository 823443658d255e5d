//! What everybody in a simulation shares.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use kjob_core::{Clock, Job, JobId, MemoryStore, Parts, Store, Timestamp};
use rand::rngs::StdRng;

use crate::clock::SimClock;
use crate::history::History;
use crate::plan::{Plan, Trouble};
use crate::store::{Kind, Wreck};
use crate::trace::{Trace, Tracing};

/// More steps of the store than a sound simulation takes.
const STEPS_MAX: u64 = 200_000;

pub(crate) struct Sim {
    pub(crate) plan: Plan,
    pub(crate) clock: SimClock,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) store_rng: Mutex<StdRng>,
    /// Steps that the present kill leaves alone.
    pub(crate) wreck: Mutex<Wreck>,
    steps: AtomicU64,
    pub(crate) trace: Trace,
    history: Mutex<History>,
    present: Mutex<Present>,
}

/// How things stand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Present {
    pub(crate) round: usize,
    /// When its engine was open.
    pub(crate) opened: Option<u64>,
    pub(crate) trouble: Trouble,
    pub(crate) full: bool,
    /// The store has failed for good.
    pub(crate) failed: bool,
    pub(crate) draining: bool,
    /// When a step was first answered with that.
    pub(crate) failure_answered: Option<u64>,
    /// Whether the engine has said that its store has failed.
    pub(crate) failure_told: bool,
    /// The engine is going down or is down.
    pub(crate) closing: bool,
    /// The runtime is being dropped.
    pub(crate) killing: bool,
    /// Whether the wall clock was ever set.
    pub(crate) jumped: bool,
}

impl Sim {
    pub(crate) fn new(plan: Plan, tracing: Tracing) -> Arc<Self> {
        Arc::new(Self {
            clock: SimClock::default(),
            store: Arc::new(MemoryStore::new()),
            store_rng: Mutex::new(plan.rng(1)),
            wreck: Mutex::default(),
            steps: AtomicU64::new(0),
            trace: Trace::new(tracing),
            history: Mutex::new(History::new(plan.clone())),
            present: Mutex::default(),
            plan,
        })
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        let mut history = self.history.lock().unwrap();
        history.at = self.clock.passed();
        history.wall_max = self.clock.wall_max();
        history.present = self.present();
        history
    }

    pub(crate) fn present(&self) -> Present {
        *self.present.lock().unwrap()
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Present)) {
        change(&mut self.present.lock().unwrap());
    }

    pub(crate) fn is_killing(&self) -> bool {
        self.present().killing
    }

    /// Numbers the steps that are asked of the store.
    pub(crate) fn next_step(&self) -> u64 {
        let number = self.steps.fetch_add(1, Ordering::Relaxed);
        // Virtual time hides an engine that tries for ever without a pause.
        assert!(number < STEPS_MAX, "{STEPS_MAX} steps of the store");
        number
    }

    /// A line for the trace.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        self.trace.line(self.clock.passed(), what);
    }

    /// Notes what a step has made of the store.
    pub(crate) fn was_done(&self, kind: Kind, id: Option<JobId>) {
        let at = self.clock.now();
        match (kind, id) {
            (Kind::Submit | Kind::Start | Kind::Progress, Some(id))
            | (Kind::Finish | Kind::Cancel | Kind::ExpireAt | Kind::NoteCallback, Some(id)) => {
                if let Some(job) = self.stored(id) {
                    self.note(format_args!("job {id} is {:?}", job.state));
                    self.history().stored(job, at);
                }
            }
            (Kind::Expire, _) => {
                let kept = self.history().kept();
                let gone = kept.into_iter().filter(|id| self.stored(*id).is_none());
                let gone: Vec<JobId> = gone.collect();
                self.history().deleted(&gone, at);
            }
            _ => {}
        }
    }

    /// A job as it is stored, expired or not.
    fn stored(&self, id: JobId) -> Option<Job> {
        let parts = Parts {
            payload: true,
            result: true,
        };
        let before_all = Timestamp::from_millis(i64::MIN);
        let mut get = self.store.get(id, parts, before_all);
        let mut context = Context::from_waker(Waker::noop());
        match get.as_mut().poll(&mut context) {
            Poll::Ready(found) => found.ok().flatten(),
            Poll::Pending => unreachable!("the store in memory answers at once"),
        }
    }
}
