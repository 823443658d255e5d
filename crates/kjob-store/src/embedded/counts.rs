//! The rows of a segment that count others, and its notes about itself; each with a checksum.

use kjob_core::{Owner, StoreError, Usage};
use rusqlite::{Connection, OptionalExtension, params};

use super::checksum::Checksum;
use super::error::{sql, sql_of};
use super::summary::{Expiries, OwnerUsage};
use super::totals::Sum;

/// Tables and indexes whose first page is noted in `meta`, and the name of the note.
pub(crate) const PAGES: [(&str, &str); 2] = [
    ("callbacks", "callbacks_page"),
    ("callbacks_due", "callbacks_due_page"),
];

/// What `meta` says of a segment, with `None` where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) number: Option<u32>,
    pub(crate) generation: Option<u32>,
    /// 0 where none is noted.
    pub(crate) low_water: i64,
    pub(crate) opened_at: Option<i64>,
    /// Where the tables begin that a converted file has in other places than a new one.
    pub(crate) pages: [Option<i64>; 2],
}

/// Writes what an owner has; gives the row's checksum.
pub(crate) fn put_usage(
    connection: &Connection,
    owner: &Owner,
    usage: &Usage,
) -> rusqlite::Result<u32> {
    let crc = usage_checksum(owner, usage);
    connection
        .prepare_cached("INSERT OR REPLACE INTO usage VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            owner.as_str(),
            usage.jobs.cast_signed(),
            usage.bytes.cast_signed(),
            crc
        ])?;
    Ok(crc)
}

/// Writes how many jobs have expired once a second begins; gives the row's checksum.
pub(crate) fn put_second(connection: &Connection, second: i64, jobs: u64) -> rusqlite::Result<u32> {
    let crc = second_checksum(second, jobs);
    connection
        .prepare_cached("INSERT OR REPLACE INTO expiry_seconds VALUES (?1, ?2, ?3)")?
        .execute(params![second, jobs.cast_signed(), crc])?;
    Ok(crc)
}

pub(crate) fn remove_second(connection: &Connection, second: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM expiry_seconds WHERE second = ?1")?
        .execute([second])?;
    Ok(())
}

/// Writes one of the values of [`Meta`].
pub(crate) fn put_meta(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2, ?3)")?
        .execute(params![name, value, meta_checksum(name, value)])?;
    Ok(())
}

/// What each owner has in a segment, and what those rows add up to.
pub(crate) fn read_usage(
    connection: &Connection,
    number: u32,
) -> Result<(OwnerUsage, Sum), StoreError> {
    let doing = || sql("read a segment's usage");
    let query = "SELECT owner, jobs, bytes, crc FROM usage";
    let mut query = connection.prepare(query).map_err(doing())?;
    let mut rows = query.query([]).map_err(doing())?;
    let (mut usage, mut sum) = (OwnerUsage::new(), Sum::default());
    while let Some(row) = rows.next().map_err(doing())? {
        let read = || -> rusqlite::Result<(Owner, Usage, u32)> {
            let (jobs, bytes): (i64, i64) = (row.get(1)?, row.get(2)?);
            let of = Usage {
                jobs: jobs.cast_unsigned(),
                bytes: bytes.cast_unsigned(),
            };
            Ok((Owner::new(row.get_ref(0)?.as_str()?), of, row.get(3)?))
        };
        let right = read()
            .ok()
            .filter(|(owner, of, crc)| usage_checksum(owner, of) == *crc);
        let Some((owner, of, crc)) = right else {
            let what = format!("a row of the usage of segment {number}");
            return Err(StoreError::Corrupt { what });
        };
        sum.add(0, crc);
        usage.insert(owner, of);
    }
    Ok((usage, sum))
}

/// When a segment's ended jobs expire, and what those rows add up to.
pub(crate) fn read_seconds(
    connection: &Connection,
    number: u32,
) -> Result<(Expiries, Sum), StoreError> {
    let doing = || sql("read when a segment's jobs expire");
    let query = "SELECT second, jobs, crc FROM expiry_seconds";
    let mut query = connection.prepare(query).map_err(doing())?;
    let mut rows = query.query([]).map_err(doing())?;
    let (mut expiries, mut sum) = (Expiries::default(), Sum::default());
    while let Some(row) = rows.next().map_err(doing())? {
        let read =
            || -> rusqlite::Result<(i64, i64, u32)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
        let right = read()
            .ok()
            .filter(|(second, jobs, crc)| second_checksum(*second, jobs.cast_unsigned()) == *crc);
        let Some((second, jobs, crc)) = right else {
            let what = format!("a row of the expiry counts of segment {number}");
            return Err(StoreError::Corrupt { what });
        };
        sum.add(second, crc);
        expiries.add(second, jobs);
    }
    Ok((expiries, sum))
}

impl Meta {
    /// `file` is for the error.
    pub(crate) fn read(connection: &Connection, file: &str) -> Result<Self, StoreError> {
        let one = |name: &str| -> Result<Option<i64>, StoreError> {
            let query = "SELECT value, crc FROM meta WHERE name = ?1";
            let found: Option<(i64, u32)> = connection
                .prepare_cached(query)
                .and_then(|mut query| {
                    query
                        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
                        .optional()
                })
                .map_err(sql_of("read its notes", || file.to_owned()))?;
            match found {
                Some((value, crc)) if meta_checksum(name, value) != crc => {
                    Err(StoreError::Corrupt {
                        what: format!("{file}: the row {name} of meta"),
                    })
                }
                other => Ok(other.map(|(value, _)| value)),
            }
        };
        let small = |value: Option<i64>| value.and_then(|v| u32::try_from(v).ok());
        Ok(Self {
            number: small(one("number")?),
            generation: small(one("generation")?),
            low_water: one("low_water")?.unwrap_or(0),
            opened_at: one("opened_at")?,
            pages: [one(PAGES[0].1)?, one(PAGES[1].1)?],
        })
    }
}

pub(crate) fn usage_checksum(owner: &Owner, usage: &Usage) -> u32 {
    Checksum::default()
        .bytes(owner.as_str().as_bytes())
        .int(usage.jobs.cast_signed())
        .int(usage.bytes.cast_signed())
        .end()
}

pub(crate) fn second_checksum(second: i64, jobs: u64) -> u32 {
    Checksum::default()
        .int(second)
        .int(jobs.cast_signed())
        .end()
}

fn meta_checksum(name: &str, value: i64) -> u32 {
    Checksum::default().bytes(name.as_bytes()).int(value).end()
}
