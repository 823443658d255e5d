//! The program `kjob-server` with handlers that write a journal, on a store that marks its steps
//! and is so small in everything that it seals, rewrites, expires and reserves all the time.
//!
//! Takes what `kjob-server` takes, and two variables: `TRIAL_JOURNAL` and `TRIAL_MARKS`, the files
//! to write.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kjob_core::Store;
use kjob_core::engine::EngineConfig;
use kjob_server::program::Program;
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};
use kjob_trials::marked_store::MarkedStore;
use kjob_trials::{handlers, journal, marks, server};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let journal = journal::Writer::open(&path(server::JOURNAL_VARIABLE)?)?;
    let marks = marks::Writer::create(&path(server::MARKS_VARIABLE)?)?;
    let registry = handlers::registry(&Arc::new(journal))?;
    let open = |dir: &Path| -> Result<Arc<dyn Store>, Box<dyn Error + Send + Sync>> {
        let store = Arc::new(EmbeddedStore::open(dir, small())?);
        Ok(Arc::new(MarkedStore::new(store, marks)))
    };
    let program = Program::default().registry(registry).engine(hasty);
    Ok(program.store(open).main())
}

fn path(variable: &str) -> Result<PathBuf, String> {
    let value = std::env::var_os(variable);
    value
        .map(PathBuf::from)
        .ok_or_else(|| format!("{variable} is not set"))
}

fn small() -> EmbeddedOptions {
    EmbeddedOptions {
        segment_jobs: 60,
        inline_bytes_max: 3_000,
        cached_headers: 32,
        log_bytes: 64 * 1024,
        sweep_jobs: 20,
        ..EmbeddedOptions::default()
    }
}

fn hasty(config: &mut EngineConfig) {
    config.id_block = 4;
    config.expire_interval = Duration::from_millis(40);
    config.progress_interval = Duration::from_millis(10);
    config.retry_backoff = Duration::from_millis(20);
    config.retry_backoff_max = Duration::from_millis(200);
}
