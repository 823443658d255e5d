//! Claims: waiting jobs are started for a node, in their order, and no two nodes get the same.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kjob_core::{Claimed, Priority, StoreError, Timestamp, Wanted};
use kjob_proto::Text;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::row::{COLUMN_COUNT, LIVE, columns, header, state, text};
use super::shared::Shared;
use super::usage::{Change, counted};

/// How often the first of each priority is looked for from the start of the queue. It tells how long it has
/// waited, and where claims begin until then: what they have taken lies in the index for as long as somebody may
/// still see it as it was, and a claim that began at the start would walk over all of it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked whether the time of others' delayed jobs has come; that of our own is known.
const RIPEN_EVERY: Duration = Duration::from_millis(200);

/// Delayed jobs that join the queue at once.
const RIPE_MAX: i64 = 1_000;

/// The numbers of priorities.
const LOWEST: i16 = 0;
const HIGHEST: i16 = 9;

/// What a claim goes by, beside the table.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    look: Mutex<Option<Arc<Look>>>,
    ripened: Mutex<Option<Instant>>,
}

/// What the queue was like a moment ago.
#[derive(Debug)]
struct Look {
    at: Instant,
    /// In which order priorities come of which something waits.
    order: Vec<i16>,
    /// The turns of the first of each pattern and priority.
    first: HashMap<(Text, i16), i64>,
}

/// Lets delayed jobs join the queue whose time has come.
const RIPEN: &str = "WITH ripe AS (
        SELECT id FROM kjob_live WHERE phase = 0 AND is_delayed AND not_before <= $1
        ORDER BY not_before LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    UPDATE kjob_live l SET is_delayed = false FROM ripe WHERE l.id = ripe.id";

// Not by min(): a plan that was made while the table was empty would walk over all of them each time.
const NEXT_RIPE: &str = "SELECT not_before FROM kjob_live WHERE phase = 0 AND is_delayed
    ORDER BY not_before LIMIT 1";

/// The first of each priority that waits under some patterns.
const HEADS: &str = "SELECT p.priority, h.received_at, h.turn, w.lane
    FROM unnest($1::bytea[]) AS w(lane)
    CROSS JOIN generate_series(0, 9) AS p(priority)
    CROSS JOIN LATERAL (
        SELECT l.received_at, l.turn FROM kjob_live l
        WHERE l.lane = w.lane AND l.phase = 0 AND NOT l.is_delayed AND l.priority = p.priority
        ORDER BY l.turn, l.id LIMIT 1
    ) h";

/// One pattern's part of a claim: walks along the index, above one priority and from some turn on inside it, and
/// stops. Those that somebody else is taking are passed over.
fn lane(number: usize) -> String {
    let [lane, want, from] = [7, 8, 9].map(|first| first + 3 * number);
    let part = |name: &str, levels: &str| {
        format!(
            "{name}{number} AS (
                SELECT id, priority, turn FROM kjob_live
                WHERE lane = ${lane}::bytea AND phase = 0 AND NOT is_delayed AND {levels}
                ORDER BY priority DESC, turn, id LIMIT ${want}::bigint FOR UPDATE SKIP LOCKED
            ),\n"
        )
    };
    let above = "priority > $5::smallint AND priority <= $6::smallint";
    let inside = format!("priority = $5::smallint AND turn >= ${from}::bigint");
    let both = format!(
        "w{number} AS (
            SELECT * FROM (SELECT * FROM a{number} UNION ALL SELECT * FROM b{number}) AS u
            ORDER BY priority DESC, turn, id LIMIT ${want}::bigint
        ),\n"
    );
    part("a", above) + &part("b", &inside) + &both
}

