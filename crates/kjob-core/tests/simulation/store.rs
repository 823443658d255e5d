//! The store under the engine: late, out of order, full, failing, and cut off by kills.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use kjob_core::{
    CallbackState, CallbackTry, ClaimedCallbacks, Expired, Filter, Finish, IdBlock, Job, JobId,
    JobTag, Lease, LivePage, NewJob, Owner, Page, Parts, Started, State, StepError, Store,
    StoreError, StoreUsage, Submitted, Timestamp,
};
use rand::RngExt;

use crate::coverage::Event;
use crate::sim::Sim;

/// Which step of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Reserve,
    Submit,
    Start,
    Progress,
    Finish,
    Cancel,
    Find,
    Get,
    List,
    ClaimCallbacks,
    NoteCallback,
    ExpireAt,
    Expire,
    Close,
}

impl Kind {
    fn writes(self) -> bool {
        !matches!(
            self,
            Kind::Find | Kind::Get | Kind::List | Kind::ClaimCallbacks
        )
    }

    fn killed(self) -> Option<Event> {
        Some(match self {
            Kind::Reserve => Event::KilledWhileReserving,
            Kind::Submit => Event::KilledWhileSubmitting,
            Kind::Start => Event::KilledWhileStarting,
            Kind::Progress => Event::KilledWhileReporting,
            Kind::Finish => Event::KilledWhileFinishing,
            Kind::Cancel => Event::KilledWhileCancelling,
            Kind::Expire | Kind::ExpireAt => Event::KilledWhileExpiring,
            Kind::NoteCallback => Event::KilledWhileNotingCallback,
            Kind::Find | Kind::Get | Kind::List | Kind::ClaimCallbacks | Kind::Close => {
                return None;
            }
        })
    }

    fn done_though_error(self) -> Option<Event> {
        Some(match self {
            Kind::Submit => Event::SubmitDoneThoughError,
            Kind::Start => Event::StartDoneThoughError,
            Kind::Finish => Event::FinishDoneThoughError,
            Kind::Cancel => Event::CancelDoneThoughError,
            Kind::NoteCallback => Event::NoteDoneThoughError,
            _ => return None,
        })
    }
}

/// A store in memory, behind everything that may come between an engine and a disk.
pub(crate) struct SimStore(pub(crate) Arc<Sim>);

/// What a step meets on its way, drawn when it is asked for.
#[derive(Clone, Copy)]
struct Fate {
    before: u64,
    after: u64,
    /// It is answered with an error; this says whether it is done all the same.
    error: Option<bool>,
    /// If nobody waits for it any more before it is done: whether it is done.
    done_if_dropped: bool,
    /// If the store fails for good while it is on its way: whether it is done.
    done_if_failing: bool,
}

