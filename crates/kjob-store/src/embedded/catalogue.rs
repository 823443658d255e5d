//! The catalogue: format, ids handed out, and the segments there are. Small; written when a
//! segment begins, ends or goes, and when ids are set aside.

use std::collections::BTreeMap;
use std::path::Path;

use kjob_core::{IdBlock, JobId, StoreError};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::catalogue_rows::{Ids, SegmentRecord, make_tables, opening, read_whole, sql};
use super::error::in_catalogue;
use super::schema::{self, APPLICATION_ID, FORMAT, Schema};
use super::segment::{self, checkpoint, log_ahead};

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

/// What is wrong with a catalogue file.
#[derive(Debug)]
pub(crate) enum CatalogueError {
    Foreign,
    /// It is missing or empty where there must be one.
    Missing,
    Version(i64),
    Store(StoreError),
}

/// As [`segment::settle`], of the catalogue.
fn settle(connection: &Connection) -> Result<(), StoreError> {
    segment::settle(connection).map_err(in_catalogue)
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
