//! The table of all settings.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::ConfigError;
use super::database::without_password;
use super::routes::ConfiguredRoute;
use super::value::{self, AccountsOfUpstream, BadValue, ClientAuth, LogFormat, Maybe, StoreKind};
use crate::CallbackHosts;
use crate::gateway::Upstream;
use crate::tls::TlsVersion;

/// Where a setting's text is from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// From nowhere: it was not given.
    Default,
    /// A line of the config file, counted from 1.
    File {
        /// The line.
        line: usize,
    },
    /// The environment.
    Variable,
    /// The command line.
    Flag,
}

/// A setting as it was given.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) text: String,
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// What the documentation says of a setting.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) default: &'static str,
    /// What its parser takes.
    pub(super) form: Option<String>,
}

/// Makes a parser of values one of [`Given`], as clap and the file's reader want it.
pub(super) fn given<T>(
    parse: fn(&str) -> Result<T, BadValue>,
) -> impl Fn(&str) -> Result<Given<T>, BadValue> + Clone {
    move |text| {
        Ok(Given {
            text: text.to_owned(),
            value: parse(text)?,
            origin: Origin::Flag,
        })
    }
}

/// Declares the settings: name, type, variable, parser, what stands for the value in the help, and
/// the default as text.
macro_rules! keys {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $type:ty, $variable:literal, $parse:path, $value:literal, default $default:literal
        $(, #[$($extra:tt)+])?;
    )+) => {
        /// Every setting, with its default filled in where it was not given.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        /// The settings that were given, by a file or by flags and variables.
        #[derive(Clone, Debug, Default, clap::Args)]
        pub struct Keys {
            $(
                $(#[doc = $doc])+
                #[arg(
                    long, global = true, env = $variable, hide_env_values = true, value_name = $value,
                    allow_negative_numbers = true, value_parser = given($parse) $(, $($extra)+)?
                )]
                pub(super) $name: Option<Given<$type>>,
            )+
            /// Whether there was a config file.
            #[arg(skip)]
            pub(super) has_file: bool,
            /// The routes of the config file.
            #[arg(skip)]
            pub(super) routes: Vec<ConfiguredRoute>,
        }

        impl Keys {
            /// The names of all settings, as the config file has them.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),+];

            /// Name, variable and default of each setting.
            pub(super) const TABLE: &'static [(&'static str, &'static str, &'static str)] =
                &[$((stringify!($name), $variable, $default)),+];

            /// What the documentation says of each setting.
            pub(super) fn rows() -> Vec<Row> {
                vec![$(Row {
                    name: stringify!($name),
                    what: concat!($($doc),+).trim(),
                    default: $default,
                    // No setting takes nothing, and each parser says what it wants instead.
                    form: $parse("").err().map(|error| error.wanted().to_owned()),
                }),+]
            }

            /// These, and those of `other` that these do not have.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self {
                    $($name: self.$name.or(other.$name),)+
                    has_file: self.has_file || other.has_file,
                    routes: if self.routes.is_empty() { other.routes } else { self.routes },
                }
            }

            /// Sets one. `None` if there is no such setting.
            pub(super) fn set(
                &mut self,
                name: &str,
                text: &str,
                origin: Origin,
            ) -> Option<Result<(), BadValue>> {
                match name {
                    $(stringify!($name) => Some(given($parse)(text).map(|given| {
                        self.$name = Some(Given { origin, ..given });
                    })),)+
                    _ => None,
                }
            }

            /// Notes which are from the environment; clap gives no other way to know.
            pub(super) fn note_variables(&mut self, matches: &ArgMatches) {
                $(
                    if let Some(given) = &mut self.$name
                        && matches.value_source(stringify!($name)) == Some(ValueSource::EnvVariable)
                    {
                        given.origin = Origin::Variable;
                    }
                )+
            }

            /// Name, text and origin of each.
            pub(super) fn listing(&self) -> Vec<(&'static str, String, Origin)> {
                vec![$(match &self.$name {
                    Some(given) => {
                        (stringify!($name), without_password(&given.text), given.origin.clone())
                    }
                    None => (stringify!($name), $default.to_owned(), Origin::Default),
                }),+]
            }

            pub(super) fn settings(self) -> Result<Settings, ConfigError> {
                Ok(Settings {
                    $($name: match self.$name {
                        Some(given) => given.value,
                        None => $parse($default).map_err(|why| ConfigError::BadValue {
                            place: Origin::Default.to_string(),
                            key: stringify!($name),
                            why,
                        })?,
                    },)+
                })
            }
        }
    };
}