/// The statement that claims of so many patterns. A node that is gone gets nothing.
fn claim(lanes: usize) -> &'static str {
    // One text for each number of patterns that was ever asked for, for as long as the program runs.
    static TEXTS: Mutex<BTreeMap<usize, &'static str>> = Mutex::new(BTreeMap::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let text = || -> &'static str {
        let mut text = String::from("WITH ");
        let mut all = String::new();
        for number in 0..lanes {
            text += &lane(number);
            let union = if number == 0 { "" } else { " UNION ALL " };
            // Writing to a string cannot fail.
            let _ = write!(all, "{union}SELECT * FROM w{number}");
        }
        let _ = write!(
            text,
            "picked AS (
                SELECT id FROM ({all}) AS w
                WHERE $4::bigint IS NULL OR EXISTS (
                    SELECT 1 FROM kjob_nodes WHERE id = $4 AND NOT is_gone AND alive_until > now()
                )
                ORDER BY priority DESC, turn, id LIMIT $2::bigint
            ),
            done AS (
                UPDATE kjob_live l SET phase = 1, attempt = LEAST(l.attempt + 1, 4294967295),
                    lease = LEAST(l.lease + 1, 4294967295), not_before = NULL, started_at = $3::bigint,
                    node = $4
                FROM picked p WHERE l.id = p.id AND l.phase = 0
                RETURNING {columns}, l.turn, l.lane
            ),
            changed AS (SELECT owner, 0 AS jobs, 0 AS bytes, -1 AS waiting FROM done),
            {counted}
            SELECT * FROM done",
            columns = columns(LIVE, "l.payload", ""),
            counted = counted("$1"),
        );
        text.leak()
    };
    texts.entry(lanes).or_insert_with(text)
}

/// How many jobs are still to be claimed.
struct Left {
    limit: usize,
    /// Of each pattern.
    wants: Vec<usize>,
}

impl Shared {
    /// Notes that a job waits for this moment.
    pub(crate) fn ripens_at(&self, at: Timestamp) {
        self.ripe_at.fetch_min(at.as_millis(), Ordering::AcqRel);
    }

    pub(crate) async fn claim(
        &self,
        wanted: &[Wanted],
        limit: usize,
        ageing: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        let wanted: Vec<&Wanted> = wanted.iter().filter(|wanted| wanted.limit > 0).collect();
        if wanted.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        self.ripen(now).await?;
        let look = self.look(&wanted, ageing, now).await?;
        let mut left = Left {
            limit,
            wants: wanted.iter().map(|wanted| wanted.limit).collect(),
        };
        let is_usual = look.order.is_sorted_by(|a, b| a > b);
        let mut claimed = Vec::new();
        for (place, level) in look.order.iter().enumerate() {
            // What has come since to wait above the first is not passed over.
            let highest = if place == 0 && is_usual {
                HIGHEST
            } else {
                *level
            };
            let levels = (*level, highest);
            claimed.extend(
                self.claim_of(&wanted, &mut left, &look, levels, now)
                    .await?,
            );
        }
        // And whatever else there is, wherever it stands.
        let all = (LOWEST - 1, HIGHEST);
        claimed.extend(self.claim_of(&wanted, &mut left, &look, all, now).await?);
        Ok(claimed)
    }

    /// Claims of one priority, from where its first stood; and of all above it up to another.
    async fn claim_of(
        &self,
        wanted: &[&Wanted],
        left: &mut Left,
        look: &Look,
        (level, highest): (i16, i16),
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        if left.limit == 0 || left.wants.iter().all(|want| *want == 0) {
            return Ok(Vec::new());
        }
        let limit = number(left.limit);
        let (tally, at, node) = (self.own_tally(), now.as_millis(), self.membership.node());
        let lanes: Vec<(&[u8], i64, i64)> = wanted
            .iter()
            .zip(&left.wants)
            .map(|(wanted, want)| {
                let first = look.first.get(&(wanted.pattern.clone(), level));
                let from = first.copied().unwrap_or(i64::MIN);
                (
                    &wanted.pattern.as_bytes()[..],
                    limit.min(number(*want)),
                    from,
                )
            })
            .collect();
        let mut params: Vec<&(dyn ToSql + Sync)> =
            vec![&tally, &limit, &at, &node, &level, &highest];
        for (lane, want, from) in &lanes {
            params.extend([lane as &(dyn ToSql + Sync), want, from]);
        }
        let rows = self
            .write("claim jobs", claim(lanes.len()), &params)
            .await?;
        let mut claimed = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        for (job, turn, lane) in &claimed {
            self.turns.serve(job.header.options.priority, *turn);
            let waiting = -1;
            let change = Change {
                waiting,
                ..Change::default()
            };
            self.usage.add(&job.header.owner, change);
            let is_its = |wanted: &&Wanted| wanted.pattern.as_bytes()[..] == lane[..];
            if let Some(place) = wanted.iter().position(is_its) {
                left.wants[place] = left.wants[place].saturating_sub(1);
            }
        }
        left.limit = left.limit.saturating_sub(claimed.len());
        let priority = |job: &Claimed| std::cmp::Reverse(job.header.options.priority);
        claimed.sort_by_key(|(job, turn, _)| (priority(job), *turn, job.header.id));
        Ok(claimed.into_iter().map(|(job, _, _)| job).collect())
    }

