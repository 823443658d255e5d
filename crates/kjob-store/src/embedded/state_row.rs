//! Where a job stands, as rows: of `states` while it lives, of `ends` and `expiries` after.

use bytes::Bytes;
use kjob_core::{
    CallbackState, Ending, Info, JobId, Lease, Output, Payload, Phase, State, StoreError, Timestamp,
};
use kjob_proto::{Encoding, Text};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::blobs::{Content, Place};
use super::callback_row;
use super::checksum::Checksum;
use super::columns::Columns;
use super::error::sql;
use super::job_row::{Extent, place_from};
use crate::info_blob;
use crate::values::{encoding_from, encoding_to};

/// The columns that [`StateRow::read`] takes, of tables called `s`, `x` and `e`; those of
/// [`callback_row::COLUMNS`] follow.
const COLUMNS: &str = "s.phase, s.progress, s.attempt, s.lease, s.not_before, \
     s.started_at, s.crc, x.expires_at, x.seq, x.crc, \
     e.phase, e.progress, e.attempt, e.lease, e.started_at, e.ended_at, e.message, \
     e.encoding, e.result_len, e.result_crc, e.result_file, e.crc, e.info";

/// Where those of `x` begin.
pub(crate) const EXPIRY: usize = 7;

/// Where the columns of [`callback_row`] begin.
const CALLBACK: usize = 23;

/// How many columns there are with those.
pub(crate) const COLUMN_COUNT: usize = CALLBACK + callback_row::COLUMN_COUNT;

/// The columns that [`StateRow::read`] takes, of tables called `s`, `x`, `e` and `c`.
pub(crate) fn columns() -> String {
    format!("{COLUMNS}, {}", callback_row::COLUMNS)
}

/// Joins the four tables to a table `j` of jobs.
pub(crate) const JOINS: &str = "LEFT JOIN states s ON s.id = j.id \
     LEFT JOIN expiries x ON x.id = j.id \
     LEFT JOIN ends e ON e.seq = x.seq \
     LEFT JOIN callbacks c ON c.id = j.id";

/// What these tables say of a job, checked, without its result.
#[derive(Debug)]
pub(crate) struct StateRow {
    /// `None` for a job that is as it was submitted.
    pub(crate) state: Option<State>,
    pub(crate) end: Option<EndRow>,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct EndRow {
    /// With an empty result.
    pub(crate) ending: Ending,
    pub(crate) expires_at: Timestamp,
    /// Its row in `ends`.
    pub(crate) seq: i64,
    pub(crate) result: Extent,
    pub(crate) callback: Option<CallbackState>,
}

/// What a finish keeps, on its way into the store.
#[derive(Debug)]
pub(crate) enum NewEnding {
    Done(Encoding, Info, Content),
    Failed(Text),
    Cancelled,
}

impl StateRow {
    /// Reads [`columns`] from column `at` on.
    pub(crate) fn read(
        row: &(impl Columns + ?Sized),
        at: usize,
        id: JobId,
    ) -> Result<Self, StoreError> {
        Self::parse(row, at, id)
            .ok()
            .flatten()
            .ok_or_else(|| StoreError::Corrupt {
                what: format!("the state of job {id}"),
            })
    }

