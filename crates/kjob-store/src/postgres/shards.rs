//! Several databases that hold one set of jobs together: making a set, letting it grow, and opening it.
//!
//! All databases of a set have the same rows in `kjob_shards`, but for their own number. A set is changed by
//! one transaction in each of them, all of which are open, with all that has to be looked at locked, before the
//! first is committed; that of the first database is committed last. Where this is interrupted in between, the
//! databases do not agree and nobody opens them as a set until it is done anew.

use std::sync::Arc;

use futures_util::future::join_all;
use kjob_core::{JobId, Placement, PlacementError, ShardedStore, SharedStore, StoreError};
use kjob_proto::Text;
use tokio_postgres::Client;

use super::connect::{Connector, Purpose};
use super::error::sql;
use super::late_shard::{LateShard, Seat, is_away};
use super::row::text;
use super::shard_set::{Generation, KNOWN, NEXT_JOB, ShardSet};
use super::store::Background;
use super::{OpenError, PostgresOptions, PostgresStore};

/// Why databases cannot be a set, or not be opened as one. Databases are numbered as they were given, from 0 on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardsError {
    /// One cannot be opened.
    #[error("database {number}: {source}")]
    Open {
        /// Which.
        number: usize,
        /// Why not.
        #[source]
        source: OpenError,
    },
    /// One is in no set, or in one that was not made to its end.
    #[error(
        "database {number} is not yet a shard of this set: stop all nodes and run kjob-server migrate with \
         all databases"
    )]
    NotYet {
        /// Which.
        number: usize,
    },
    /// One has another number in the set: they are not in the order in which they came to it.
    #[error(
        "database {number} is shard {found} of its set: give the databases in the order of their shards"
    )]
    Order {
        /// Which.
        number: usize,
        /// What it is in its set.
        found: i64,
    },
    /// One is of another set.
    #[error("database {number} is a shard of another set than those before it")]
    OtherSet {
        /// Which.
        number: usize,
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
    #[error("database {number} has had jobs of its own: only the first of a set may")]
    HasJobs {
        /// Which.
        number: usize,
    },
    /// Nodes work on one.
    #[error("database {number} has nodes at work, such as {url}: stop all nodes first")]
    InUse {
        /// Which.
        number: usize,
        /// Where one of them is reached.
        url: Text,
    },
    /// One is locked: by another who makes a set of it, or as it was given twice.
    #[error("database {number} is being changed by another, or was given twice")]
    Locked {
        /// Which.
        number: usize,
    },
    /// There cannot be a set of so many.
    #[error(transparent)]
    Size(#[from] PlacementError),
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
        let opened = join_all(opening).await.into_iter().enumerate();
        let opened = opened
            .map(|(number, opened)| opened.map_err(|source| ShardsError::Open { number, source }));
        let opened = all_or_away(opened.collect())?;
        let sets = opened.iter().map(|it| it.as_ref().ok().map(Self::set));
        let sets: Vec<Option<&ShardSet>> = sets.collect();
        let set = agreed(&sets)?;
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
        let mut versions = Vec::new();
        for (number, url) in urls.iter().enumerate() {
            let migrated = Self::migrate(url, options).await;
            versions.push(migrated.map_err(|source| open(number, source))?);
        }
        let background = Background::start().map_err(|source| open(0, source))?;
        let mut clients = Vec::new();
        for (number, url) in urls.iter().enumerate() {
            let runtime = background.runtime.clone();
            let connector = Connector::new(url, options, runtime);
            let connector = connector.map_err(|source| open(number, source))?;
            let client = connector.connect(Purpose::Read).await;
            clients.push(client.map_err(|source| open(number, source.into()))?);
        }
        let making = background.runtime.spawn(async move {
            let made = make_set(&clients).await;
            // Those that are not committed yet end here: with the connection.
            drop(clients);
            made
        });
        let made = making
            .await
            .unwrap_or(Err(open(0, StoreError::Closed.into())));
        let (before, size) = made?;
        Ok(MigratedShards {
            versions,
            before,
            size,
        })
    }
}

