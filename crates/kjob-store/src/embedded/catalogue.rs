//! The catalogue: format, ids handed out, and the segments there are. Small; written when a
//! segment begins, ends or goes, and when ids are set aside.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use kjob_core::{IdBlock, JobId, StoreError};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::checksum::Checksum;
use super::error::{self, in_catalogue};
use super::schema::{self, APPLICATION_ID, FORMAT, Schema};
use super::segment::{self, checkpoint, log_ahead};
use super::totals::Sum;

/// The catalogue's connection; the writer's alone.
///
/// Every change that something else relies on is moved from the log into the file: files are
/// deleted and jobs stored because of it. So what may get lost with the end of the log is only what
/// is found again in the segments: ids set aside, and notes that save opening them.
#[derive(Debug)]
pub(crate) struct Catalogue {
    connection: Connection,
    ids: Ids,
    segments: BTreeMap<u32, SegmentRecord>,
}

/// The one row of `ids`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ids {
    /// The next id that nobody has.
    next_id: i64,
    /// Above every number that a segment ever had.
    next_segment: u32,
    /// Over the rows of `segments`.
    segments: Sum,
}

/// A segment as the catalogue knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRecord {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    /// Ids from here on, up to the next segment, are this one's.
    pub(crate) first_id: i64,
    pub(crate) sealed: bool,
    /// The checksum of its summary, once no live job is left in a sealed segment.
    pub(crate) summary: Option<u32>,
}

/// What is wrong with a catalogue file.
#[derive(Debug)]
pub(crate) enum CatalogueError {
    Foreign,
    /// It is missing or empty where there must be one.
    Missing,
    Version(i64),
    Store(StoreError),
}

/// As [`error::sql`]: what fails here is about the catalogue.
fn sql(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| in_catalogue(error::sql(doing)(error))
}

/// As [`error::opening`], of the catalogue.
fn opening(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| in_catalogue(error::opening(doing)(error))
}

/// As [`segment::settle`], of the catalogue.
fn settle(connection: &Connection) -> Result<(), StoreError> {
    segment::settle(connection).map_err(in_catalogue)
}

/// A second connection to the catalogue, which changes nothing.
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

impl Catalogue {
    /// Opens the catalogue, or, where it `may_be_new`, makes one with no segments.
    pub(crate) fn open(path: &Path, may_be_new: bool) -> Result<Self, CatalogueError> {
        Self::open_as(path, may_be_new, FORMAT)
    }

    /// Opens the catalogue of a directory of an older format.
    pub(crate) fn open_old(path: &Path, format: i64) -> Result<Self, CatalogueError> {
        Self::open_as(path, false, format)
    }

    fn open_as(path: &Path, may_be_new: bool, format: i64) -> Result<Self, CatalogueError> {
        let store = |error| CatalogueError::Store(opening("open the catalogue")(error));
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(store)?;
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        // Before anything is written: a foreign file is left as it is.
        let tables = "SELECT count(*) FROM sqlite_master";
        let tables: i64 = connection
            .query_row(tables, [], |row| row.get(0))
            .map_err(store)?;
        let id = number("application_id").map_err(store)?;
        let version = number("user_version").map_err(store)?;
        let is_new = tables == 0 && id == 0 && version == 0;
        if is_new && !may_be_new {
            return Err(CatalogueError::Missing);
        }
        if !is_new && id != APPLICATION_ID {
            return Err(CatalogueError::Foreign);
        }
        if !is_new && version != format {
            return Err(CatalogueError::Version(version));
        }
        let set_up = || {
            log_ahead(&connection)?;
            connection.pragma_update(None, "cell_size_check", true)?;
            if is_new {
                connection.execute_batch("BEGIN IMMEDIATE")?;
                make_tables(&connection, format)?;
                Ids::FIRST.write(&connection)?;
                connection.execute_batch("COMMIT")?;
                checkpoint(&connection)?;
            }
            Ok(())
        };
        set_up().map_err(store)?;
        let right = Schema::of(|model| make_tables(model, format)).map_err(store)?;
        if Schema::read(&connection).map_err(store)? != right {
            return Err(CatalogueError::Store(StoreError::Corrupt {
                what: "catalogue.sqlite: its tables are not those of a catalogue of this format"
                    .to_owned(),
            }));
        }
        let (ids, segments) = read_whole(&connection).map_err(CatalogueError::Store)?;
        // As what is read from segments: made durable before anything builds on it.
        settle(&connection).map_err(CatalogueError::Store)?;
        Ok(Self {
            connection,
            ids,
            segments,
        })
    }

