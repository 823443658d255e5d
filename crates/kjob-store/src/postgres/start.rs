//! Starts and progress: changes of rows that stay where they are.

use std::collections::VecDeque;
use std::sync::LazyLock;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_core::{
    Event, JobId, Lease, Owner, Started, State, StepError, StoreError, Timestamp, Transition, apply,
};

use super::error::corrupt;
use super::gathering::{Pending, Queues};
use super::lanes::{Lane, Step};
use super::row::{LIVE, columns, state, text};
use super::session::Session;
use super::shared::Shared;
use super::usage::{Change, counted};

/// How often a step is tried whose job is another each time it is looked at.
pub(crate) const TRIES_MAX: u32 = 100;

/// A start of a queued job.
pub(crate) struct Start {
    id: JobId,
    at: Timestamp,
}

static START: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH r AS (
            SELECT * FROM unnest($2::integer[], $3::bigint[], $4::bigint[]) AS r(n, id, at)
        ),
        done AS (
            UPDATE kjob_live l SET phase = 1, attempt = LEAST(l.attempt + 1, 4294967295),
                lease = LEAST(l.lease + 1, 4294967295), not_before = NULL, is_delayed = false,
                started_at = r.at, node = $5::bigint
            FROM r WHERE l.id = r.id AND l.phase = 0 AND (l.not_before IS NULL OR l.not_before <= r.at)
            RETURNING {columns}, r.n AS n
        ),
        changed AS (SELECT owner, 0 AS jobs, 0 AS bytes, -1 AS waiting FROM done),
        {counted}
        SELECT * FROM done",
        columns = columns(LIVE, "l.payload", ""),
        counted = counted("$1"),
    )
});

/// The number of the column behind those of a job.
const NUMBER: usize = super::row::COLUMN_COUNT;

#[async_trait]
impl Step for Start {
    type Answer = Result<(Started, Owner), StoreError>;

    const DOING: &'static str = "start a job";

    fn queue(queues: &mut Queues) -> &mut VecDeque<Pending<Self>> {
        &mut queues.starts
    }

    async fn run(
        lane: &Lane,
        session: &Session,
        steps: &[&Self],
    ) -> Result<Vec<(usize, Self::Answer)>, tokio_postgres::Error> {
        let order = in_order(steps, |step| step.id);
        let ids: Vec<i64> = order.iter().map(|n| steps[place(*n)].id.get()).collect();
        let at: Vec<i64> = order
            .iter()
            .map(|n| steps[place(*n)].at.as_millis())
            .collect();
        let node = lane.shared.membership.node();
        let rows = session
            .query(&START, &[&lane.tally, &order, &ids, &at, &node])
            .await?;
        let read = |row: &tokio_postgres::Row| {
            let payload = row.get::<_, Option<&[u8]>>(20).map(Bytes::copy_from_slice);
            let state = state(row)?;
            let owner = Owner::new(&text(row.get(12))?);
            Ok((Started { state, payload }, owner))
        };
        Ok(rows
            .iter()
            .map(|row| (place(row.get(NUMBER)), read(row)))
            .collect())
    }
}

/// A report of progress.
pub(crate) struct Progress {
    id: JobId,
    lease: Lease,
    percent: u8,
}

static PROGRESS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH r AS (
            SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::smallint[])
            AS r(n, id, lease, percent)
        )
        UPDATE kjob_live l SET progress = r.percent
        FROM r WHERE l.id = r.id AND l.phase > 0 AND l.lease = r.lease AND l.progress < r.percent
        RETURNING {columns}, r.n",
        columns = columns(LIVE, "NULL::bytea", ""),
    )
});

#[async_trait]
impl Step for Progress {
    type Answer = Result<State, StoreError>;

    const DOING: &'static str = "note a job's progress";

    fn queue(queues: &mut Queues) -> &mut VecDeque<Pending<Self>> {
        &mut queues.progress
    }

    async fn run(
        _: &Lane,
        session: &Session,
        steps: &[&Self],
    ) -> Result<Vec<(usize, Self::Answer)>, tokio_postgres::Error> {
        let order = in_order(steps, |step| step.id);
        let sorted = || order.iter().map(|n| steps[place(*n)]);
        let ids: Vec<i64> = sorted().map(|step| step.id.get()).collect();
        let leases: Vec<i64> = sorted().map(|step| i64::from(step.lease.0)).collect();
        let percents: Vec<i16> = sorted()
            .map(|step| i16::from(step.percent.min(99)))
            .collect();
        let rows = session
            .query(&PROGRESS, &[&order, &ids, &leases, &percents])
            .await?;
        Ok(rows
            .iter()
            .map(|row| (place(row.get(NUMBER)), state(row)))
            .collect())
    }
}

/// The places of steps by the ids of their jobs: whoever locks rows locks them in this order.
pub(crate) fn in_order<S>(steps: &[&S], id: impl Fn(&S) -> JobId) -> Vec<i32> {
    // A batch is nowhere near as large as what an i32 holds.
    let mut order: Vec<i32> = (0..steps.len() as i32).collect();
    order.sort_by_key(|n| id(steps[place(*n)]));
    order
}

pub(crate) fn place(number: i32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Shared {
    pub(crate) async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        for _ in 0..TRIES_MAX {
            if let Some(started) = self.gathering.ask(Start { id, at }).await? {
                let (started, owner) = started?;
                let waiting = -1;
                self.usage.add(
                    &owner,
                    Change {
                        waiting,
                        ..Change::default()
                    },
                );
                return Ok(started);
            }
            self.why_not(id, Event::Start, at).await?;
        }
        Err(too_often(id))
    }

    pub(crate) async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        for _ in 0..TRIES_MAX {
            if let Some(state) = self.gathering.ask(Progress { id, lease, percent }).await? {
                return Ok(state?);
            }
            let event = Event::Progress { lease, percent };
            if let Seen::Unchanged(state) = self.why_not(id, event, at).await? {
                return Ok(state);
            }
        }
        Err(too_often(id))
    }

    /// Why a step was not done: an error, or that nothing is to be done. If it could be done as the job is
    /// now, that was not so a moment ago, and it is to be tried again.
    pub(crate) async fn why_not(
        &self,
        id: JobId,
        event: Event,
        at: Timestamp,
    ) -> Result<Seen, StepError> {
        let state = self.state(id, at).await?.ok_or(StepError::Unknown(id))?;
        Ok(match apply(&state, event, at)? {
            Transition::Unchanged => Seen::Unchanged(state),
            Transition::To(next) => Seen::To(next),
        })
    }
}

/// What a job is that a step was not done on.
pub(crate) enum Seen {
    /// As the step says.
    Unchanged(State),
    /// One on which it can be done, which makes it this.
    To(State),
}

pub(crate) fn too_often(id: JobId) -> StepError {
    corrupt(format!("job {id} is another each time it is looked at")).into()
}
