//! Claims: waiting jobs are started for a node, in their order, and no two nodes get the same.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kjob_core::{Claimed, Priority, StoreError, Timestamp, Wanted};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::row::{COLUMN_COUNT, LIVE, columns, header, state};
use super::shared::Shared;
use super::usage::{Change, counted};

/// How often the first of each priority is looked at, which tells how long it has waited.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked whether the time of others' delayed jobs has come; that of our own is known.
const RIPEN_EVERY: Duration = Duration::from_millis(200);

/// Delayed jobs that join the queue at once.
const RIPE_MAX: i64 = 1_000;

/// What a claim goes by, beside the table.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// When the first of each priority was looked at, and in which order priorities come since then; `None` for
    /// the usual one, the highest first.
    order: Mutex<Option<(Instant, Option<Vec<i16>>)>>,
    ripened: Mutex<Option<Instant>>,
}

/// Lets delayed jobs join the queue whose time has come.
const RIPEN: &str = "WITH ripe AS (
        SELECT id FROM kjob_live WHERE phase = 0 AND is_delayed AND not_before <= $1
        ORDER BY not_before LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    UPDATE kjob_live l SET is_delayed = false FROM ripe WHERE l.id = ripe.id";

const NEXT_RIPE: &str = "SELECT min(not_before) FROM kjob_live WHERE phase = 0 AND is_delayed";

/// The first of each priority that waits under some patterns.
const HEADS: &str = "SELECT p.priority, h.received_at, h.turn
    FROM unnest($1::bytea[]) AS w(lane)
    CROSS JOIN generate_series(0, 9) AS p(priority)
    CROSS JOIN LATERAL (
        SELECT l.received_at, l.turn FROM kjob_live l
        WHERE l.lane = w.lane AND l.phase = 0 AND NOT l.is_delayed AND l.priority = p.priority
        ORDER BY l.turn, l.id LIMIT 1
    ) h";

