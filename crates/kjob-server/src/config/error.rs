//! Why a config is refused: which key, where, and what is allowed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use kjob_core::engine::RouteError;

use super::BadValue;

/// A config that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The config file cannot be read.
    #[error("the config file {path} cannot be read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The config file is no TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// File and line.
        place: String,
        /// What is wrong there.
        message: String,
    },
    /// There is no such setting.
    #[error(
        "{place}: unknown key {key:?}; {}allowed are {}",
        nearest.map(|nearest| format!("did you mean {nearest:?}? ")).unwrap_or_default(),
        allowed.join(", "),
    )]
    UnknownKey {
        /// File and line.
        place: String,
        /// What is there.
        key: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
        /// What there is.
        allowed: Vec<&'static str>,
    },
    /// A route cannot be as it is told.
    #[error("{place}: {why}")]
    Route {
        /// File and line.
        place: String,
        /// Why not.
        #[source]
        why: RouteError,
    },
    /// A route lacks what each has, or each of its kind.
    #[error("{place}: the route has no {key}")]
    RouteNeeds {
        /// File and line.
        place: String,
        /// The key that is not there.
        key: &'static str,
    },
    /// A key means nothing in this route.
    #[error("{place}: {key} is set, and needs {needed}")]
    RouteKey {
        /// File and line.
        place: String,
        /// The key that is there.
        key: &'static str,
        /// What it would need.
        needed: &'static str,
    },
    /// The server answers at this endpoint itself.
    #[error("{place}: endpoint {endpoint:?} is the server's own, and cannot be a route")]
    ReservedEndpoint {
        /// File and line.
        place: String,
        /// The endpoint.
        endpoint: String,
    },
    /// A setting cannot have this value.
    #[error("{place}: {key}: {why}")]
    BadValue {
        /// File and line.
        place: String,
        /// The setting.
        key: &'static str,
        /// What it may be.
        #[source]
        why: BadValue,
    },
    /// Anybody could reach the server, and it asks nobody who they are.
    #[error(
        "listen: {listen} is no loopback address, and there are no accounts: whoever reaches it may do everything; make some (kjob-server user add) and set users_file, or use 127.0.0.1 or [::1], or set --insecure to listen there all the same"
    )]
    NotLoopback {
        /// The address.
        listen: SocketAddr,
    },
    /// A setting means nothing without another.
    #[error("{key} is set, and needs {needed}, which is not")]
    Needs {
        /// The setting that is there.
        key: &'static str,
        /// The one that is not.
        needed: &'static str,
    },
    /// One body alone would not fit into the memory for all of them.
    #[error(
        "{key}: {found} bytes are more than max_body_memory, which is {limit}; lower {key}, or raise max_body_memory"
    )]
    BodyMemory {
        /// The setting that asks for more.
        key: &'static str,
        /// Its value.
        found: usize,
        /// The value of `max_body_memory`.
        limit: usize,
    },
}
