//! Taking up the jobs that a store holds.

use std::sync::Arc;

use kjob_proto::Text;

use super::Inner;
use super::live::Live;
use super::log::job_log;
use crate::{
    Finish, Header, Lease, LiveJob, OnInterrupt, Parts, Phase, Refused, State, StepError,
    StoreError,
};

/// Takes up every job that has not ended: queued ones wait again, those that ran follow their route's
/// rule.
pub(super) async fn take_up(inner: &Arc<Inner>) -> Result<(), StoreError> {
    const PAGE: usize = 10_000;
    let mut after = None;
    let (mut queued, mut interrupted) = (0u64, 0u64);
    let mut is_stuck = false;
    loop {
        let live = inner.store.live(after, PAGE, inner.now());
        let page = inner.step(live).await?;
        let mut ends = tokio::task::JoinSet::new();
        for job in page.jobs {
            // Whoever cancels it meanwhile finds it here. What dozes counts as waiting, until it is settled.
            inner.table.insert_dozing(job.id);
            inner.room.readmit(&job.owner);
            if wait_again(inner, &job) {
                queued += 1;
            } else {
                interrupted += 1;
                // All of a page at once, so that they share the store's commits.
                ends.spawn(end_run(inner.clone(), job));
            }
        }
        if !is_stuck {
            tokio::select! {
                biased;
                () = async { while ends.join_next().await.is_some() {} } => {}
                () = inner.clock.sleep(super::RETRY_AFTER) => is_stuck = true,
            }
        }
        // What is left goes on by itself: the store cannot be written to for now, but what it
        // has can be looked at.
        ends.detach_all();
        match page.next {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    if queued + interrupted > 0 {
        tracing::info!(queued, interrupted, "jobs taken up from the store");
    }
    inner.dispatch();
    Ok(())
}

/// Lets a job wait again, if that is what it did and can do.
fn wait_again(inner: &Inner, job: &LiveJob) -> bool {
    let route = inner.route_of(&job.endpoint);
    let Some(route) = route.filter(|_| job.state.phase == Phase::Queued) else {
        return false;
    };
    let waiting = inner.waiting_of(job, &route);
    inner.room.enqueue(waiting, job.state.not_before);
    true
}

/// Ends a run whose server is gone, or a job whose endpoint is no longer served. One that is damaged stays
/// as it is, and keeps nobody back.
async fn end_run(inner: Arc<Inner>, job: LiveJob) {
    let live = loop {
        match inner.wake(job.id).await {
            Ok(Some(live)) => break live,
            Ok(None) => return,
            Err(error @ StoreError::Corrupt { .. }) => {
                return inner.give_up(job.id, &job.owner, &error);
            }
            Err(error) if inner.is_hopeless(&error) => return,
            Err(_) => inner.pause_between_tries(super::RETRY_AFTER).await,
        }
    };
    inner.no_longer_waits(&live);
    inner.interrupt(&live, STOPPED).await;
}

/// Why a job that ran fails, if it does.
const STOPPED: &str = "interrupted: the server stopped while the job was running; outcome unknown";

impl Inner {
    /// Ends the run of a job that this node has taken over.
    pub(super) async fn end_taken_over(
        self: Arc<Self>,
        header: Header,
        state: State,
        reason: &'static str,
    ) {
        let live = self.take(header, state);
        self.interrupt(&live, reason).await;
    }

    /// Ends a run whose engine is gone, by the rule of its route, or a job whose endpoint is no longer served.
    async fn interrupt(self: &Arc<Self>, live: &Arc<Live>, reason: &'static str) {
        let Some(route) = self.route_of(&live.header.endpoint) else {
            return fail_unserved(self, live).await;
        };
        let state = live.state();
        let finish = Finish::Interrupt {
            reason: Text::from_static(reason),
            then: self.after_interrupt(&route, &state, true),
        };
        self.finish(live, state.lease, finish).await;
    }
}

/// A job that nobody can run any more fails; it was waiting or running, and nobody else starts it.
pub(super) async fn fail_unserved(inner: &Arc<Inner>, live: &Arc<Live>) {
    let reason = Text::from(format!(
        "endpoint {:?} is no longer served",
        live.header.endpoint
    ));
    if live.state().phase == Phase::Queued && !start_to_fail(inner, live).await {
        return;
    }
    let then = OnInterrupt::Fail;
    let lease = live.state().lease;
    inner
        .finish(live, lease, Finish::Interrupt { reason, then })
        .await;
}

/// Starts a queued job without a handler, as only a started job can fail; says whether it is.
async fn start_to_fail(inner: &Arc<Inner>, live: &Arc<Live>) -> bool {
    let id = live.header.id;
    loop {
        // Its own time need not come any more.
        let at = inner.now().max(live.state().not_before.unwrap_or_default());
        match inner.step(inner.store.start(id, at)).await {
            Ok(started) => {
                live.observe(started.state);
                return true;
            }
            Err(StepError::Refused(Refused::NotQueued(_))) => {
                // An earlier try was done, though its answer was an error.
                let get = inner.store.get(id, Parts::NONE, inner.now());
                match inner.step(get).await {
                    Ok(Some(job)) => {
                        live.observe(job.state);
                        return true;
                    }
                    Err(error) if inner.is_hopeless(&error) => return false,
                    Ok(None) | Err(_) => {
                        inner.pause_between_tries(super::RETRY_AFTER).await;
                    }
                }
            }
            // It was cancelled meanwhile.
            Err(StepError::Refused(_) | StepError::Unknown(_)) => {
                inner.settle_as_stored(live, Lease::default()).await;
                return false;
            }
            Err(StepError::Store(error)) => {
                job_log!(error, live.header, %error, "job of an endpoint no longer served stays queued for now");
                if inner.is_hopeless(&error) {
                    return false;
                }
                inner.pause_between_tries(super::RETRY_AFTER).await;
            }
        }
    }
}
