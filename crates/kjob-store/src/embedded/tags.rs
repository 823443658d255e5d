//! Tags as they are kept: UUIDs as 16 bytes, others as text; and how one is hashed.

use std::hash::{DefaultHasher, Hash, Hasher};

use kjob_core::{JobTag, Owner};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::checksum::Checksum;
use super::filter::Filter;
use super::totals::Sum;

/// A tag as a column value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TagKey<'a> {
    /// A tag in the canonical form of a UUID (lower-case hex): less than half the size.
    Uuid([u8; 16]),
    /// Any other.
    Text(&'a str),
}

impl<'a> TagKey<'a> {
    pub(crate) fn of(tag: &'a JobTag) -> Self {
        parse_uuid(tag.as_str()).map_or(TagKey::Text(tag.as_str()), TagKey::Uuid)
    }

    /// The tag in a column as it is kept there, if it is one.
    fn from_column(value: ValueRef<'a>) -> Option<Self> {
        match value {
            ValueRef::Blob(bytes) => bytes.try_into().ok().map(TagKey::Uuid),
            ValueRef::Text(text) => {
                let text = std::str::from_utf8(text).ok()?;
                // One in the form of a UUID is never kept as text.
                let is_tag = text.parse::<JobTag>().is_ok() && parse_uuid(text).is_none();
                is_tag.then_some(TagKey::Text(text))
            }
            _ => None,
        }
    }

    /// The bytes of the value, for checksums.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            TagKey::Uuid(bytes) => bytes,
            TagKey::Text(text) => text.as_bytes(),
        }
    }
}

impl ToSql for TagKey<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            TagKey::Uuid(bytes) => ValueRef::Blob(bytes),
            TagKey::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// The tag in a column, if it is one.
pub(crate) fn tag_from(value: ValueRef<'_>) -> Option<JobTag> {
    match value {
        ValueRef::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        ValueRef::Blob(bytes) => {
            let mut text = [0; Hyphenated::LENGTH];
            let uuid = Uuid::from_bytes(bytes.try_into().ok()?).hyphenated();
            uuid.encode_lower(&mut text).parse().ok()
        }
        _ => None,
    }
}

/// The checksum of a row of `tags`.
pub(crate) fn checksum(key: &TagKey<'_>, owner: &str, id: i64) -> u32 {
    let kind = matches!(key, TagKey::Uuid(_));
    Checksum::default()
        .int(kind)
        .bytes(key.bytes())
        .bytes(owner.as_bytes())
        .int(id)
        .end()
}

/// Writes who has a tag, instead of whoever had it; 0 for nobody here. Gives the row's checksum.
pub(crate) fn put(
    connection: &Connection,
    key: &TagKey<'_>,
    owner: &str,
    id: i64,
) -> rusqlite::Result<u32> {
    let crc = checksum(key, owner, id);
    connection
        .prepare_cached("INSERT OR REPLACE INTO tags VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![key, owner, id, crc])?;
    Ok(crc)
}

/// Reads all rows of a table of tags: a filter over them, and what they add up to.
pub(crate) fn scan(connection: &Connection, table: &str) -> rusqlite::Result<(Filter, Sum)> {
    let rows = format!("SELECT count(*) FROM {table}");
    let rows: i64 = connection.query_row(&rows, [], |row| row.get(0))?;
    let filter = Filter::new(rows.unsigned_abs());
    let sum = visit(connection, table, |key, owner| {
        filter.insert(hash(key, owner))
    })?;
    Ok((filter, sum))
}

/// What all rows of a table of tags add up to, each of them read.
pub(crate) fn sum(connection: &Connection, table: &str) -> rusqlite::Result<Sum> {
    visit(connection, table, |_, _| {})
}

/// Shows `see` each row that is as it was written, and adds these up. A damaged one shows in the sum: it does not count.
fn visit(
    connection: &Connection,
    table: &str,
    mut see: impl FnMut(&TagKey<'_>, &str),
) -> rusqlite::Result<Sum> {
    let mut sum = Sum::default();
    let mut query = connection.prepare(&format!("SELECT tag, owner, id, crc FROM {table}"))?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, crc) = (row.get(2)?, row.get(3)?);
        let (tag, owner) = (row.get_ref(0)?, row.get_ref(1)?);
        if let (Some(key), Ok(owner)) = (TagKey::from_column(tag), owner.as_str())
            && checksum(&key, owner, id) == crc
        {
            see(&key, owner);
            sum.add(id, crc);
        }
    }
    Ok(sum)
}

/// What filters are asked with. Not stable between versions of Rust, which is why every stored
/// filter holds marks that show whether it still answers (see [`super::filter`]).
pub(crate) fn hash(key: &TagKey<'_>, owner: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.bytes().hash(&mut hasher);
    owner.hash(&mut hasher);
    hasher.finish()
}

/// [`hash`] of a tag and its owner.
pub(crate) fn hash_of(tag: &JobTag, owner: &Owner) -> u64 {
    hash(&TagKey::of(tag), owner.as_str())
}

/// The bytes of a UUID in its canonical form.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let is_canonical =
        text.len() == Hyphenated::LENGTH && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let uuid = Uuid::try_parse_ascii(text.as_bytes())
        .ok()
        .filter(|_| is_canonical)?;
    Some(uuid.into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_tag_comes_back_as_it_was(text in "[a-f0-9]{8}(-[a-f0-9]{4}){3}-[a-fA-F0-9]{12}|[A-Za-z0-9_-]{1,40}") {
            let tag: JobTag = text.parse().unwrap();
            let key = TagKey::of(&tag);
            let back = match &key {
                TagKey::Uuid(bytes) => tag_from(ValueRef::Blob(bytes)),
                TagKey::Text(text) => tag_from(ValueRef::Text(text.as_bytes())),
            };
            prop_assert_eq!(back, Some(tag));
        }
    }

    #[test]
    fn only_the_canonical_form_is_a_uuid() {
        let key = |text: &str| matches!(TagKey::of(&text.parse().unwrap()), TagKey::Uuid(_));
        assert!(key("01234567-89ab-cdef-0123-456789abcdef"));
        assert!(!key("01234567-89AB-cdef-0123-456789abcdef"));
        assert!(!key("0123456789abcdef0123456789abcdef"));
        assert!(!key("012345678-9ab-cdef-0123-456789abcdef"));
    }
}
