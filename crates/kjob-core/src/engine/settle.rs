//! Making ends durable, and telling those who wait.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::live::Live;
use super::log::job_log;
use super::recovery;
use crate::{Ending, Finish, Job, Lease, Parts, Phase, State, StepError, StoreError};

impl Inner {
    /// Makes the end of a run durable, however long the store takes, and settles the job.
    pub(super) async fn finish(self: &Arc<Self>, live: &Arc<Live>, lease: Lease, finish: Finish) {
        let id = live.header.id;
        let _under_way = match &finish {
            Finish::Complete(output) => {
                let bytes = output.payload.data.len();
                Some(self.budget.result(&live.header.owner, bytes))
            }
            _ => None,
        };
        let mut wait = Duration::from_millis(100);
        // From here on others may hear of the end before this node does.
        live.begin_ending();
        loop {
            let now = self.now();
            let step = self.store.finish(id, lease, finish.clone(), now);
            match self.step(step).await {
                Ok(state) if state.phase == Phase::Queued => {
                    return self.queue_again(live, state);
                }
                Ok(state) => {
                    if let Some(ending) = finish.into_ending(&state) {
                        self.settle(live, state, ending);
                    }
                    return;
                }
                // Another end was made durable first, or an earlier try was done, though its
                // answer was an error.
                Err(StepError::Refused(_) | StepError::Unknown(_)) => {
                    return self.settle_as_stored(live, lease).await;
                }
                Err(StepError::Store(error)) if self.is_hopeless(&error) => {
                    // Trying again cannot help, or there is no time to; at the next start the job
                    // counts as interrupted.
                    job_log!(error, live.header, %error, "job's end cannot be stored");
                    return;
                }
                Err(StepError::Store(error)) => {
                    job_log!(error, live.header, %error, "job's end cannot be stored; will try again");
                    self.pause_between_tries(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    fn queue_again(self: &Arc<Self>, live: &Arc<Live>, state: State) {
        if let Some(cluster) = self.cluster_of(live.header.id) {
            job_log!(
                warn,
                live.header,
                attempt = state.attempt,
                "job is queued again"
            );
            let header = &live.header;
            self.tell(&header.endpoint, |told| told.queued_again(header, &state));
            live.observe(state);
            return self.leave_to_all(cluster, live, state.lease);
        }
        let Some(route) = self.route_of(&live.header.endpoint) else {
            // The routes were replaced while it ran.
            live.observe(state);
            let (inner, live) = (self.clone(), live.clone());
            tokio::spawn(async move { recovery::fail_unserved(&inner, &live).await });
            return;
        };
        let header = &live.header;
        job_log!(warn, header, attempt = state.attempt, "job is queued again");
        route.observer.queued_again(header, &state);
        // Counted first: whoever cancels it from now on takes it out of the count again.
        self.room.readmit(&header.owner);
        if live.wait_again(state) {
            self.enqueue(live, &route);
        } else {
            self.room.leave(&header.owner);
        }
    }

    /// The job has ended, durably: it leaves memory, and those who wait are told.
    pub(super) fn settle(&self, live: &Arc<Live>, state: State, ending: Ending) {
        if live.end(state, ending.clone()) {
            log_end(live, &state, &ending);
            let header = &live.header;
            self.tell(&header.endpoint, |told| told.ended(header, &state));
        }
        self.no_longer_waits(live);
        self.table.remove(live);
        if live.header.options.callback_url.is_some() {
            self.callbacks.notify_waiters();
        }
    }

    /// Brings a job to where somebody else, or a step whose answer was an error, has made it
    /// durable. What this engine did of it before was its run of this lease, or none (zero).
    pub(super) async fn settle_as_stored(self: &Arc<Self>, live: &Arc<Live>, lease: Lease) {
        let id = live.header.id;
        loop {
            match self
                .step(self.store.get(id, Parts::RESULT, self.now()))
                .await
            {
                Ok(Some(Job {
                    state,
                    ending: Some(ending),
                    ..
                })) => {
                    return self.settle(live, state, ending);
                }
                Ok(Some(Job { state, .. })) if self.is_shared() => {
                    // Another node has it.
                    live.leave(lease);
                    live.observe(state);
                    return self.leave_watched(live);
                }
                Ok(Some(Job { state, .. })) if state.phase == Phase::Queued => {
                    return self.queue_again(live, state);
                }
                Ok(Some(Job { state, .. })) => {
                    job_log!(error, live.header, phase = %state.phase, "the store refuses the job's end");
                    return;
                }
                // It has expired meanwhile: nobody can ask for it any more.
                Ok(None) => return self.withdraw(live),
                Err(error) if self.is_hopeless(&error) => return,
                Err(error) => {
                    job_log!(error, live.header, %error, "job's end cannot be read; will try again");
                    self.pause_between_tries(super::RETRY_AFTER).await;
                }
            }
        }
    }

    /// Whether a step that got this error need not be tried again: it cannot succeed, or there is
    /// no time for it.
    pub(super) fn is_hopeless(&self, error: &StoreError) -> bool {
        matches!(error, StoreError::Closed)
            || self.is_interrupting()
            || self.store.failure().is_some()
    }
}

fn log_end(live: &Live, state: &State, ending: &Ending) {
    let header = &live.header;
    let took = state
        .ended_at
        .map(|end| end.since(header.received_at).as_millis() as u64);
    macro_rules! ended {
        ($level:ident) => {
            job_log!(
                $level,
                header,
                endpoint = %header.endpoint,
                status = state.phase.status().as_str(),
                attempt = state.attempt,
                total_ms = took,
                "job ended"
            )
        };
    }
    // That all went well is no news to whoever runs the server, and a line for each of tens of thousands
    // of jobs a second costs as much as the jobs.
    if state.phase == Phase::Done {
        ended!(debug);
    } else {
        ended!(info);
    }
    // Handlers' messages may quote payloads, which do not belong in logs.
    if let Ending::Failed(message) = ending {
        let start = &message[..message.floor_char_boundary(200)];
        job_log!(debug, header, reason = start, "job failed");
    }
}