    /// Opens a catalogue that was just copied from a good one.
    pub(crate) fn open_copy(path: &Path) -> Result<Self, StoreError> {
        Self::open(path, false).map_err(|error| match error {
            CatalogueError::Store(error) => error,
            other => StoreError::Corrupt {
                what: format!("the copy of the catalogue: {other:?}"),
            },
        })
    }

    /// Sets ids aside, durably.
    pub(crate) fn reserve(&mut self, count: u32) -> Result<IdBlock, StoreError> {
        let first = JobId::new(self.ids.next_id).ok_or(StoreError::NoIdsLeft)?;
        let next_id = first
            .get()
            .saturating_add(i64::from(count.max(1)))
            .min(JobId::MAX + 1);
        self.set_next_id(next_id)?;
        Ok(IdBlock::new(first, count.max(1)))
    }

    /// Passes over so many ids, durably, or over half of those that are left if these are fewer.
    /// Gives the next id then.
    pub(crate) fn leave_out(&mut self, count: i64) -> Result<i64, StoreError> {
        let left = (JobId::MAX + 1).saturating_sub(self.ids.next_id);
        let next = self.ids.next_id.saturating_add(count.min(left / 2));
        self.set_next_id(next)?;
        Ok(next)
    }

    /// Gives no id below this one: there are jobs up to it, whatever the file says.
    pub(crate) fn skip_ids(&mut self, next_id: i64) {
        self.ids.next_id = self.ids.next_id.max(next_id.min(JobId::MAX + 1));
    }

    /// All segments, oldest first.
    pub(crate) fn segments(&self) -> Vec<SegmentRecord> {
        self.segments.values().copied().collect()
    }

    /// A settled segment's [`super::summary::encode`]; `None` if there is none, or it is damaged.
    pub(crate) fn summary(&self, of: &SegmentRecord) -> Result<Option<Vec<u8>>, StoreError> {
        let summary = self.blob("SELECT summary FROM summaries WHERE number = ?1", of.number)?;
        Ok(summary.filter(|bytes| Some(crc32fast::hash(bytes)) == of.summary))
    }

    /// A segment's [`super::filter::Filter::encode`], if it has one.
    pub(crate) fn filter(&self, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.blob("SELECT filter FROM filters WHERE number = ?1", number)
    }

    /// Adds the newest segment, and seals the one before it.
    pub(crate) fn begin_segment(&mut self, number: u32, first_id: i64) -> Result<(), StoreError> {
        let unsealed = self.segments.values().filter(|segment| !segment.sealed);
        let mut changed: Vec<_> = unsealed.copied().collect();
        changed.iter_mut().for_each(|segment| segment.sealed = true);
        changed.push(SegmentRecord {
            number,
            generation: 0,
            first_id,
            sealed: false,
            summary: None,
        });
        self.change("begin a segment", |_| Ok(changed))?;
        settle(&self.connection)
    }

    /// The next id that nobody has.
    pub(crate) fn next_id(&self) -> i64 {
        self.ids.next_id
    }

    /// The number for a new segment: above every one that ever was.
    pub(crate) fn next_number(&self) -> u32 {
        self.ids.next_segment
    }

    /// Notes that a segment has no live job, with its counts, so that it need not be opened; or
    /// that this is no longer so.
    pub(crate) fn set_summary(
        &mut self,
        number: u32,
        summary: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let segment = SegmentRecord {
            summary: summary.map(crc32fast::hash),
            ..self.segment(number)?
        };
        self.change("note a segment's counts", |change| {
            if let Some(summary) = summary {
                let put = "INSERT OR REPLACE INTO summaries VALUES (?1, ?2)";
                change.execute(put, params![number, summary])?;
            }
            Ok(vec![segment])
        })?;
        match summary {
            Some(_) => Ok(()),
            None => settle(&self.connection),
        }
    }

    /// Keeps a segment's filter. It says itself what it is a filter of.
    pub(crate) fn set_filter(&mut self, number: u32, filter: &[u8]) -> Result<(), StoreError> {
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO filters VALUES (?1, ?2)")
            .and_then(|mut put| put.execute(params![number, filter]))
            .map(drop)
            .map_err(sql("keep a filter"))
    }

