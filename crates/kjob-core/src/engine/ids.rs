//! Ids from blocks: durable once a block, in memory for each job.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use crate::{IdBlock, JobId, Shard, Store, StoreError};

/// Hands out the ids of blocks that it reserves as they are used up.
pub(super) struct Ids {
    store: Arc<dyn Store>,
    /// By the number of the shard.
    blocks: Vec<Arc<Block>>,
    block_size: u32,
}

/// What is left of the newest block of a shard.
struct Block(Mutex<Cell>);

struct Cell {
    ids: IdBlock,
    /// The next block is on its way.
    fetching: Option<Fetching>,
}

/// Completes once there is a block, or none can be had, for all who wait at the same time. It is fetched by a task
/// of its own: whoever asked first may go away, or have no turn for long.
type Fetching = Shared<BoxFuture<'static, Result<(), StoreError>>>;

impl Ids {
    /// Of a store with so many shards.
    pub(super) fn new(store: Arc<dyn Store>, shards: usize, block_size: u32) -> Self {
        let block = |_| {
            let (ids, fetching) = (IdBlock::empty(), None);
            Arc::new(Block(Mutex::new(Cell { ids, fetching })))
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
            let fetching = {
                let mut cell = block.lock();
                if let Some(id) = cell.ids.take() {
                    return Ok(id);
                }
                let fetch = || self.fetch(shard, block.clone());
                cell.fetching.get_or_insert_with(fetch).clone()
            };
            fetching.await?;
        }
    }

    fn fetch(&self, shard: Shard, block: Arc<Block>) -> Fetching {
        let (store, size) = (self.store.clone(), self.block_size);
        let fetched = tokio::spawn(async move {
            let _over = Over(&block);
            let reserved = store.reserve_ids_in(shard, size).await?;
            block.lock().ids = reserved;
            Ok(())
        });
        let closed = |_| Err(StoreError::Closed);
        fetched
            .map(move |it| it.unwrap_or_else(closed))
            .boxed()
            .shared()
    }
}

/// Lets the next who finds no id ask for a block anew, however this one was asked for.
struct Over<'a>(&'a Block);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().fetching = None;
    }
}

impl Block {
    fn lock(&self) -> MutexGuard<'_, Cell> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids")
            .field("block_size", &self.block_size)
            .finish_non_exhaustive()
    }
}
