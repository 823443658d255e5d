//! Many nodes on one database: leases of nodes, take-overs, and who serves what.

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_core::{
    Beat, Claimed, Hint, IdBlock, JobId, Lease, Node, NodeId, Orphan, Owner, SharedStore, State,
    StoreError, Timestamp, UNSERVED_AFTER, WaitingCounts, Wanted, pattern_of,
};
use kjob_proto::Text;
use tokio_postgres::Row;

use super::PostgresStore;
use super::error::{corrupt, set_has_changed};
use super::row::{LIVE, columns, header, state, text};
use super::session::Params;
use super::shared::Shared;
use crate::values::millis;

/// Jobs that are moved from pattern to pattern at once.
const MOVED_MAX: i64 = 1_000;

/// Nothing if the set of databases was changed. Whoever changes it has that row, and is waited for.
const JOIN: &str = "INSERT INTO kjob_nodes (id, url, lease_ms, alive_until, is_gone)
    SELECT $1::bigint, $2::bytea, $3::bigint, now() + $3::bigint::double precision * interval '1 millisecond', false
    FROM (SELECT next FROM kjob_counters WHERE name = 'shards' FOR UPDATE) AS s WHERE s.next = $4
    RETURNING id";

/// As of [`JOIN`]: as that row is locked, its value is the one after whoever changes it.
const TAKE_IDS: &str = "UPDATE kjob_counters c SET next = GREATEST(c.next, $1) + $2
    FROM (SELECT next FROM kjob_counters WHERE name = 'shards' FOR SHARE) AS s
    WHERE c.name = 'job' AND s.next = $3 RETURNING c.next - $2";

const LEAVE: &str = "UPDATE kjob_nodes SET is_gone = true WHERE id = $1";

/// No row says that the lease has ended; else there is one at least, with a job or without.
const BEAT: &str = "WITH renewed AS (
        UPDATE kjob_nodes SET alive_until = now() + lease_ms::double precision * interval '1 millisecond'
        WHERE id = $1 AND NOT is_gone AND alive_until > now() RETURNING id
    )
    SELECT floor(extract(epoch FROM now()) * 1000)::bigint, l.id, l.lease FROM renewed r LEFT JOIN kjob_live l ON l.node = r.id AND l.phase = 2";

/// A lease that has ended has ended for good, whatever becomes of the clock.
const BURY: &str =
    "UPDATE kjob_nodes SET is_gone = true WHERE NOT is_gone AND alive_until <= now()";

/// Whether this node serves the endpoint of a job: by its name, or by what it begins with (42 is an asterisk).
const SERVED: &str = "EXISTS (SELECT 1 FROM unnest($3::bytea[]) AS p(pattern)
    WHERE p.pattern = l.endpoint OR length(p.pattern) > 0
        AND get_byte(p.pattern, length(p.pattern) - 1) = 42
        AND substring(l.endpoint FROM 1 FOR length(p.pattern) - 1)
            = substring(p.pattern FROM 1 FOR length(p.pattern) - 1))";

static TAKE_OVER: LazyLock<String> = LazyLock::new(|| {
    let long = millis(UNSERVED_AFTER);
    format!(
        "WITH picked AS (
            SELECT l.id FROM kjob_nodes n JOIN kjob_live l ON l.node = n.id AND l.phase > 0
            WHERE n.is_gone AND EXISTS (
                SELECT 1 FROM kjob_nodes WHERE id = $1 AND NOT is_gone AND alive_until > now()
            )
            AND (n.alive_until < now() - {long} * interval '1 millisecond' OR {SERVED})
            LIMIT $2 FOR UPDATE OF l SKIP LOCKED
        )
        UPDATE kjob_live l SET lease = LEAST(l.lease + 1, 4294967295), node = $1
        FROM picked p WHERE l.id = p.id RETURNING {}",
        columns(LIVE, "NULL::bytea", "")
    )
});

/// Nodes that are gone are remembered for longer than anything that they sent can be under way.
const FORGET: &str =
    "DELETE FROM kjob_nodes WHERE is_gone AND alive_until < now() - interval '7 days'
    AND NOT EXISTS (SELECT 1 FROM kjob_live l WHERE l.node = kjob_nodes.id AND l.phase > 0)";

static RUNNING: LazyLock<String> = LazyLock::new(|| {
    let columns = columns(LIVE, "NULL::bytea", "");
    format!("SELECT {columns} FROM kjob_live l WHERE l.node = $1 AND l.phase > 0 ORDER BY l.id")
});

const AGREE: &str =
    "INSERT INTO kjob_agreed (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const AGREED: &str = "SELECT value FROM kjob_agreed WHERE name = $1";

const NODES: &str =
    "SELECT id, url FROM kjob_nodes WHERE NOT is_gone AND alive_until > now() ORDER BY id";

const ELSEWHERE: &str = "SELECT id, endpoint FROM kjob_live
    WHERE id > $1 AND phase = 0 AND NOT lane = ANY ($2::bytea[]) ORDER BY id LIMIT $3";

const MOVE: &str = "UPDATE kjob_live l SET lane = r.lane
    FROM unnest($1::bigint[], $2::bytea[]) AS r(id, lane) WHERE l.id = r.id AND l.phase = 0";

#[async_trait]
impl SharedStore for PostgresStore {
    async fn join(&self, url: &Text, lease_time: Duration) -> Result<NodeId, StoreError> {
        let shared = &self.shared;
        self.leave().await?;
        let id = shared.take_numbers("node", 1).await?;
        let (doing, url) = ("join", &url.as_bytes()[..]);
        let (lease, changes) = (millis(lease_time), shared.shards.changes);
        let params: Params<'_> = &[&id, &url, &lease, &changes];
        if shared.write(doing, JOIN, params).await?.is_empty() {
            return Err(set_has_changed(doing));
        }
        shared.membership.set_node(Some(id));
        Ok(NodeId(id))
    }