    /// A rewritten segment takes the place of what it was made from.
    pub(crate) fn set_generation(
        &mut self,
        number: u32,
        generation: u32,
    ) -> Result<(), StoreError> {
        let segment = SegmentRecord {
            generation,
            summary: None,
            ..self.segment(number)?
        };
        self.change("name a rewritten segment", |_| Ok(vec![segment]))?;
        settle(&self.connection)
    }

    /// Forgets a segment; its files may be deleted after that.
    pub(crate) fn remove(&mut self, number: u32) -> Result<(), StoreError> {
        let segment = self.segment(number)?;
        let mut ids = self.ids;
        ids.segments.remove(number.into(), segment.checksum());
        let remove = || {
            let change = self.connection.unchecked_transaction()?;
            for table in ["segments", "summaries", "filters"] {
                let delete = format!("DELETE FROM {table} WHERE number = ?1");
                change.execute(&delete, [number])?;
            }
            ids.write(&change)?;
            change.commit()
        };
        remove().map_err(sql("forget a segment"))?;
        self.ids = ids;
        self.segments.remove(&number);
        settle(&self.connection)
    }

    /// Says that the directory is of this format now, after all its segments are; their counts
    /// are of the old one, and forgotten.
    pub(crate) fn set_current(&mut self) -> Result<(), StoreError> {
        let unsettled = self.segments.values().map(|segment| SegmentRecord {
            summary: None,
            ..*segment
        });
        let unsettled = unsettled.collect();
        self.change("convert the catalogue", |change| {
            change.execute("DELETE FROM summaries", [])?;
            schema::mark(change, FORMAT)?;
            Ok(unsettled)
        })?;
        settle(&self.connection)
    }

    /// Writes the log back into the file.
    pub(crate) fn close(self) -> Result<(), StoreError> {
        self.connection
            .close()
            .map_err(|(_, error)| sql("close the catalogue")(error))
    }

    fn set_next_id(&mut self, next_id: i64) -> Result<(), StoreError> {
        let ids = Ids {
            next_id,
            ..self.ids
        };
        ids.write(&self.connection).map_err(sql("reserve ids"))?;
        self.ids = ids;
        Ok(())
    }

    fn segment(&self, number: u32) -> Result<SegmentRecord, StoreError> {
        let found = self.segments.get(&number).copied();
        found.ok_or_else(|| StoreError::Corrupt {
            what: format!("the catalogue has no segment {number}"),
        })
    }

    fn blob(&self, query: &str, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.connection
            .prepare_cached(query)
            .and_then(|mut query| query.query_row([number], |row| row.get(0)).optional())
            .map_err(sql("read the catalogue"))
    }

    /// Writes the rows of segments that `prepare` gives, with what they add up to, in one
    /// transaction.
    fn change(
        &mut self,
        doing: &'static str,
        prepare: impl FnOnce(&Connection) -> rusqlite::Result<Vec<SegmentRecord>>,
    ) -> Result<(), StoreError> {
        let mut ids = self.ids;
        let change = || {
            let change = self.connection.unchecked_transaction()?;
            let changed = prepare(&change)?;
            for segment in &changed {
                let number = segment.number;
                if let Some(old) = self.segments.get(&number) {
                    ids.segments.remove(number.into(), old.checksum());
                }
                ids.segments.add(number.into(), segment.checksum());
                ids.next_segment = ids.next_segment.max(number.saturating_add(1));
                segment.write(&change)?;
            }
            ids.write(&change)?;
            change.commit()?;
            Ok(changed)
        };
        let changed = change().map_err(sql(doing))?;
        self.ids = ids;
        self.segments
            .extend(changed.into_iter().map(|s| (s.number, s)));
        Ok(())
    }
}

impl Ids {
    const FIRST: Self = Self {
        next_id: 1,
        next_segment: 1,
        segments: Sum {
            rows: 0,
            ids: 0,
            crcs: 0,
        },
    };

