//! Several databases that hold one set of jobs together: making a set, letting it grow, and opening it.
//!
//! All databases of a set have the same rows in `kjob_shards`, but for their own number. A set is changed by
//! one transaction in each of them, all of which are open, with all that has to be looked at locked, before the
//! first is committed; that of the first database is committed last. Where this is interrupted in between, the
//! databases do not agree and nobody opens them as a set until it is done anew.

use std::sync::Arc;

use futures_util::future::join_all;
use kjob_core::{JobId, PlacementError, ShardedStore, SharedStore, StoreError};
use kjob_proto::Text;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::connect::{Connector, Purpose};
use super::error::sql;
use super::fitting::{Known, advised, advises_migration, agreed, planned};
use super::late_shard::{LateShard, Seat, is_away};
use super::row::text;
use super::shard_set::{Generation, KNOWN, NEXT_JOB, OWN_ID, ShardSet};
use super::store::Background;
use super::{OpenError, PostgresOptions, PostgresStore, schema};

/// Why databases cannot be a set, or not be opened as one. Databases are numbered as they were given, from 0 on, which
/// is the number of the shard that each is to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardsError {
    /// One cannot be opened.
    #[error("the database given as shard {number}: {source}")]
    Open {
        /// Which.
        number: usize,
        /// Why not.
        #[source]
        source: OpenError,
    },
    /// One is in no set, or in one that was not made to its end.
    #[error(
        "the database given as shard {number} is not yet a shard of this set: stop all nodes and run kjob-server \
         migrate with all databases"
    )]
    NotYet {
        /// Which.
        number: usize,
    },
    /// One has another number in the set: they are not in the order in which they came to it.
    #[error(
        "the database given as shard {number} is shard {found} of its set: give the databases in the order of their \
         shards"
    )]
    Order {
        /// Which.
        number: usize,
        /// What it is in its set.
        found: i64,
    },
    /// One is of another set.
    #[error(
        "the database given as shard {number} is of another set than those before it: give the databases of one set; \
         for a set to grow, give a new, empty database"
    )]
    OtherSet {
        /// Which.
        number: usize,
    },
    /// One has come before.
    #[error(
        "the database given as shard {number} was given as shard {first} already: give each database once"
    )]
    GivenTwice {
        /// Which.
        number: usize,
        /// Where it was given first.
        first: usize,
    },
    /// Some are missing.
    #[error("{found} databases of a set of {wanted}: give all of them")]
    Missing {
        /// How many were given.
        found: usize,
        /// How many there are.
        wanted: i64,
    },
    /// One that is to come to a set has had jobs of its own, whose ids are of other shards.
    #[error(
        "the database given as shard {number} has had jobs of its own, as only the first of a new set may: put it \
         first, or give an empty one"
    )]
    HasJobs {
        /// Which.
        number: usize,
    },
    /// Nodes work on one.
    #[error(
        "the database given as shard {number} has nodes at work, such as {url}: stop all nodes first; one that was \
         killed counts until its lease is over (lease_time, 10 s), one that drains until it has ended"
    )]
    InUse {
        /// Which.
        number: usize,
        /// Where one of them is reached.
        url: Text,
    },
    /// One is locked by another who makes a set of it.
    #[error(
        "the database given as shard {number} is being changed by another at this moment: try again"
    )]
    Locked {
        /// Which.
        number: usize,
    },
    /// There cannot be a set of so many.
    #[error(transparent)]
    Size(#[from] PlacementError),
}

impl ShardsError {
    /// Which database it is about, if it is about one.
    pub fn number(&self) -> Option<usize> {
        match self {
            Self::Open { number, .. }
            | Self::NotYet { number }
            | Self::Order { number, .. }
            | Self::OtherSet { number }
            | Self::GivenTwice { number, .. }
            | Self::HasJobs { number }
            | Self::InUse { number, .. }
            | Self::Locked { number } => Some(*number),
            Self::Missing { .. } | Self::Size(_) => None,
        }
    }
}

