//! What a server is told to be: flags, `KJOB_` variables and a TOML file, in this order of
//! precedence, and defaults for all that none of them says.
//!
//! Each setting has one name everywhere: `max_queued` in the file is `--max-queued` and
//! `KJOB_MAX_QUEUED`. A value is the same text in all three; in the file, numbers and booleans
//! may also be written as such. What is not known, or not possible, is refused with its place.
//!
//! ```
//! use kjob_server::config::{Config, Keys};
//! use std::time::Duration;
//!
//! let file = Keys::from_toml("retention = \"2h\"\nworkers = 8", "kjob.toml".as_ref())?;
//! let config = Config::resolve(file)?;
//! assert_eq!(config.settings.retention, Duration::from_secs(7_200));
//! assert_eq!(config.engine().workers, 8);
//! // Where a config file is given, only what it names is served.
//! assert!(!config.demo);
//!
//! let error = Keys::from_toml("retentoin = \"2h\"", "kjob.toml".as_ref()).unwrap_err();
//! assert!(error.to_string().starts_with("kjob.toml:1: unknown key \"retentoin\"; did you mean \"retention\"?"));
//! # Ok::<(), kjob_server::config::ConfigError>(())
//! ```

mod cli;
mod database;
mod error;
mod file;
mod keys;
#[cfg(test)]
mod properties;
mod reference;
mod route_value;
mod routes;
mod sample;
mod tls;
mod value;

use std::path::{Path, PathBuf};

use kjob_core::engine::EngineConfig;
use kjob_proto::Limits;

pub use crate::doctor::DoctorArgs;
pub use crate::store_cli::StoreArgs;
pub(crate) use cli::misspelt_in_environment;
pub use cli::{Cli, Command, misspelt_variables};
pub use database::DatabaseUrl;
pub use error::ConfigError;
pub use keys::{Keys, Origin, Settings};
pub use reference::reference;
pub use value::{AccountsOfUpstream, BadValue, ClientAuth, LogFormat, Maybe, StoreKind};

use crate::gateway::{GatewayOptions, Route};
use crate::tls::TlsOptions;
use crate::{Callbacks, SecretError, ServerOptions, WebRules};

/// The most threads for handlers, unless it is told.
const HANDLER_THREADS_MAX: usize = 64;

/// Settings that hold together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Each setting, given or by default.
    pub settings: Settings,
    /// Whether the demo endpoints are served: as told, else only where there is no config file.
    pub demo: bool,
    /// What TLS is to be set up with, if it is to be spoken.
    pub tls: Option<TlsOptions>,
    /// The routes, in their order.
    pub routes: Vec<Route>,
    /// The config file, if there was one: where routes can be read anew.
    pub file: Option<PathBuf>,
    /// The routes as they were told, without secrets.
    route_listing: String,
    /// Each setting's name and text, and where the text is from.
    listing: Vec<(&'static str, String, Origin)>,
}

impl Config {
    /// Takes what was given, fills in the rest, and checks what settings ask of each other.
    ///
    /// # Errors
    /// [`ConfigError::NotLoopback`], [`ConfigError::BodyMemory`], [`ConfigError::Needs`]; a bad value was refused when it was read.
    pub fn resolve(mut keys: Keys) -> Result<Self, ConfigError> {
        let has_file = keys.has_file;
        let given = std::mem::take(&mut keys.routes);
        let listing = keys.listing();
        let settings = keys.settings()?;
        // Without accounts, whoever reaches the server may do everything.
        let is_open = settings.users_file.is_none() && !settings.insecure;
        if is_open && !settings.listen.ip().is_loopback() {
            return Err(ConfigError::NotLoopback {
                listen: settings.listen,
            });
        }
        for (key, found) in [
            ("max_body", settings.max_body),
            ("max_result", settings.max_result),
        ] {
            let limit = settings.max_body_memory;
            if found > limit {
                return Err(ConfigError::BodyMemory { key, found, limit });
            }
        }
        let (hosts, secret) = (&settings.callback_hosts, &settings.callback_secret_file);
        if !hosts.is_empty() && secret.is_none() {
            return Err(ConfigError::Needs {
                key: "callback_hosts",
                needed: "callback_secret_file",
            });
        }
        Ok(Self {
            tls: tls::options(&settings)?,
            demo: settings.demo.as_told().unwrap_or(!has_file),
            settings,
            file: None,
            route_listing: given.iter().map(|given| given.listing.as_str()).collect(),
            routes: given.into_iter().map(|given| given.route).collect(),
            listing,
        })
    }

    /// The routes that a config file has now.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or has a key or a value that is not possible, be it of a
    /// route or not.
    pub fn routes_of(file: &Path) -> Result<Vec<Route>, ConfigError> {
        let given = Keys::from_file(file)?.routes.into_iter();
        Ok(given.map(|given| given.route).collect())
    }

    /// All settings and routes as a TOML file, each with where it is from. What may be secret is left
    /// out.
    pub fn to_toml(&self) -> String {
        let settings = self
            .listing
            .iter()
            .map(|(name, text, origin)| format!("{name} = {text:?}  # {origin}\n"));
        settings.chain([self.route_listing.clone()]).collect()
    }

    /// How many settings were given, and are not by default.
    pub(crate) fn given_count(&self) -> usize {
        let given = self.listing.iter();
        given
            .filter(|(_, _, origin)| *origin != Origin::Default)
            .count()
    }

