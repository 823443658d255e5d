//! A segment's database: its tables, and how one is opened.

use std::path::Path;
use std::sync::OnceLock;

use kjob_core::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::counts::{self, Meta, PAGES};
use super::error::{in_segment, is_fatal, opening_of, sql, sql_of};
use super::layout::Layout;
use super::pages::PAGE;
use super::room;
use super::schema::{self, FORMAT, Schema};
use super::totals::Totals;

/// Pages of 4 KiB in an older segment's log, 8 MiB, with which the commit that passes it writes it back into its
/// file, for some 3 ms. The newest segment has [another way](super::write_back).
const LOG_PAGES: i32 = 2 * 1024;

const CACHE_OF_OLDER_KIB: i32 = 2 * 1024;

/// How a connection is going to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The writer's, of the newest segment: 16 MiB of cache, more was slower when measured.
    Newest,
    /// The writer's, of an older segment.
    Older,
    /// A reader's.
    Read,
    /// That of a check, which leaves everything as it is: also the log, when it is the last one.
    Check,
}

/// Opens an existing segment, and sees that the file is what its name says.
pub(crate) fn open(path: &Path, access: Access) -> Result<Connection, StoreError> {
    let file = || path.file_name().unwrap_or_default().display().to_string();
    let name = || format!("segment file {}", file());
    let connection = connect(path, access).map_err(opening_of("open a segment", name))?;
    let damaged = |how: &str| StoreError::Corrupt {
        what: format!("{}: {how}", name()),
    };
    let schema = Schema::read(&connection).map_err(opening_of("open a segment", name))?;
    let right = right_tables().map_err(sql_of("open a segment", name))?;
    let other = || damaged("its tables are not those of a segment of this format");
    if !schema.is(right, &PAGES.map(|(table, _)| table)) {
        return Err(other());
    }
    let meta = Meta::read(&connection, &name())?;
    if meta.pages != PAGES.map(|(table, _)| schema.page_of(table)) {
        return Err(other());
    }
    let (Some(number), Some(generation)) = (meta.number, meta.generation) else {
        return Err(damaged("it does not say which segment it is"));
    };
    if Layout::parse_segment(path) != Some((number, generation)) {
        return Err(damaged(&format!(
            "it is that of segment {number}, generation {generation}"
        )));
    }
    Ok(connection)
}

/// Makes a new segment, durably but for its name in the directory.
pub(crate) fn create(
    layout: &Layout,
    number: u32,
    generation: u32,
) -> Result<Connection, StoreError> {
    let create = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(layout.segment(number, generation), flags)?;
        connection.pragma_update(None, "page_size", PAGE as i64)?;
        set_up(&connection, Access::Newest)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        make_tables(&connection)?;
        note_pages(&connection)?;
        counts::put_meta(&connection, "number", number.into())?;
        counts::put_meta(&connection, "generation", generation.into())?;
        Totals::default().write(&connection, None)?;
        connection.execute_batch("COMMIT")?;
        checkpoint(&connection)?;
        Ok(connection)
    };
    create()
        .map_err(sql("make a segment"))
        .map_err(in_segment(number))
}

/// Moves the whole log into the file. What is in the file is out of reach of anything that
/// happens to the end of a log, which is where disks that lose power lose what they promised.
pub(crate) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// As [`checkpoint`], for a change that is durable in the log either way: so only a failure after
/// which nobody knows what is on disk is one.
pub(crate) fn settle(connection: &Connection) -> Result<(), StoreError> {
    let judge = |error| match connection.path().and_then(|path| Path::new(path).parent()) {
        Some(dir) => room::judged(dir, error),
        None => error,
    };
    match checkpoint(connection).map_err(sql("write a log back")) {
        Err(error) => Some(judge(error)).filter(is_fatal).map_or(Ok(()), Err),
        Ok(()) => Ok(()),
    }
}

/// Moves as much of the log into the file as it can without waiting for anybody. Whether that is
/// all of it, so that the next commit may begin the log anew.
pub(crate) fn reuse_log(connection: &Connection) -> Result<bool, StoreError> {
    let copied = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (frames, copied): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(frames > 0 && frames == copied)
    });
    copied.map_err(sql("write a log back"))
}

