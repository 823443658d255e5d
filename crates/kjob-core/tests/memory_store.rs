//! The store in memory keeps the contract, but for durability.

use std::sync::Arc;

use kjob_core::conformance::Harness;
use kjob_core::{MemoryStore, Store};

struct InMemory;

#[async_trait::async_trait]
impl Harness for InMemory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new())
    }

    fn survives_reopen(&self) -> bool {
        false
    }
}

kjob_core::store_conformance!(InMemory);
