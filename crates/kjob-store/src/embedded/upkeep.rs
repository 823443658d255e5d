//! What the handle has done beside the writer, and giving space back.

use std::sync::Arc;

use kjob_core::{Expired, StoreError, Timestamp};
use tokio::sync::oneshot;

use super::EmbeddedStore;
use super::pool::Length;
use super::requests::{Request, Thoroughness};
use super::rewrite::{Progress, Rewrite, RewritePlan};

impl EmbeddedStore {
    /// Has a background thread do something that takes long.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.work_for(Length::Long, work).await
    }

    /// Likewise something of this length.
    pub(crate) async fn work_for<T: Send + 'static>(
        &self,
        length: Length,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.background.submit(length, move |()| {
            let done = shared.check_open().and_then(|()| work());
            drop(reply.send(done));
        });
        answer.await.map_err(|_| self.unanswered())?
    }

    /// Drops and rewrites segments; a bounded piece of work.
    pub(crate) async fn give_back(
        &self,
        now: Timestamp,
        thoroughness: Thoroughness,
    ) -> Result<Expired, StoreError> {
        let swept = self
            .insist(|reply| Request::Sweep {
                now,
                thoroughness,
                reply,
            })
            .await?;
        let rewritten = self.rewrite(swept.rewrite).await?;
        Ok(Expired {
            jobs: swept.expired.jobs + rewritten.jobs,
            bytes: swept.expired.bytes + rewritten.bytes,
            more: swept.expired.more || rewritten.more,
        })
    }

    /// Goes on with rewriting a segment, or begins to; one piece of it.
    async fn rewrite(&self, plan: Option<RewritePlan>) -> Result<Expired, StoreError> {
        let mut rewriting = self.rewriting.lock().await;
        let (current, shared) = (rewriting.take(), Arc::clone(&self.shared));
        let jobs = shared.options.sweep_jobs;
        // Another call may have carried out the same plan since it was made.
        let plan = plan.filter(|plan| {
            let table = shared.table();
            let segment = table.by_number(plan.number);
            segment.is_some_and(|segment| segment.generation == plan.generation)
        });
        let progress = match (current, plan) {
            (Some(current), _) => self.work(move || current.advance(jobs)).await,
            (None, Some(plan)) => {
                let begin = move || Rewrite::begin(&shared.layout, plan)?.advance(jobs);
                self.work(begin).await
            }
            (None, None) => return Ok(Expired::default()),
        };
        match self.shared.noted_beside(progress)? {
            Progress::Going(current) => {
                *rewriting = Some(*current);
                Ok(Expired {
                    more: true,
                    ..Expired::default()
                })
            }
            Progress::Copied(copied) => self.ask(|reply| Request::Swap { copied, reply }).await,
        }
    }
}
