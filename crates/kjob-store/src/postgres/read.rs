//! Reads: one job, or a page of a list.

use std::sync::LazyLock;

use kjob_core::{Filter, Job, JobId, Order, Page, Parts, Phase, Status, StoreError, Timestamp};

use super::row::{ENDED, ENDED_FROM, LIVE, columns, job};
use super::shared::Shared;

static GET: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {live} FROM kjob_live l WHERE l.id = $1
        UNION ALL
        SELECT {ended} FROM {ENDED_FROM} WHERE e.id = $1 AND e.expires_at > $2",
        live = columns(LIVE, "CASE WHEN $3 THEN l.payload END", ""),
        ended = columns(
            ENDED,
            "CASE WHEN $3 THEN e.payload END",
            "CASE WHEN $4::boolean THEN e.result END"
        ),
    )
});

const BYTES: &str = "SELECT octet_length(l.payload)::bigint FROM kjob_live l WHERE l.id = $1
    UNION ALL
    SELECT octet_length(e.payload)::bigint + COALESCE(octet_length(e.result), 0) FROM kjob_ended e
    WHERE e.id = $1 AND e.expires_at > $2";

/// With `{owner}`, which has an index, or without.
const LIST: &str = "(SELECT {live} FROM kjob_live l
        WHERE $7::boolean AND l.id > $1 AND l.id <= $9 {owner_live}
            AND ($3::bytea IS NULL OR l.endpoint = $3)
            AND ($10::bigint IS NULL OR l.received_at >= $10)
            AND ($11::bigint IS NULL OR l.received_at < $11)
        ORDER BY l.id {order} LIMIT $5)
    UNION ALL
    (SELECT {ended} FROM {from}
        WHERE $8::boolean AND e.id > $1 AND e.id <= $9 {owner_ended}
            AND ($3::bytea IS NULL OR e.endpoint = $3)
            AND ($10::bigint IS NULL OR e.received_at >= $10)
            AND ($11::bigint IS NULL OR e.received_at < $11)
            AND e.phase = ANY ($4::smallint[]) AND e.expires_at > $6
        ORDER BY e.id {order} LIMIT $5)
    ORDER BY id {order} LIMIT $5";

static LIST_ALL: LazyLock<String> = LazyLock::new(|| list(false, ""));
static LIST_OWN: LazyLock<String> = LazyLock::new(|| list(true, ""));
static LIST_ALL_DOWN: LazyLock<String> = LazyLock::new(|| list(false, "DESC"));
static LIST_OWN_DOWN: LazyLock<String> = LazyLock::new(|| list(true, "DESC"));

fn list(is_own: bool, order: &str) -> String {
    let (owner_live, owner_ended) = match is_own {
        true => ("AND l.owner = $2::bytea", "AND e.owner = $2::bytea"),
        false => (
            "AND ($2::bytea IS NULL OR l.owner = $2)",
            "AND ($2::bytea IS NULL OR e.owner = $2)",
        ),
    };
    LIST.replace("{order}", order)
        .replace("{live}", &columns(LIVE, "NULL::bytea", ""))
        .replace("{ended}", &columns(ENDED, "NULL::bytea", "NULL::bytea"))
        .replace("{from}", ENDED_FROM)
        .replace("{owner_live}", owner_live)
        .replace("{owner_ended}", owner_ended)
}

impl Shared {
    /// One job by a statement of its own, however large it is.
    pub(crate) async fn get_alone(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        let (id, now) = (id.get(), now.as_millis());
        let rows = self
            .query(
                "read a job",
                &GET,
                &[&id, &now, &parts.payload, &parts.result],
            )
            .await?;
        rows.first().map(job).transpose()
    }

    pub(crate) async fn bytes_of(
        &self,
        id: JobId,
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        let (id, now) = (id.get(), now.as_millis());
        let look = || async move {
            let rows = self.query("read a job", BYTES, &[&id, &now]).await?;
            Ok(rows.first().map(|row| row.get::<_, i64>(0).unsigned_abs()))
        };
        self.twice(look).await
    }

    pub(crate) async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        let limit = filter.limit.max(1);
        let (above, last) = filter.ids();
        let millis = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
        let owner = filter.owner.as_ref().map(|owner| owner.as_str().as_bytes());
        let endpoint = filter
            .endpoint
            .as_ref()
            .map(|endpoint| &endpoint.as_bytes()[..]);
        let is_wanted = |status| filter.statuses.is_empty() || filter.statuses.contains(&status);
        let ended = [Phase::Done, Phase::Failed, Phase::Cancelled].into_iter();
        let phases: Vec<i16> = ended
            .filter(|phase| is_wanted(phase.status()))
            .map(|phase| i16::from(phase as u8))
            .collect();
        let (live, ended) = (is_wanted(Status::Running), !phases.is_empty());
        // One more tells whether there are more.
        let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let text: &'static str = match (owner.is_some(), filter.order) {
            (false, Order::OldestFirst) => &LIST_ALL,
            (true, Order::OldestFirst) => &LIST_OWN,
            (false, Order::NewestFirst) => &LIST_ALL_DOWN,
            (true, Order::NewestFirst) => &LIST_OWN_DOWN,
        };
        let rows = self
            .query(
                "list jobs",
                text,
                &[
                    &above,
                    &owner,
                    &endpoint,
                    &phases,
                    &most,
                    &now.as_millis(),
                    &live,
                    &ended,
                    &last,
                    &millis(filter.since),
                    &millis(filter.until),
                ],
            )
            .await?;
        let mut jobs = rows.iter().map(job).collect::<Result<Vec<_>, _>>()?;
        let has_more = jobs.len() > limit;
        jobs.truncate(limit);
        let next = jobs.last().filter(|_| has_more).map(|job| job.header.id);
        Ok(Page { jobs, next })
    }
}