/// As it is, if at least one was opened and the others cannot be reached for now.
fn all_or_away(
    opened: Vec<Result<PostgresStore, ShardsError>>,
) -> Result<Vec<Result<PostgresStore, ShardsError>>, ShardsError> {
    let is_any_there = opened.iter().any(Result::is_ok);
    let mut kept = Vec::with_capacity(opened.len());
    for it in opened {
        match it {
            Err(error) if !is_any_there || !is_away(&error) => return Err(error),
            it => kept.push(it),
        }
    }
    Ok(kept)
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

/// The set that all of those have that were reached, each as the shard of its number.
fn agreed(sets: &[Option<&ShardSet>]) -> Result<ShardSet, ShardsError> {
    let reached = || {
        let numbered = sets.iter().enumerate();
        numbered.filter_map(|(number, set)| Some((number, (*set)?)))
    };
    let Some((_, set)) = reached().next() else {
        return Err(PlacementError::None.into());
    };
    if sets.len() == 1 && set.newest().is_none() {
        return Ok(set.clone());
    }
    for (number, found) in reached() {
        check_seat(number, found, set)?;
    }
    let largest = reached().filter_map(|(_, set)| set.newest().map(|row| row.size));
    let wanted = largest.max().unwrap_or(0);
    let found = sets.len();
    if usize::try_from(wanted) != Ok(found) {
        return Err(ShardsError::Missing { found, wanted });
    }
    for (number, found) in reached() {
        check_place(number, found, set)?;
    }
    Ok(set.clone())
}

/// Whether a database is the shard of its number in the same set as another is.
fn check_seat(number: usize, found: &ShardSet, other: &ShardSet) -> Result<(), ShardsError> {
    let Some(newest) = found.newest() else {
        return Err(ShardsError::NotYet { number });
    };
    if usize::try_from(newest.shard) != Ok(number) {
        let found = newest.shard;
        return Err(ShardsError::Order { number, found });
    }
    if other.newest().map(|row| &row.set_id) != Some(&newest.set_id) {
        return Err(ShardsError::OtherSet { number });
    }
    Ok(())
}

/// Whether that is so, and both know the set by the same sizes.
pub(super) fn check_place(
    number: usize,
    found: &ShardSet,
    other: &ShardSet,
) -> Result<(), ShardsError> {
    check_seat(number, found, other)?;
    match found.agrees_with(other) {
        true => Ok(()),
        false => Err(ShardsError::NotYet { number }),
    }
}

/// Whoever joins, or takes ids, waits for this; and this for whoever does so at the moment.
const LOCK: &str = "UPDATE kjob_counters SET next = next + 1 WHERE name = 'shards'";

/// Waits for beats that are under way, so that a lease which was renewed just now is seen.
const BURY: &str =
    "UPDATE kjob_nodes SET is_gone = true WHERE NOT is_gone AND alive_until <= now()";

const ALIVE: &str =
    "SELECT url FROM kjob_nodes WHERE NOT is_gone AND alive_until > now() ORDER BY id LIMIT 1";

const SELF: &str = "SELECT value FROM kjob_agreed WHERE name = 'database'";

const NOTE: &str =
    "INSERT INTO kjob_shards (generation, set_id, shard, size, alone_until, ids_until)
    VALUES ($1, $2, $3, $4, $5, $6)";

/// Programs that know nothing of sets would take ids of other shards.
const NEWER_ONLY: &str = "UPDATE kjob_schema SET works_with = 3 WHERE works_with < 3";

/// A database in a transaction that is to change the set.
struct Found {
    /// Who it is.
    own_id: Vec<u8>,
    set: ShardSet,
    /// The first id that it has not given.
    next_job: i64,
    /// Where a node of it is reached that is at work.
    node: Option<Text>,
}

/// Makes the set; how many databases it had before and has now.
async fn make_set(clients: &[Client]) -> Result<(usize, usize), ShardsError> {
    let mut found = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        found.push(lock(number, client).await?);
    }
    let size = found.len();
    let rows = match found.first() {
        Some(first) => {
            let given = found.iter().map(|it| it.next_job - 1).max();
            grown(first, given.unwrap_or(0), size)?
        }
        None => return Err(PlacementError::None.into()),
    };
    if size == 1 && found[0].set.newest().is_none() {
        return Ok((0, 1));
    }
    let before = found[0].set.newest().map_or(0, |newest| newest.size);
    let before = usize::try_from(before).unwrap_or(0);
    check(&found, before, &rows)?;
    if before == size && found.iter().all(|it| it.set.agrees_with(&found[0].set)) {
        return Ok((before, size));
    }
    // Not before: tables may be brought up to date while nodes work.
    for (number, it) in found.iter().enumerate() {
        if let Some(url) = it.node.clone() {
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

async fn lock(number: usize, client: &Client) -> Result<Found, ShardsError> {
    let doing = "look at the set of databases";
    let fail = |error| failed(number, doing, error);
    // One that was given twice waits for itself.
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '2s'";
    client.batch_execute(begin).await.map_err(fail)?;
    if let Err(error) = client.execute(LOCK, &[]).await {
        let is_locked = error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE);
        return Err(match is_locked {
            true => ShardsError::Locked { number },
            false => fail(error),
        });
    }
    client.execute(BURY, &[]).await.map_err(fail)?;
    let alive = client.query(ALIVE, &[]).await.map_err(fail)?;
    let node = alive.first().map(|row| text(row.get(0))).transpose();
    let rows = client.query(KNOWN, &[]).await.map_err(fail)?;
    let next = client.query_one(NEXT_JOB, &[]).await.map_err(fail)?;
    let own_id = client.query_one(SELF, &[]).await.map_err(fail)?;
    Ok(Found {
        own_id: own_id.get(0),
        set: ShardSet::read(&rows),
        next_job: next.get(0),
        node: node.map_err(|error| ShardsError::Open {
            number,
            source: error.into(),
        })?,
    })
}

/// What the set is to be, for its first database.
fn grown(first: &Found, given: i64, size: usize) -> Result<Vec<Generation>, ShardsError> {
    let mut rows = first.set.rows.clone();
    if rows.is_empty() {
        let row = |number, size, ids_until| Generation {
            number,
            set_id: first.own_id.clone(),
            shard: 0,
            size,
            alone_until: first.next_job - 1,
            ids_until,
        };
        if first.next_job > 1 {
            // What it has so far was placed when it was the only one.
            rows.push(row(1, 1, 0));
        }
        rows.push(row(rows.len() as i64 + 1, size as i64, given));
    } else if let Some(newest) = rows.last()
        && newest.size != size as i64
    {
        let next = Generation {
            number: newest.number + 1,
            size: size as i64,
            ids_until: given,
            ..newest.clone()
        };
        rows.push(next);
    }
    // Neither too many nor fewer than before.
    let set = ShardSet { rows };
    let sizes = set
        .rows
        .iter()
        .map(|row| usize::try_from(row.size).unwrap_or(0));
    Placement::new(&sizes.collect::<Vec<_>>(), 0)?;
    Ok(set.rows)
}

/// Whether each may be in the set that is to have these rows: those that are have their places, and those that come
/// are empty.
fn check(found: &[Found], before: usize, rows: &[Generation]) -> Result<(), ShardsError> {
    let set_id = rows.first().map(|row| &row.set_id);
    for (number, it) in found.iter().enumerate() {
        if let Some(newest) = it.set.newest()
            && usize::try_from(newest.shard) != Ok(number)
        {
            let found = newest.shard;
            return Err(ShardsError::Order { number, found });
        }
        // Of this set it may know more or less than the first, where a change of it was not made to its end, or was
        // lost with the database's last moments.
        if it.set.rows.iter().any(|row| Some(&row.set_id) != set_id) {
            return Err(ShardsError::OtherSet { number });
        }
        let is_known = number < before && !it.set.rows.is_empty();
        if number > 0 && !is_known && it.next_job > 1 {
            return Err(ShardsError::HasJobs { number });
        }
    }
    Ok(())
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
