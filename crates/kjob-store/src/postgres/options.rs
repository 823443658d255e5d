//! How the store uses the database.

use std::sync::Arc;
use std::time::Duration;

use crate::Observed;

/// How [`PostgresStore`](super::PostgresStore) uses the database. The defaults suit a server.
///
/// ```
/// use kjob_store::postgres::PostgresOptions;
/// let options = PostgresOptions { lanes: 4, ..PostgresOptions::default() };
/// assert_eq!(options.batch_max, 256);
/// ```
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Connections that write batches, so as many batches may be under way; at least one. While one is at work,
    /// another begins once 64 steps of a kind wait (or `batch_max`), or `batch_bytes_max`, or one for 4 ms. Default 2.
    pub lanes: usize,
    /// Connections that read, each for many callers at once; at least one. Default 2.
    pub readers: usize,
    /// The most steps in a batch, at least one. Default 256.
    pub batch_max: usize,
    /// The most bytes of payloads and results in a batch; one step may have more. Default 8 MiB.
    pub batch_bytes_max: usize,
    /// How often a statement is tried that the database gave up in favour of others. Default 12.
    pub tries_max: u32,
    /// How long a connection may take, unless the URL says so itself. Default 5 s.
    pub connect_timeout: Duration,
    /// How often it is looked at what other processes have stored. Default 1 s.
    pub usage_refresh: Duration,
    /// Whom to trust over TLS, and as whom to speak; `None` for what `sslrootcert`, `sslcert` and `sslkey` in the
    /// URL say, and for the authorities that the operating system trusts if it has none of these. Whether TLS is
    /// spoken is said by `sslmode` in the URL.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Who is told of commits of batches.
    pub observer: Observed,
}

impl PostgresOptions {
    /// How many connections a store makes at most: those that write batches and that read, one that reads
    /// batches, one for steps that go alone, one for what expires and is counted, and one that hears what others
    /// say.
    ///
    /// ```
    /// use kjob_store::postgres::PostgresOptions;
    /// assert_eq!(PostgresOptions::default().connections_max(), 8);
    /// ```
    pub fn connections_max(&self) -> usize {
        let others = 4;
        self.lanes
            .max(1)
            .saturating_add(self.readers.max(1))
            .saturating_add(others)
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            lanes: 2,
            readers: 2,
            batch_max: 256,
            batch_bytes_max: 8 * 1024 * 1024,
            tries_max: 12,
            connect_timeout: Duration::from_secs(5),
            usage_refresh: Duration::from_secs(1),
            tls: None,
            observer: Observed::default(),
        }
    }
}
