//! Ends of runs and of jobs, and cancels. A job that ends moves from one table to the other by one statement.

use std::collections::VecDeque;
use std::sync::LazyLock;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_core::{
    Event, Finish, Hint, JobId, Lease, OnInterrupt, Owner, Phase, State, StepError, StoreError,
    Timestamp,
};
use kjob_proto::Text;

use super::error::corrupt;
use super::gathering::{Pending, Queues};
use super::lanes::{Lane, Step};
use super::parts::{BUCKET, EXPIRES_AT};
use super::row::{LIVE, columns, state, text, time};
use super::session::Session;
use super::shared::Shared;
use super::start::{Seen, TRIES_MAX, in_order, place, too_often};
use super::usage::{Change, counted};
use crate::info_blob;
use crate::values::encoding_to;

/// The end of a job.
pub(crate) struct End {
    pub(crate) id: JobId,
    lease: Lease,
    pub(crate) at: Timestamp,
    kind: Kind,
    message: Option<Text>,
    result: Option<NewResult>,
}

/// How a job ends that is where this kind of end fits; which that is, the statement below says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
enum Kind {
    /// It waits, and is cancelled.
    CancelWaiting = 0,
    /// It runs, and is done.
    Complete = 3,
    /// It runs, and has failed; or is cancelled if it is cancelling.
    Fail = 4,
    /// It is cancelling, and is cancelled.
    Stop = 5,
}

#[derive(Clone)]
struct NewResult {
    encoding: i16,
    info: Option<Vec<u8>>,
    data: Bytes,
}

static END: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH r AS (
            SELECT * FROM unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[],
                $7::bytea[], $8::smallint[], $9::bytea[], $10::bytea[])
            AS r(n, id, lease, at, kind, message, result_encoding, info, result)
        ),
        gone AS (
            DELETE FROM kjob_live l USING r
            WHERE l.id = r.id AND CASE WHEN r.kind = 0 THEN l.phase = 0
                ELSE l.lease = r.lease AND (l.phase = 2 OR l.phase = 1 AND r.kind <> 5) END
            RETURNING r.n, l.id, l.lease, l.attempt, l.received_at, l.started_at, r.at, l.retention_ms,
                l.phase AS old_phase,
                CASE WHEN r.kind = 3 THEN 3 WHEN r.kind = 4 AND l.phase = 1 THEN 4 ELSE 5 END AS phase,
                CASE WHEN r.kind = 3 THEN 100 ELSE l.progress END AS progress,
                l.priority, l.encoding, r.result_encoding, l.is_called_back, l.owner, l.endpoint, l.tag,
                l.details, r.message, r.info, l.payload, r.result,
                {EXPIRES_AT} AS expires_at
        ),
        moved AS (
            INSERT INTO kjob_ended (id, bucket, expires_at, lease, attempt, received_at, started_at,
                ended_at, retention_ms, phase, progress, priority, encoding, result_encoding, is_early,
                is_called_back, is_tag_given, owner, endpoint, tag, details, message, info, payload, result)
            SELECT id, {BUCKET}, expires_at, lease, attempt, received_at, started_at, at, retention_ms,
                phase, progress, priority, encoding, CASE WHEN phase = 3 THEN result_encoding END,
                $11::boolean, is_called_back, false, owner, endpoint, tag, details,
                CASE WHEN phase = 4 THEN message END, CASE WHEN phase = 3 THEN info END, payload,
                CASE WHEN phase = 3 THEN result END
            FROM gone
        ),
        called_back AS (
            INSERT INTO kjob_callbacks (id, expires_at, due_at, next_at, attempts, phase)
            SELECT id, expires_at, at, at, 0, 0 FROM gone WHERE is_called_back
        ),
        changed AS (
            SELECT owner, 0 AS jobs, CASE WHEN phase = 3 THEN octet_length(result) ELSE 0 END AS bytes,
                CASE WHEN old_phase = 0 THEN -1 ELSE 0 END AS waiting
            FROM gone
        ),
        {counted}
        SELECT n, phase, progress::smallint, attempt, lease, started_at, at, old_phase, owner FROM gone",
        counted = counted("$1"),
    )
});

/// What became of a job that ended.
pub(crate) struct Ended {
    state: State,
    owner: Owner,
    waited: bool,
}

#[async_trait]
impl Step for End {
    type Answer = Result<Ended, StoreError>;

    const DOING: &'static str = "end a job";

    fn queue(queues: &mut Queues) -> &mut VecDeque<Pending<Self>> {
        &mut queues.ends
    }

    fn bytes(&self) -> usize {
        self.result.as_ref().map_or(0, |result| result.data.len())
    }

