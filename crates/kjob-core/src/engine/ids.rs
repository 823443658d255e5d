//! Ids from blocks: durable once a block, in memory for each job.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{IdBlock, JobId, Shard, Store, StoreError};

/// Hands out the ids of blocks that it reserves as they are used up.
pub(super) struct Ids {
    store: Arc<dyn Store>,
    /// By the number of the shard.
    blocks: Vec<Block>,
    block_size: u32,
}

/// What is left of the newest block of a shard.
struct Block {
    ids: Mutex<IdBlock>,
    /// Held by the one who fetches the next one.
    refill: tokio::sync::Mutex<()>,
}

impl Ids {
    /// Of a store with so many shards.
    pub(super) fn new(store: Arc<dyn Store>, shards: usize, block_size: u32) -> Self {
        let block = |_| Block {
            ids: Mutex::new(IdBlock::empty()),
            refill: tokio::sync::Mutex::new(()),
        };
        Self {
            store,
            blocks: (0..shards.max(1)).map(block).collect(),
            block_size,
        }
    }

    /// The next id of a shard.
    pub(super) async fn next(&self, shard: Shard) -> Result<JobId, StoreError> {
        let block = self.blocks.get(shard.number());
        let block = block.ok_or(StoreError::NoIdsLeft)?;
        loop {
            if let Some(id) = block.lock().take() {
                return Ok(id);
            }
            let _one = block.refill.lock().await;
            // Another may have fetched a block while this one waited for its turn.
            if let Some(id) = block.lock().take() {
                return Ok(id);
            }
            let reserved = self.store.reserve_ids_in(shard, self.block_size).await?;
            *block.lock() = reserved;
        }
    }
}

impl Block {
    fn lock(&self) -> MutexGuard<'_, IdBlock> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids")
            .field("block_size", &self.block_size)
            .finish_non_exhaustive()
    }
}
