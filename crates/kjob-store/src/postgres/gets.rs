//! Reading jobs by their ids: many by one statement, as a look at a job costs a database far less than a statement.

use std::collections::VecDeque;
use std::sync::LazyLock;

use async_trait::async_trait;
use kjob_core::{Job, JobId, Parts, StoreError, Timestamp};

use super::gathering::{Pending, Queues};
use super::lanes::{Lane, Step};
use super::row::{COLUMN_COUNT, ENDED, ENDED_FROM, LIVE, columns, job};
use super::session::Session;
use super::shared::Shared;
use super::start::place;

/// What has more bytes than so is read by itself: nobody else is to wait for it.
const TOGETHER_MAX: i32 = 64 << 10;

/// A job that is to be read.
pub(crate) struct Get {
    id: JobId,
    parts: Parts,
    at: Timestamp,
}

impl Get {
    pub(crate) fn new(id: JobId, parts: Parts, at: Timestamp) -> Self {
        Self { id, parts, at }
    }
}

/// What was found.
pub(crate) enum Got {
    Job(Box<Job>),
    /// It has more bytes than what is read together.
    Large,
}

static GETS: LazyLock<String> = LazyLock::new(|| {
    // One statement sees a job in one of the two tables, also while it moves from one to the other; `twice` tells of an exception.
    let part = |asked: &str, column: &str| {
        format!(
            "CASE WHEN r.{asked} AND octet_length({column}) <= {TOGETHER_MAX} THEN {column} END"
        )
    };
    let is_large = |asked: &str, column: &str| {
        format!("r.{asked} AND COALESCE(octet_length({column}), 0) > {TOGETHER_MAX}")
    };
    format!(
        "WITH r AS (
            SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::boolean[], $5::boolean[])
            AS r(n, id, at, payload, result)
        )
        SELECT {live}, r.n, {is_live_large} FROM r JOIN kjob_live l ON l.id = r.id
        UNION ALL
        SELECT {ended}, r.n, {is_payload_large} OR {is_result_large}
        FROM r JOIN {ENDED_FROM} ON e.id = r.id AND e.expires_at > r.at",
        live = columns(LIVE, &part("payload", "l.payload"), ""),
        is_live_large = is_large("payload", "l.payload"),
        ended = columns(ENDED, &part("payload", "e.payload"), &part("result", "e.result")),
        is_payload_large = is_large("payload", "e.payload"),
        is_result_large = is_large("result", "e.result"),
    )
});

#[async_trait]
impl Step for Get {
    type Answer = Result<Got, StoreError>;

    const DOING: &'static str = "read a job";

    const WRITES: bool = false;

    fn queue(queues: &mut Queues) -> &mut VecDeque<Pending<Self>> {
        &mut queues.gets
    }

    async fn run(
        _: &Lane,
        session: &Session,
        steps: &[&Self],
    ) -> Result<Vec<(usize, Self::Answer)>, tokio_postgres::Error> {
        // A batch is nowhere near as large as what an i32 holds.
        let numbers: Vec<i32> = (0..steps.len() as i32).collect();
        let ids: Vec<i64> = steps.iter().map(|step| step.id.get()).collect();
        let at: Vec<i64> = steps.iter().map(|step| step.at.as_millis()).collect();
        let payloads: Vec<bool> = steps.iter().map(|step| step.parts.payload).collect();
        let results: Vec<bool> = steps.iter().map(|step| step.parts.result).collect();
        let rows = session
            .query(&GETS, &[&numbers, &ids, &at, &payloads, &results])
            .await?;
        let read = |row: &tokio_postgres::Row| match row.get(COLUMN_COUNT + 1) {
            true => Ok(Got::Large),
            false => job(row).map(|job| Got::Job(Box::new(job))),
        };
        Ok(rows
            .iter()
            .map(|row| (place(row.get(COLUMN_COUNT)), read(row)))
            .collect())
    }
}

impl Shared {
    pub(crate) async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.twice(|| self.get_once(id, parts, now)).await
    }

    async fn get_once(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        match self.gets.ask(Get::new(id, parts, now)).await?.transpose()? {
            Some(Got::Job(job)) => Ok(Some(*job)),
            Some(Got::Large) => self.get_alone(id, parts, now).await,
            None => Ok(None),
        }
    }
}