    async fn run(
        lane: &Lane,
        session: &Session,
        steps: &[&Self],
    ) -> Result<Vec<(usize, Self::Answer)>, tokio_postgres::Error> {
        let order = in_order(steps, |step| step.id);
        let sorted = || order.iter().map(|n| steps[place(*n)]);
        let ids: Vec<i64> = sorted().map(|step| step.id.get()).collect();
        let leases: Vec<i64> = sorted().map(|step| i64::from(step.lease.0)).collect();
        let at: Vec<i64> = sorted().map(|step| step.at.as_millis()).collect();
        let kinds: Vec<i16> = sorted().map(|step| step.kind as i16).collect();
        let messages: Vec<Option<&[u8]>> = sorted()
            .map(|step| step.message.as_ref().map(|it| &it.as_bytes()[..]))
            .collect();
        let result = |step: &'_ Self| step.result.as_ref().map(|result| result.encoding);
        let encodings: Vec<Option<i16>> = sorted().map(result).collect();
        let infos: Vec<Option<&[u8]>> = sorted()
            .map(|step| step.result.as_ref()?.info.as_deref())
            .collect();
        let results: Vec<Option<&[u8]>> = sorted()
            .map(|step| Some(&step.result.as_ref()?.data[..]))
            .collect();
        let is_early = !lane.shared.is_partitioned;
        let rows = session
            .query(
                &END,
                &[
                    &lane.tally,
                    &order,
                    &ids,
                    &leases,
                    &at,
                    &kinds,
                    &messages,
                    &encodings,
                    &infos,
                    &results,
                    &is_early,
                ],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| (place(row.get(0)), ended(row)))
            .collect())
    }

    async fn prepare(shared: &Shared, steps: &[&Self]) -> Result<(), StoreError> {
        let ends: Vec<(JobId, Timestamp)> = steps.iter().map(|step| (step.id, step.at)).collect();
        shared.make_parts(&ends).await
    }
}

fn ended(row: &tokio_postgres::Row) -> Result<Ended, StoreError> {
    let phase = u8::try_from(row.get::<_, i32>(1))
        .ok()
        .and_then(Phase::from_u8);
    let count = |column: usize| u32::try_from(row.get::<_, i64>(column)).ok();
    let state = || {
        Some(State {
            phase: phase?,
            progress: u8::try_from(row.get::<_, i16>(2)).ok()?,
            attempt: count(3)?,
            lease: Lease(count(4)?),
            not_before: None,
            started_at: time(row, 5),
            ended_at: time(row, 6),
        })
    };
    Ok(Ended {
        state: state().ok_or_else(|| corrupt("the state of a job that ended"))?,
        owner: Owner::new(&text(row.get(8))?),
        waited: row.get::<_, i16>(7) == 0,
    })
}

/// A run that is over, whose job is to wait again.
pub(crate) struct Requeue {
    id: JobId,
    lease: Lease,
    at: Timestamp,
    max_attempts: u32,
    not_before: Timestamp,
    charged: bool,
}

static REQUEUE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH r AS (
            SELECT * FROM unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::boolean[])
            AS r(n, id, lease, max_attempts, not_before, charged)
        ),
        done AS (
            UPDATE kjob_live l SET phase = 0, node = NULL, started_at = NULL,
                attempt = CASE WHEN r.charged THEN l.attempt ELSE GREATEST(l.attempt - 1, 0) END,
                not_before = r.not_before, is_delayed = r.not_before IS NOT NULL
            FROM r WHERE l.id = r.id AND l.lease = r.lease AND l.phase = 1
                AND NOT (r.charged AND l.attempt >= r.max_attempts)
            RETURNING {columns}, r.n AS n
        ),
        changed AS (SELECT owner, 0 AS jobs, 0 AS bytes, 1 AS waiting FROM done),
        {counted}
        SELECT * FROM done",
        columns = columns(LIVE, "NULL::bytea", ""),
        counted = counted("$1"),
    )
});

#[async_trait]
impl Step for Requeue {
    type Answer = Result<(State, Owner), StoreError>;

    const DOING: &'static str = "let a job wait again";

    fn queue(queues: &mut Queues) -> &mut VecDeque<Pending<Self>> {
        &mut queues.requeues
    }

    async fn run(
        lane: &Lane,
        session: &Session,
        steps: &[&Self],
    ) -> Result<Vec<(usize, Self::Answer)>, tokio_postgres::Error> {
        let order = in_order(steps, |step| step.id);
        let sorted = || order.iter().map(|n| steps[place(*n)]);
        let ids: Vec<i64> = sorted().map(|step| step.id.get()).collect();
        let leases: Vec<i64> = sorted().map(|step| i64::from(step.lease.0)).collect();
        let attempts: Vec<i64> = sorted().map(|step| i64::from(step.max_attempts)).collect();
        let not_before: Vec<Option<i64>> = sorted()
            .map(|step| (step.not_before > step.at).then(|| step.not_before.as_millis()))
            .collect();
        let charged: Vec<bool> = sorted().map(|step| step.charged).collect();
        let rows = session
            .query(
                &REQUEUE,
                &[
                    &lane.tally,
                    &order,
                    &ids,
                    &leases,
                    &attempts,
                    &not_before,
                    &charged,
                ],
            )
            .await?;
        let read = |row| Ok((state(row)?, Owner::new(&text(row.get(12))?)));
        let number = |row: &tokio_postgres::Row| place(row.get(super::row::COLUMN_COUNT));
        Ok(rows.iter().map(|row| (number(row), read(row))).collect())
    }
}