    fn read(connection: &Connection) -> Result<Self, StoreError> {
        let damaged = || StoreError::Corrupt {
            what: "catalogue.sqlite: the row of ids".to_owned(),
        };
        let query = "SELECT next_id, next_segment, segments, numbers, crcs, crc FROM ids";
        let found = connection.query_row(query, [], |row| {
            let segments = Sum {
                rows: row.get(2)?,
                ids: row.get(3)?,
                crcs: row.get(4)?,
            };
            let ids = Self {
                next_id: row.get(0)?,
                next_segment: row.get(1)?,
                segments,
            };
            Ok((ids, row.get(5)?))
        });
        let found: Option<(Self, u32)> = match found {
            Err(rusqlite::Error::QueryReturnedNoRows) => None,
            found => Some(found.map_err(sql("read the catalogue"))?),
        };
        match found {
            Some((ids, crc)) if ids.checksum() == crc => Ok(ids),
            _ => Err(damaged()),
        }
    }

    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let Sum { rows, ids, crcs } = self.segments;
        connection
            .prepare_cached("INSERT OR REPLACE INTO ids VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                self.next_id,
                self.next_segment,
                rows,
                ids,
                crcs,
                self.checksum()
            ])?;
        Ok(())
    }

    fn checksum(&self) -> u32 {
        Checksum::default()
            .int(self.next_id)
            .int(self.next_segment)
            .int(self.segments.rows)
            .int(self.segments.ids)
            .int(self.segments.crcs)
            .end()
    }
}

impl SegmentRecord {
    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT OR REPLACE INTO segments VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                self.number,
                self.generation,
                self.first_id,
                self.sealed,
                self.summary,
                self.checksum()
            ])?;
        Ok(())
    }

    fn checksum(&self) -> u32 {
        Checksum::default()
            .int(self.number)
            .int(self.generation)
            .int(self.first_id)
            .int(self.sealed)
            .maybe(self.summary.map(i64::from))
            .end()
    }
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

/// The rows of `ids` and `segments`, held against each other.
fn read_whole(connection: &Connection) -> Result<(Ids, BTreeMap<u32, SegmentRecord>), StoreError> {
    let ids = Ids::read(connection)?;
    let segments = read_segments(connection)?;
    let mut sum = Sum::default();
    for segment in segments.values() {
        sum.add(segment.number.into(), segment.checksum());
    }
    // A file that the catalogue lost sight of must not be taken for a left-over one.
    if sum != ids.segments {
        let what = format!(
            "catalogue.sqlite: {} segments are not the {} that there were",
            sum.rows, ids.segments.rows
        );
        return Err(StoreError::Corrupt { what });
    }
    Ok((ids, segments))
}

fn read_segments(connection: &Connection) -> Result<BTreeMap<u32, SegmentRecord>, StoreError> {
    let doing = || sql("read the catalogue");
    let query = "SELECT number, generation, first_id, sealed, summary_crc, crc FROM segments";
    let mut query = connection.prepare(query).map_err(doing())?;
    let mut rows = query.query([]).map_err(doing())?;
    let mut segments = BTreeMap::new();
    while let Some(row) = rows.next().map_err(doing())? {
        let read = || -> rusqlite::Result<(SegmentRecord, i64, u32)> {
            let sealed: i64 = row.get(3)?;
            let segment = SegmentRecord {
                number: row.get(0)?,
                generation: row.get(1)?,
                first_id: row.get(2)?,
                sealed: sealed == 1,
                summary: row.get(4)?,
            };
            Ok((segment, sealed, row.get(5)?))
        };
        let right = read()
            .ok()
            .filter(|(segment, sealed, crc)| segment.checksum() == *crc && [0, 1].contains(sealed));
        let Some((segment, ..)) = right else {
            let number: i64 = row.get(0).unwrap_or(0);
            return Err(StoreError::Corrupt {
                what: format!("catalogue.sqlite: the row of segment {number}"),
            });
        };
        segments.insert(segment.number, segment);
    }
    Ok(segments)
}

/// They are the same in formats 2 and 3.
fn make_tables(connection: &Connection, format: i64) -> rusqlite::Result<()> {
    connection.execute_batch(TABLES)?;
    schema::mark(connection, format)
}

const TABLES: &str = "
CREATE TABLE ids (               -- one row
    id INTEGER PRIMARY KEY,
    next_id INTEGER NOT NULL,    -- of a job
    next_segment INTEGER NOT NULL,
    segments INTEGER NOT NULL,   -- what the rows of segments add up to
    numbers INTEGER NOT NULL,
    crcs INTEGER NOT NULL,
    crc INTEGER NOT NULL         -- of the columns above
);
CREATE TABLE segments (
    number INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    sealed INTEGER NOT NULL,
    summary_crc INTEGER,         -- once it is sealed and all its jobs have ended
    crc INTEGER NOT NULL         -- of the columns above
);
CREATE TABLE summaries (         -- the counts of a segment without live jobs
    number INTEGER PRIMARY KEY,
    summary BLOB NOT NULL
);
CREATE TABLE filters (           -- over the tags of a segment
    number INTEGER PRIMARY KEY,
    filter BLOB NOT NULL
);
";
