//! What the lanes, the readers and the handle of a store have together.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use kjob_core::StoreError;

use super::PostgresOptions;
use super::claim::Claims;
use super::gathering::Gathering;
use super::hints::Hints;
use super::nodes::Membership;
use super::schema::{Schema, Shards};
use super::session::{Link, Params};
use super::turns::Turns;
use super::usage::UsageCache;

/// Rows of the usage (its column `shard`) that a handle may write: one for each lane, and the last for all else.
pub(crate) const TALLIES: i64 = 64;

/// What they have together.
pub(crate) struct Shared {
    pub(crate) options: PostgresOptions,
    /// The number of this handle, which no other ever has.
    pub(crate) handle: i64,
    /// Whether ended jobs are in partitions.
    pub(crate) is_partitioned: bool,
    /// Of which set it was when it was opened.
    pub(crate) shards: Shards,
    pub(crate) gathering: Gathering,
    /// Jobs that are to be read, each by its id.
    pub(crate) gets: Gathering,
    pub(crate) usage: UsageCache,
    pub(crate) turns: Turns,
    pub(crate) membership: Membership,
    pub(crate) readers: Vec<Link>,
    /// For steps that go by themselves; many share it.
    pub(crate) writer: Link,
    /// For what is made of several statements; held by one at a time.
    pub(crate) maintenance: tokio::sync::Mutex<Link>,
    pub(crate) claims: Claims,
    pub(crate) hints: Hints,
    /// From when on there may be delayed jobs whose time has come.
    pub(crate) ripe_at: AtomicI64,
    next_reader: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        options: PostgresOptions,
        handle: i64,
        schema: Schema,
        readers: Vec<Link>,
        writer: Link,
        maintenance: Link,
    ) -> Arc<Self> {
        Arc::new(Self {
            gathering: Gathering::new(&options),
            gets: Gathering::new(&options),
            options,
            handle,
            is_partitioned: schema.is_partitioned,
            shards: schema.shards,
            usage: UsageCache::default(),
            turns: Turns::default(),
            membership: Membership::default(),
            readers,
            writer,
            maintenance: tokio::sync::Mutex::new(maintenance),
            claims: Claims::default(),
            hints: Hints::default(),
            ripe_at: AtomicI64::new(i64::MIN),
            next_reader: AtomicU64::new(0),
        })
    }

    /// The row of the usage for what does not go by a lane.
    pub(crate) fn own_tally(&self) -> i64 {
        self.tally_of(TALLIES - 1)
    }

    pub(crate) fn tally_of(&self, lane: i64) -> i64 {
        self.handle * TALLIES + lane
    }

    /// Runs a statement on one of the connections that many share.
    pub(crate) async fn query(
        &self,
        doing: &'static str,
        text: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        if self.gathering.is_closed() {
            return Err(StoreError::Closed);
        }
        self.reader().query(doing, text, params).await
    }

    /// Runs a statement that changes something by itself.
    pub(crate) async fn write(
        &self,
        doing: &'static str,
        text: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        if self.gathering.is_closed() {
            return Err(StoreError::Closed);
        }
        self.writer.query(doing, text, params).await
    }

    fn reader(&self) -> &Link {
        let number = self.next_reader.fetch_add(1, Ordering::Relaxed);
        // There is one at least.
        &self.readers[number as usize % self.readers.len()]
    }
}
