//! A row's values, whoever read them.

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, ValueRef};

/// Values by the number of their column: those of a statement of SQLite's, or what was
/// [read without it](super::at_rest).
pub(crate) trait Columns {
    /// # Errors
    /// There is no such column.
    fn get_ref(&self, at: usize) -> rusqlite::Result<ValueRef<'_>>;

    /// # Errors
    /// There is no such column, or what it has is none of these.
    fn get<T: FromSql>(&self, at: usize) -> rusqlite::Result<T> {
        let value = self.get_ref(at)?;
        T::column_result(value).map_err(|error| match error {
            FromSqlError::OutOfRange(found) => rusqlite::Error::IntegralValueOutOfRange(at, found),
            other => rusqlite::Error::FromSqlConversionFailure(at, value.data_type(), other.into()),
        })
    }
}

impl Columns for Row<'_> {
    fn get_ref(&self, at: usize) -> rusqlite::Result<ValueRef<'_>> {
        Row::get_ref(self, at)
    }
}

impl Columns for [ValueRef<'_>] {
    fn get_ref(&self, at: usize) -> rusqlite::Result<ValueRef<'_>> {
        let value = self.get(at).copied();
        value.ok_or(rusqlite::Error::InvalidColumnIndex(at))
    }
}
