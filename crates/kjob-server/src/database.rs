//! The store in a database: opening it, and making its tables.

use std::sync::Arc;

use kjob_store::Observed;
use kjob_store::postgres::{OpenError, PostgresOptions, PostgresStore};

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
    /// The config names none.
    #[error("store = {found:?} is no database; set the postgres:// URL of one")]
    NoDatabase {
        /// What it names.
        found: String,
    },
}

pub(crate) async fn open(
    url: &DatabaseUrl,
    observer: Observed,
) -> Result<Arc<PostgresStore>, DatabaseError> {
    let options = PostgresOptions {
        observer,
        ..PostgresOptions::default()
    };
    let opened = PostgresStore::open(url.reveal(), options).await;
    let store = opened.map_err(|source| DatabaseError::Open {
        url: url.clone(),
        source,
    })?;
    Ok(Arc::new(store))
}

/// Makes the tables, or brings them to this version; gives what is to be said of it.
pub(crate) async fn migrate(config: &Config) -> Result<String, DatabaseError> {
    let StoreKind::Postgres(url) = &config.settings.store else {
        let found = config.settings.store.to_string();
        return Err(DatabaseError::NoDatabase { found });
    };
    let migrated = PostgresStore::migrate(url.reveal(), &PostgresOptions::default()).await;
    let versions = migrated.map_err(|source| DatabaseError::Open {
        url: url.clone(),
        source,
    })?;
    Ok(match versions.last() {
        Some(version) => format!("the tables in {url} are of version {version} now\n"),
        None => format!("the tables in {url} are of this program's version already\n"),
    })
}
