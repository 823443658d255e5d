//! Ids from blocks: durable once a block, in memory for each job.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{IdBlock, JobId, Store, StoreError};

/// Hands out the ids of blocks that it reserves as they are used up.
pub(super) struct Ids {
    store: Arc<dyn Store>,
    block: Mutex<IdBlock>,
    block_size: u32,
    /// Held by the one who fetches the next block.
    refill: tokio::sync::Mutex<()>,
}

impl Ids {
    pub(super) fn new(store: Arc<dyn Store>, block_size: u32) -> Self {
        let block = Mutex::new(IdBlock::empty());
        Self {
            store,
            block,
            block_size,
            refill: tokio::sync::Mutex::new(()),
        }
    }

    /// The next id.
    pub(super) async fn next(&self) -> Result<JobId, StoreError> {
        loop {
            if let Some(id) = self.take() {
                return Ok(id);
            }
            let _one = self.refill.lock().await;
            // Another may have fetched a block while this one waited for its turn.
            if let Some(id) = self.take() {
                return Ok(id);
            }
            let block = self.store.reserve_ids(self.block_size).await?;
            *self.block.lock().unwrap_or_else(PoisonError::into_inner) = block;
        }
    }

    fn take(&self) -> Option<JobId> {
        self.block
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids")
            .field("block_size", &self.block_size)
            .finish_non_exhaustive()
    }
}