/// A cancel of a job that runs.
pub(crate) struct CancelRun {
    id: JobId,
}

impl CancelRun {
    pub(crate) fn new(id: JobId) -> Self {
        Self { id }
    }
}

static CANCEL_RUN: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH r AS (SELECT * FROM unnest($1::integer[], $2::bigint[]) AS r(n, id))
        UPDATE kjob_live l SET phase = 2 FROM r WHERE l.id = r.id AND l.phase = 1
        RETURNING {columns}, r.n",
        columns = columns(LIVE, "NULL::bytea", ""),
    )
});

#[async_trait]
impl Step for CancelRun {
    type Answer = Result<State, StoreError>;

    const DOING: &'static str = "cancel a job";

    fn queue(queues: &mut Queues) -> &mut VecDeque<Pending<Self>> {
        &mut queues.cancels
    }

    async fn run(
        _: &Lane,
        session: &Session,
        steps: &[&Self],
    ) -> Result<Vec<(usize, Self::Answer)>, tokio_postgres::Error> {
        let order = in_order(steps, |step| step.id);
        let ids: Vec<i64> = order.iter().map(|n| steps[place(*n)].id.get()).collect();
        let rows = session.query(&CANCEL_RUN, &[&order, &ids]).await?;
        let number = |row: &tokio_postgres::Row| place(row.get(super::row::COLUMN_COUNT));
        Ok(rows.iter().map(|row| (number(row), state(row))).collect())
    }
}

impl Shared {
    pub(crate) async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let event = Event::End {
            lease,
            end: finish.end(),
        };
        for _ in 0..TRIES_MAX {
            if let Finish::Interrupt { then, .. } = &finish
                && let OnInterrupt::Retry {
                    max_attempts,
                    not_before,
                    charged,
                } = *then
            {
                let requeue = Requeue {
                    id,
                    lease,
                    at,
                    max_attempts,
                    not_before,
                    charged,
                };
                if let Some(done) = self.gathering.ask(requeue).await? {
                    let (state, owner) = done?;
                    let waiting = 1;
                    self.usage.add(
                        &owner,
                        Change {
                            waiting,
                            ..Change::default()
                        },
                    );
                    match state.not_before {
                        Some(at) => self.ripens_at(at),
                        None => self.hints.say(Hint::Work),
                    }
                    return Ok(state);
                }
                match self.why_not(id, event, at).await? {
                    // Its attempts are used up, or somebody wants it to stop; neither changes while it runs.
                    Seen::To(next) if next.phase.is_terminal() => {}
                    _ => continue,
                }
            }
            let end = End::of_run(id, lease, &finish, at);
            let bytes = end.bytes();
            if let Some(ended) = self.gathering.ask(end).await? {
                let ended = ended?;
                self.count_end(&ended, bytes);
                return Ok(ended.state);
            }
            self.why_not(id, event, at).await?;
        }
        Err(too_often(id))
    }

    pub(crate) async fn request_cancel(
        &self,
        id: JobId,
        at: Timestamp,
    ) -> Result<State, StepError> {
        for _ in 0..TRIES_MAX {
            if let Some(state) = self.gathering.ask(CancelRun::new(id)).await? {
                self.hints.say(Hint::Cancels);
                return Ok(state?);
            }
            if let Some(ended) = self.gathering.ask(End::of_waiting(id, at)).await? {
                let ended = ended?;
                self.count_end(&ended, 0);
                return Ok(ended.state);
            }
            if let Seen::Unchanged(state) = self.why_not(id, Event::RequestCancel, at).await? {
                return Ok(state);
            }
        }
        Err(too_often(id))
    }

    fn count_end(&self, ended: &Ended, bytes: usize) {
        let is_done = ended.state.phase == Phase::Done;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let change = Change {
            jobs: 0,
            bytes: if is_done { bytes } else { 0 },
            waiting: -i64::from(ended.waited),
        };
        self.usage.add(&ended.owner, change);
        self.hints.say(Hint::Ends);
    }
}

impl End {
    fn of_run(id: JobId, lease: Lease, finish: &Finish, at: Timestamp) -> Self {
        let (kind, message, result) = match finish {
            Finish::Complete(output) => {
                let result = NewResult {
                    encoding: i16::from(encoding_to(output.payload.encoding)),
                    info: info_blob::encode(&output.info),
                    data: output.payload.data.clone(),
                };
                (Kind::Complete, None, Some(result))
            }
            Finish::Fail(reason) | Finish::Interrupt { reason, .. } => {
                (Kind::Fail, Some(reason.clone()), None)
            }
            Finish::Stop => (Kind::Stop, None, None),
        };
        Self {
            id,
            lease,
            at,
            kind,
            message,
            result,
        }
    }

    fn of_waiting(id: JobId, at: Timestamp) -> Self {
        Self {
            id,
            lease: Lease(0),
            at,
            kind: Kind::CancelWaiting,
            message: None,
            result: None,
        }
    }
}
