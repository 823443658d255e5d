//! A store of several shards keeps the contract of one: from the beginning, and after it has grown.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use kjob_core::conformance::Harness;
use kjob_core::{MemoryCluster, Placement, ShardedStore, Store};

/// With so many shards, one after the other.
struct Sharded(&'static [usize]);

#[async_trait::async_trait]
impl Harness for Sharded {
    async fn open(&self) -> Arc<dyn Store> {
        let placement = Placement::new(self.0, 0).unwrap();
        let shard = |_| Arc::new(MemoryCluster::default().handle()) as _;
        let shards = (0..placement.size()).map(shard).collect();
        Arc::new(ShardedStore::new(placement, shards).unwrap())
    }

    fn survives_reopen(&self) -> bool {
        false
    }
}

mod of_three {
    kjob_core::store_conformance!(super::Sharded(&[3]));
}

mod that_has_grown {
    kjob_core::store_conformance!(super::Sharded(&[1, 2, 5]));
}