    /// What routes to upstreams and commands may take.
    pub fn gateway(&self) -> GatewayOptions {
        let settings = &self.settings;
        GatewayOptions {
            max_result: settings.max_result,
            max_memory: settings.max_body_memory,
            ..GatewayOptions::default()
        }
    }

    /// What the engine is to be given.
    pub fn engine(&self) -> EngineConfig {
        let settings = &self.settings;
        let mut engine = EngineConfig::default();
        engine.workers = settings.workers;
        engine.reserved_workers = settings.reserved_workers.as_told();
        engine.max_queued = settings.max_queued;
        engine.max_queued_per_owner = settings.max_queued_per_user.or(usize::MAX);
        engine.max_stored_jobs = settings.max_stored_jobs as u64;
        engine.max_stored_jobs_per_owner = settings.max_stored_jobs_per_user.or(usize::MAX) as u64;
        engine.max_stored_bytes = settings.max_stored_bytes as u64;
        engine.max_stored_bytes_per_owner =
            settings.max_stored_bytes_per_user.or(usize::MAX) as u64;
        engine.max_result = settings.max_result;
        engine.retention = settings.retention;
        engine.remove_grace = settings.remove_grace;
        engine.stop_grace = settings.stop_grace;
        engine.limits = self.limits();
        engine
    }

    /// How many threads poll handlers: as told, else as many as handlers may run, so that each may
    /// block one and others still run; but no more than are cheap.
    pub fn handler_threads(&self) -> usize {
        let settings = &self.settings;
        let threads = settings.workers.min(HANDLER_THREADS_MAX);
        settings.handler_threads.or(threads)
    }

    /// What decoding a request may take.
    pub fn limits(&self) -> Limits {
        let settings = &self.settings;
        Limits::default()
            .with_max_body(settings.max_body)
            .with_max_decompressed(settings.max_decompressed)
            .with_max_string(settings.max_string)
            .with_max_map_entries(settings.max_map_entries)
            .with_max_depth(settings.max_depth)
    }

    /// What web pages may do.
    ///
    /// A server that asks nobody who they are is kept to the machine it is on by where it listens; a
    /// browser on that machine goes around this, so there names count as well.
    pub fn web(&self) -> WebRules {
        let settings = &self.settings;
        let mut web = WebRules::default();
        let is_kept = settings.users_file.is_none() && settings.listen.ip().is_loopback();
        if is_kept || !settings.allowed_hosts.is_empty() {
            web = web.loopback_hosts_only();
            let hosts = settings.allowed_hosts.iter().map(String::as_str);
            web = hosts.fold(web, WebRules::host);
        }
        if let Some(url) = settings.public_url.as_told() {
            web = web.own_origin(&url);
            if let Some(host) = url
                .parse::<http::Uri>()
                .ok()
                .as_ref()
                .and_then(http::Uri::host)
                && web.is_bound()
            {
                web = web.host(host.trim_start_matches('[').trim_end_matches(']'));
            }
        }
        let origins = settings.cors_origins.iter().map(String::as_str);
        origins.fold(web, WebRules::origin)
    }

    /// How callbacks are made, if any are.
    ///
    /// # Errors
    /// The file of the secret.
    pub fn callbacks(&self) -> Result<Option<Callbacks>, SecretError> {
        let settings = &self.settings;
        let hosts = settings.callback_hosts.clone();
        let file = settings.callback_secret_file.as_ref();
        let Some(file) = file.filter(|_| !hosts.is_empty()) else {
            return Ok(None);
        };
        let callbacks = Callbacks::from_file(hosts, file)?;
        let callbacks = callbacks.retry_for(settings.callback_retry_for);
        Ok(Some(callbacks.timeout(settings.callback_timeout)))
    }

    /// What the listener is to be given.
    pub fn server(&self) -> ServerOptions {
        let settings = &self.settings;
        ServerOptions {
            limits: self.limits(),
            max_header_bytes: settings.max_header_bytes,
            max_connections: settings.max_connections,
            max_connections_per_address: settings.max_connections_per_address.or(usize::MAX),
            max_streams: settings.max_streams,
            max_body_memory: settings.max_body_memory,
            header_timeout: settings.header_timeout,
            body_timeout: settings.body_timeout,
            body_idle_timeout: settings.body_idle_timeout,
            write_timeout: settings.write_timeout,
            keep_alive_timeout: settings.keep_alive_timeout,
            max_wait: settings.max_wait,
            stop_timeout: settings.stop_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(toml: &str) -> Result<Config, ConfigError> {
        Config::resolve(Keys::from_toml(toml, "kjob.toml".as_ref()).unwrap())
    }

    #[test]
    fn callbacks_need_hosts_and_a_secret() {
        assert!(resolve("").unwrap().callbacks().unwrap().is_none());
        let hosts = "callback_hosts = \"hooks.example.com, 127.0.0.1:9000\"";
        let needs = resolve(hosts).unwrap_err().to_string();
        assert!(needs.contains("callback_secret_file"), "{needs}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        let both = format!("{hosts}\ncallback_secret_file = {file:?}");
        let config = resolve(&both).unwrap();
        assert!(matches!(config.callbacks(), Err(SecretError::Read { .. })));
        std::fs::write(&file, "hunter2").unwrap();
        assert!(matches!(config.callbacks(), Err(SecretError::Form)));
        std::fs::write(&file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        assert!(config.callbacks().unwrap().is_some());
        let bad = Keys::from_toml("callback_hosts = \"http://a\"", "kjob.toml".as_ref());
        let bad = bad.unwrap_err().to_string();
        assert!(bad.contains("127.0.0.1:9000"), "{bad}");
    }
}
