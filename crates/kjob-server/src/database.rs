//! The store in databases: opening it, and making its tables.

use std::sync::Arc;

use kjob_core::ShardedStore;
use kjob_store::Observed;
use kjob_store::postgres::{
    OpenError, PostgresOptions, PostgresStore, ShardsError, TABLES_VERSION,
};

use crate::config::{Config, DatabaseUrl, StoreKind};

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// It cannot be opened, or its tables not be made.
    #[error("store {url}: {source}")]
    Open {
        /// The database.
        url: DatabaseUrl,
        /// Why not.
        #[source]
        source: OpenError,
    },
    /// They cannot be opened together, or made a set.
    #[error("store {which}: {source}")]
    Shards {
        /// Which databases it is about, and of how many; without passwords.
        which: String,
        /// Why not.
        #[source]
        source: ShardsError,
    },
    /// The config names none.
    #[error("store = {found:?} is no database; set the postgres:// URL of one")]
    NoDatabase {
        /// What it names.
        found: String,
    },
}

/// A store in databases.
pub(crate) enum Database {
    One(Arc<PostgresStore>),
    Shards(ShardedStore),
}

pub(crate) async fn open(
    urls: &[DatabaseUrl],
    observer: Observed,
) -> Result<Database, DatabaseError> {
    let options = PostgresOptions {
        observer,
        ..PostgresOptions::default()
    };
    if let [url] = urls {
        let opened = PostgresStore::open(url.reveal(), options).await;
        let store = opened.map_err(|source| of_one(url, source))?;
        return Ok(Database::One(Arc::new(store)));
    }
    let opened = PostgresStore::open_shards(&revealed(urls), &options).await;
    opened
        .map(Database::Shards)
        .map_err(|source| of_several(urls, source))
}

/// Makes the tables, or brings them to this version; makes a set of several. Gives what is to be said of it.
pub(crate) async fn migrate(config: &Config) -> Result<String, DatabaseError> {
    let StoreKind::Postgres(urls) = &config.settings.store else {
        let found = config.settings.store.to_string();
        return Err(DatabaseError::NoDatabase { found });
    };
    let options = PostgresOptions::default();
    if let [url] = &urls[..] {
        let migrated = PostgresStore::migrate(url.reveal(), &options).await;
        let made = migrated.map_err(|source| of_one(url, source))?;
        let found = PostgresStore::describe(url.reveal(), &options).await;
        let found = found.map_err(|source| of_one(url, source))?;
        let mut said = of_tables(url, &made, found.tables.as_ref().ok().copied());
        if let Some(place) = found.shard {
            said += &format!(
                "it is shard {} of a set of {}; give the URLs of all of them, in the order of their shards\n",
                place.shard, place.size
            );
        }
        return Ok(said);
    }
    let migrated = PostgresStore::migrate_shards(&revealed(urls), &options).await;
    let migrated = migrated.map_err(|source| of_several(urls, source))?;
    let mut said = String::new();
    for (url, made) in urls.iter().zip(&migrated.versions) {
        let found = PostgresStore::describe(url.reveal(), &options).await;
        let found = found.map_err(|source| of_one(url, source))?;
        said += &of_tables(url, made, found.tables.ok());
    }
    said += &match (migrated.before, migrated.size) {
        (0, size) => format!("they are a set of {size} shards now\n"),
        (before, size) if before == size => format!("they are a set of {size} shards already\n"),
        (before, size) => format!("their set has grown from {before} to {size} shards\n"),
    };
    Ok(said)
}

/// What is said of tables that went through these versions just now, and are of the version that was found.
fn of_tables(url: &DatabaseUrl, made: &[i64], found: Option<i64>) -> String {
    match (made.last(), found) {
        (Some(version), _) => format!("the tables in {url} are of version {version} now\n"),
        (None, Some(newer)) if newer > TABLES_VERSION => format!(
            "the tables in {url} are of version {newer}, newer than the {TABLES_VERSION} of this program, which works \
             with them\n"
        ),
        (None, _) => format!("the tables in {url} are of this program's version already\n"),
    }
}

fn revealed(urls: &[DatabaseUrl]) -> Vec<&str> {
    urls.iter().map(DatabaseUrl::reveal).collect()
}

fn of_one(url: &DatabaseUrl, source: OpenError) -> DatabaseError {
    DatabaseError::Open {
        url: url.clone(),
        source,
    }
}

/// An error of one of them names that one.
fn of_several(urls: &[DatabaseUrl], source: ShardsError) -> DatabaseError {
    let url = source.number().and_then(|number| urls.get(number));
    match (source, url) {
        (ShardsError::Open { source, .. }, Some(url)) => of_one(url, source),
        (source, url) => DatabaseError::Shards {
            which: match (url, other(urls, &source)) {
                (Some(url), Some(other)) => format!("{url} and {other}, of {}", count(urls)),
                (Some(url), None) => format!("{url}, of {}", count(urls)),
                (None, _) => format!("of {}", count(urls)),
            },
            source,
        },
    }
}

/// Where one was given twice, as what it was given first.
fn other<'a>(urls: &'a [DatabaseUrl], error: &ShardsError) -> Option<&'a DatabaseUrl> {
    match error {
        ShardsError::GivenTwice { first, .. } => urls.get(*first),
        _ => None,
    }
}

fn count(urls: &[DatabaseUrl]) -> String {
    match urls.len() {
        1 => "1 database".to_owned(),
        count => format!("{count} databases"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_which_version_the_tables_are_of() {
        let url = DatabaseUrl::new("postgres://kjob:secret@db/jobs");
        let said = |made: &[i64], found| of_tables(&url, made, found);
        let newer = TABLES_VERSION + 1;
        assert!(said(&[1, 2], Some(2)).ends_with("are of version 2 now\n"));
        assert!(said(&[], Some(TABLES_VERSION)).ends_with("this program's version already\n"));
        let of_newer = said(&[], Some(newer));
        assert!(
            of_newer.contains(&format!(
                "of version {newer}, newer than the {TABLES_VERSION} "
            )),
            "{of_newer}"
        );
        assert!(!of_newer.contains("secret"), "{of_newer}");
    }
}
