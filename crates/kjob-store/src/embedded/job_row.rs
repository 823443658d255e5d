//! A job as a row of `jobs`: written once by its submit.

use bytes::Bytes;
use kjob_core::{
    Header, JobId, JobOptions, Owner, Priority, QueryId, State, StoreError, Timestamp,
};
use kjob_proto::Text;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::blobs::{Content, Place};
use super::checksum::Checksum;
use super::columns::Columns;
use super::live::first_state;
use super::tags::{TagKey, tag_from};
use crate::values::{duration, encoding_from, encoding_to, millis};

/// The columns that [`JobRow::read`] takes, of a table called `j`.
pub(crate) const COLUMNS: &str = "j.id, j.tag, j.owner, j.endpoint, j.encoding, j.query_id, \
     j.parent_span, j.received_at, j.source_ip, j.priority, j.not_before, j.timeout_ms, \
     j.retention_ms, j.remove_on_complete, j.user_data, j.started, j.payload_len, j.payload_crc, \
     j.payload_file, j.crc, j.callback_url";

/// How many they are.
pub(crate) const COLUMN_COUNT: usize = 21;

const INSERT: &str = "INSERT INTO jobs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, \
     ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)";

/// A row of `jobs`, checked, without its payload.
#[derive(Debug)]
pub(crate) struct JobRow {
    pub(crate) header: Header,
    /// As which it was stored.
    pub(crate) first_state: State,
    pub(crate) payload: Extent,
}

/// Where some bytes are, and what they must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) len: u64,
    pub(crate) crc: u32,
    /// `None` where they are in the row.
    pub(crate) place: Option<Place>,
}

impl Extent {
    pub(crate) fn of(content: &Content) -> Self {
        let data = content.data();
        Self {
            len: data.len() as u64,
            crc: crc32fast::hash(data),
            place: content.place(),
        }
    }

    pub(crate) fn none() -> Self {
        Self {
            len: 0,
            crc: 0,
            place: None,
        }
    }

    /// The same bytes, elsewhere.
    pub(crate) fn moved_to(self, place: Place) -> Self {
        Self {
            place: Some(place),
            ..self
        }
    }

    /// Whether they have a blob file of their own.
    pub(crate) fn has_file(&self) -> bool {
        matches!(self.place, Some(Place::File(_)))
    }
}

/// Adds a job's row; gives its checksum.
pub(crate) fn insert(
    connection: &Connection,
    header: &Header,
    started: bool,
    payload: &Content,
) -> rusqlite::Result<u32> {
    let bytes = Extent::of(payload);
    let options = &header.options;
    let crc = checksum(header, started, &bytes);
    connection.prepare_cached(INSERT)?.execute(params![
        header.id.get(),
        TagKey::of(&header.tag),
        header.owner.as_str(),
        header.endpoint.as_str(),
        encoding_to(header.encoding),
        header.query_id.to_bytes(),
        header.parent_span.cast_signed(),
        header.received_at.as_millis(),
        header.source_ip.as_str(),
        options.priority.get(),
        options.not_before.map(Timestamp::as_millis),
        options.timeout.map(millis),
        millis(options.retention),
        options.remove_on_complete,
        options.user_data.as_str(),
        started,
        bytes.len.cast_signed(),
        bytes.crc,
        bytes.place.map(Place::to_column),
        crc,
        payload.inline(),
        options.callback_url.as_ref().map(Text::as_str),
    ])?;
    Ok(crc)
}

/// Has a job's row name another place of its payload.
pub(crate) fn put_place(
    connection: &Connection,
    row: &JobRow,
    place: Place,
) -> rusqlite::Result<()> {
    let payload = row.payload.moved_to(place);
    let crc = checksum(&row.header, row.is_started(), &payload);
    connection
        .prepare_cached("UPDATE jobs SET payload_file = ?2, crc = ?3 WHERE id = ?1")?
        .execute(params![row.header.id.get(), place.to_column(), crc])?;
    Ok(())
}

impl JobRow {
    /// Whether it was started by the commit that stored it.
    fn is_started(&self) -> bool {
        self.first_state.started_at.is_some()
    }

    /// Reads [`COLUMNS`] from the start of a row.
    pub(crate) fn read(row: &(impl Columns + ?Sized)) -> Result<Self, StoreError> {
        let number = row
            .get_ref(0)
            .ok()
            .and_then(|id| id.as_i64().ok())
            .unwrap_or(0);
        let damaged = || StoreError::Corrupt {
            what: format!("the row of job {number}"),
        };
        let (read, crc) = Self::parse(row).ok().flatten().ok_or_else(damaged)?;
        if checksum(&read.header, read.is_started(), &read.payload) != crc {
            return Err(damaged());
        }
        Ok(read)
    }