/// A step on its way. However it is left, it is done once or not at all.
struct OnItsWay<'a, T: 'static> {
    sim: &'a Arc<Sim>,
    left: LeftAlone,
    step: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

/// What is known of a step that nobody waits for any more.
#[derive(Clone, Copy)]
struct LeftAlone {
    /// Its place among all steps.
    number: u64,
    kind: Kind,
    id: Option<JobId>,
    is_done: bool,
}

/// Steps that were on their way when their engine was killed.
#[derive(Default)]
pub(crate) struct Wreck(Vec<(LeftAlone, Box<dyn FnOnce() + Send>)>);

impl Wreck {
    /// Decides what they come to. The runtime drops its tasks in any order, so this is done
    /// afterwards, in the order in which the steps were asked for.
    pub(crate) fn settle(mut self, sim: &Sim) {
        self.0.sort_by_key(|(left, _)| left.number);
        for (left, step) in self.0 {
            if let Some(event) = left.kind.killed() {
                event.happened();
                let and = if left.is_done {
                    Event::KilledAndDone
                } else {
                    Event::KilledAndLost
                };
                and.happened();
            }
            left.settle(sim, step);
        }
    }
}

impl LeftAlone {
    fn settle(self, sim: &Sim, step: impl FnOnce()) {
        let LeftAlone {
            kind, id, is_done, ..
        } = self;
        sim.note(format_args!(
            "store {kind:?} {id:?} is left alone, done: {is_done}"
        ));
        if is_done {
            step();
            sim.was_done(kind, id);
        }
    }
}

impl<T: 'static> OnItsWay<'_, T> {
    fn do_it(&mut self) -> Option<T> {
        let answer = at_once(self.step.take()?);
        self.sim.was_done(self.left.kind, self.left.id);
        Some(answer)
    }
}

impl<T: 'static> Drop for OnItsWay<'_, T> {
    fn drop(&mut self) {
        let Some(step) = self.step.take() else { return };
        let do_it = move || drop(at_once(step));
        if self.sim.is_killing() {
            let mut wreck = self.sim.wreck.lock().unwrap();
            wreck.0.push((self.left, Box::new(do_it)));
        } else {
            self.left.settle(self.sim, do_it);
        }
    }
}

/// Steps of a store in memory need no waiting.
fn at_once<T>(mut step: Pin<Box<dyn Future<Output = T> + Send>>) -> T {
    match step.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("the store in memory answers at once"),
    }
}

