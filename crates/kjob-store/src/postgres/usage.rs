//! How much is stored and how much waits: what this handle knows of its own doing at once, and of others' a
//! moment later.

use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use kjob_core::{Owner, StoreError, StoreUsage, Usage, WaitingCounts};
use tokio_postgres::Row;

use super::row::text;
use super::shared::{Shared, TALLIES};
use super::transaction::transaction;

/// Adds up rows called `changed`, with columns `owner`, `jobs`, `bytes` and `waiting`, and adds that to the
/// usage: two further parts of a statement. `tally` is the parameter that says to which row.
pub(crate) fn counted(tally: &str) -> String {
    format!(
        "of_all AS (
            INSERT INTO kjob_usage (shard, jobs, bytes, waiting, touched_at)
            SELECT {tally}::bigint, sum(jobs)::bigint, sum(bytes)::bigint, sum(waiting)::bigint, now()
            FROM changed HAVING count(*) > 0
            {ADD}
        ),
        of_owners AS (
            INSERT INTO kjob_usage_of (owner, shard, jobs, bytes, waiting)
            SELECT owner, {tally}::bigint, sum(jobs)::bigint, sum(bytes)::bigint, sum(waiting)::bigint
            FROM changed GROUP BY owner ORDER BY owner
            {ADD_OF}
        )"
    )
}

const ADD: &str = "ON CONFLICT (shard) DO UPDATE SET jobs = kjob_usage.jobs + excluded.jobs,
    bytes = kjob_usage.bytes + excluded.bytes, waiting = kjob_usage.waiting + excluded.waiting,
    touched_at = excluded.touched_at";

const ADD_OF: &str = "ON CONFLICT (owner, shard) DO UPDATE SET jobs = kjob_usage_of.jobs + excluded.jobs,
    bytes = kjob_usage_of.bytes + excluded.bytes, waiting = kjob_usage_of.waiting + excluded.waiting";

/// Says that this handle is there, so that nobody takes its rows away.
const TOUCH: &str =
    "UPDATE kjob_usage SET touched_at = now() WHERE shard >= $1 AND shard < $2 RETURNING shard";

/// Rows of handles that have not been heard of for so long that their processes are gone.
const LEFT_BEHIND: &str = "SELECT shard FROM kjob_usage
    WHERE shard <> 0 AND touched_at < now() - interval '1 hour' ORDER BY shard LIMIT 1000";

/// What a step changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Change {
    pub(crate) jobs: i64,
    pub(crate) bytes: i64,
    pub(crate) waiting: i64,
}

/// The counts in memory.
#[derive(Debug, Default)]
pub(crate) struct UsageCache {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    own: Counts,
    others: Counts,
    /// Owners who were asked about since the last look at the others.
    asked: HashSet<Owner>,
}

/// Counts of all and of each owner.
#[derive(Debug, Default)]
struct Counts {
    total: Change,
    of: HashMap<Owner, Change>,
}

const OTHERS: &str = "SELECT sum(jobs)::bigint, sum(bytes)::bigint, sum(waiting)::bigint \
     FROM kjob_usage WHERE shard < $1 OR shard >= $2";

static OTHERS_OF_ALL: LazyLock<String> =
    LazyLock::new(|| OTHERS_OF.replace("AND owner = ANY ($3)", ""));

const OTHERS_OF: &str = "SELECT sum(jobs)::bigint, sum(bytes)::bigint, sum(waiting)::bigint, owner \
     FROM kjob_usage_of WHERE (shard < $1 OR shard >= $2) AND owner = ANY ($3) GROUP BY owner";

impl UsageCache {
    pub(crate) fn add(&self, owner: &Owner, change: Change) {
        let Counts { total, of } = &mut self.lock().own;
        total.add(change);
        match of.get_mut(owner) {
            Some(known) => known.add(change),
            None => drop(of.insert(owner.clone(), change)),
        }
    }

    pub(crate) fn usage(&self, owner: &Owner) -> StoreUsage {
        let (total, owner) = self.both(owner);
        StoreUsage {
            total: total.usage(),
            owner: owner.usage(),
        }
    }

    pub(crate) fn waiting(&self, owner: &Owner) -> WaitingCounts {
        let (total, owner) = self.both(owner);
        let count = |change: Change| u64::try_from(change.waiting).unwrap_or(0);
        WaitingCounts {
            total: count(total),
            owner: count(owner),
        }
    }