keys! {
    /// Where to listen. Only loopback addresses, unless there are accounts or `insecure` is set.
    listen: SocketAddr, "KJOB_LISTEN", value::address, "ADDR:PORT", default "127.0.0.1:9191";
    /// Listen on other than loopback addresses too, though there are no accounts: whoever reaches
    /// the server may do everything.
    insecure: bool, "KJOB_INSECURE", value::boolean, "BOOL", default "false",
        #[num_args = 0..=1, require_equals = true, default_missing_value = "true"];
    /// The file of the users, made with "kjob-server user add"; "none" is no accounts: whoever reaches
    /// the server may do everything.
    users_file: Option<PathBuf>, "KJOB_USERS_FILE", value::maybe_file, "FILE", default "none";
    /// The file that tells who did what, a JSON object a line; "-" is the standard output, "none" is no
    /// such file.
    audit_log: Option<PathBuf>, "KJOB_AUDIT_LOG", value::maybe_file, "FILE", default "none";
    /// Names under which the server answers, besides loopback ones and that of public_url, separated by
    /// commas. Any name is good if this is "none", unless there are no accounts and the server listens
    /// on a loopback address.
    allowed_hosts: Vec<String>, "KJOB_ALLOWED_HOSTS", value::hosts, "HOSTS", default "none";
    /// Origins of web pages that may send requests, each as scheme, host and, if it is not the usual
    /// one, port, separated by commas; "none" is only pages from the server itself.
    cors_origins: Vec<String>, "KJOB_CORS_ORIGINS", value::origins, "ORIGINS", default "none";
    /// The URL that clients are told to reach the server at; "auto" is http:// or, with TLS, https://
    /// and the address it listens on.
    public_url: Maybe<String>, "KJOB_PUBLIC_URL", value::url, "URL", default "auto";
    /// A PEM file with the server's certificate, and those between it and its authority's; with it
    /// and tls_key the server speaks HTTPS, and nothing else. "none" is plain HTTP.
    tls_cert: Option<PathBuf>, "KJOB_TLS_CERT", value::maybe_file, "FILE", default "none";
    /// A PEM file with the private key of tls_cert, not encrypted.
    tls_key: Option<PathBuf>, "KJOB_TLS_KEY", value::maybe_file, "FILE", default "none";
    /// A PEM file with the certificates of the authorities that those of clients are from.
    tls_client_ca: Option<PathBuf>, "KJOB_TLS_CLIENT_CA", value::maybe_file, "FILE", default "none";
    /// Whether clients show certificates: "none", "optional", "required", or "auto", which is
    /// required if there is a tls_client_ca.
    tls_client_auth: Maybe<ClientAuth>, "KJOB_TLS_CLIENT_AUTH", value::client_auth, "WORD", default "auto";
    /// The oldest version of TLS that is spoken: "1.2" or "1.3".
    tls_min_version: TlsVersion, "KJOB_TLS_MIN_VERSION", value::tls_version, "VERSION", default "1.2";
    /// A server of the same protocol, by its URL: what is no job endpoint goes straight through to it, and
    /// jobs of endpoints that no route takes are run by it. "none" is no such server.
    upstream: Option<Upstream>, "KJOB_UPSTREAM", value::upstream, "URL", default "none";
    /// Whether the upstream's accounts count where there is no users_file: "ask" shows it the credentials of
    /// whoever comes for jobs, and lets them at their own if it takes them; "ignore" lets whoever reaches the
    /// server at all jobs, also those of users of the upstream.
    upstream_accounts: AccountsOfUpstream, "KJOB_UPSTREAM_ACCOUNTS", value::upstream_accounts, "WORD", default "ask";
    /// How long it counts what the upstream said of somebody's credentials; then it is asked again.
    upstream_accounts_hold: Duration, "KJOB_UPSTREAM_ACCOUNTS_HOLD", value::duration, "DURATION", default "60s";
    /// Where jobs live: "embedded" in the data directory, "memory", which ends with the process, or a
    /// postgres:// URL: in a database, for as many nodes as use it (kjob-server migrate makes its tables). Several
    /// URLs with commas between: spread over these databases, which are always given in the same order.
    store: StoreKind, "KJOB_STORE", value::store, "KIND", default "embedded";
    /// How long other nodes on the same database take this one for alive without hearing of it; then they
    /// take over what it ran.
    lease_time: Duration, "KJOB_LEASE_TIME", value::duration, "DURATION", default "10s";
    /// The directory of the embedded store, from the working directory on; made if it is not there.
    data_dir: PathBuf, "KJOB_DATA_DIR", value::path, "DIR", default "kjob-data";
    /// Open a store with a damaged log all the same: what was committed from the damage on is lost.
    accept_damaged_logs: bool, "KJOB_ACCEPT_DAMAGED_LOGS", value::boolean, "BOOL", default "false",
        #[num_args = 0..=1, require_equals = true, default_missing_value = "true"];
    /// Serve the demo endpoints; "auto" is yes, if there is no config file.
    demo: Maybe<bool>, "KJOB_DEMO", value::maybe_boolean, "BOOL", default "auto",
        #[num_args = 0..=1, require_equals = true, default_missing_value = "true"];

    /// How many jobs run at once.
    workers: usize, "KJOB_WORKERS", value::count, "N", default "64";
    /// How many of the workers are kept for users who run nothing, while several submit; "auto" is one in eight, none
    /// of fewer than eight. Who is alone has all: nobody else has submitted for a minute. Not over a database.
    reserved_workers: Maybe<usize>, "KJOB_RESERVED_WORKERS", value::maybe_number, "N", default "auto";
    /// How many threads there are for handlers of the program's own, which connections do not share; a
    /// handler that blocks holds one. "auto" is as many as workers, at most 64.
    handler_threads: Maybe<usize>, "KJOB_HANDLER_THREADS", value::maybe_threads, "N", default "auto";
    /// How many jobs may wait; a submit beyond it is refused as busy.
    max_queued: usize, "KJOB_MAX_QUEUED", value::count, "N", default "1000000";
    /// How many jobs of one user may wait; "auto" is as many as of all.
    max_queued_per_user: Maybe<usize>, "KJOB_MAX_QUEUED_PER_USER", value::maybe_count, "N", default "auto";
    /// How many jobs may be stored, those that have ended and are kept included; a submit beyond it is
    /// refused as busy.
    max_stored_jobs: usize, "KJOB_MAX_STORED_JOBS", value::count, "N", default "100000000";
    /// How many jobs of one user may be stored; "auto" is as many as of all.
    max_stored_jobs_per_user: Maybe<usize>, "KJOB_MAX_STORED_JOBS_PER_USER", value::maybe_count, "N", default "auto";
    /// How many bytes of payloads and results may be stored; a submit beyond it is refused as busy.
    /// Results of jobs that were accepted before are stored in any case.
    max_stored_bytes: usize, "KJOB_MAX_STORED_BYTES", value::size, "SIZE", default "64GiB";
    /// How many bytes of one user may be stored; "auto" is as many as of all.
    max_stored_bytes_per_user: Maybe<usize>, "KJOB_MAX_STORED_BYTES_PER_USER", value::maybe_size, "SIZE", default "auto";
    /// How many bytes a result may have; a job with a larger one fails.
    max_result: usize, "KJOB_MAX_RESULT", value::size, "SIZE", default "64MiB";
    /// How long an ended job is kept, unless its submit says so itself.
    retention: Duration, "KJOB_RETENTION", value::duration, "DURATION", default "24h";
    /// How long a job with remove_job_on_complete is kept after its result was fetched first.
    remove_grace: Duration, "KJOB_REMOVE_GRACE", value::duration, "DURATION", default "60s";
    /// How long a job may go on after it was told to stop.
    stop_grace: Duration, "KJOB_STOP_GRACE", value::duration, "DURATION", default "5s";
    /// How long running jobs may go on when the server is told to stop.
    drain_timeout: Duration, "KJOB_DRAIN_TIMEOUT", value::duration, "DURATION", default "30s";

    /// How many bytes a request body may have.
    max_body: usize, "KJOB_MAX_BODY", value::size, "SIZE", default "64MiB";
    /// How many bytes snappy data may unfold to.
    max_decompressed: usize, "KJOB_MAX_DECOMPRESSED", value::size, "SIZE", default "64MiB";
    /// How many bytes a text in a request may have that is no payload.
    max_string: usize, "KJOB_MAX_STRING", value::size, "SIZE", default "1MiB";
    /// How many entries a map or an array in a request may have.
    max_map_entries: usize, "KJOB_MAX_MAP_ENTRIES", value::count, "N", default "65536";
    /// How many levels deep JSON may be, at most 127.
    max_depth: usize, "KJOB_MAX_DEPTH", value::depth, "N", default "32";
    /// How many bytes the head of a request may have.
    max_header_bytes: usize, "KJOB_MAX_HEADER_BYTES", value::head, "SIZE", default "64KiB";
    /// How many connections may be open; when one more comes, some that rest end. Fewer where the
    /// limit of open files leaves no room for as many and for the store.
    max_connections: usize, "KJOB_MAX_CONNECTIONS", value::count, "N", default "10000";
    /// How many of them one address may have; "auto" is as many as all, as behind a proxy all come
    /// from one.
    max_connections_per_address: Maybe<usize>, "KJOB_MAX_CONNECTIONS_PER_ADDRESS", value::maybe_count, "N", default "auto";
    /// How many requests may be in progress beyond the first of each connection, as HTTP/2 may have
    /// them; more are refused as busy.
    max_streams: usize, "KJOB_MAX_STREAMS", value::count, "N", default "10000";
    /// How many bytes the bodies of all requests and answers in progress may take together, at least
    /// max_body and max_result; a request that needs more is refused as busy.
    max_body_memory: usize, "KJOB_MAX_BODY_MEMORY", value::size, "SIZE", default "1GiB";
    /// How long the head of a request may take to arrive.
    header_timeout: Duration, "KJOB_HEADER_TIMEOUT", value::positive_duration, "DURATION", default "15s";
    /// How long a request body may take to arrive.
    body_timeout: Duration, "KJOB_BODY_TIMEOUT", value::positive_duration, "DURATION", default "120s";
    /// How long a request body that has begun may bring nothing.
    body_idle_timeout: Duration, "KJOB_BODY_IDLE_TIMEOUT", value::positive_duration, "DURATION", default "20s";
    /// How long a client may take nothing of an answer.
    write_timeout: Duration, "KJOB_WRITE_TIMEOUT", value::positive_duration, "DURATION", default "60s";
    /// How long a connection may be idle between two requests.
    keep_alive_timeout: Duration, "KJOB_KEEP_ALIVE_TIMEOUT", value::positive_duration, "DURATION", default "180s";
    /// The most that a get may ask to wait for its job; longer waits count as this.
    max_wait: Duration, "KJOB_MAX_WAIT", value::duration, "DURATION", default "300s";
    /// How long requests in progress have to end, once the server stops.
    stop_timeout: Duration, "KJOB_STOP_TIMEOUT", value::duration, "DURATION", default "5s";

    /// Hosts that may be told of the ends of jobs (callback_url), each perhaps with a port, separated by
    /// commas; "none" is no callbacks. Names lead to public addresses only; an address may be any.
    callback_hosts: CallbackHosts, "KJOB_CALLBACK_HOSTS", value::callback_hosts, "HOSTS", default "none";
    /// A file with the secret that callbacks are signed with: "whsec_" and 24 to 64 bytes in base64.
    callback_secret_file: Option<PathBuf>, "KJOB_CALLBACK_SECRET_FILE", value::maybe_file, "FILE", default "none";
    /// How long after the end of a job its callback is given up.
    callback_retry_for: Duration, "KJOB_CALLBACK_RETRY_FOR", value::duration, "DURATION", default "24h";
    /// How long a receiver of a callback may take to answer.
    callback_timeout: Duration, "KJOB_CALLBACK_TIMEOUT", value::positive_duration, "DURATION", default "15s";

    /// Serve the console, a page for browsers, at / and /console/.
    console: bool, "KJOB_CONSOLE", value::boolean, "BOOL", default "true",
        #[num_args = 0..=1, require_equals = true, default_missing_value = "true"];
    /// Show the metrics to whoever asks, and not only to admins or, where there is no users_file, to
    /// callers on this machine.
    metrics_public: bool, "KJOB_METRICS_PUBLIC", value::boolean, "BOOL", default "false",
        #[num_args = 0..=1, require_equals = true, default_missing_value = "true"];
    /// A collector of traces by its URL, such as http://127.0.0.1:4318, which speaks OTLP over HTTP; spans go
    /// to /v1/traces below it. "none" is no traces.
    otlp_endpoint: Option<Upstream>, "KJOB_OTLP_ENDPOINT", value::upstream, "URL", default "none";
    /// Which log lines are written: a level, or levels by module such as "info,kjob_core=debug".
    log: String, "KJOB_LOG", value::filter, "FILTER", default "info";
    /// How log lines are written: "human", "json", or "auto", which is human on a terminal.
    log_format: LogFormat, "KJOB_LOG_FORMAT", value::log_format, "FORMAT", default "auto";
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { line } => write!(f, "config file, line {line}"),
            Self::Variable => f.write_str("environment"),
            Self::Flag => f.write_str("command line"),
        }
    }
}