    /// `None` where a value cannot be, or a checksum is wrong.
    fn parse(
        row: &(impl Columns + ?Sized),
        at: usize,
        id: JobId,
    ) -> rusqlite::Result<Option<Self>> {
        let time = |column| -> rusqlite::Result<Option<Timestamp>> {
            Ok(row.get::<Option<i64>>(column)?.map(Timestamp::from_millis))
        };
        let is_null = |column| row.get_ref(column).map(|v| v == ValueRef::Null);
        let (expiry, end) = (at + EXPIRY, at + EXPIRY + 3);
        if let Some(expires_at) = time(expiry)? {
            let seq = row.get(expiry + 1)?;
            if expiry_checksum(id, expires_at, seq) != row.get::<u32>(expiry + 2)? {
                return Ok(None);
            }
            let Some(phase) = Phase::from_u8(row.get(end)?) else {
                return Ok(None);
            };
            let state = State {
                phase,
                progress: row.get(end + 1)?,
                attempt: row.get(end + 2)?,
                lease: Lease(row.get(end + 3)?),
                not_before: None,
                started_at: time(end + 4)?,
                ended_at: time(end + 5)?,
            };
            let message = row.get_ref(end + 6)?.as_str_or_null()?.map(Text::copy_from);
            let encoding = row.get::<Option<u8>>(end + 7)?.and_then(encoding_from);
            let Some(place) = place_from(row.get(end + 10)?) else {
                return Ok(None);
            };
            let result = Extent {
                len: row.get::<i64>(end + 8)?.cast_unsigned(),
                crc: row.get(end + 9)?,
                place,
            };
            let info = match row.get_ref(end + 12)?.as_blob_or_null()? {
                Some(bytes) => info_blob::decode(bytes).filter(|info| !info.is_empty()),
                None => Some(Info::new()),
            };
            let Some(info) = info else {
                return Ok(None);
            };
            let ending = match (phase, message, encoding) {
                (Phase::Done, None, Some(encoding)) => Ending::Done(without_bytes(encoding, info)),
                (Phase::Failed, Some(message), None) if info.is_empty() => Ending::Failed(message),
                (Phase::Cancelled, None, None) if info.is_empty() => Ending::Cancelled,
                _ => return Ok(None),
            };
            if end_checksum(id, &state, &ending, &result) != row.get::<u32>(end + 11)? {
                return Ok(None);
            }
            let Some(callback) = callback_row::parse(row, at + CALLBACK, id)? else {
                return Ok(None);
            };
            let end = Some(EndRow {
                ending,
                expires_at,
                seq,
                result,
                callback,
            });
            return Ok(Some(Self {
                state: Some(state),
                end,
            }));
        }
        // A row whose first value alone was lost is damaged, not absent.
        if !is_null(expiry + 2)? || !is_null(at + COLUMN_COUNT - 1)? {
            return Ok(None);
        }
        let Some(phase) = row.get::<Option<u8>>(at)? else {
            return Ok(is_null(at + 6)?.then_some(Self {
                state: None,
                end: None,
            }));
        };
        let Some(phase) = Phase::from_u8(phase) else {
            return Ok(None);
        };
        let state = State {
            phase,
            progress: row.get(at + 1)?,
            attempt: row.get(at + 2)?,
            lease: Lease(row.get(at + 3)?),
            not_before: time(at + 4)?,
            started_at: time(at + 5)?,
            ended_at: None,
        };
        let right = state_checksum(id, &state) == row.get::<u32>(at + 6)?;
        Ok(right.then_some(Self {
            state: Some(state),
            end: None,
        }))
    }
}

/// Whether a row with [`columns`] from column `at` on is that of an ended job, sound or not.
pub(crate) fn has_end(row: &Row<'_>, at: usize) -> Result<bool, StoreError> {
    let expires_at = row.get_ref(at + EXPIRY).map_err(sql("read a job"))?;
    Ok(expires_at != ValueRef::Null)
}

/// Writes a live job's state; gives the row's checksum.
pub(crate) fn put_state(
    connection: &Connection,
    id: JobId,
    state: &State,
) -> rusqlite::Result<u32> {
    let crc = state_checksum(id, state);
    let put = "INSERT OR REPLACE INTO states VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.prepare_cached(put)?.execute(params![
        id.get(),
        state.phase as u8,
        state.progress,
        state.attempt,
        state.lease.0,
        state.not_before.map(Timestamp::as_millis),
        state.started_at.map(Timestamp::as_millis),
        crc,
    ])?;
    Ok(crc)
}

/// The checksums of the rows of an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndSums {
    pub(crate) end: u32,
    pub(crate) expiry: u32,
}