    fn both(&self, owner: &Owner) -> (Change, Change) {
        let mut inner = self.lock();
        if !inner.asked.contains(owner) {
            inner.asked.insert(owner.clone());
        }
        let Inner { own, others, .. } = &*inner;
        let of = |counts: &Counts| counts.of.get(owner).copied().unwrap_or_default();
        (own.total.plus(others.total), of(own).plus(of(others)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Looks at what others have stored: of everyone, or of those who were asked about.
    pub(crate) async fn refresh_usage(&self, of_everyone: bool) -> Result<(), StoreError> {
        let (first, end) = (self.tally_of(0), self.tally_of(TALLIES));
        let doing = "read what is stored";
        let asked = std::mem::take(&mut self.usage.lock().asked);
        let total = self.query(doing, OTHERS, &[&first, &end]).await?;
        let owners = if of_everyone {
            self.query(doing, &OTHERS_OF_ALL, &[&first, &end]).await?
        } else {
            let asked: Vec<&[u8]> = asked.iter().map(|it| it.as_str().as_bytes()).collect();
            self.query(doing, OTHERS_OF, &[&first, &end, &asked])
                .await?
        };
        let mut inner = self.usage.lock();
        inner.others.total = total.first().map(change).unwrap_or_default();
        if of_everyone {
            inner.others.of.clear();
        }
        for owner in asked {
            inner.others.of.remove(&owner);
        }
        for row in &owners {
            let owner = Owner::new(&text(row.get(3))?);
            inner.others.of.insert(owner, change(row));
        }
        Ok(())
    }

    /// Gives what this handle has counted to a row that everyone has, so that none of its own stays behind.
    pub(crate) async fn fold_own_usage(&self) -> Result<(), StoreError> {
        let tallies: Vec<i64> = (self.tally_of(0)..self.tally_of(TALLIES)).collect();
        self.fold_usage(&tallies).await
    }

    /// The same for handles whose processes were killed.
    pub(crate) async fn fold_left_usage(&self) -> Result<(), StoreError> {
        let doing = "add up what is stored";
        let (first, end) = (self.tally_of(0), self.tally_of(TALLIES));
        let has_counted = self.usage.lock().own.total != Change::default();
        let touched = self.write(doing, TOUCH, &[&first, &end]).await?;
        if has_counted && touched.is_empty() {
            // We were out of reach for so long that others have taken them for left.
            self.usage.lock().own = Counts::default();
        }
        let left = self.query(doing, LEFT_BEHIND, &[]).await?;
        let tallies: Vec<i64> = left.iter().map(|row| row.get(0)).collect();
        match tallies.is_empty() {
            true => Ok(()),
            false => self.fold_usage(&tallies).await,
        }
    }

    async fn fold_usage(&self, tallies: &[i64]) -> Result<(), StoreError> {
        let tallies: Vec<String> = tallies.iter().map(i64::to_string).collect();
        let tallies = tallies.join(", ");
        // Whoever comes second waits for the rows, and then finds none.
        let fold = format!(
            "BEGIN;
            SELECT shard FROM kjob_usage WHERE shard IN ({tallies}) ORDER BY shard FOR UPDATE;
            INSERT INTO kjob_usage (shard, jobs, bytes, waiting, touched_at)
            SELECT 0, sum(jobs)::bigint, sum(bytes)::bigint, sum(waiting)::bigint, now() FROM kjob_usage
            WHERE shard IN ({tallies}) HAVING count(*) > 0
            {ADD};
            INSERT INTO kjob_usage_of (owner, shard, jobs, bytes, waiting)
            SELECT owner, 0, sum(jobs)::bigint, sum(bytes)::bigint, sum(waiting)::bigint
            FROM kjob_usage_of WHERE shard IN ({tallies}) GROUP BY owner ORDER BY owner
            {ADD_OF};
            DELETE FROM kjob_usage WHERE shard IN ({tallies});
            DELETE FROM kjob_usage_of WHERE shard IN ({tallies});
            COMMIT"
        );
        let link = self.maintenance.lock().await;
        transaction(&link, "add up what is stored", &fold).await
    }
}

impl Change {
    pub(crate) fn add(&mut self, other: Self) {
        *self = self.plus(other);
    }

    fn plus(self, other: Self) -> Self {
        Self {
            jobs: self.jobs.saturating_add(other.jobs),
            bytes: self.bytes.saturating_add(other.bytes),
            waiting: self.waiting.saturating_add(other.waiting),
        }
    }

    fn usage(self) -> Usage {
        // Sums of what is read at different moments may be below nothing for a moment.
        Usage {
            jobs: u64::try_from(self.jobs).unwrap_or(0),
            bytes: u64::try_from(self.bytes).unwrap_or(0),
        }
    }
}

fn change(row: &Row) -> Change {
    let number = |column: usize| row.get::<_, Option<i64>>(column).unwrap_or(0);
    Change {
        jobs: number(0),
        bytes: number(1),
        waiting: number(2),
    }
}