/// Moves the whole log into the file, and leaves it empty, unless somebody reads from it just now: nobody waits for it, but a
/// commit in this segment for the last and least of it. Whether it is empty.
pub(crate) fn empty_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(std::time::Duration::ZERO)?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    let is_busy = "PRAGMA wal_checkpoint(TRUNCATE)";
    connection.query_row(is_busy, [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

/// Has every commit written ahead and synced.
pub(crate) fn log_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let mut mode = String::new();
    let mut set = connection.prepare("PRAGMA journal_mode = wal")?;
    let mut rows = set.query([])?;
    // To the end: the mode is told first, and then that it could not be written to the file.
    while let Some(row) = rows.next()? {
        mode = row.get(0)?;
    }
    if mode != "wal" {
        let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
        let what = format!("the journal mode stays {mode}");
        return Err(rusqlite::Error::SqliteFailure(error, Some(what)));
    }
    connection.pragma_update(None, "synchronous", "full")
}

pub(crate) fn connect(path: &Path, access: Access) -> rusqlite::Result<Connection> {
    // Readers open for writing too: without a writer beside them, the index of the log must be
    // made by whoever comes first. `query_only` keeps them from changing anything.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection, access)?;
    Ok(connection)
}

/// The settings of every connection; those that differ from SQLite's defaults were measured.
fn set_up(connection: &Connection, access: Access) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    // Without it, the planner of this build prepares joins anew whenever values change.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    if access == Access::Check {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    }
    let cache_kib = match access {
        Access::Newest => 16 * 1024,
        Access::Older => CACHE_OF_OLDER_KIB,
        Access::Read | Access::Check => 4 * 1024,
    };
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    // A damaged page is reported when it is read in, not worked on.
    connection.pragma_update(None, "cell_size_check", true)?;
    log_ahead(connection)?;
    write_back_by_itself(connection)?;
    let only_reads = matches!(access, Access::Read | Access::Check);
    connection.pragma_update(None, "query_only", only_reads)?;
    Ok(())
}

/// Makes the connection of what was the newest segment one to an older.
pub(crate) fn make_older(connection: &Connection) -> rusqlite::Result<()> {
    write_back_by_itself(connection)?;
    connection.pragma_update(None, "cache_size", -CACHE_OF_OLDER_KIB)
}

fn write_back_by_itself(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)
}

/// Those of a segment of this format. Made once: the model took 0.3 ms of each opening.
fn right_tables() -> rusqlite::Result<&'static Schema> {
    static RIGHT: OnceLock<Schema> = OnceLock::new();
    if let Some(right) = RIGHT.get() {
        return Ok(right);
    }
    let made = Schema::of(make_tables)?;
    Ok(RIGHT.get_or_init(|| made))
}

/// The page at which a table begins in every segment that was [opened](open), but for those of [`PAGES`].
pub(crate) fn page_of(table: &str) -> Option<u32> {
    let page = right_tables().ok()?.page_of(table)?;
    u32::try_from(page).ok()
}

fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    make_tables_of_2(connection)?;
    make_current(connection)
}

/// The tables of a segment of format 2.
pub(crate) fn make_tables_of_2(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(TABLES)?;
    schema::mark(connection, 2)
}

/// The tables of a segment of format 3: those of this one, whose rows may also name packs.
pub(crate) fn make_tables_of_3(connection: &Connection) -> rusqlite::Result<()> {
    make_tables(connection)?;
    schema::mark(connection, 3)
}

/// Makes the tables of a segment of format 2 those of this one. Takes no longer for many rows: a
/// column that is added is not written into them.
pub(crate) fn make_current(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(ADDED)?;
    schema::mark(connection, FORMAT)
}

/// Notes where the tables begin that were added.
pub(crate) fn note_pages(connection: &Connection) -> rusqlite::Result<()> {
    let schema = Schema::read(connection)?;
    for (table, name) in PAGES {
        if let Some(page) = schema.page_of(table) {
            counts::put_meta(connection, name, page)?;
        }
    }
    Ok(())
}

