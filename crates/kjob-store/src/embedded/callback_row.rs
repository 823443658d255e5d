//! How far the callback of an ended job is, as a row of `callbacks`.

use kjob_core::{CallbackPhase, CallbackState, JobId, StoreError, Timestamp};
use kjob_proto::Text;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::checksum::Checksum;
use super::columns::Columns;
use super::error::sql;
use super::totals::{self, Sum};

/// The columns that [`parse`] takes, of a table called `c`.
pub(crate) const COLUMNS: &str =
    "c.phase, c.attempts, c.next_at, c.tried_at, c.http_status, c.error, c.crc";

/// How many they are.
pub(crate) const COLUMN_COUNT: usize = 7;

/// What the rows of `callbacks` that are pending add up to.
pub(crate) const DUE_SUM: &str =
    "SELECT id, crc FROM main.callbacks INDEXED BY callbacks_due WHERE next_at IS NOT NULL";

/// Reads [`COLUMNS`] from column `at` on. `Some(None)` where there is no row; `None` where a value
/// cannot be, or the checksum is wrong.
pub(crate) fn parse(
    row: &(impl Columns + ?Sized),
    at: usize,
    id: JobId,
) -> rusqlite::Result<Option<Option<CallbackState>>> {
    let Some(phase) = row.get::<Option<u8>>(at)? else {
        // A row whose first value alone was lost is damaged, not absent.
        let is_absent = row.get_ref(at + 6)? == ValueRef::Null;
        return Ok(is_absent.then_some(None));
    };
    let Some(phase) = CallbackPhase::ALL.into_iter().find(|p| *p as u8 == phase) else {
        return Ok(None);
    };
    let time = |column| -> rusqlite::Result<Option<Timestamp>> {
        Ok(row.get::<Option<i64>>(column)?.map(Timestamp::from_millis))
    };
    let error = row.get_ref(at + 5)?.as_str_or_null()?;
    let state = CallbackState {
        phase,
        attempts: row.get(at + 1)?,
        next_at: time(at + 2)?,
        tried_at: time(at + 3)?,
        http_status: row.get(at + 4)?,
        error: error.map(Text::copy_from),
    };
    let is_right = checksum(id, &state) == row.get::<u32>(at + 6)?
        && state.next_at.is_some() == (phase == CallbackPhase::Pending);
    Ok(is_right.then_some(Some(state)))
}

/// Writes a callback's state; gives the row's checksum.
pub(crate) fn put(
    connection: &Connection,
    id: JobId,
    state: &CallbackState,
) -> rusqlite::Result<u32> {
    let crc = checksum(id, state);
    let put = "INSERT OR REPLACE INTO callbacks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.prepare_cached(put)?.execute(params![
        id.get(),
        state.phase as u8,
        state.attempts,
        state.next_at.map(Timestamp::as_millis),
        state.tried_at.map(Timestamp::as_millis),
        state.http_status,
        state.error.as_ref().map(Text::as_str),
        crc,
    ])?;
    Ok(crc)
}

/// The pending callbacks of a segment, with their times; none of them is missing. Does not look at
/// those that are over.
pub(crate) fn due(
    connection: &Connection,
    number: u32,
    right: Sum,
) -> Result<Vec<(JobId, Timestamp)>, StoreError> {
    let doing = || sql("read a segment's callbacks");
    let query = format!(
        "SELECT {COLUMNS}, c.id FROM callbacks c INDEXED BY callbacks_due \
         WHERE c.next_at IS NOT NULL"
    );
    let mut query = connection.prepare(&query).map_err(doing())?;
    let mut rows = query.query([]).map_err(doing())?;
    let (mut found, mut sum) = (Vec::new(), Sum::default());
    while let Some(row) = rows.next().map_err(doing())? {
        let id: i64 = row.get(COLUMN_COUNT).map_err(doing())?;
        let read = |id| parse(row, 0, id).ok().flatten().flatten();
        let state = JobId::new(id).and_then(|id| Some((id, read(id)?)));
        let Some((id, state)) = state else {
            let what = format!("segment {number}: the callback of job {id}");
            return Err(StoreError::Corrupt { what });
        };
        sum.add(id.get(), checksum(id, &state));
        found.extend(state.next_at.map(|at| (id, at)));
    }
    totals::same(number, "callbacks that are due", sum, right)?;
    Ok(found)
}

pub(crate) fn checksum(id: JobId, state: &CallbackState) -> u32 {
    let row = Checksum::default()
        .int(id.get())
        .int(state.phase as u8)
        .int(state.attempts)
        .maybe(state.next_at.map(Timestamp::as_millis))
        .maybe(state.tried_at.map(Timestamp::as_millis))
        .maybe(state.http_status.map(i64::from));
    match &state.error {
        Some(error) => row.bytes(error.as_bytes()),
        None => row,
    }
    .end()
}
