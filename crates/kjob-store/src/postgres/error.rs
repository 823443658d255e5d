//! What goes wrong when a store is opened, and what the database's errors mean for a step.

use std::path::PathBuf;
use std::sync::Arc;

use kjob_core::StoreError;
use tokio_postgres::error::SqlState;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is not one of a database.
    #[error("the database's URL cannot be used: {}", said(source))]
    BadUrl {
        /// What is wrong with it.
        #[source]
        source: tokio_postgres::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS for the database: {source}")]
    Tls {
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A file that the URL names has no certificates or no key that can be used.
    #[error("{word}={path} in the database's URL: {source}", path = path.display())]
    TlsFile {
        /// Its word in the URL.
        word: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The URL has a certificate without its key, or a key alone.
    #[error("the database's URL has no {missing}, which goes with sslcert and sslkey")]
    HalfAnIdentity {
        /// What it lacks.
        missing: &'static str,
    },
    /// The database has no tables of kjob.
    #[error("the database has no tables of kjob: run kjob-server migrate")]
    NoSchema,
    /// The database does not let the role make tables.
    #[error("{source}; the role has to own the database, or have CREATE on the schema")]
    MayNotMakeTables {
        /// What the database said.
        #[source]
        source: StoreError,
    },
    /// The tables are of an older version.
    #[error(
        "the database's tables are of version {found}, this program needs {supported}: run kjob-server migrate"
    )]
    OlderSchema {
        /// Their version.
        found: i64,
        /// What this program works with.
        supported: i64,
    },
    /// The tables are of a newer version, which this program cannot work with.
    #[error(
        "the database's tables are of version {found}, which needs programs that know version {needed}; \
         this one knows {supported}: use a newer kjob"
    )]
    NewerSchema {
        /// Their version.
        found: i64,
        /// The oldest version whose programs can work with them.
        needed: i64,
        /// What this program knows.
        supported: i64,
    },
    /// It is one of several databases that hold jobs together, and was to be opened alone.
    #[error(
        "the database is shard {shard} of a set of {size}: give the URLs of all of them, in the order of their \
         shards"
    )]
    OneOfSeveral {
        /// Its number in the set.
        shard: i64,
        /// How many there are.
        size: i64,
    },
    /// The thread of the connections cannot be started.
    #[error("cannot start the thread of the database's connections: {source}")]
    Thread {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database cannot be reached, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// Whether the database could not be reached, or takes no writes for now, and another try may find it as it
    /// should be. What says no by its own word, such as a password that is wrong, does not count.
    pub(crate) fn is_away(&self) -> bool {
        let OpenError::Store(StoreError::Io { source, .. }) = self else {
            return false;
        };
        match source.downcast_ref() {
            Some(Said(error)) => is_of_the_way(error),
            None => source.downcast_ref().is_some_and(is_of_the_network),
        }
    }
}

/// Whether a server did not come to an answer, or has none for now.
fn is_of_the_way(error: &tokio_postgres::Error) -> bool {
    if let Some(code) = error.code() {
        // Those of connections, as programs between us and the server say them too.
        let is_of_connections = code.code().starts_with("08");
        let is_full = *code == SqlState::TOO_MANY_CONNECTIONS;
        return is_of_connections || is_full || is_of_the_server(error);
    }
    let cause = std::error::Error::source(error);
    error.is_closed()
        || cause
            .and_then(|it| it.downcast_ref())
            .is_some_and(is_of_the_network)
}

/// Whether it is the network's, or the driver's of a server that takes no writes. What the driver and TLS make of
/// what they were told has other kinds.
fn is_of_the_network(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    let others = [
        ErrorKind::InvalidInput,
        ErrorKind::InvalidData,
        ErrorKind::Other,
    ];
    !others.contains(&error.kind())
}

/// A [`StoreError`] of a failed statement.
pub(crate) fn sql(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> StoreError {
    move |error| match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => StoreError::Full,
        _ => StoreError::Io {
            doing,
            source: Arc::new(Said(error)),
        },
    }
}

/// What to do where nobody is trusted who signed the database's certificate.
const WHOM_TO_TRUST: &str = "; sslrootcert=FILE in the URL names the authority that signed it";

fn is_of_an_authority(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::{CertificateError, Error};
    let io = error.downcast_ref::<std::io::Error>();
    let tls = io.and_then(|io| io.get_ref()?.downcast_ref::<Error>());
    matches!(
        tls,
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    )
}

/// The driver's error with what the database said, which it leaves to its source.
#[derive(Debug)]
struct Said(tokio_postgres::Error);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&said(&self.0))
    }
}

fn said(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{} ({})", said.message(), said.code().code());
    }
    match std::error::Error::source(error) {
        Some(cause) if is_of_an_authority(cause) => format!("{error}: {cause}{WHOM_TO_TRUST}"),
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl std::error::Error for Said {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The databases were made a set, or another one, after this one was opened.
pub(crate) fn set_has_changed(doing: &'static str) -> StoreError {
    let why = "the set of databases that hold the jobs was changed: start the program anew with all of them";
    StoreError::Io {
        doing,
        source: Arc::new(std::io::Error::other(why)),
    }
}

pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { what: what.into() }
}

/// Whether the statement was given up in favour of others, surely undone, and may be tried again.
pub(crate) fn is_passing(error: &tokio_postgres::Error) -> bool {
    let passing = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ];
    error.code().is_some_and(|code| passing.contains(code))
}

/// Whether an end has no partition to go to.
pub(crate) fn is_without_part(error: &tokio_postgres::Error) -> bool {
    let is_check = error.code() == Some(&SqlState::CHECK_VIOLATION);
    // No constraint of ours is checked, and this one has no name.
    is_check
        && error
            .as_db_error()
            .is_some_and(|said| said.constraint().is_none())
}

/// Whether it may be one row of many that the database does not take.
pub(crate) fn is_of_a_row(error: &tokio_postgres::Error) -> bool {
    // Data, integrity, limits of the program.
    let classes = ["22", "23", "54"];
    let class = error.code().and_then(|code| code.code().get(..2));
    class.is_some_and(|class| classes.contains(&class))
}

/// Whether the connection leads to a server that takes no writes, or not any more.
pub(crate) fn is_of_the_server(error: &tokio_postgres::Error) -> bool {
    let states = [
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
    ];
    error.code().is_some_and(|code| states.contains(code))
}
