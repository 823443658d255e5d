//! Jobs that wait as no more than a mark in memory, and how they become whole again.

use std::sync::Arc;

use super::Inner;
use super::live::Live;
use super::table::{Found, Woken};
use crate::{JobId, Owner, Parts, StoreError};

impl Inner {
    /// Lets a job that waits doze if more jobs are whole than need be.
    pub(super) fn doze(&self, live: &Arc<Live>) {
        if self.is_shared() {
            // Held by the table and whoever calls this.
            self.table.let_go(live, 2);
        } else if self.table.whole() > self.config.whole_jobs {
            self.table.doze(live);
        }
    }

    /// The job, whole, if it has not ended. One that dozes is read from the store.
    ///
    /// # Errors
    /// The store's; [`StoreError::Corrupt`] also if it does not have the job.
    pub(super) async fn wake(&self, id: JobId) -> Result<Option<Arc<Live>>, StoreError> {
        loop {
            let nap = match self.table.find(id) {
                Some(Found::Dozing(nap)) => nap,
                Some(Found::Whole(live)) => return Ok(Some(live)),
                None => return Ok(None),
            };
            let get = || self.step(self.store.get(id, Parts::NONE, self.now()));
            let job = match get().await {
                // SQLite tells a read that failed as damage. That may pass; a job cannot be unfailed.
                Err(StoreError::Corrupt { .. }) => get().await,
                other => other,
            };
            let job = job?.ok_or_else(|| StoreError::Corrupt {
                what: format!("job {id}, which waits, is not there"),
            })?;
            match self.table.wake(nap, Live::stored(job.header, job.state)) {
                Woken::Whole(live) => return Ok(Some(live)),
                Woken::DozesAgain => {}
                Woken::Gone => return Ok(None),
            }
        }
    }

    /// Gives up a job whose turn it is and that cannot be read: nobody knows what to run. The store keeps
    /// what there is of it.
    pub(super) fn give_up(&self, id: JobId, owner: &Owner, error: &StoreError) {
        tracing::error!(job_id = id.get(), %error, "a job that waits cannot be read; it is not run");
        self.table.forget(id);
        self.room.leave(owner);
    }
}