/// What [`PostgresStore::migrate_shards`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigratedShards {
    /// The versions that the tables of each went through.
    pub versions: Vec<Vec<i64>>,
    /// How many databases the set had before; 0 where there was none.
    pub before: usize,
    /// How many it has now.
    pub size: usize,
}

impl PostgresStore {
    /// Opens all databases of a set, in the order of their shards; or one that is in no set, which is all there is.
    ///
    /// Those that cannot be reached for now, where at least one can be, are opened in the background as soon as
    /// they can be; until then all steps in their shards fail. One that does not fit the others when it comes
    /// stays away, and the log says why.
    ///
    /// # Errors
    /// [`ShardsError`]: none can be reached, or one says no, or they do not agree.
    pub async fn open_shards(
        urls: &[&str],
        options: &PostgresOptions,
    ) -> Result<ShardedStore, ShardsError> {
        let opening = urls.iter().map(|url| Self::open_any(url, options.clone()));
        let opened = join_all(opening).await;
        let known = opened.iter().map(|it| match it {
            Ok(store) => Some(store.shared.shards.known()),
            Err(OpenError::NoSchema) => Some(Known::default()),
            Err(_) => None,
        });
        let known: Vec<Option<Known>> = known.collect();
        let opened = opened.into_iter().enumerate();
        let opened = opened
            .map(|(number, opened)| opened.map_err(|source| ShardsError::Open { number, source }));
        let opened = all_or_away(opened.collect()).map_err(|error| advised(error, &known))?;
        let set = agreed(&known).map_err(|error| advised(error, &known))?;
        let history = history(&opened, &set).await?;
        let placement = set.placement_from(history);
        let placement = placement.map_err(|source| ShardsError::Open { number: 0, source })?;
        let given = opened.iter().flatten().map(|it| it.shared.shards.next_job);
        let next = given.max().and_then(JobId::new).unwrap_or(JobId::FIRST);
        let mut shards: Vec<Arc<dyn SharedStore>> = Vec::new();
        for (number, (opened, url)) in opened.into_iter().zip(urls).enumerate() {
            shards.push(match opened {
                Ok(store) => Arc::new(store),
                Err(why) => {
                    let seat = Seat {
                        url: (*url).to_owned(),
                        options: options.clone(),
                        number,
                        set: set.clone(),
                    };
                    let late = LateShard::new(seat, why);
                    Arc::new(late.map_err(|source| ShardsError::Open { number, source })?)
                }
            });
        }
        let (found, wanted) = (shards.len(), placement.size() as i64);
        let store = ShardedStore::new(placement, shards);
        let store = store.map_err(|_| ShardsError::Missing { found, wanted })?;
        Ok(store.beginning_at(next))
    }

    /// Brings the tables of all these databases to the version that this program works with, and makes a set of
    /// them, or lets the one that the first of them is in grow; one is no set. Only the first may have had jobs
    /// before it was in a set. No node may be at work meanwhile.
    ///
    /// # Errors
    /// [`ShardsError`]. Where it was interrupted, it has to be done anew.
    pub async fn migrate_shards(
        urls: &[&str],
        options: &PostgresOptions,
    ) -> Result<MigratedShards, ShardsError> {
        let open = |number, source| ShardsError::Open { number, source };
        let background = Background::start().map_err(|source| open(0, source))?;
        let mut clients = Vec::new();
        for (number, url) in urls.iter().enumerate() {
            let runtime = background.runtime.clone();
            let connector = Connector::new(url, options, runtime);
            let connector = connector.map_err(|source| open(number, source))?;
            let client = connector.connect(Purpose::Read).await;
            clients.push(client.map_err(|source| open(number, source.into()))?);
        }
        // What is not committed when this ends does so with its connection.
        let migrating = background
            .runtime
            .spawn(async move { migrate_all(&clients).await });
        migrating
            .await
            .unwrap_or(Err(open(0, StoreError::Closed.into())))
    }
}