    /// What the queue is like, or was a moment ago.
    async fn look(
        &self,
        wanted: &[&Wanted],
        ageing: Duration,
        now: Timestamp,
    ) -> Result<Arc<Look>, StoreError> {
        let known = |claims: &Claims| {
            let look = claims.look.lock().unwrap_or_else(PoisonError::into_inner);
            look.clone().filter(|look| look.at.elapsed() < LOOK_EVERY)
        };
        if let Some(look) = known(&self.claims) {
            return Ok(look);
        }
        let at = Instant::now();
        let lanes: Vec<&[u8]> = wanted.iter().map(|it| &it.pattern.as_bytes()[..]).collect();
        let heads = self.write("look at the queue", HEADS, &[&lanes]).await?;
        let mut since: BTreeMap<i16, Timestamp> = BTreeMap::new();
        let mut first = HashMap::new();
        for head in &heads {
            let level = i16::try_from(head.get::<_, i32>(0)).unwrap_or(0);
            let (received, turn): (i64, i64) = (head.get(1), head.get(2));
            let received = Timestamp::from_millis(received);
            let oldest = since.entry(level).or_insert(received);
            *oldest = received.min(*oldest);
            first.insert((text(head.get(3))?, level), turn);
            // So a process that was not there knows the present.
            if let Some(priority) = u8::try_from(level).ok().and_then(Priority::new) {
                self.turns.serve(priority, turn.saturating_sub(1));
            }
        }
        let order = aged(&since, ageing, now);
        let look = Arc::new(Look { at, order, first });
        *self
            .claims
            .look
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&look));
        Ok(look)
    }

    async fn ripen(&self, now: Timestamp) -> Result<(), StoreError> {
        let ripe_at = self.ripe_at.load(Ordering::Acquire);
        {
            let mut ripened = self
                .claims
                .ripened
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let is_fresh = ripened.is_some_and(|at| at.elapsed() < RIPEN_EVERY);
            if is_fresh && ripe_at > now.as_millis() {
                return Ok(());
            }
            *ripened = Some(Instant::now());
        }
        // What comes to wait from here on counts anew.
        self.ripe_at.store(i64::MAX, Ordering::Release);
        let doing = "let delayed jobs join the queue";
        let next = async {
            let now = now.as_millis();
            self.write(doing, RIPEN, &[&now, &RIPE_MAX]).await?;
            let next = self.write(doing, NEXT_RIPE, &[]).await?;
            Ok(next.first().and_then(|row| row.get(0)).unwrap_or(i64::MAX))
        };
        let next: Result<i64, StoreError> = next.await;
        let at = *next.as_ref().unwrap_or(&ripe_at);
        self.ripe_at.fetch_min(at, Ordering::AcqRel);
        next.map(drop)
    }
}

/// The order of the priorities of which something waits, by how long the first has waited.
fn aged(since: &BTreeMap<i16, Timestamp>, ageing: Duration, now: Timestamp) -> Vec<i16> {
    let ageing = ageing.as_millis().max(1);
    let count = |(level, since): (&i16, &Timestamp)| {
        let aged = now.since(*since).as_millis() / ageing;
        (aged + u128::try_from(*level).unwrap_or(0), *level)
    };
    let mut counts: Vec<_> = since.iter().map(count).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts.into_iter().map(|(_, level)| level).collect()
}

/// A claimed job, its turn, and under which pattern it waited.
fn read(row: &Row) -> Result<(Claimed, i64, &[u8]), StoreError> {
    let claimed = Claimed {
        header: header(row)?,
        state: state(row)?,
        payload: row.get::<_, Option<&[u8]>>(20).map(Bytes::copy_from_slice),
    };
    Ok((claimed, row.get(COLUMN_COUNT), row.get(COLUMN_COUNT + 1)))
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_long_comes_first() {
        let at = Timestamp::from_millis;
        let order = |heads: &[(i16, i64)], now| {
            let heads = heads
                .iter()
                .map(|(level, since)| (*level, at(*since)))
                .collect();
            aged(&heads, Duration::from_millis(100), at(now))
        };
        assert_eq!(order(&[(5, 0), (7, 0)], 1000), [7, 5], "they age alike");
        assert_eq!(
            order(&[(5, 0), (7, 201)], 299),
            [7, 5],
            "seven and seven: the higher one"
        );
        assert_eq!(order(&[(5, 0), (7, 201)], 300), [5, 7], "eight and seven");
    }
}
