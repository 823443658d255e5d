//! The tables of the catalogue, and how their rows are read and written.

use std::collections::BTreeMap;

use kjob_core::StoreError;
use rusqlite::{Connection, params};

use super::checksum::Checksum;
use super::error::{self, in_catalogue};
use super::schema;
use super::totals::Sum;

/// The one row of `ids`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    /// The next id that nobody has.
    pub(crate) next_id: i64,
    /// Above every number that a segment ever had.
    pub(crate) next_segment: u32,
    /// Over the rows of `segments`.
    pub(crate) segments: Sum,
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

/// As [`error::sql`]: what fails here is about the catalogue.
pub(crate) fn sql(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| in_catalogue(error::sql(doing)(error))
}

/// As [`error::opening`], of the catalogue.
pub(crate) fn opening(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| in_catalogue(error::opening(doing)(error))
}

impl Ids {
    pub(crate) const FIRST: Self = Self {
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

    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
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
    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
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

    pub(crate) fn checksum(&self) -> u32 {
        Checksum::default()
            .int(self.number)
            .int(self.generation)
            .int(self.first_id)
            .int(self.sealed)
            .maybe(self.summary.map(i64::from))
            .end()
    }
}

/// The rows of `ids` and `segments`, held against each other.
pub(crate) fn read_whole(
    connection: &Connection,
) -> Result<(Ids, BTreeMap<u32, SegmentRecord>), StoreError> {
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
pub(crate) fn make_tables(connection: &Connection, format: i64) -> rusqlite::Result<()> {
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
