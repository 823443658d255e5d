//! What a database is, told without a store being opened in it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;

use super::error::sql;
use super::fitting::{Known, advised, agreed};
use super::{OpenError, ShardsError, schema};

/// What is known of a database.
#[derive(Debug)]
#[non_exhaustive]
pub struct Description {
    /// What it says that it is, version and all.
    pub version: String,
    /// The version of the tables, or why this program cannot work with them.
    pub tables: Result<i64, OpenError>,
    known: Option<Known>,
    /// Its place among several databases that hold jobs together, if it is one of them.
    pub shard: Option<ShardPlace>,
    /// By how many milliseconds its clock is ahead of this host's, give or take half of the
    /// [round trip](Self::round_trip).
    pub clock_ahead_ms: i64,
    /// How long a statement took that does nothing: the shortest of a few.
    pub round_trip: Duration,
    /// The connections that it takes, if it tells.
    pub connections: Option<Connections>,
    /// Whether it keeps checksums of its pages, if it tells.
    pub checksums: Option<bool>,
}

/// The place of a database in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardPlace {
    /// Its number, from 0 on.
    pub shard: u64,
    /// How many there are.
    pub size: u64,
}

/// The connections of a database server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connections {
    /// How many there may be, less those that are kept for superusers.
    pub max: u64,
    /// How many there are now, that of the question included.
    pub open: u64,
}

impl Description {
    /// Whether a server to which these databases are given, in this order, finds that they are a set; `None` is for one
    /// of which nothing is known. What is said to be in the way is so for
    /// [`migrate_shards`](super::PostgresStore::migrate_shards) too, unless that is what the error advises.
    ///
    /// # Errors
    /// [`ShardsError`]: what is in the way.
    pub fn are_a_set(found: &[Option<&Self>]) -> Result<(), ShardsError> {
        let has_no_tables = |it: &Self| matches!(it.tables, Err(OpenError::NoSchema));
        let known = found.iter().map(|it| match it {
            Some(it) if has_no_tables(it) => Some(Known::default()),
            Some(it) => it.known.clone(),
            None => None,
        });
        let known: Vec<Option<Known>> = known.collect();
        if known.iter().all(Option::is_none) {
            return Ok(());
        }
        match agreed(&known) {
            Ok(_) => Ok(()),
            Err(error) => Err(advised(error, &known)),
        }
    }
}

/// Statements whose time is taken.
const ROUNDS: u32 = 5;

pub(crate) async fn describe(client: &Client) -> Result<Description, OpenError> {
    let failed = |error| OpenError::Store(sql("ask the database what it is")(error));
    let row = client
        .query_one("SELECT version()", &[])
        .await
        .map_err(failed)?;
    let version: String = row.get(0);
    let mut round_trip = Duration::MAX;
    let mut clock_ahead_ms = 0;
    let ask = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let ask = client.prepare(ask).await.map_err(failed)?;
    for _ in 0..ROUNDS {
        let (asked, at) = (Instant::now(), now_ms());
        let row = client.query_one(&ask, &[]).await.map_err(failed)?;
        let took = asked.elapsed();
        // The shorter it took, the less unsure it is when the clock was looked at.
        if took < round_trip {
            let half = i64::try_from(took.as_millis() / 2).unwrap_or(i64::MAX);
            round_trip = took;
            clock_ahead_ms = row.get::<_, i64>(0).saturating_sub(at.saturating_add(half));
        }
    }
    let schema = schema::check(client).await;
    let place = |(shard, size)| {
        let (shard, size) = (u64::try_from(shard).ok()?, u64::try_from(size).ok()?);
        Some(ShardPlace { shard, size })
    };
    let known = schema.as_ref().ok();
    Ok(Description {
        version,
        shard: known
            .and_then(|it| it.shards.set.among_others())
            .and_then(place),
        known: known.map(|it| it.shards.known()),
        tables: schema.map(|schema| schema.version),
        clock_ahead_ms,
        round_trip,
        connections: connections(client).await,
        checksums: checksums(client).await,
    })
}

/// Databases that are not PostgreSQL itself may not tell, which is no failure.
async fn connections(client: &Client) -> Option<Connections> {
    let ask = "SELECT current_setting('max_connections')::bigint
            - current_setting('superuser_reserved_connections')::bigint,
        (SELECT coalesce(sum(numbackends), 0)::bigint FROM pg_stat_database)";
    let row = client.query_one(ask, &[]).await.ok()?;
    let number = |column| u64::try_from(row.get::<_, i64>(column)).ok();
    Some(Connections {
        max: number(0)?,
        open: number(1)?,
    })
}

/// Likewise.
async fn checksums(client: &Client) -> Option<bool> {
    let ask = "SELECT current_setting('data_checksums', true)";
    let row = client.query_one(ask, &[]).await.ok()?;
    match row.get::<_, Option<&str>>(0)? {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}
