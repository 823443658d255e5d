//! Routes as they are told: which endpoints, and what runs them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use kjob_core::engine::RouteOptions;

use super::Upstream;
use super::command::Limits;

/// An endpoint, or all that begin alike, and what runs their jobs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Route {
    /// An endpoint, or a prefix ending in `*`.
    pub endpoint: String,
    /// How the jobs are run, whatever runs them.
    pub options: RouteOptions,
    /// How many bytes a result may have; `None` for as many as any.
    pub max_result: Option<usize>,
    /// What runs them.
    pub kind: RouteKind,
}

/// What runs the jobs of a route.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(
    clippy::large_enum_variant,
    reason = "routes are few, and made when a config is read"
)]
pub enum RouteKind {
    /// Another server.
    Http(HttpRoute),
    /// A program on this machine.
    Command(CommandRoute),
}

/// A server that runs jobs.
#[derive(Clone)]
#[non_exhaustive]
pub struct HttpRoute {
    /// Where it is; for [`Wire::Kinetica`] there may be more, the clusters of a ring.
    pub upstreams: Vec<Upstream>,
    /// What is spoken with it.
    pub wire: Wire,
    /// What binary payloads are called there, with [`Wire::Plain`].
    pub content_type: HeaderValue,
    /// Headers that each request has.
    pub headers: HeaderMap,
    /// Headers of the submit that are passed on, by name.
    pub forward_headers: Vec<HeaderName>,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long the server may send nothing: before its answer, and in it.
    pub response_timeout: Option<Duration>,
    /// How long a server is asked again that surely has not run the job: it was not reached, is busy (429),
    /// drains or is unavailable. Zero for not at all. Default one minute.
    pub unavailable_timeout: Duration,
    /// A URL that is called when a job is stopped, with `{job_id}` in place of its id.
    pub cancel_url: Option<String>,
    /// The header in which interim answers (1xx) of the server have the progress of the job.
    pub progress_header: Option<HeaderName>,
    /// Where the server reaches this one. Each request then has a `Progress-Url` to which the progress of the
    /// job may be posted, and which serves for that attempt alone.
    pub progress_url: Option<String>,
    /// A PEM file of authorities that are trusted instead of the operating system's.
    pub ca_file: Option<PathBuf>,
}

/// What is spoken with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Plain HTTP: the payload is posted as it is, and the body that comes back is the result.
    Plain,
    /// The protocol of this server: what comes back is an envelope around the result.
    Kinetica,
}

/// A program that runs jobs.
#[derive(Clone)]
#[non_exhaustive]
pub struct CommandRoute {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its environment, beside the few variables that every command gets.
    pub env: Vec<(String, String)>,
    /// Its working directory; `None` for the server's.
    pub directory: Option<PathBuf>,
    /// What its output is.
    pub output: OutputForm,
    /// What the operating system lets it take.
    pub limits: Limits,
}

/// What the output of a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputForm {
    /// JSON, if the job's payload was JSON and it is some; else bytes.
    #[default]
    Auto,
    /// JSON. Other output fails the job.
    Json,
    /// Bytes.
    Binary,
}

impl HttpRoute {
    /// A route to a server, with defaults for all else.
    pub fn new(upstream: Upstream, wire: Wire) -> Self {
        Self {
            upstreams: vec![upstream],
            wire,
            content_type: HeaderValue::from_static("application/octet-stream"),
            headers: HeaderMap::new(),
            forward_headers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            response_timeout: None,
            unavailable_timeout: Duration::from_secs(60),
            cancel_url: None,
            progress_header: None,
            progress_url: None,
            ca_file: None,
        }
    }
}

impl CommandRoute {
    /// A route to a program and its arguments, with defaults for all else.
    pub fn new(command: Vec<String>) -> Self {
        Self {
            command,
            env: Vec::new(),
            directory: None,
            output: OutputForm::Auto,
            limits: Limits::default(),
        }
    }
}

impl Route {
    /// A route with the engine's defaults for how its jobs are run.
    pub fn new(endpoint: impl Into<String>, kind: RouteKind) -> Self {
        Self {
            endpoint: endpoint.into(),
            options: RouteOptions::default(),
            max_result: None,
            kind,
        }
    }
}

/// Without the values of headers, which may be secret.
impl fmt::Debug for HttpRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&HeaderName> = self.headers.keys().collect();
        f.debug_struct("HttpRoute")
            .field("upstreams", &self.upstreams)
            .field("wire", &self.wire)
            .field("headers", &names)
            .field("forward_headers", &self.forward_headers)
            .finish_non_exhaustive()
    }
}

/// Without the values of variables, which may be secret.
impl fmt::Debug for CommandRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("CommandRoute")
            .field("command", &self.command)
            .field("env", &names)
            .field("directory", &self.directory)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