    /// The row and its stored checksum; `None` where a value cannot be.
    fn parse(row: &(impl Columns + ?Sized)) -> rusqlite::Result<Option<(Self, u32)>> {
        let text = |column| -> rusqlite::Result<Text> {
            Ok(Text::copy_from(row.get_ref(column)?.as_str()?))
        };
        let Some(id) = JobId::new(row.get(0)?) else {
            return Ok(None);
        };
        let Some(tag) = tag_from(row.get_ref(1)?) else {
            return Ok(None);
        };
        let Some(encoding) = encoding_from(row.get(4)?) else {
            return Ok(None);
        };
        let Some(query_id) = QueryId::from_bytes(row.get(5)?) else {
            return Ok(None);
        };
        let Some(priority) = Priority::new(row.get(9)?) else {
            return Ok(None);
        };
        let (Some(remove_on_complete), Some(started)) = (flag(row, 13)?, flag(row, 15)?) else {
            return Ok(None);
        };
        let options = JobOptions {
            priority,
            not_before: row.get::<Option<i64>>(10)?.map(Timestamp::from_millis),
            timeout: row.get::<Option<i64>>(11)?.map(duration),
            retention: duration(row.get(12)?),
            remove_on_complete,
            user_data: text(14)?,
            callback_url: row.get_ref(20)?.as_str_or_null()?.map(Text::copy_from),
        };
        let header = Header {
            id,
            tag,
            owner: Owner::new(row.get_ref(2)?.as_str()?),
            endpoint: text(3)?,
            encoding,
            query_id,
            parent_span: row.get::<i64>(6)?.cast_unsigned(),
            received_at: Timestamp::from_millis(row.get(7)?),
            source_ip: text(8)?,
            options,
        };
        let Some(place) = place_from(row.get(18)?) else {
            return Ok(None);
        };
        let payload = Extent {
            len: row.get::<i64>(16)?.cast_unsigned(),
            crc: row.get(17)?,
            place,
        };
        let first_state = first_state(&header, started);
        Ok(Some((
            Self {
                header,
                first_state,
                payload,
            },
            row.get(19)?,
        )))
    }
}

/// Bytes kept in a row, checked.
pub(crate) fn inline(
    value: ValueRef<'_>,
    bytes: &Extent,
    what: impl FnOnce() -> String,
) -> Result<Bytes, StoreError> {
    let data = value.as_bytes_or_null().ok().flatten().unwrap_or_default();
    if data.len() as u64 != bytes.len || (bytes.len > 0 && crc32fast::hash(data) != bytes.crc) {
        return Err(StoreError::Corrupt { what: what() });
    }
    Ok(Bytes::copy_from_slice(data))
}

/// Where the bytes are, if not in the row; `None` where that cannot be.
pub(crate) fn place_from(column: Option<i64>) -> Option<Option<Place>> {
    match column {
        None => Some(None),
        Some(value) => Place::from_column(value).map(Some),
    }
}

/// A yes or no; `None` where it is neither, as the checksum has only what was read of it.
fn flag(row: &(impl Columns + ?Sized), column: usize) -> rusqlite::Result<Option<bool>> {
    Ok(match row.get(column)? {
        0_i64 => Some(false),
        1 => Some(true),
        _ => None,
    })
}

fn checksum(header: &Header, started: bool, payload: &Extent) -> u32 {
    let options = &header.options;
    let row = Checksum::default()
        .int(header.id.get())
        .bytes(TagKey::of(&header.tag).bytes())
        .bytes(header.owner.as_str().as_bytes())
        .bytes(header.endpoint.as_bytes())
        .int(encoding_to(header.encoding))
        .bytes(&header.query_id.to_bytes())
        .int(header.parent_span.cast_signed())
        .int(header.received_at.as_millis())
        .bytes(header.source_ip.as_bytes())
        .int(options.priority.get())
        .maybe(options.not_before.map(Timestamp::as_millis))
        .maybe(options.timeout.map(millis))
        .int(millis(options.retention))
        .int(options.remove_on_complete)
        .bytes(options.user_data.as_bytes())
        .int(started)
        .int(payload.len.cast_signed())
        .int(payload.crc)
        .maybe(payload.place.map(Place::to_column));
    // Nothing of one that is not there, so that the rows of format 2 are right as they are.
    match &options.callback_url {
        Some(url) => row.bytes(url.as_bytes()),
        None => row,
    }
    .end()
}
