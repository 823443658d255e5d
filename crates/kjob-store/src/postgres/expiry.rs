//! Giving back the space of jobs that have expired: rows of those that expire before their partition does, and
//! partitions whole.

use std::collections::HashMap;
use std::sync::LazyLock;

use kjob_core::{Expired, JobId, Owner, StoreError, Timestamp};
use tokio_postgres::Row;

use super::error::sql;
use super::parts::table;
use super::row::text;
use super::session::Link;
use super::shared::Shared;
use super::transaction::{Transaction, transaction};
use super::usage::{Change, counted};

/// Jobs that one call looks at, of each kind.
const JOBS_MAX: i64 = 5_000;

/// How long after its end a partition is left alone, as clocks differ.
const MARGIN_MS: i64 = 60_000;

/// How long to wait for those who use the table, before it is left for the next call: all others who come
/// wait behind us.
const LOCK_TIMEOUT: &str = "300ms";

/// What goes with rows called `gone`: names and callbacks; and what that changes.
const FORGET: &str = "forgotten AS (
        DELETE FROM kjob_tags t USING gone g
        WHERE t.name = g.tag || '\\x2f'::bytea || g.owner AND t.id = g.id
    ),
    untold AS (DELETE FROM kjob_callbacks c USING gone g WHERE c.id = g.id),
    changed AS (SELECT owner, -1 AS jobs, -octets AS bytes, 0 AS waiting FROM gone),
    {counted}
    SELECT owner, count(*), sum(octets)::bigint, max(id) FROM gone GROUP BY owner";

static EARLY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH due AS (
            SELECT id, bucket FROM kjob_ended WHERE is_early AND expires_at <= $2
            ORDER BY expires_at LIMIT $3 FOR UPDATE SKIP LOCKED
        ),
        gone AS (
            DELETE FROM kjob_ended e USING due d WHERE e.id = d.id AND e.bucket = d.bucket
            RETURNING e.id, e.owner, e.tag,
                octet_length(e.payload) + COALESCE(octet_length(e.result), 0) AS octets
        ),
        {forget}",
        forget = FORGET.replace("{counted}", &counted("$1")),
    )
});

/// A piece of a partition that is no longer one.
fn sweep(number: i64) -> String {
    format!(
        "WITH gone AS (
            SELECT id, owner, tag, octet_length(payload) + COALESCE(octet_length(result), 0) AS octets
            FROM {table} WHERE id > $2 ORDER BY id LIMIT $3
        ),
        {forget}",
        table = table(number),
        forget = FORGET.replace("{counted}", &counted("$1")),
    )
}

const EXPIRE_AT: &str = "UPDATE kjob_ended SET expires_at = $2, is_early = true
    WHERE id = $1 AND expires_at > $2 RETURNING is_called_back";

const EXPIRE_CALLBACK_AT: &str = "UPDATE kjob_callbacks SET expires_at = $2 WHERE id = $1";