async fn migrate_all(clients: &[Client]) -> Result<MigratedShards, ShardsError> {
    let mut known = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let found = glimpse(client).await;
        known.push(found.map_err(|error| failed(number, LOOKING, error))?);
    }
    // Before anything is made in a database that may have been meant for something else.
    planned(&known)?;
    let mut versions = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let migrated = schema::migrate(client, true).await;
        versions.push(migrated.map_err(|source| ShardsError::Open { number, source })?);
    }
    let (before, size) = make_set(clients).await?;
    Ok(MigratedShards {
        versions,
        before,
        size,
    })
}

/// As it is, if at least one was opened and the others cannot be reached for now.
fn all_or_away(
    opened: Vec<Result<PostgresStore, ShardsError>>,
) -> Result<Vec<Result<PostgresStore, ShardsError>>, ShardsError> {
    let is_any_there = opened.iter().any(Result::is_ok);
    let mut kept = Vec::with_capacity(opened.len());
    let mut migrate = None;
    for it in opened {
        match it {
            // Whatever else is wrong comes first: it would be in the way of the migration too.
            Err(error) if advises_migration(&error) => migrate = migrate.or(Some(error)),
            Err(error) if !is_any_there || !is_away(&error) => return Err(error),
            it => kept.push(it),
        }
    }
    match migrate {
        Some(error) => Err(error),
        None => Ok(kept),
    }
}

/// From which of its sizes on there are jobs of a set: where a tag is of an earlier time, nobody has to ask for it. All
/// of its sizes, where a database is away and may have some.
async fn history(
    opened: &[Result<PostgresStore, ShardsError>],
    set: &ShardSet,
) -> Result<usize, ShardsError> {
    for (place, row) in set.rows.iter().enumerate().skip(1).rev() {
        // Those that came with this size or later have none of before.
        let before = set.rows.get(place - 1).map_or(0, |row| row.size);
        let before = usize::try_from(before).unwrap_or(opened.len());
        let mut has_jobs = false;
        for (number, shard) in opened.iter().enumerate().take(before) {
            has_jobs |= match shard {
                Ok(store) => {
                    let asked = store.shared.has_jobs_until(row.ids_until).await;
                    asked.map_err(|error| ShardsError::Open {
                        number,
                        source: error.into(),
                    })?
                }
                Err(_) => true,
            };
        }
        if !has_jobs {
            return Ok(place);
        }
    }
    Ok(0)
}

/// Whoever joins, or takes ids, waits for this; and this for whoever does so at the moment.
const LOCK: &str = "UPDATE kjob_counters SET next = next + 1 WHERE name = 'shards'";

/// Waits for beats that are under way, so that a lease which was renewed just now is seen.
const BURY: &str =
    "UPDATE kjob_nodes SET is_gone = true WHERE NOT is_gone AND alive_until <= now()";

const ALIVE: &str =
    "SELECT url FROM kjob_nodes WHERE NOT is_gone AND alive_until > now() ORDER BY id LIMIT 1";

const NOTE: &str =
    "INSERT INTO kjob_shards (generation, set_id, shard, size, alone_until, ids_until)
    VALUES ($1, $2, $3, $4, $5, $6)";

/// Programs that know nothing of sets would take ids of other shards.
const NEWER_ONLY: &str = "UPDATE kjob_schema SET works_with = 3 WHERE works_with < 3";

/// A database in a transaction that is to change the set.
struct Found {
    known: Known,
    /// Where a node of it is reached that is at work.
    node: Option<Text>,
}

const LOOKING: &str = "look at the set of databases";

