//! What an engine may use.

use std::sync::Arc;
use std::time::Duration;

use kjob_proto::Limits;

use super::heavy::HeavyWork;
use super::observer::Observer;

/// Limits and times of an engine. All have defaults that suit one small server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineConfig {
    /// How many handlers run at once. Default 64: handlers are async, and most of them wait.
    pub workers: usize,
    /// How many of the workers are kept for owners who run nothing, while several submit: one who comes with a
    /// single job finds a place, however many jobs others have and however long these take. An owner counts as
    /// alone, and may have all, once nobody else has submitted for a minute; whether what was submitted is new,
    /// or delayed, does not matter. Default: one in eight, so none of fewer than eight. Not in a store that nodes
    /// share.
    pub reserved_workers: Option<usize>,
    /// How many jobs may wait, in all. Default 1,000,000.
    pub max_queued: usize,
    /// How many jobs of one owner may wait. Default: as many as of all.
    pub max_queued_per_owner: usize,
    /// How many jobs may be stored, in all: those that have ended count until their retention is
    /// over and their space given back. Default 100,000,000.
    pub max_stored_jobs: u64,
    /// How many jobs of one owner may be stored. Default: as many as of all.
    pub max_stored_jobs_per_owner: u64,
    /// How many jobs that have not ended are kept whole in memory. Past that, one that comes to wait is
    /// kept as a mark of under 200 bytes, and read from the store again when it is its turn or somebody
    /// waits for it; so is one that waits when an engine opens. Default 4,096.
    pub whole_jobs: usize,
    /// How many bytes of payloads and results may be stored, in all, for a submit to be accepted.
    /// Results of jobs that were accepted are stored in any case, so there may be more by
    /// [`max_result`](Self::max_result) for each job that has not ended. Default 64 GiB.
    pub max_stored_bytes: u64,
    /// How many bytes of one owner may be stored. Default: as many as of all.
    pub max_stored_bytes_per_owner: u64,
    /// How many bytes a result may have. Default 64 MiB.
    pub max_result: usize,
    /// How long an ended job is kept, unless its submit says so itself. Default 24 h.
    pub retention: Duration,
    /// How long a job with `remove_on_complete` is kept after its result was delivered first, so
    /// that a lost answer can be fetched again. Default 60 s.
    pub remove_grace: Duration,
    /// How long a handler may go on after it was told to stop. Default 5 s.
    pub stop_grace: Duration,
    /// How long a job waits to count as one priority higher. Default 60 s.
    pub ageing: Duration,
    /// The shortest time between two progress reports of a job that reach the store. Default
    /// 100 ms.
    pub progress_interval: Duration,
    /// The wait before the second attempt of a `retry` job; each further one doubles it. Default
    /// 1 s, with jitter of up to half.
    pub retry_backoff: Duration,
    /// The longest wait between two attempts. Default 5 min.
    pub retry_backoff_max: Duration,
    /// How often the space of expired jobs is given back. Default 60 s; expired jobs are invisible
    /// at once.
    pub expire_interval: Duration,
    /// How many ids are reserved at a time. Default 4,096.
    pub id_block: u32,
    /// What decoding a payload may take.
    pub limits: Limits,
    /// Turns of work on large payloads and results, to be shared with whoever else works on such.
    pub heavy: HeavyWork,
    /// The runtime whose threads poll handlers; `None` for the one that the engine is used on.
    /// With one of its own, async handlers that block their threads against the rules hold up
    /// each other, but neither the engine nor the server around it.
    pub handlers: Option<tokio::runtime::Handle>,
    /// Who is told what the engine does, for metrics and traces. Default: nobody.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            workers: 64,
            reserved_workers: None,
            max_queued: 1_000_000,
            max_queued_per_owner: usize::MAX,
            max_stored_jobs: 100_000_000,
            max_stored_jobs_per_owner: u64::MAX,
            whole_jobs: 4_096,
            max_stored_bytes: 64 << 30,
            max_stored_bytes_per_owner: u64::MAX,
            max_result: 64 << 20,
            retention: Duration::from_secs(24 * 60 * 60),
            remove_grace: Duration::from_secs(60),
            stop_grace: Duration::from_secs(5),
            ageing: Duration::from_secs(60),
            progress_interval: Duration::from_millis(100),
            retry_backoff: Duration::from_secs(1),
            retry_backoff_max: Duration::from_secs(300),
            expire_interval: Duration::from_secs(60),
            id_block: 4_096,
            limits: Limits::default(),
            heavy: HeavyWork::default(),
            handlers: None,
            observer: None,
        }
    }
}