impl Shared {
    pub(crate) async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        let doing = "let a job expire";
        let (id, at) = (id.get(), at.as_millis());
        let moved = self.write(doing, EXPIRE_AT, &[&id, &at]).await?;
        // Its callback may be handed out until this is done; that it was needs no cure.
        if moved.first().is_some_and(|row| row.get(0)) {
            self.write(doing, EXPIRE_CALLBACK_AT, &[&id, &at]).await?;
        }
        Ok(())
    }

    pub(crate) async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        if self.gathering.is_closed() {
            return Err(StoreError::Closed);
        }
        let now = now.as_millis();
        let tally = self.own_tally();
        let rows = self
            .write("delete expired jobs", &EARLY, &[&tally, &now, &JOBS_MAX])
            .await?;
        let mut expired = self.count_gone(&rows)?;
        expired.more = expired.jobs >= JOBS_MAX.unsigned_abs();
        if self.is_partitioned {
            let swept = self.sweep_parts(now).await?;
            expired.jobs += swept.jobs;
            expired.bytes += swept.bytes;
            expired.more |= swept.more;
        }
        Ok(expired)
    }

    /// Lets go of one partition whose time is over, a piece at a time.
    async fn sweep_parts(&self, now: i64) -> Result<Expired, StoreError> {
        let link = self.maintenance.lock().await;
        let doing = "drop expired jobs";
        let ended = now.saturating_sub(MARGIN_MS);
        let parts = link
            .query(
                doing,
                "SELECT number, is_detached FROM kjob_parts WHERE is_detached OR ends_at <= $1
                ORDER BY is_detached DESC, number",
                &[&ended],
            )
            .await?;
        let Some(part) = parts.first() else {
            return Ok(Expired::default());
        };
        let number: i64 = part.get(0);
        if !part.get::<_, bool>(1) {
            // Nobody finds what is in it from here on, and nothing more comes into it.
            let table = table(number);
            let detach = format!(
                "BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}';
                UPDATE kjob_parts SET is_detached = true WHERE number = {number} AND NOT is_detached;
                ALTER TABLE kjob_ended DETACH PARTITION {table};
                COMMIT"
            );
            if let Err(error) = transaction(&link, doing, &detach).await {
                // Somebody else does it, or a long query is in the way.
                tracing::debug!("partition {number} is not let go for now: {error}");
                return Ok(Expired::default());
            }
        }
        let mut expired = self.sweep(&link, number).await?;
        expired.more |= parts.len() > 1;
        Ok(expired)
    }

    /// Forgets a piece of what is in a table that was let go, and drops it once nothing is left.
    async fn sweep(&self, link: &Link, number: i64) -> Result<Expired, StoreError> {
        let doing = "drop expired jobs";
        let (statement, tally) = (sweep(number), self.own_tally());
        let transaction = Transaction::begin(link, doing).await?;
        let client = transaction.client();
        let piece = async {
            let next = "SELECT swept_to FROM kjob_parts WHERE number = $1 FOR UPDATE SKIP LOCKED";
            let Some(part) = client.query_opt(next, &[&number]).await? else {
                return Ok(None);
            };
            let from: i64 = part.get(0);
            let gone = client
                .query(&statement, &[&tally, &from, &JOBS_MAX])
                .await?;
            match gone.iter().map(|row| row.get::<_, i64>(3)).max() {
                Some(to) => {
                    let note = "UPDATE kjob_parts SET swept_to = $2 WHERE number = $1";
                    client.execute(note, &[&number, &to]).await?;
                }
                None => {
                    let drop = format!(
                        "DROP TABLE {}; DELETE FROM kjob_parts WHERE number = {number}",
                        table(number)
                    );
                    client.batch_execute(&drop).await?;
                }
            }
            Ok(Some(gone))
        };
        match piece.await {
            Ok(Some(gone)) => {
                transaction.commit().await.map_err(sql(doing))?;
                let mut expired = self.count_gone(&gone)?;
                expired.more = !gone.is_empty();
                Ok(expired)
            }
            Ok(None) => {
                transaction.roll_back().await.map_err(sql(doing))?;
                Ok(Expired::default())
            }
            Err(error) => {
                // Where that fails too, the connection was let go.
                let _ = transaction.roll_back().await;
                Err(sql(doing)(error))
            }
        }
    }

    fn count_gone(&self, rows: &[Row]) -> Result<Expired, StoreError> {
        let mut expired = Expired::default();
        let mut changes: HashMap<Owner, Change> = HashMap::new();
        for row in rows {
            let (jobs, bytes): (i64, i64) = (row.get(1), row.get(2));
            expired.jobs += jobs.unsigned_abs();
            expired.bytes += bytes.unsigned_abs();
            let change = Change {
                jobs: -jobs,
                bytes: -bytes,
                waiting: 0,
            };
            let owner = Owner::new(&text(row.get(0))?);
            changes.entry(owner).or_default().add(change);
        }
        for (owner, change) in changes {
            self.usage.add(&owner, change);
        }
        Ok(expired)
    }
}
