//! The sizes that the embedded store works with.

use std::time::Duration;

use crate::Observed;

/// How [`EmbeddedStore`](super::EmbeddedStore) lays out its files. The defaults suit a server.
///
/// Nothing here is part of the format: a directory may be opened with other options each time.
///
/// ```
/// use kjob_store::embedded::EmbeddedOptions;
/// let options = EmbeddedOptions { segment_jobs: 10_000, ..EmbeddedOptions::default() };
/// assert_eq!(options.inline_bytes_max, 256 * 1024);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// A new segment is begun once the newest holds this many jobs (at least one). Default 1 000 000.
    pub segment_jobs: u64,
    /// A new segment is begun once the newest is this old, in the time of the submits. Default 6 h.
    pub segment_age: Duration,
    /// Payloads and results above this many bytes are no part of their rows, but appended to files of many
    /// where they are not above `inline_bytes_max`. Default 16 KiB.
    pub row_bytes_max: usize,
    /// Payloads and results above this many bytes get a file of their own. Default 256 KiB.
    pub inline_bytes_max: usize,
    /// Threads that read beside the writer, at least one. Default 2.
    pub readers: usize,
    /// The most steps made durable by one sync, at least one. Default 4096.
    pub batch_max: usize,
    /// Live jobs whose headers are kept in memory, so that getting one touches no disk.
    /// Default 16 384, about 8 MiB.
    pub cached_headers: usize,
    /// Memory for jobs that ended a short while ago, results up to 64 KiB included, so that fetching one
    /// touches no disk. 0 for none. Default 32 MiB.
    pub recent_bytes: u64,
    /// Memory for payloads up to 64 KiB of jobs that wait, so that starting one soon after its submit
    /// touches no disk but for its start. 0 for none. Default 16 MiB.
    pub waiting_bytes: u64,
    /// Bytes of the newest segment's log with which it is written back into the segment's file, beside commits; it takes
    /// twice as many of the disk, and more only for as long as a backup reads. Default 32 MiB.
    pub log_bytes: u64,
    /// Jobs that one call of `expire` looks at, at least one; what is left is done by the next
    /// calls. Default 20 000.
    pub sweep_jobs: u64,
    /// Bytes of the disk that are kept for what has to go on when it is full: starts, ends and cancels
    /// of the jobs that were taken. Submits are refused from then on until there is room for as many
    /// again, and a quarter more. Default 4 MiB; with 0, everything is refused on a full disk.
    pub reserve_bytes: u64,
    /// How long after it was seen that the disk is full a submit may look for room anew.
    /// Default 1 s.
    pub reserve_retry: Duration,
    /// Opens a store with a damaged log all the same: what was committed from the damage on is
    /// lost, in that file. Only for when there is no backup to go back to. Default `false`.
    pub accept_damaged_logs: bool,
    /// Who is told of commits, for metrics. Default: nobody.
    pub observer: Observed,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            segment_jobs: 1_000_000,
            segment_age: Duration::from_secs(6 * 60 * 60),
            row_bytes_max: 16 * 1024,
            inline_bytes_max: 256 * 1024,
            readers: 2,
            batch_max: 4096,
            cached_headers: 16_384,
            recent_bytes: 32 * 1024 * 1024,
            waiting_bytes: 16 * 1024 * 1024,
            log_bytes: 32 * 1024 * 1024,
            sweep_jobs: 20_000,
            reserve_bytes: 4 * 1024 * 1024,
            reserve_retry: Duration::from_secs(1),
            accept_damaged_logs: false,
            observer: Observed::default(),
        }
    }
}