/// Makes the set; how many databases it had before and has now.
async fn make_set(clients: &[Client]) -> Result<(usize, usize), ShardsError> {
    let (mut known, mut nodes) = (Vec::new(), Vec::new());
    for (number, client) in clients.iter().enumerate() {
        let found = lock(number, client, &known).await?;
        known.push(found.known);
        nodes.push(found.node);
    }
    let size = known.len();
    let (rows, before) = planned(&known)?;
    let first = &known[0].set;
    if size == 1 && first.newest().is_none() {
        return Ok((0, 1));
    }
    if before == size && known.iter().all(|it| it.set.agrees_with(first)) {
        return Ok((before, size));
    }
    // Not before: tables may be brought up to date while nodes work.
    for (number, node) in nodes.into_iter().enumerate() {
        if let Some(url) = node {
            return Err(ShardsError::InUse { number, url });
        }
    }
    for (number, client) in clients.iter().enumerate() {
        let noted = note(client, number, &rows).await;
        noted.map_err(|error| failed(number, "make a set of databases", error))?;
    }
    for (number, client) in clients.iter().enumerate().rev() {
        let committed = client.batch_execute("COMMIT").await;
        committed.map_err(|error| failed(number, "make a set of databases", error))?;
    }
    Ok((before, size))
}

fn failed(number: usize, doing: &'static str, error: tokio_postgres::Error) -> ShardsError {
    let source = OpenError::Store(sql(doing)(error));
    ShardsError::Open { number, source }
}

/// What is known of a database whose tables may be of an older version, or not be there yet. It may be another by the
/// time that it is locked.
async fn glimpse(client: &Client) -> Result<Known, tokio_postgres::Error> {
    let known = if_there_is(client.query(KNOWN, &[]).await)?;
    let next = if_there_is(client.query_opt(NEXT_JOB, &[]).await)?.flatten();
    let own_id = if_there_is(client.query_opt(OWN_ID, &[]).await)?.flatten();
    Ok(Known {
        own_id: own_id.map_or_else(Vec::new, |row| row.get(0)),
        set: known.map_or_else(ShardSet::default, |rows| ShardSet::read(&rows)),
        next_job: next.map_or(0, |row| row.get(0)),
    })
}

/// Nothing where the table is not there.
fn if_there_is<T>(
    found: Result<T, tokio_postgres::Error>,
) -> Result<Option<T>, tokio_postgres::Error> {
    match found {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        found => found.map(Some),
    }
}

/// Locks the set of a database, and says what is known of it. Those before it are locked already.
async fn lock(number: usize, client: &Client, before: &[Known]) -> Result<Found, ShardsError> {
    let fail = |error| failed(number, LOOKING, error);
    // One that was given twice waits for itself.
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '2s'";
    client.batch_execute(begin).await.map_err(fail)?;
    if let Err(error) = client.execute(LOCK, &[]).await {
        if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
            return Err(fail(error));
        }
        client.batch_execute("ROLLBACK").await.map_err(fail)?;
        let own_id = client.query_one(OWN_ID, &[]).await.map_err(fail)?;
        let own_id: Vec<u8> = own_id.get(0);
        return Err(match before.iter().position(|it| it.own_id == own_id) {
            Some(first) => ShardsError::GivenTwice { number, first },
            None => ShardsError::Locked { number },
        });
    }
    client.execute(BURY, &[]).await.map_err(fail)?;
    let alive = client.query(ALIVE, &[]).await.map_err(fail)?;
    let node = alive.first().map(|row| text(row.get(0))).transpose();
    let rows = client.query(KNOWN, &[]).await.map_err(fail)?;
    let next = client.query_one(NEXT_JOB, &[]).await.map_err(fail)?;
    let own_id = client.query_one(OWN_ID, &[]).await.map_err(fail)?;
    Ok(Found {
        known: Known {
            own_id: own_id.get(0),
            set: ShardSet::read(&rows),
            next_job: next.get(0),
        },
        node: node.map_err(|error| ShardsError::Open {
            number,
            source: error.into(),
        })?,
    })
}

async fn note(
    client: &Client,
    number: usize,
    rows: &[Generation],
) -> Result<(), tokio_postgres::Error> {
    client.execute("DELETE FROM kjob_shards", &[]).await?;
    let shard = number as i64;
    for row in rows {
        let Generation { set_id, size, .. } = row;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] = [
            &row.number,
            set_id,
            &shard,
            size,
            &row.alone_until,
            &row.ids_until,
        ];
        client.execute(NOTE, &params).await?;
    }
    client.execute(NEWER_ONLY, &[]).await?;
    Ok(())
}
