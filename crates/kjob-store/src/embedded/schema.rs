//! What SQLite itself goes by in a file, and no checksum covers: where each table begins, and how
//! it is read.

use rusqlite::Connection;

/// "kjob", so that `file` and `sqlite3` can tell what a file is.
pub(crate) const APPLICATION_ID: i64 = 0x6b6a_6f62;

/// The format of catalogue and segments (docs/store.md). Another one is refused.
pub(crate) const FORMAT: i64 = 4;

/// Type, name, first page and definition.
type Table = (String, String, i64, String);

/// The tables of a file, as SQLite knows them.
#[derive(Debug, PartialEq)]
pub(crate) struct Schema {
    tables: Vec<Table>,
    encoding: String,
    application_id: i64,
    format: i64,
}

impl Schema {
    /// That of a file.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let query = "SELECT type, name, rootpage, sql FROM sqlite_schema ORDER BY rowid";
        let mut query = connection.prepare(query)?;
        let tables = query.query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
        let number = |name| connection.pragma_query_value(None, name, |row| row.get(0));
        Ok(Self {
            tables: tables.collect::<Result<_, _>>()?,
            encoding: connection.pragma_query_value(None, "encoding", |row| row.get(0))?,
            application_id: number("application_id")?,
            format: number("user_version")?,
        })
    }

    /// That of a file which was made so.
    pub(crate) fn of(
        make: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Self> {
        let model = Connection::open_in_memory()?;
        make(&model)?;
        Self::read(&model)
    }

    /// Whether it is this one, but for the first pages of the tables with these names.
    pub(crate) fn is(&self, right: &Self, moved: &[&str]) -> bool {
        let is_same = |(found, right): (&Table, &Table)| {
            let page = if moved.contains(&right.1.as_str()) {
                right.2
            } else {
                found.2
            };
            (&found.0, &found.1, page, &found.3) == (&right.0, &right.1, right.2, &right.3)
        };
        self.tables.len() == right.tables.len()
            && self.tables.iter().zip(&right.tables).all(is_same)
            && (&self.encoding, self.application_id, self.format)
                == (&right.encoding, right.application_id, right.format)
    }

    pub(crate) fn format(&self) -> i64 {
        self.format
    }

    /// Where a table begins.
    pub(crate) fn page_of(&self, name: &str) -> Option<i64> {
        let table = self.tables.iter().find(|table| table.1 == name);
        table.map(|table| table.2)
    }
}

/// Says in a file whose it is and of which format.
pub(crate) fn mark(connection: &Connection, format: i64) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", format)
}