    async fn reserve_ids_from(&self, least: JobId, count: u32) -> Result<IdBlock, StoreError> {
        let (shared, doing) = (&self.shared, "reserve ids of jobs");
        let count = count.max(1);
        let (least, taken) = (least.get(), i64::from(count));
        let params: Params<'_> = &[&least, &taken, &shared.shards.changes];
        let rows = shared.write(doing, TAKE_IDS, params).await?;
        let first = rows.first().ok_or_else(|| set_has_changed(doing))?;
        let first = JobId::new(first.get(0)).ok_or(StoreError::NoIdsLeft)?;
        Ok(IdBlock::new(first, count))
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        if let Some(node) = shared.membership.node() {
            shared.membership.set_node(None);
            shared.write("leave", LEAVE, &[&node]).await?;
        }
        Ok(())
    }

    async fn serve(&self, patterns: &[Text]) -> Result<(), StoreError> {
        self.shared.membership.set_patterns(patterns);
        self.shared.move_to(patterns).await
    }

    async fn claim(
        &self,
        wanted: &[Wanted],
        limit: usize,
        ageing: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.shared.claim(wanted, limit, ageing, now).await
    }

    async fn beat(&self) -> Result<Beat, StoreError> {
        let Some(node) = self.shared.membership.node() else {
            return Ok(Beat::Lost);
        };
        let rows = self.shared.write("renew the lease", BEAT, &[&node]).await?;
        let Some(first) = rows.first() else {
            // What starts from here on is not that node's.
            self.shared.membership.set_node(None);
            return Ok(Beat::Lost);
        };
        let now = Timestamp::from_millis(first.get(0));
        let cancelling = rows.iter().filter_map(|row| {
            let id = JobId::new(row.get::<_, Option<i64>>(1)?)?;
            Some((id, Lease(u32::try_from(row.get::<_, i64>(2)).ok()?)))
        });
        Ok(Beat::Alive {
            cancelling: cancelling.collect(),
            now,
        })
    }

    async fn take_over(&self, limit: usize) -> Result<Vec<Orphan>, StoreError> {
        let shared = &self.shared;
        let doing = "take over jobs";
        let Some(node) = shared.membership.node() else {
            return Ok(Vec::new());
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        shared.write(doing, BURY, &[]).await?;
        let patterns = shared.membership.patterns();
        let patterns: Vec<&[u8]> = patterns.iter().map(|it| &it.as_bytes()[..]).collect();
        let params: Params<'_> = &[&node, &limit, &patterns];
        let rows = shared.write(doing, &TAKE_OVER, params).await?;
        if rows.is_empty() {
            shared.write(doing, FORGET, &[]).await?;
        }
        rows.iter().map(orphan).collect()
    }

    async fn running(&self) -> Result<Vec<Orphan>, StoreError> {
        let Some(node) = self.shared.membership.node() else {
            return Ok(Vec::new());
        };
        let rows = self
            .shared
            .write("look at jobs", &RUNNING, &[&node])
            .await?;
        rows.iter().map(orphan).collect()
    }

    async fn watch(
        &self,
        ids: &[JobId],
        now: Timestamp,
    ) -> Result<Vec<(JobId, State)>, StoreError> {
        self.shared.states(ids, now).await
    }

    async fn agree(&self, name: &str, value: &[u8]) -> Result<Bytes, StoreError> {
        let doing = "agree with the other nodes";
        let shared = &self.shared;
        shared.query(doing, AGREE, &[&name, &value]).await?;
        let rows = shared.query(doing, AGREED, &[&name]).await?;
        let agreed = rows.first().map(|row| Bytes::copy_from_slice(row.get(0)));
        agreed.ok_or_else(|| corrupt(format!("what nodes agreed on as {name} is gone")))
    }

    async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let rows = self.shared.query("look at nodes", NODES, &[]).await?;
        self.shared.hints.set_alone(rows.len() <= 1);
        let read = |row: &Row| {
            let id = NodeId(row.get(0));
            text(row.get(1)).map(|url| Node { id, url })
        };
        rows.iter().map(read).collect()
    }

    async fn hint(&self, hint: Hint) {
        self.shared.hints.hear(hint).await;
    }

    fn waiting(&self, owner: &Owner) -> WaitingCounts {
        self.shared.usage.waiting(owner)
    }
}

impl Shared {
    /// Lets jobs that wait under other patterns wait under the best of these.
    async fn move_to(&self, patterns: &[Text]) -> Result<(), StoreError> {
        let doing = "let jobs wait for their routes";
        let known: Vec<&[u8]> = patterns.iter().map(|it| &it.as_bytes()[..]).collect();
        let mut after = 0_i64;
        loop {
            let rows = self
                .query(doing, ELSEWHERE, &[&after, &known, &MOVED_MAX])
                .await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = last.get(0);
            let (mut ids, mut lanes) = (Vec::new(), Vec::new());
            for row in &rows {
                if let Some(pattern) = pattern_of(patterns, &text(row.get(1))?) {
                    ids.push(row.get::<_, i64>(0));
                    lanes.push(&pattern.as_bytes()[..]);
                }
            }
            if !ids.is_empty() {
                self.write(doing, MOVE, &[&ids, &lanes]).await?;
            }
        }
    }
}

fn orphan(row: &Row) -> Result<Orphan, StoreError> {
    let orphan = Orphan {
        header: header(row)?,
        state: state(row)?,
    };
    if orphan.state.phase.is_terminal() {
        return Err(corrupt(format!("the phase of job {}", orphan.header.id)));
    }
    Ok(orphan)
}
