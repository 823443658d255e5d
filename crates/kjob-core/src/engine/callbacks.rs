//! Callbacks that are due: the engine hands them out, whoever makes them says how it went.

use std::time::Duration;

use super::{Engine, Inner};
use crate::{CallbackState, CallbackTry, Job, JobId, StepError, StoreError, Timestamp};

/// How often it is looked whether the store has failed meanwhile, while an end that it has is not settled.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often it is looked whether callbacks of other nodes are due.
const LOOK_AT_OTHERS: Duration = Duration::from_secs(5);

impl Engine {
    /// Waits until callbacks are due, and hands out up to `limit` of them, the longest due first:
    /// the ended jobs, without their bytes. They come again after `claim`, unless a try is
    /// [noted](Engine::note_callback), or the engine is opened anew before.
    ///
    /// Whoever asks makes the callbacks; nobody else does. Dropping the future loses none.
    ///
    /// # Errors
    /// The store's.
    pub async fn due_callbacks(
        &self,
        limit: usize,
        claim: Duration,
    ) -> Result<Vec<Job>, StoreError> {
        let inner = &self.inner;
        loop {
            // Listen first, look second: an end in between is not missed.
            let mut ended = std::pin::pin!(inner.callbacks.notified());
            ended.as_mut().enable();
            let now = inner.now();
            let claimed = inner.store.claim_callbacks(now, now.after(claim), limit);
            let claimed = inner.step(claimed).await?;
            if !claimed.jobs.is_empty() {
                let mut due = Vec::with_capacity(claimed.jobs.len());
                for job in claimed.jobs {
                    if inner.is_settled(job.header.id).await {
                        due.push(job);
                    }
                }
                // One that is left out comes again, to whoever has the store then.
                if due.is_empty() {
                    continue;
                }
                return Ok(due);
            }
            let next = async {
                match claimed.next_at {
                    Some(at) => inner.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Those of a node that is gone become due without a word.
            let others = async {
                match inner.is_shared() {
                    true => inner.clock.sleep(LOOK_AT_OTHERS).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = inner.closed.cancelled() => return Err(StoreError::Closed),
                () = &mut ended => {}
                () = next => {}
                () = others => {}
            }
        }
    }

    /// Notes how a try of a callback went, durably, and says what that makes of it.
    ///
    /// # Errors
    /// [`Refused::NoCallback`](crate::Refused::NoCallback) if the job has none that is pending;
    /// [`StepError::Unknown`] if the job has expired; the store's.
    pub async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
    ) -> Result<CallbackState, StepError> {
        let inner = &self.inner;
        let noted = inner.store.note_callback(id, tried, inner.now());
        let state = inner.step(noted).await?;
        // It may be due sooner than whoever waits knows.
        inner.callbacks.notify_waiters();
        Ok(state)
    }

    /// The moment by the engine's clock.
    pub fn now(&self) -> Timestamp {
        self.inner.now()
    }
}

impl Inner {
    /// Waits until the end of a job, which the store has, is what everybody sees: whoever is told of it
    /// may ask in the same moment. `false` if it will not be before the next start, as the store has
    /// failed or is closed.
    async fn is_settled(&self, id: JobId) -> bool {
        while let Some(live) = self.table.get(id) {
            tokio::select! {
                biased;
                () = live.ended() => return true,
                () = self.closed.cancelled() => return false,
                () = self.clock.sleep(LOOK_AGAIN) => {}
            }
            // What a shard that is away is to say may be long in coming, and holds up no others.
            if self.store.failure().is_some() || !self.has_lease_for(id) {
                return false;
            }
        }
        true
    }
}