/// Adds the rows of an ended job; gives their checksums. The first statement of a finish: a job
/// has one end.
pub(crate) fn insert_end(
    connection: &Connection,
    id: JobId,
    state: &State,
    expires_at: Timestamp,
    ending: &NewEnding,
) -> rusqlite::Result<EndSums> {
    let insert = "INSERT INTO ends VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
                  ?12, ?13, ?14, ?15)";
    let (result, data) = match ending {
        NewEnding::Done(_, _, content) => (Extent::of(content), content.inline()),
        _ => (Extent::none(), None),
    };
    let kept = match ending {
        NewEnding::Done(encoding, info, _) => Ending::Done(without_bytes(*encoding, info.clone())),
        NewEnding::Failed(message) => Ending::Failed(message.clone()),
        NewEnding::Cancelled => Ending::Cancelled,
    };
    let crc = end_checksum(id, state, &kept, &result);
    connection.prepare_cached(insert)?.execute(params![
        id.get(),
        state.phase as u8,
        state.progress,
        state.attempt,
        state.lease.0,
        state.started_at.map(Timestamp::as_millis),
        state.ended_at.map(Timestamp::as_millis),
        match &kept {
            Ending::Failed(message) => Some(message.as_str()),
            _ => None,
        },
        match &kept {
            Ending::Done(result) => Some(encoding_to(result.payload.encoding)),
            _ => None,
        },
        result.len.cast_signed(),
        result.crc,
        result.place.map(Place::to_column),
        crc,
        data,
        match &kept {
            Ending::Done(result) => info_blob::encode(&result.info),
            _ => None,
        },
    ])?;
    let seq = connection.last_insert_rowid();
    let insert = "INSERT INTO expiries VALUES (?1, ?2, ?3, ?4)";
    let expiry = expiry_checksum(id, expires_at, seq);
    let values = params![id.get(), expires_at.as_millis(), seq, expiry];
    connection.prepare_cached(insert)?.execute(values)?;
    Ok(EndSums { end: crc, expiry })
}

/// Has the row of a job's end name another place of its result.
pub(crate) fn put_place(
    connection: &Connection,
    id: JobId,
    state: &State,
    end: &EndRow,
    place: Place,
) -> rusqlite::Result<()> {
    let result = end.result.moved_to(place);
    let crc = end_checksum(id, state, &end.ending, &result);
    connection
        .prepare_cached("UPDATE ends SET result_file = ?2, crc = ?3 WHERE seq = ?1")?
        .execute(params![end.seq, place.to_column(), crc])?;
    Ok(())
}

/// Removes the state of a job that has ended.
pub(crate) fn remove_state(connection: &Connection, id: JobId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM states WHERE id = ?1")?
        .execute([id.get()])?;
    Ok(())
}

/// Moves an ended job's expiry; gives the row's checksum.
pub(crate) fn put_expiry(
    connection: &Connection,
    id: JobId,
    at: Timestamp,
    seq: i64,
) -> rusqlite::Result<u32> {
    let crc = expiry_checksum(id, at, seq);
    connection
        .prepare_cached("UPDATE expiries SET expires_at = ?2, crc = ?3 WHERE id = ?1")?
        .execute(params![id.get(), at.as_millis(), crc])?;
    Ok(crc)
}

pub(crate) fn state_checksum(id: JobId, state: &State) -> u32 {
    Checksum::default()
        .int(id.get())
        .int(state.phase as u8)
        .int(state.progress)
        .int(state.attempt)
        .int(state.lease.0)
        .maybe(state.not_before.map(Timestamp::as_millis))
        .maybe(state.started_at.map(Timestamp::as_millis))
        .end()
}

fn end_checksum(id: JobId, state: &State, ending: &Ending, result: &Extent) -> u32 {
    let row = Checksum::default()
        .int(state_checksum(id, state))
        .maybe(state.ended_at.map(Timestamp::as_millis))
        .int(result.len.cast_signed())
        .int(result.crc)
        .maybe(result.place.map(Place::to_column));
    match ending {
        Ending::Done(result) => {
            let row = row.int(encoding_to(result.payload.encoding));
            // Nothing of one that is empty, so that the rows of format 2 are right as they are.
            match info_blob::encode(&result.info) {
                Some(info) => row.bytes(&info),
                None => row,
            }
        }
        Ending::Failed(message) => row.bytes(message.as_bytes()),
        Ending::Cancelled => row,
    }
    .end()
}

fn without_bytes(encoding: Encoding, info: Info) -> Output {
    let data = Bytes::new();
    Output {
        payload: Payload { encoding, data },
        info,
    }
}

pub(crate) fn expiry_checksum(id: JobId, at: Timestamp, seq: i64) -> u32 {
    Checksum::default()
        .int(id.get())
        .int(at.as_millis())
        .int(seq)
        .end()
}
