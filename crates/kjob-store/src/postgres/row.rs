//! A job as the columns of a row, whether it has ended or not.

use bytes::Bytes;
use kjob_core::{
    CallbackPhase, CallbackState, Ending, Header, Job, JobId, JobOptions, Lease, Output, Owner,
    Payload, Phase, Priority, State, StoreError, Timestamp,
};
use kjob_proto::Text;
use tokio_postgres::Row;

use super::details;
use super::error::corrupt;
use crate::info_blob;
use crate::values::{duration, encoding_from};

/// Columns of a job of `kjob_live l`. `{payload}` is what it gives for the payload; there is no result.
pub(crate) const LIVE: &str = "l.id, l.phase, l.progress, l.attempt, l.lease, l.not_before, \
     l.started_at, NULL::bigint AS ended_at, l.received_at, l.retention_ms, l.priority, l.encoding, \
     l.owner, l.endpoint, l.tag, l.details, NULL::bigint AS expires_at, NULL::bytea AS message, \
     NULL::smallint AS result_encoding, NULL::bytea AS info, {payload} AS payload, \
     NULL::bytea AS result, NULL::smallint AS callback_phase, NULL::bigint AS attempts, \
     NULL::bigint AS next_at, NULL::bigint AS tried_at, NULL::integer AS http_status, \
     NULL::bytea AS error";

/// The same of `kjob_ended e` with `kjob_callbacks c`.
pub(crate) const ENDED: &str = "e.id, e.phase, e.progress, e.attempt, e.lease, NULL::bigint, \
     e.started_at, e.ended_at, e.received_at, e.retention_ms, e.priority, e.encoding, \
     e.owner, e.endpoint, e.tag, e.details, e.expires_at, e.message, \
     e.result_encoding, e.info, {payload}, {result}, \
     c.phase, c.attempts, c.next_at, c.tried_at, c.http_status, c.error";

/// How many columns these are.
pub(crate) const COLUMN_COUNT: usize = 28;

/// Where ended jobs are, with their callbacks.
pub(crate) const ENDED_FROM: &str =
    "kjob_ended e LEFT JOIN kjob_callbacks c ON e.is_called_back AND c.id = e.id";

/// The columns with these for the bytes.
pub(crate) fn columns(of: &str, payload: &str, result: &str) -> String {
    of.replace("{payload}", payload).replace("{result}", result)
}

/// Reads a job of these columns, which begin at the first.
pub(crate) fn job(row: &Row) -> Result<Job, StoreError> {
    let header = header(row)?;
    let state = state(row)?;
    let damaged = || corrupt(format!("the row of job {}", header.id));
    let bytes = |column| {
        row.get::<_, Option<&[u8]>>(column)
            .map(Bytes::copy_from_slice)
    };
    let ending = match state.phase {
        Phase::Done => {
            let encoding = row.get::<_, Option<i16>>(18).ok_or_else(damaged)?;
            let encoding = u8::try_from(encoding).ok().and_then(encoding_from);
            let info = match row.get::<_, Option<&[u8]>>(19) {
                Some(info) => info_blob::decode(info).ok_or_else(damaged)?,
                None => Default::default(),
            };
            let payload = Payload {
                encoding: encoding.ok_or_else(damaged)?,
                data: bytes(21).unwrap_or_default(),
            };
            Some(Ending::Done(Output { payload, info }))
        }
        Phase::Failed => Some(Ending::Failed(text(
            row.get::<_, Option<&[u8]>>(17).ok_or_else(damaged)?,
        )?)),
        Phase::Cancelled => Some(Ending::Cancelled),
        _ => None,
    };
    let callback = match row.get::<_, Option<i16>>(22) {
        Some(phase) => Some(callback(row, 22, phase)?),
        None => None,
    };
    Ok(Job {
        header,
        state,
        payload: bytes(20),
        ending,
        expires_at: time(row, 16),
        callback,
    })
}

/// The state of a job of these columns.
pub(crate) fn state(row: &Row) -> Result<State, StoreError> {
    let phase = u8::try_from(row.get::<_, i16>(1))
        .ok()
        .and_then(Phase::from_u8);
    let count = |column: usize| u32::try_from(row.get::<_, i64>(column)).ok();
    let read = || {
        Some(State {
            phase: phase?,
            progress: u8::try_from(row.get::<_, i16>(2)).ok()?,
            attempt: count(3)?,
            lease: Lease(count(4)?),
            not_before: time(row, 5),
            started_at: time(row, 6),
            ended_at: time(row, 7),
        })
    };
    read().ok_or_else(|| corrupt(format!("the state of job {}", row.get::<_, i64>(0))))
}

/// What was submitted, of these columns.
pub(crate) fn header(row: &Row) -> Result<Header, StoreError> {
    let number: i64 = row.get(0);
    let damaged = || corrupt(format!("the row of job {number}"));
    let small = |column: usize| u8::try_from(row.get::<_, i16>(column)).ok();
    let found = details::decode(row.get(15)).ok_or_else(damaged)?;
    let read = || {
        Some(Header {
            id: JobId::new(number)?,
            tag: std::str::from_utf8(row.get(14)).ok()?.parse().ok()?,
            owner: Owner::new(std::str::from_utf8(row.get(12)).ok()?),
            endpoint: text(row.get(13)).ok()?,
            encoding: encoding_from(small(11)?)?,
            query_id: found.query_id,
            parent_span: found.parent_span,
            received_at: Timestamp::from_millis(row.get(8)),
            source_ip: found.source_ip,
            options: JobOptions {
                priority: Priority::new(small(10)?)?,
                retention: duration(row.get(9)),
                ..found.options
            },
        })
    };
    read().ok_or_else(damaged)
}

/// A callback whose columns begin with the phase at `at`.
pub(crate) fn callback(row: &Row, at: usize, phase: i16) -> Result<CallbackState, StoreError> {
    let mut phases = CallbackPhase::ALL.into_iter();
    let phase = phases.find(|known| i16::from(*known as u8) == phase);
    let error = match row.get::<_, Option<&[u8]>>(at + 5) {
        Some(error) => Some(text(error)?),
        None => None,
    };
    let http_status = row.get::<_, Option<i32>>(at + 4);
    let attempts = row.get::<_, Option<i64>>(at + 1).unwrap_or(0);
    let read = || {
        Some(CallbackState {
            phase: phase?,
            attempts: u32::try_from(attempts).ok()?,
            next_at: time(row, at + 2),
            tried_at: time(row, at + 3),
            http_status: http_status.and_then(|status| u16::try_from(status).ok()),
            error,
        })
    };
    read().ok_or_else(|| corrupt("the row of a callback"))
}

pub(crate) fn time(row: &Row, column: usize) -> Option<Timestamp> {
    row.get::<_, Option<i64>>(column)
        .map(Timestamp::from_millis)
}

pub(crate) fn text(bytes: &[u8]) -> Result<Text, StoreError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Text::copy_from(text)),
        Err(_) => Err(corrupt("a text that is none")),
    }
}