/// One pattern's part of a claim: walks along the index and stops. Those that somebody else is taking are
/// passed over.
fn lane(number: usize) -> String {
    let (lane, want) = (7 + 2 * number, 8 + 2 * number);
    format!(
        "w{number} AS (
            SELECT id, priority, turn FROM kjob_live
            WHERE lane = ${lane}::bytea AND phase = 0 AND NOT is_delayed
                AND priority >= $5::smallint AND priority <= $6::smallint
            ORDER BY priority DESC, turn, id LIMIT ${want}::bigint FOR UPDATE SKIP LOCKED
        ),\n"
    )
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
                RETURNING {columns}, l.turn
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
        let mut left = limit;
        let mut wants: Vec<i64> = wanted.iter().map(|it| number(it.limit)).collect();
        let mut claimed = Vec::new();
        match self.order(&wanted, ageing, now).await? {
            None => claimed = self.claim_of(&wanted, &wants, left, (0, 9), now).await?,
            Some(order) => {
                for priority in order {
                    let levels = (priority, priority);
                    let some = self.claim_of(&wanted, &wants, left, levels, now).await?;
                    left = left.saturating_sub(some.len());
                    for job in &some {
                        let lane = self.membership.lane_of(&job.header.endpoint);
                        let is_its = |it: &&Wanted| it.pattern.as_bytes()[..] == lane[..];
                        if let Some(place) = wanted.iter().position(is_its) {
                            wants[place] = wants[place].saturating_sub(1);
                        }
                    }
                    claimed.extend(some);
                    if left == 0 {
                        break;
                    }
                }
            }
        }
        Ok(claimed)
    }

    async fn claim_of(
        &self,
        wanted: &[&Wanted],
        wants: &[i64],
        limit: usize,
        (lowest, highest): (i16, i16),
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        let limit = number(limit);
        let (shard, at, node) = (self.own_shard(), now.as_millis(), self.membership.node());
        let lanes: Vec<&[u8]> = wanted.iter().map(|it| &it.pattern.as_bytes()[..]).collect();
        let wants: Vec<i64> = wants.iter().map(|want| limit.min(*want)).collect();
        let mut params: Vec<&(dyn ToSql + Sync)> =
            vec![&shard, &limit, &at, &node, &lowest, &highest];
        for (lane, want) in lanes.iter().zip(&wants) {
            params.push(lane);
            params.push(want);
        }
        let rows = self
            .write("claim jobs", claim(lanes.len()), &params)
            .await?;
        let mut claimed = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        for (job, turn) in &claimed {
            self.turns.serve(job.header.options.priority, *turn);
            let waiting = -1;
            let change = Change {
                waiting,
                ..Change::default()
            };
            self.usage.add(&job.header.owner, change);
        }
        let priority = |job: &Claimed| std::cmp::Reverse(job.header.options.priority);
        claimed.sort_by_key(|(job, turn)| (priority(job), *turn, job.header.id));
        Ok(claimed.into_iter().map(|(job, _)| job).collect())
    }

    /// In which order priorities come, where it is not the usual one.
    async fn order(
        &self,
        wanted: &[&Wanted],
        ageing: Duration,
        now: Timestamp,
    ) -> Result<Option<Vec<i16>>, StoreError> {
        let known = |claims: &Claims| {
            let order = claims.order.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = order.as_ref().filter(|(at, _)| at.elapsed() < LOOK_EVERY);
            fresh.map(|(_, order)| order.clone())
        };
        if let Some(order) = known(&self.claims) {
            return Ok(order);
        }
        let lanes: Vec<&[u8]> = wanted.iter().map(|it| &it.pattern.as_bytes()[..]).collect();
        let heads = self.write("look at the queue", HEADS, &[&lanes]).await?;
        let mut since: BTreeMap<i16, Timestamp> = BTreeMap::new();
        for head in &heads {
            let level = i16::try_from(head.get::<_, i32>(0)).unwrap_or(0);
            let received = Timestamp::from_millis(head.get(1));
            let oldest = since.entry(level).or_insert(received);
            *oldest = received.min(*oldest);
            // So a process that was not there knows the present.
            if let Some(priority) = u8::try_from(level).ok().and_then(Priority::new) {
                let turn: i64 = head.get(2);
                self.turns.serve(priority, turn.saturating_sub(1));
            }
        }
        let order = aged(&since, ageing, now);
        let looked = Some((Instant::now(), order.clone()));
        *self
            .claims
            .order
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = looked;
        Ok(order)
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

/// The order of the priorities of which something waits, by how long the first has waited; `None` where that
/// is the usual order.
fn aged(since: &BTreeMap<i16, Timestamp>, ageing: Duration, now: Timestamp) -> Option<Vec<i16>> {
    let ageing = ageing.as_millis().max(1);
    let count = |(level, since): (&i16, &Timestamp)| {
        let aged = now.since(*since).as_millis() / ageing;
        (aged + u128::try_from(*level).unwrap_or(0), *level)
    };
    let mut counts: Vec<_> = since.iter().map(count).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let order: Vec<i16> = counts.into_iter().map(|(_, level)| level).collect();
    if order.is_sorted_by(|a, b| a > b) {
        return None;
    }
    // Of the others something may come to wait at any moment.
    let others = (0..10).rev().filter(|level| !order.contains(level));
    Some(order.iter().copied().chain(others).collect())
}

fn read(row: &Row) -> Result<(Claimed, i64), StoreError> {
    let claimed = Claimed {
        header: header(row)?,
        state: state(row)?,
        payload: row.get::<_, Option<&[u8]>>(20).map(Bytes::copy_from_slice),
    };
    Ok((claimed, row.get(COLUMN_COUNT)))
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
        assert_eq!(order(&[(5, 0), (7, 0)], 1000), None, "they age alike");
        assert_eq!(order(&[(5, 0), (7, 100)], 299), None, "seven and eight");
        assert_eq!(
            order(&[(5, 0), (7, 201)], 299),
            None,
            "seven and seven: the higher one"
        );
        let lifted = order(&[(5, 0), (7, 201)], 300).unwrap();
        assert_eq!(lifted, [5, 7, 9, 8, 6, 4, 3, 2, 1, 0], "eight and seven");
    }
}
