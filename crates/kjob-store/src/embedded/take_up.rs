//! Which jobs of a segment live, when it is opened; and which should, but are damaged.

use std::collections::BTreeMap;

use kjob_core::{Header, JobId, StoreError};
use rusqlite::Connection;

use super::error::sql;
use super::job_row::{self, JobRow};
use super::ledger::Ledger;
use super::live::Live;
use super::lives::Lives;
use super::state_row::{self, StateRow};
use super::totals::Sum;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) live: Lives,
    /// Jobs that are not to be run, as nobody knows how they stand; and what is wrong with them.
    pub(crate) damaged: BTreeMap<JobId, String>,
}

/// Finds the jobs that have not ended, from the low-water mark on. Reads no payload.
///
/// Every row is held against its checksum, and all of them against the totals: a row that is lost
/// must not make a job that has ended, or was started, be run again. `visit` sees the headers.
pub(crate) fn live(
    connection: &Connection,
    ledger: &mut Ledger,
    visit: impl FnMut(&Header),
) -> Result<Found, StoreError> {
    let mut found = Found::default();
    scan(connection, ledger.low_water, &mut found, visit)?;
    hold_to_jobs(connection, ledger, &mut found)?;
    hold_to_states(connection, ledger, &mut found)?;
    // Those that are damaged have not ended either: their segment stays.
    ledger.live = ledger.totals.live().rows.unsigned_abs();
    ledger.damaged = !found.damaged.is_empty();
    Ok(found)
}

fn scan(
    connection: &Connection,
    low_water: i64,
    found: &mut Found,
    mut visit: impl FnMut(&Header),
) -> Result<(), StoreError> {
    let doing = || sql("find the live jobs");
    let query = format!(
        "SELECT {}, {} FROM jobs j {} WHERE j.id >= ?1 AND x.id IS NULL ORDER BY j.id",
        job_row::COLUMNS,
        state_row::columns(),
        state_row::JOINS
    );
    let mut query = connection.prepare(&query).map_err(doing())?;
    let mut rows = query.query([low_water]).map_err(doing())?;
    while let Some(row) = rows.next().map_err(doing())? {
        let id: i64 = row.get(0).map_err(doing())?;
        let read = || {
            let job = JobRow::read(row)?;
            let stored = StateRow::read(row, job_row::COLUMN_COUNT, job.header.id)?.state;
            Ok((job, stored))
        };
        match (read(), JobId::new(id)) {
            (Ok((job, stored)), Some(id)) => {
                visit(&job.header);
                let state = stored.unwrap_or(job.first_state);
                let live = Live::of(&job.header, &state, stored.is_some());
                found.live.insert(id, &live);
            }
            (Err(StoreError::Corrupt { what }), Some(id)) => {
                found.damaged.insert(id, what);
            }
            (Err(error), _) => return Err(error),
            // Not an id that a job can have: the one it should be is missed below.
            (_, None) => {}
        }
    }
    Ok(())
}

/// Sees that the jobs found are those that have not ended.
fn hold_to_jobs(
    connection: &Connection,
    ledger: &Ledger,
    found: &mut Found,
) -> Result<(), StoreError> {
    let mut sum = Sum::default();
    let live = found.live.iter().map(|live| live.id);
    for id in live.chain(found.damaged.keys().copied()) {
        sum.add(id.get(), 0);
    }
    let mut missing = ledger.totals.live().minus(sum);
    if missing.rows < 0 || (missing.rows == 0 && missing.ids != 0) {
        // Ended ones are among them, whose rows of `expiries` are out of reach.
        for id in ended(connection, found)? {
            let what = format!("the expiry of job {id}, which has ended, is out of reach");
            found.live.remove(id);
            found.damaged.insert(id, what);
            missing.rows += 1;
            missing.ids = missing.ids.wrapping_add(id.get());
        }
    }
    if missing == Sum::default() {
        return Ok(());
    }
    // One whose id itself is damaged was counted under another.
    let false_ids: Vec<JobId> = found.damaged.keys().copied().collect();
    if missing.rows == 0
        && let [false_id] = false_ids[..]
    {
        found.damaged.remove(&false_id);
        missing.rows = 1;
        missing.ids = missing.ids.wrapping_add(false_id.get());
        if let Some(id) = JobId::new(missing.ids) {
            let what = format!("the row of job {id}: its id reads as {false_id}");
            found.damaged.insert(id, what);
            return Ok(());
        }
    }
    match JobId::new(missing.ids).filter(|_| missing.rows == 1) {
        Some(id) if !found.live.contains(id) => {
            let what = format!("the row of job {id} is out of reach");
            found.damaged.insert(id, what);
            Ok(())
        }
        _ => Err(StoreError::Corrupt {
            what: format!(
                "segment {}: {} jobs that have not ended are not the {} that there were",
                ledger.number,
                found.live.len() + found.damaged.len(),
                ledger.totals.live().rows
            ),
        }),
    }
}

/// The jobs taken for live ones that have an end. Reads all ends.
fn ended(connection: &Connection, found: &Found) -> Result<Vec<JobId>, StoreError> {
    let doing = || sql("read the ends");
    let mut query = connection.prepare("SELECT id FROM ends").map_err(doing())?;
    let mut rows = query.query([]).map_err(doing())?;
    let mut ended = Vec::new();
    while let Some(row) = rows.next().map_err(doing())? {
        let id = JobId::new(row.get(0).map_err(doing())?);
        ended.extend(id.filter(|id| found.live.contains(*id)));
    }
    Ok(ended)
}

/// Sees that no state was lost: without it, a job that was started looks as if it still waited.
fn hold_to_states(
    connection: &Connection,
    ledger: &Ledger,
    found: &mut Found,
) -> Result<(), StoreError> {
    let mut sum = Sum::default();
    for live in found.live.iter().filter(|live| live.has_row()) {
        let crc = state_row::state_checksum(live.id, &live.state());
        sum.add(live.id.get(), crc);
    }
    let mut missing = ledger.totals.states.minus(sum);
    if missing == Sum::default() {
        return Ok(());
    }
    // Rows of jobs that are damaged themselves.
    let query = "SELECT crc FROM states WHERE id = ?1";
    let doing = || sql("read the states");
    let mut query = connection.prepare(query).map_err(doing())?;
    for id in found.damaged.keys() {
        let mut rows = query.query([id.get()]).map_err(doing())?;
        if let Some(row) = rows.next().map_err(doing())? {
            let crc = row.get(0).unwrap_or(0);
            missing.remove(id.get(), crc);
        }
    }
    // A damaged row does not give its checksum.
    if missing.rows == 0 && missing.ids == 0 {
        return Ok(());
    }
    let lost = JobId::new(missing.ids).filter(|_| missing.rows == 1);
    let suspects: Vec<JobId> = match lost {
        Some(id) if found.damaged.contains_key(&id) => return Ok(()),
        Some(id) if found.live.contains(id) => vec![id],
        // It may be that of any job that seems to be as it was submitted.
        _ => {
            let rowless = found.live.iter().filter(|live| !live.has_row());
            rowless.map(|live| live.id).collect()
        }
    };
    for id in suspects {
        let what = format!("the state of job {id} is out of reach");
        found.live.remove(id);
        found.damaged.insert(id, what);
    }
    Ok(())
}
