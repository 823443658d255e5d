//! The embedded store keeps the contract: as it is set up for a server, and with sizes so small
//! that every few jobs a segment ends, is dropped or rewritten, and bytes go to files.

use std::sync::Arc;
use std::time::Duration;

use kjob_core::Store;
use kjob_core::conformance::Harness;
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};
use tempfile::TempDir;

struct InDirectory {
    dir: TempDir,
    options: EmbeddedOptions,
}

impl InDirectory {
    fn new(options: EmbeddedOptions) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            options,
        }
    }
}

#[async_trait::async_trait]
impl Harness for InDirectory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(EmbeddedStore::open(self.dir.path(), self.options.clone()).unwrap())
    }

    fn survives_reopen(&self) -> bool {
        true
    }
}

fn tiny() -> EmbeddedOptions {
    EmbeddedOptions {
        segment_jobs: 5,
        segment_age: Duration::from_secs(5),
        row_bytes_max: 50,
        inline_bytes_max: 100,
        readers: 1,
        batch_max: 7,
        cached_headers: 3,
        log_bytes: 64 * 1024,
        sweep_jobs: 2,
        ..EmbeddedOptions::default()
    }
}

mod as_for_a_server {
    kjob_core::store_conformance!(super::InDirectory::new(Default::default()));
}

mod with_tiny_segments {
    kjob_core::store_conformance!(super::InDirectory::new(super::tiny()));
}
