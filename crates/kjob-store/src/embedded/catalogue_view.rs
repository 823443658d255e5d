//! A look at the catalogue beside whoever has it, which changes nothing.

use std::collections::HashMap;
use std::path::Path;

use kjob_core::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::catalogue_rows::{SegmentRecord, make_tables, opening, read_whole, sql};
use super::schema::{FORMAT, Schema};

/// A connection to the catalogue, which changes nothing.
pub(crate) fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        // For writing too, as the index of its log may have to be made; see `segment`.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    open().map_err(sql("open the catalogue"))
}

/// What a catalogue says, read beside whoever has it.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) next_id: i64,
    pub(crate) segments: Vec<SegmentRecord>,
    pub(crate) blobs: HashMap<u32, Blobs>,
}

/// What a catalogue keeps of a segment's contents.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub(crate) summary: Option<Vec<u8>>,
    pub(crate) filter: Option<Vec<u8>>,
}

/// Reads a catalogue as of one moment, and leaves it as it is.
pub(crate) fn inspect(path: &Path) -> Result<Inspected, StoreError> {
    let doing = || opening("read the catalogue");
    let corrupt = |what: String| StoreError::Corrupt {
        what: format!("catalogue.sqlite: {what}"),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    let connection = open().map_err(doing())?;
    let snapshot = connection.unchecked_transaction().map_err(doing())?;
    let right = Schema::of(|model| make_tables(model, FORMAT)).map_err(doing())?;
    if Schema::read(&snapshot).map_err(doing())? != right {
        return Err(corrupt(
            "its tables are not those of this format".to_owned(),
        ));
    }
    let pages: String = snapshot
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(doing())?;
    if pages != "ok" {
        return Err(corrupt(pages));
    }
    let (ids, segments) = read_whole(&snapshot)?;
    let mut blobs: HashMap<u32, Blobs> = HashMap::new();
    for (query, is_summary) in [
        ("SELECT number, summary FROM summaries", true),
        ("SELECT number, filter FROM filters", false),
    ] {
        let mut query = snapshot.prepare(query).map_err(doing())?;
        let mut rows = query.query([]).map_err(doing())?;
        while let Some(row) = rows.next().map_err(doing())? {
            let (number, blob) = (row.get(0).map_err(doing())?, row.get(1).map_err(doing())?);
            let of = blobs.entry(number).or_default();
            *(if is_summary {
                &mut of.summary
            } else {
                &mut of.filter
            }) = Some(blob);
        }
    }
    Ok(Inspected {
        next_id: ids.next_id,
        segments: segments.into_values().collect(),
        blobs,
    })
}
