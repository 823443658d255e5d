//! The catalogue: format, ids handed out, and the segments there are. Small; written when a
//! segment begins, ends or goes, and when ids are set aside.

use std::path::Path;

use kjob_core::{IdBlock, JobId, StoreError};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::error::sql;
use super::segment::{APPLICATION_ID, FORMAT, checkpoint};

/// The catalogue's connection; the writer's alone.
#[derive(Debug)]
pub(crate) struct Catalogue {
    connection: Connection,
    next_id: i64,
    next_segment: u32,
}

/// A segment as the catalogue knows it.
#[derive(Debug)]
pub(crate) struct SegmentRecord {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    /// Ids from here on, up to the next segment, are this one's.
    pub(crate) first_id: i64,
    pub(crate) sealed: bool,
    /// [`super::summary::encode`], once no live job is left in a sealed segment.
    pub(crate) summary: Option<Vec<u8>>,
    /// [`super::filter::Filter::encode`], once built.
    pub(crate) filter: Option<Vec<u8>>,
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

impl Catalogue {
    /// Opens the catalogue, or, where it `may_be_new`, makes one with no segments.
    pub(crate) fn open(path: &Path, may_be_new: bool) -> Result<Self, CatalogueError> {
        let opening = || sql("open the catalogue");
        let store = |error| CatalogueError::Store(opening()(error));
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
        if !is_new && version != FORMAT {
            return Err(CatalogueError::Version(version));
        }
        let set_up = || {
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            if is_new {
                connection.execute_batch("BEGIN IMMEDIATE")?;
                connection.execute_batch(TABLES)?;
                connection.pragma_update(None, "application_id", APPLICATION_ID)?;
                connection.pragma_update(None, "user_version", FORMAT)?;
                connection.execute_batch("COMMIT")?;
                checkpoint(&connection)?;
            }
            connection.query_row("SELECT next_id, next_segment FROM ids", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        };
        let (next_id, next_segment) = set_up().map_err(store)?;
        Ok(Self {
            connection,
            next_id,
            next_segment,
        })
    }

    /// Sets ids aside, durably.
    pub(crate) fn reserve(&mut self, count: u32) -> Result<IdBlock, StoreError> {
        let first = JobId::new(self.next_id).ok_or(StoreError::NoIdsLeft)?;
        let next = self
            .next_id
            .saturating_add(i64::from(count.max(1)))
            .min(JobId::MAX + 1);
        self.connection
            .prepare_cached("UPDATE ids SET next_id = ?1")
            .and_then(|mut update| update.execute([next]))
            .map_err(sql("reserve ids"))?;
        self.next_id = next;
        Ok(IdBlock::new(first, count.max(1)))
    }

    /// Gives no id below this one: there are jobs up to it, whatever the file says.
    pub(crate) fn skip_ids(&mut self, next_id: i64) {
        self.next_id = self.next_id.max(next_id.min(JobId::MAX + 1));
    }

    /// All segments, oldest first.
    pub(crate) fn segments(&self) -> Result<Vec<SegmentRecord>, StoreError> {
        let read = || {
            let query = "SELECT number, generation, first_id, sealed, summary, filter \
                         FROM segments ORDER BY number";
            let mut query = self.connection.prepare(query)?;
            let rows = query.query_map([], |row| {
                Ok(SegmentRecord {
                    number: row.get(0)?,
                    generation: row.get(1)?,
                    first_id: row.get(2)?,
                    sealed: row.get(3)?,
                    summary: row.get(4)?,
                    filter: row.get(5)?,
                })
            })?;
            rows.collect::<Result<_, _>>()
        };
        read().map_err(sql("read the catalogue"))
    }

    /// Adds the newest segment, and seals the one before it.
    pub(crate) fn begin_segment(&mut self, number: u32, first_id: i64) -> Result<(), StoreError> {
        let next = number.saturating_add(1);
        let mut begin = || {
            let change = self.connection.transaction()?;
            change.execute("UPDATE segments SET sealed = 1", [])?;
            let insert = "INSERT INTO segments (number, generation, first_id) VALUES (?1, 0, ?2)";
            change.execute(insert, params![number, first_id])?;
            change.execute("UPDATE ids SET next_segment = ?1", [next])?;
            change.commit()
        };
        begin().map_err(sql("begin a segment"))?;
        self.next_segment = next;
        self.settle();
        Ok(())
    }

    /// The number for a new segment: above every one that ever was.
    pub(crate) fn next_number(&self) -> u32 {
        self.next_segment
    }

    /// Notes that a segment has no live job, with its counts, so that it need not be opened.
    pub(crate) fn set_summary(
        &self,
        number: u32,
        summary: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let update = "UPDATE segments SET summary = ?2 WHERE number = ?1";
        self.update(update, params![number, summary])?;
        if summary.is_none() {
            self.settle();
        }
        Ok(())
    }

    /// Keeps a sealed segment's filter, or drops it before the segment gets another tag.
    pub(crate) fn set_filter(&self, number: u32, filter: Option<&[u8]>) -> Result<(), StoreError> {
        let update = "UPDATE segments SET filter = ?2 WHERE number = ?1";
        self.update(update, params![number, filter])?;
        if filter.is_none() {
            self.settle();
        }
        Ok(())
    }

    /// A rewritten segment takes the place of what it was made from.
    pub(crate) fn set_generation(&self, number: u32, generation: u32) -> Result<(), StoreError> {
        let update = "UPDATE segments SET generation = ?2, summary = NULL, filter = NULL \
                      WHERE number = ?1";
        self.update(update, params![number, generation])?;
        self.settle();
        Ok(())
    }

    /// Forgets a segment; its files may be deleted after that.
    pub(crate) fn remove(&self, number: u32) -> Result<(), StoreError> {
        self.update("DELETE FROM segments WHERE number = ?1", params![number])?;
        self.settle();
        Ok(())
    }

    /// Writes the log back into the file.
    pub(crate) fn close(self) -> Result<(), StoreError> {
        self.connection
            .close()
            .map_err(|(_, error)| sql("close the catalogue")(error))
    }

    /// Moves the log into the file, after every change that something else relies on: files are
    /// deleted and jobs stored because of it. So what may get lost with the end of the log is
    /// only what is found again in the segments: ids set aside, and notes that save opening them.
    fn settle(&self) {
        // The change is durable either way, in the log.
        let _ = checkpoint(&self.connection);
    }

    fn update(&self, update: &str, values: &[&dyn rusqlite::ToSql]) -> Result<(), StoreError> {
        let changed = self.connection.execute(update, values);
        match changed.optional().map_err(sql("write the catalogue"))? {
            Some(1) => Ok(()),
            _ => Err(StoreError::Corrupt {
                what: "the catalogue lost a segment".to_owned(),
            }),
        }
    }
}

const TABLES: &str = "
CREATE TABLE ids (next_id INTEGER NOT NULL, next_segment INTEGER NOT NULL);
INSERT INTO ids VALUES (1, 1);
CREATE TABLE segments (
    number INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    sealed INTEGER NOT NULL DEFAULT 0,
    summary BLOB, -- its counts, once it is sealed and all its jobs have ended
    filter BLOB   -- over its tags, once it is sealed
);
";
