//! Which shard of a set of databases one is, as its tables say it.

use kjob_core::{JobId, Placement};
use tokio_postgres::Row;

use super::error::corrupt;
use crate::postgres::OpenError;

/// The rows, oldest first.
pub(crate) const KNOWN: &str = "SELECT generation, set_id, shard, size, alone_until, ids_until FROM kjob_shards ORDER BY generation";

/// How often the rows were changed.
pub(crate) const CHANGES: &str = "SELECT next FROM kjob_counters WHERE name = 'shards'";

/// The first id that a database has not given.
pub(crate) const NEXT_JOB: &str = "SELECT next FROM kjob_counters WHERE name = 'job'";

/// Who the database is.
pub(crate) const OWN_ID: &str = "SELECT value FROM kjob_agreed WHERE name = 'database'";

/// What a database knows of the set that it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardSet {
    /// None if it is in no set.
    pub(crate) rows: Vec<Generation>,
}

/// One size that a set has had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) number: i64,
    pub(crate) set_id: Vec<u8>,
    pub(crate) shard: i64,
    pub(crate) size: i64,
    /// What the only database had given before there was another.
    pub(crate) alone_until: i64,
    /// All ids of before it had this size are up to here.
    pub(crate) ids_until: i64,
}

impl ShardSet {
    pub(crate) fn read(rows: &[Row]) -> Self {
        let read = |row: &Row| Generation {
            number: row.get(0),
            set_id: row.get(1),
            shard: row.get(2),
            size: row.get(3),
            alone_until: row.get(4),
            ids_until: row.get(5),
        };
        Self {
            rows: rows.iter().map(read).collect(),
        }
    }

    pub(crate) fn newest(&self) -> Option<&Generation> {
        self.rows.last()
    }

    /// Its number and how many there are, if there are others.
    pub(crate) fn among_others(&self) -> Option<(i64, i64)> {
        let newest = self.newest()?;
        (newest.size > 1).then_some((newest.shard, newest.size))
    }

    /// Whether both are of one set that has had the same sizes.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let same = |(a, b): (&Generation, &Generation)| {
            let all = |it: &Generation| (it.number, it.size, it.alone_until, it.ids_until);
            a.set_id == b.set_id && all(a) == all(b)
        };
        self.rows.len() == other.rows.len() && self.rows.iter().zip(&other.rows).all(same)
    }

    /// Which job is where in this set, if no jobs are left of before it had the first of the sizes from this place
    /// in its history on.
    pub(crate) fn placement_from(&self, place: usize) -> Result<Placement, OpenError> {
        let Some(newest) = self.newest() else {
            return Ok(Placement::alone());
        };
        let sizes = self.rows.iter().skip(place);
        let sizes = sizes.map(|row| usize::try_from(row.size));
        let sizes: Result<Vec<usize>, _> = sizes.collect();
        let damaged = || OpenError::Store(corrupt("the table kjob_shards"));
        let sizes = sizes.map_err(|_| damaged())?;
        let placement = Placement::new(&sizes, newest.alone_until.min(JobId::MAX));
        placement.map_err(|_| damaged())
    }
}