impl SimStore {
    async fn step<T, E>(
        &self,
        kind: Kind,
        id: Option<JobId>,
        step: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: 'static,
        E: From<StoreError> + fmt::Display + 'static,
    {
        let sim = &self.0;
        let fate = self.fate(kind);
        let was_failed = sim.present().failed;
        let mut way = OnItsWay {
            sim,
            left: LeftAlone {
                number: sim.next_step(),
                kind,
                id,
                is_done: fate.done_if_dropped,
            },
            step: Some(Box::pin(step)),
        };
        sim.clock.micros(fate.before).await;
        if let Some(error) = self.refusal(kind) {
            if sim.present().failed && !was_failed && fate.done_if_failing {
                way.do_it();
            }
            way.step = None;
            sim.note(format_args!("store {kind:?} {id:?}: {error}"));
            sim.clock.micros(fate.after).await;
            if sim.present().failed {
                let now = sim.clock.passed();
                sim.set(|present| {
                    present.failure_answered.get_or_insert(now);
                });
            }
            return Err(error.into());
        }
        let answer = match fate.error {
            Some(false) => {
                way.step = None;
                Event::ErrorNotDone.happened();
                Err(self.io().into())
            }
            Some(true) => {
                let done = way.do_it();
                if matches!(done, Some(Ok(_))) {
                    Event::ErrorThoughDone.happened();
                    kind.done_though_error()
                        .into_iter()
                        .for_each(Event::happened);
                }
                Err(self.io().into())
            }
            None => way.do_it().expect("nobody else does it"),
        };
        match &answer {
            Ok(_) => sim.note(format_args!("store {kind:?} {id:?}: done")),
            Err(error) => sim.note(format_args!("store {kind:?} {id:?}: {error}")),
        }
        sim.clock.micros(fate.after).await;
        answer
    }

    fn fate(&self, kind: Kind) -> Fate {
        let trouble = self.0.present().trouble;
        let mut rng = self.0.store_rng.lock().unwrap();
        let fails = trouble
            .error_one_in
            .is_some_and(|n| rng.random_ratio(1, n) && kind != Kind::Close);
        Fate {
            before: rng.random_range(0..=trouble.latency_max),
            after: rng.random_range(0..=trouble.latency_max),
            error: fails.then(|| rng.random_bool(0.5)),
            done_if_dropped: rng.random_bool(0.5),
            done_if_failing: rng.random_bool(0.5),
        }
    }

    /// Why a write is refused at this moment, if it is.
    fn refusal(&self, kind: Kind) -> Option<StoreError> {
        let present = self.0.present();
        if !kind.writes() || kind == Kind::Close {
            None
        } else if present.failed {
            Some(self.io())
        } else if present.full && !matches!(kind, Kind::Cancel | Kind::Expire) {
            Event::Full.happened();
            Some(StoreError::Full)
        } else {
            None
        }
    }

    fn io(&self) -> StoreError {
        StoreError::Io {
            doing: "do what the simulation keeps it from",
            source: Arc::new(std::io::Error::other("by chance")),
        }
    }
}

#[async_trait]
impl Store for SimStore {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        let store = self.0.store.clone();
        let step = async move { store.reserve_ids(count).await };
        self.step(Kind::Reserve, None, step).await
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        let id = Some(job.header.id);
        let store = self.0.store.clone();
        let step = async move { store.submit(job, start).await };
        self.step(Kind::Submit, id, step).await
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        let store = self.0.store.clone();
        let step = async move { store.start(id, at).await };
        self.step(Kind::Start, Some(id), step).await
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.0.history().progress_asked(id);
        let store = self.0.store.clone();
        let step = async move { store.progress(id, lease, percent, at).await };
        self.step(Kind::Progress, Some(id), step).await
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let store = self.0.store.clone();
        let step = async move { store.finish(id, lease, finish, at).await };
        self.step(Kind::Finish, Some(id), step).await
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        let store = self.0.store.clone();
        let step = async move { store.request_cancel(id, at).await };
        self.step(Kind::Cancel, Some(id), step).await
    }

    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        let (owner, tag) = (owner.clone(), tag.clone());
        let store = self.0.store.clone();
        let step = async move { store.find(&owner, &tag, now).await };
        self.step(Kind::Find, None, step).await
    }

    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        let store = self.0.store.clone();
        let step = async move { store.get(id, parts, now).await };
        self.step(Kind::Get, Some(id), step).await
    }

    async fn get_of(
        &self,
        owner: &Owner,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        let (owner, store) = (owner.clone(), self.0.store.clone());
        let step = async move { store.get_of(&owner, id, parts, now).await };
        self.step(Kind::Get, Some(id), step).await
    }

    async fn live(
        &self,
        after: Option<JobId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<LivePage, StoreError> {
        let store = self.0.store.clone();
        let step = async move { store.live(after, limit, now).await };
        self.step(Kind::List, None, step).await
    }

    async fn bytes_of(&self, id: JobId, now: Timestamp) -> Result<Option<u64>, StoreError> {
        let store = self.0.store.clone();
        let step = async move { store.bytes_of(id, now).await };
        self.step(Kind::Get, Some(id), step).await
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        let filter = filter.clone();
        let store = self.0.store.clone();
        let step = async move { store.list(&filter, now).await };
        self.step(Kind::List, None, step).await
    }

    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        let sim = self.0.clone();
        let step = async move {
            let claimed = sim.store.claim_callbacks(now, until, limit).await;
            if let Ok(claimed) = &claimed {
                let mut history = sim.history();
                history.callbacks_claimed(claimed, (now, until), limit);
            }
            claimed
        };
        self.step(Kind::ClaimCallbacks, None, step).await
    }

    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        let store = self.0.store.clone();
        let step = async move { store.note_callback(id, tried, at).await };
        self.step(Kind::NoteCallback, Some(id), step).await
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        let store = self.0.store.clone();
        let step = async move { store.expire_at(id, at).await };
        self.step(Kind::ExpireAt, Some(id), step).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        let store = self.0.store.clone();
        let step = async move { store.expire(now).await };
        self.step(Kind::Expire, None, step).await
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        self.0.store.usage(owner)
    }

    fn failure(&self) -> Option<StoreError> {
        self.0.present().failed.then(|| self.io())
    }

    async fn close(&self) -> Result<(), StoreError> {
        let store = self.0.store.clone();
        let step = async move { store.close().await };
        self.step(Kind::Close, None, step).await
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStore").finish_non_exhaustive()
    }
}