#[cfg(test)]
mod tests {
    use kjob_core::engine::EngineConfig;

    use super::super::Config;
    use super::*;
    use crate::ServerOptions;

    #[test]
    fn variables_are_named_as_their_keys() {
        for (name, variable, _) in Keys::TABLE {
            assert_eq!(*variable, format!("KJOB_{}", name.to_uppercase()));
        }
    }

    /// Engine and listener have defaults of their own, for those who embed them: the program's must
    /// not differ.
    #[test]
    fn defaults_are_those_of_the_library() {
        let config = Config::resolve(Keys::default()).unwrap();
        let (ours, engine) = (config.engine(), EngineConfig::default());
        assert_eq!(format!("{ours:?}"), format!("{engine:?}"));
        let (ours, listener) = (config.server(), ServerOptions::default());
        assert_eq!(format!("{ours:?}"), format!("{listener:?}"));
    }

    #[test]
    fn what_was_given_first_wins() {
        let mut flags = Keys::default();
        flags.set("workers", "3", Origin::Flag).unwrap().unwrap();
        let mut file = Keys::default();
        let line = |line| Origin::File { line };
        file.set("workers", "4", line(1)).unwrap().unwrap();
        file.set("max_queued", "5", line(2)).unwrap().unwrap();
        let config = Config::resolve(flags.or(file)).unwrap();
        assert_eq!(config.settings.workers, 3);
        assert_eq!(config.settings.max_queued, 5);
        let listing = config.to_toml();
        assert!(
            listing.contains("workers = \"3\"  # command line\n"),
            "{listing}"
        );
        assert!(
            listing.contains("max_queued = \"5\"  # config file, line 2\n"),
            "{listing}"
        );
        assert!(listing.contains("log = \"info\"  # default\n"), "{listing}");
    }
}
