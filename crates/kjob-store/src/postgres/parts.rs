//! Where ended jobs are: in partitions by when they expire, each with those of a like retention.
//!
//! A partition is a range of expiries of one class of retention; the longer the retention, the longer the
//! range. So there are few of them at a time (a lookup by id looks into each), and what has expired takes
//! its space for an eighth longer than it was kept, or thereabouts.

use std::collections::BTreeSet;

use kjob_core::{JobId, StoreError, Timestamp};

use super::session::Link;
use super::shared::Shared;
use super::transaction::transaction;

/// Retentions up to so many milliseconds, and the powers of two that are the lengths of their ranges: 2.3 h
/// and 1.2 h, 3.1 days and 9.3 h, 50 days and 6.2 days, any and 199 days.
const CLASSES: [(i64, u32); 4] = [(1 << 23, 22), (1 << 28, 25), (1 << 32, 29), (i64::MAX, 34)];

/// Above each number of a range, whatever its length.
const CLASS: i64 = 1 << 44;

/// When a job expires that ends at `r.at` and is `l`.
pub(crate) const EXPIRES_AT: &str =
    "r.at + LEAST(l.retention_ms, 9223372036854775807 - GREATEST(r.at, 0))";

/// [`bucket`] in a statement.
pub(crate) const BUCKET: &str = "CASE WHEN retention_ms <= 8388608 THEN expires_at >> 22 \
     WHEN retention_ms <= 268435456 THEN 17592186044416 + (expires_at >> 25) \
     WHEN retention_ms <= 4294967296 THEN 35184372088832 + (expires_at >> 29) \
     ELSE 52776558133248 + (expires_at >> 34) END";

/// The partition of a job.
pub(crate) fn bucket(retention_ms: i64, expires_at: i64) -> i64 {
    let class = CLASSES
        .iter()
        .position(|(longest, _)| retention_ms <= *longest);
    let class = class.unwrap_or(CLASSES.len() - 1);
    class as i64 * CLASS + (expires_at >> CLASSES[class].1)
}

/// When the last job of a partition has expired.
pub(crate) fn end_of(bucket: i64) -> i64 {
    let class = usize::try_from(bucket / CLASS)
        .unwrap_or(0)
        .min(CLASSES.len() - 1);
    let (_, length) = CLASSES[class];
    (bucket - class as i64 * CLASS)
        .checked_add(1)
        .and_then(|number| number.checked_mul(1 << length))
        .unwrap_or(i64::MAX)
}

/// The table of a partition.
pub(crate) fn table(number: i64) -> String {
    format!("kjob_ended_p{number}")
}

impl Shared {
    /// Looks for a job among those that have ended and those that have not, and once more where it is in neither.
    ///
    /// A job moves by one statement, and another one sees it before or after that. But the first job of a new partition may be
    /// nowhere: the partition is attached, and the job moved into it, between the moment when a statement is planned,
    /// and so does not look there, and that at which it looks at rows. The next one is planned with the partition.
    pub(crate) async fn twice<T, F: Future<Output = Result<Option<T>, StoreError>>>(
        &self,
        look: impl Fn() -> F,
    ) -> Result<Option<T>, StoreError> {
        match look().await? {
            None if self.is_partitioned => look().await,
            found => Ok(found),
        }
    }

    /// Makes the partitions that these ends of jobs go to, where they are missing.
    pub(crate) async fn make_parts(&self, ends: &[(JobId, Timestamp)]) -> Result<(), StoreError> {
        let ids: Vec<i64> = ends.iter().map(|(id, _)| id.get()).collect();
        let rows = self
            .writer
            .query(
                "look at jobs that end",
                "SELECT id, retention_ms FROM kjob_live WHERE id = ANY ($1)",
                &[&ids],
            )
            .await?;
        let mut buckets = BTreeSet::new();
        for row in &rows {
            let (id, retention): (i64, i64) = (row.get(0), row.get(1));
            for (_, at) in ends.iter().filter(|(ending, _)| ending.get() == id) {
                let at = at.as_millis();
                let expires_at = at.saturating_add(retention.min(i64::MAX - at.max(0)));
                buckets.insert(bucket(retention, expires_at));
            }
        }
        let link = self.maintenance.lock().await;
        for bucket in buckets {
            make(&link, bucket).await?;
        }
        Ok(())
    }
}

/// Makes a partition, unless somebody else has.
async fn make(link: &Link, bucket: i64) -> Result<(), StoreError> {
    let doing = "make room for ended jobs";
    let rows = link
        .query(
            doing,
            "UPDATE kjob_counters SET next = next + 1 WHERE name = 'part' RETURNING next - 1",
            &[],
        )
        .await?;
    let number: i64 = rows.first().map(|row| row.get(0)).unwrap_or_default();
    let (table, ends_at) = (table(number), end_of(bucket));
    // The row is the first thing to be written: whoever comes second waits for it, and fails by it. A table
    // that is attached, and not made as a partition, keeps nobody from the others.
    let text = format!(
        "BEGIN;
        INSERT INTO kjob_parts (number, bucket, ends_at, swept_to, is_detached)
        VALUES ({number}, {bucket}, {ends_at}, 0, false);
        CREATE TABLE {table} (LIKE kjob_ended INCLUDING DEFAULTS);
        ALTER TABLE kjob_ended ATTACH PARTITION {table} FOR VALUES IN ({bucket});
        COMMIT"
    );
    match transaction(link, doing, &text).await {
        Err(error) if is_there_already(&error) => Ok(()),
        done => done,
    }
}

fn is_there_already(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else {
        return false;
    };
    let source = std::error::Error::source(&**source);
    let error = source.and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    error.is_some_and(|error| {
        error.code() == Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_partition_ends_after_its_last_job_and_not_long_after(
            retention in prop_oneof![0..1_i64 << 24, 0..1_i64 << 34, 0..i64::MAX],
            expires_at in 0..i64::MAX,
        ) {
            let bucket = bucket(retention, expires_at);
            let end = end_of(bucket);
            prop_assert!(end > expires_at || end == i64::MAX);
            let class = CLASSES.iter().find(|(longest, _)| retention <= *longest).unwrap();
            prop_assert!(end.saturating_sub(1 << class.1) <= expires_at);
        }
    }

    #[test]
    fn the_statement_has_the_same_classes() {
        for (class, (longest, length)) in CLASSES.into_iter().enumerate() {
            let offset = class as i64 * CLASS;
            let sum = match offset {
                0 => format!("expires_at >> {length}"),
                _ => format!("{offset} + (expires_at >> {length})"),
            };
            let part = match longest {
                i64::MAX => format!("ELSE {sum} END"),
                _ => format!("WHEN retention_ms <= {longest} THEN {sum} "),
            };
            assert!(BUCKET.contains(&part), "{part}");
        }
    }
}
