//! What all rows of each table of a segment add up to. A row that damage to a page has made
//! unreachable, or brought back, shows in these sums; its own checksum cannot tell.

use rusqlite::{Connection, Row, Statement, params};

use kjob_core::StoreError;

use super::checksum::Checksum;
use super::error::sql;

/// Rows, their ids and their checksums, added up. If one row is missing or too many, the
/// difference of the ids is its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) rows: i64,
    /// Modulo 2^64; of tables without ids, their other number, or 0.
    pub(crate) ids: i64,
    pub(crate) crcs: i64,
}

/// The sums of all tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) jobs: Sum,
    pub(crate) states: Sum,
    pub(crate) ends: Sum,
    pub(crate) expiries: Sum,
    pub(crate) tags: Sum,
    pub(crate) usage: Sum,
    pub(crate) expiry_seconds: Sum,
    pub(crate) callbacks: Sum,
    /// Of the callbacks those that are pending.
    pub(crate) callbacks_due: Sum,
}

impl Sum {
    pub(crate) fn add(&mut self, id: i64, crc: u32) {
        *self = self.plus(Self::row(id, crc));
    }

    pub(crate) fn remove(&mut self, id: i64, crc: u32) {
        *self = self.minus(Self::row(id, crc));
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            rows: self.rows.wrapping_add(other.rows),
            ids: self.ids.wrapping_add(other.ids),
            crcs: self.crcs.wrapping_add(other.crcs),
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            rows: self.rows.wrapping_sub(other.rows),
            ids: self.ids.wrapping_sub(other.ids),
            crcs: self.crcs.wrapping_sub(other.crcs),
        }
    }

    /// Adds up what a query gives as id and checksum.
    pub(crate) fn of(
        query: &mut Statement<'_>,
        values: impl rusqlite::Params,
    ) -> rusqlite::Result<Self> {
        let mut sum = Self::default();
        let mut rows = query.query(values)?;
        while let Some(row) = rows.next()? {
            sum.add(row.get(0)?, row.get(1)?);
        }
        Ok(sum)
    }

    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let numbers = [self.rows, self.ids, self.crcs];
        for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes
    }

    /// Takes the bytes of [`Sum::to_bytes`] from the front.
    pub(crate) fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut number = || {
            let (number, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some(i64::from_le_bytes(*number))
        };
        Some(Self {
            rows: number()?,
            ids: number()?,
            crcs: number()?,
        })
    }

    fn row(id: i64, crc: u32) -> Self {
        Self {
            rows: 1,
            ids: id,
            crcs: i64::from(crc),
        }
    }

    fn checksum(&self, table: &str) -> u32 {
        Checksum::default()
            .bytes(table.as_bytes())
            .int(self.rows)
            .int(self.ids)
            .int(self.crcs)
            .end()
    }
}

impl Totals {
    /// The sums by the names of their tables.
    pub(crate) fn tables(&self) -> [(&'static str, Sum); 9] {
        [
            ("jobs", self.jobs),
            ("states", self.states),
            ("ends", self.ends),
            ("expiries", self.expiries),
            ("tags", self.tags),
            ("usage", self.usage),
            ("expiry_seconds", self.expiry_seconds),
            ("callbacks", self.callbacks),
            ("callbacks_due", self.callbacks_due),
        ]
    }

    pub(crate) fn plus(self, other: &Self) -> Self {
        Self {
            jobs: self.jobs.plus(other.jobs),
            states: self.states.plus(other.states),
            ends: self.ends.plus(other.ends),
            expiries: self.expiries.plus(other.expiries),
            tags: self.tags.plus(other.tags),
            usage: self.usage.plus(other.usage),
            expiry_seconds: self.expiry_seconds.plus(other.expiry_seconds),
            callbacks: self.callbacks.plus(other.callbacks),
            callbacks_due: self.callbacks_due.plus(other.callbacks_due),
        }
    }

    /// The jobs that have not ended: how many, and the sum of their ids. The checksums add up to
    /// nothing that has a meaning.
    pub(crate) fn live(&self) -> Sum {
        Sum {
            crcs: 0,
            ..self.jobs.minus(self.expiries)
        }
    }

    /// Writes those that are not as `old`; all, where there is no old.
    pub(crate) fn write(
        &self,
        connection: &Connection,
        old: Option<&Self>,
    ) -> rusqlite::Result<()> {
        let mut put = connection
            .prepare_cached("INSERT OR REPLACE INTO totals VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let old = old.map(Self::tables);
        for (at, (table, sum)) in self.tables().iter().enumerate() {
            if old.as_ref().and_then(|old| old.get(at)) != Some(&(*table, *sum)) {
                let crc = sum.checksum(table);
                put.execute(params![table, sum.rows, sum.ids, sum.crcs, crc])?;
            }
        }
        Ok(())
    }

    /// Writes the totals of the tables that format 3 added, which are empty.
    pub(crate) fn write_added(connection: &Connection) -> rusqlite::Result<()> {
        let put = "INSERT INTO totals VALUES (?1, 0, 0, 0, ?2)";
        let mut put = connection.prepare(put)?;
        for table in ["callbacks", "callbacks_due"] {
            put.execute(params![table, Sum::default().checksum(table)])?;
        }
        Ok(())
    }

    /// Reads the totals that a segment's file has.
    pub(crate) fn read(connection: &Connection, number: u32) -> Result<Self, StoreError> {
        let doing = || sql("read a segment's totals");
        let one = |table: &str| -> Result<Sum, StoreError> {
            let damaged = || StoreError::Corrupt {
                what: format!("the total of {table} in segment {number}"),
            };
            let query = "SELECT rows, ids, crcs, crc FROM totals WHERE name = ?1";
            let mut query = connection.prepare_cached(query).map_err(doing())?;
            let mut rows = query.query([table]).map_err(doing())?;
            let row = rows.next().map_err(doing())?.ok_or_else(damaged)?;
            let (sum, crc) = Self::parse(row).map_err(|_| damaged())?;
            if sum.checksum(table) == crc {
                Ok(sum)
            } else {
                Err(damaged())
            }
        };
        Ok(Self {
            jobs: one("jobs")?,
            states: one("states")?,
            ends: one("ends")?,
            expiries: one("expiries")?,
            tags: one("tags")?,
            usage: one("usage")?,
            expiry_seconds: one("expiry_seconds")?,
            callbacks: one("callbacks")?,
            callbacks_due: one("callbacks_due")?,
        })
    }

    fn parse(row: &Row<'_>) -> rusqlite::Result<(Sum, u32)> {
        let sum = Sum {
            rows: row.get(0)?,
            ids: row.get(1)?,
            crcs: row.get(2)?,
        };
        Ok((sum, row.get(3)?))
    }
}

/// Fails if the rows of a table do not add up to what they did when they were written.
pub(crate) fn same(number: u32, table: &str, found: Sum, right: Sum) -> Result<(), StoreError> {
    if found == right {
        return Ok(());
    }
    let missing = right.minus(found);
    let which = match missing.rows {
        1 => format!(": that of id {} is missing or damaged", missing.ids),
        _ => String::new(),
    };
    let what = format!(
        "segment {number}: the rows of {table} ({}) are not those that there were ({}){which}",
        found.rows, right.rows
    );
    Err(StoreError::Corrupt { what })
}