/// What format 3 has beyond format 2. New files are made the same way, so that there is one form.
const ADDED: &str = "
ALTER TABLE jobs ADD COLUMN callback_url TEXT;
ALTER TABLE ends ADD COLUMN info BLOB;
CREATE TABLE callbacks (       -- ended jobs with a callback_url
    id INTEGER PRIMARY KEY,
    phase INTEGER NOT NULL,    -- 0 pending, 1 delivered, 2 given up
    attempts INTEGER NOT NULL,
    next_at INTEGER,           -- as long as it is pending
    tried_at INTEGER,
    http_status INTEGER,
    error TEXT,
    crc INTEGER NOT NULL
);
CREATE INDEX callbacks_due ON callbacks (next_at) WHERE next_at IS NOT NULL;
";

/// Columns are in the order of what is read most: big ones last, so that a row's head is read
/// without its tail.
const TABLES: &str = "
CREATE TABLE jobs (            -- one row a submit, never changed
    id INTEGER PRIMARY KEY,
    tag NOT NULL,              -- text, or 16 bytes for a UUID
    owner TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    encoding INTEGER NOT NULL, -- 0 binary, 1 json, 2 snappy
    query_id BLOB NOT NULL,
    parent_span INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    source_ip TEXT NOT NULL,
    priority INTEGER NOT NULL,
    not_before INTEGER,
    timeout_ms INTEGER,
    retention_ms INTEGER NOT NULL,
    remove_on_complete INTEGER NOT NULL,
    user_data TEXT NOT NULL,
    started INTEGER NOT NULL,  -- 1 if it was started by the commit that stored it
    payload_len INTEGER NOT NULL,
    payload_crc INTEGER NOT NULL,
    payload_file INTEGER,      -- the number of its blob file, if it has one
    crc INTEGER NOT NULL,      -- of the columns above
    payload BLOB
);
CREATE TABLE states (          -- live jobs that are not as they were submitted
    id INTEGER PRIMARY KEY,
    phase INTEGER NOT NULL,    -- 0 queued, 1 running, 2 cancelling
    progress INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    not_before INTEGER,
    started_at INTEGER,
    crc INTEGER NOT NULL
);
CREATE TABLE ends (            -- one row an ended job, in the order of ending
    seq INTEGER PRIMARY KEY,
    id INTEGER NOT NULL,
    phase INTEGER NOT NULL,    -- 3 done, 4 failed, 5 cancelled
    progress INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER NOT NULL,
    message TEXT,              -- of a failed job
    encoding INTEGER,          -- of a done job's result
    result_len INTEGER NOT NULL,
    result_crc INTEGER NOT NULL,
    result_file INTEGER,
    crc INTEGER NOT NULL,      -- of the columns above, but for seq
    result BLOB
);
CREATE TABLE expiries (        -- one row an ended job: when it expires, and where its end is
    id INTEGER PRIMARY KEY,
    expires_at INTEGER NOT NULL,
    seq INTEGER NOT NULL,      -- of its row in ends
    crc INTEGER NOT NULL
);
CREATE TABLE tags (            -- who has a tag; generated tags need no row
    tag NOT NULL,
    owner TEXT NOT NULL,
    id INTEGER NOT NULL,       -- 0: the tag was given to a job of another segment
    crc INTEGER NOT NULL,
    PRIMARY KEY (tag, owner)
) WITHOUT ROWID;
CREATE TABLE usage (           -- jobs and bytes of each owner in this segment
    owner TEXT PRIMARY KEY,
    jobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE expiry_seconds (  -- how many ended jobs have expired once this second begins
    second INTEGER PRIMARY KEY,
    jobs INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE meta (            -- number, generation: whose file this is; low_water: no live job
    name TEXT PRIMARY KEY,     -- below; opened_at: its first submit
    value INTEGER NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE totals (          -- what the rows of each table above add up to, but for meta
    name TEXT PRIMARY KEY,
    rows INTEGER NOT NULL,
    ids INTEGER NOT NULL,
    crcs INTEGER NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
";
