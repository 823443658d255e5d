//! The `[[route]]` tables of the config file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use kjob_core::Payload;
use kjob_core::engine::{HandlerError, JobContext, Registry, RouteOptions};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{line_of, scalar};
use super::route_value as value;
use super::value::{count, duration, positive_duration, size};
use super::{BadValue, ConfigError};
use crate::gateway::{
    CommandRoute, HttpRoute, OutputForm, Route, RouteKind, Wire, is_reserved_endpoint,
};
use crate::options::meant;

/// Keys that every route may have.
const COMMON: &[&str] = &[
    "endpoint",
    "kind",
    "timeout",
    "concurrency",
    "on_interrupt",
    "max_attempts",
    "max_result",
];

/// Keys of routes with `kind = "http"`.
const HTTP: &[&str] = &[
    "upstream",
    "wire",
    "content_type",
    "headers",
    "username",
    "password",
    "token",
    "forward_headers",
    "connect_timeout",
    "response_timeout",
    "unavailable_timeout",
    "cancel_url",
    "progress_header",
    "progress_url",
    "ca_file",
];

/// Keys of routes with `kind = "command"`.
const COMMAND: &[&str] = &[
    "command",
    "env",
    "directory",
    "output",
    "cpu_seconds",
    "address_space",
    "open_files",
    "file_size",
];

/// Keys whose values are not printed, but for references to variables.
const SECRET: &[&str] = &["headers", "env", "username", "password", "token"];

/// How often a job is tried where attempts are not counted otherwise.
const MAX_ATTEMPTS: u32 = 3;

/// All keys of a `[[route]]` table.
pub(super) fn keys() -> Vec<&'static str> {
    [COMMON, HTTP, COMMAND].concat()
}

/// A route, and how it was told.
#[derive(Clone, Debug)]
pub(super) struct ConfiguredRoute {
    pub(super) route: Route,
    /// Its table without secrets, and where it is from.
    pub(super) listing: String,
}

/// Reads the value of `route`, the tables in order. `text` is the whole file's, `path` what errors call
/// it.
pub(super) fn read(
    value: &Spanned<DeValue<'_>>,
    text: &str,
    path: &str,
) -> Result<Vec<ConfiguredRoute>, ConfigError> {
    let place = |at: usize| format!("{path}:{}", line_of(text, at));
    let tables = match value.get_ref() {
        DeValue::Array(tables) => tables,
        other => {
            let why = BadValue::new(&format!("a TOML {}", other.type_str()), "[[route]] tables");
            return Err(ConfigError::BadValue {
                place: place(value.span().start),
                key: "route",
                why,
            });
        }
    };
    let mut seen = Registry::default();
    let mut routes = Vec::with_capacity(tables.len());
    for table in tables.iter() {
        let entries = Entries::new(table, text, path)?;
        let route = entries.route()?;
        // What the engine would refuse is refused here, where the line is known.
        let refused = seen.route(&route.endpoint, nothing, route.options.clone());
        refused.map_err(|why| ConfigError::Route {
            place: entries.place_of("endpoint"),
            why,
        })?;
        let listing = entries.listing();
        routes.push(ConfiguredRoute { route, listing });
    }
    Ok(routes)
}

async fn nothing(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    Ok(payload)
}

/// The entries of one table.
struct Entries<'a> {
    text: &'a str,
    path: &'a str,
    /// Where the table begins.
    at: usize,
    entries: BTreeMap<&'a str, (usize, &'a Spanned<DeValue<'a>>)>,
}

impl<'a> Entries<'a> {
    /// Looks whether all keys are known, and fit the route's kind.
    fn new(
        table: &'a Spanned<DeValue<'a>>,
        text: &'a str,
        path: &'a str,
    ) -> Result<Self, ConfigError> {
        let at = table.span().start;
        let mut this = Self {
            text,
            path,
            at,
            entries: BTreeMap::new(),
        };
        let DeValue::Table(entries) = table.get_ref() else {
            let found = format!("a TOML {}", table.get_ref().type_str());
            return Err(this.bad_at(at, "route", BadValue::new(&found, "a [[route]] table")));
        };
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let at = name.span().start;
            let name: &str = name.get_ref();
            let known = keys();
            let Some(key) = known.iter().find(|known| **known == name) else {
                return Err(ConfigError::UnknownKey {
                    place: this.place(at),
                    key: name.to_owned(),
                    nearest: meant(name, &known),
                    allowed: known,
                });
            };
            this.entries.insert(key, (at, value));
        }
        Ok(this)
    }

    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path, line_of(self.text, at))
    }

    fn place_of(&self, key: &str) -> String {
        self.place(self.entries.get(key).map_or(self.at, |(at, _)| *at))
    }

    fn bad_at(&self, at: usize, key: &'static str, why: BadValue) -> ConfigError {
        ConfigError::BadValue {
            place: self.place(at),
            key,
            why,
        }
    }

    fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The value of a key, in whatever form it has.
    fn with<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'a>) -> Result<T, BadValue>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((at, value)) = self.entries.get(key) else {
            return Ok(None);
        };
        let parsed = parse(value.get_ref());
        parsed.map(Some).map_err(|why| self.bad_at(*at, key, why))
    }

    /// The value of a key that is a text, a number or a boolean.
    fn take<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, BadValue>,
    ) -> Result<Option<T>, ConfigError> {
        self.with(key, |value| parse(&scalar(value)?))
    }

    fn needed<T>(&self, key: &'static str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| ConfigError::RouteNeeds {
            place: self.place(self.at),
            key,
        })
    }

    /// Refuses keys that mean nothing here, since the route is not what `needed` says.
    fn refuse(&self, keys: &[&'static str], needed: &'static str) -> Result<(), ConfigError> {
        match keys.iter().find(|key| self.has(key)) {
            None => Ok(()),
            Some(key) => Err(ConfigError::RouteKey {
                place: self.place_of(key),
                key,
                needed,
            }),
        }
    }

    fn route(&self) -> Result<Route, ConfigError> {
        let endpoint = self.needed("endpoint", self.take("endpoint", value::endpoint)?)?;
        if is_reserved_endpoint(&endpoint) {
            return Err(ConfigError::ReservedEndpoint {
                place: self.place_of("endpoint"),
                endpoint,
            });
        }
        let kind = self.needed("kind", self.take("kind", value::kind)?)?;
        let (options, kind) = match kind {
            value::Kind::Http => {
                self.refuse(COMMAND, "kind = \"command\"")?;
                (self.options()?, RouteKind::Http(self.http()?))
            }
            value::Kind::Command => {
                self.refuse(HTTP, "kind = \"http\"")?;
                (self.options()?, RouteKind::Command(self.command()?))
            }
        };
        let mut route = Route::new(endpoint, kind);
        route.options = options;
        route.max_result = self.take("max_result", size)?;
        Ok(route)
    }

    fn options(&self) -> Result<RouteOptions, ConfigError> {
        let mut options = RouteOptions::default();
        options.timeout = self.take("timeout", positive_duration)?;
        options.concurrency = self.take("concurrency", count)?;
        let retries = self.take("on_interrupt", value::on_interrupt)?;
        let attempts = self.take("max_attempts", value::attempts)?;
        if retries == Some(true) {
            options = options.retry(attempts.unwrap_or(MAX_ATTEMPTS));
        } else {
            self.refuse(&["max_attempts"], "on_interrupt = \"retry\"")?;
        }
        Ok(options)
    }

    fn http(&self) -> Result<HttpRoute, ConfigError> {
        let upstreams = self.needed("upstream", self.with("upstream", value::upstreams)?)?;
        let wire = self.take("wire", value::wire)?.unwrap_or(Wire::Plain);
        let Some(first) = upstreams.first().cloned() else {
            let why = BadValue::new("[]", "at least one URL");
            return Err(self.bad_at(self.at, "upstream", why));
        };
        if wire == Wire::Plain && upstreams.len() > 1 {
            return Err(ConfigError::RouteKey {
                place: self.place_of("upstream"),
                key: "upstream (with more than one URL)",
                needed: "wire = \"kinetica\"",
            });
        }
        let mut route = HttpRoute::new(first, wire);
        route.upstreams = upstreams;
        if let Some(content_type) = self.take("content_type", value::content_type)? {
            if wire == Wire::Kinetica {
                self.refuse(&["content_type"], "wire = \"plain\"")?;
            }
            route.content_type = content_type;
        }
        if let Some(headers) = self.with("headers", value::headers)? {
            route.headers = headers;
        }
        if let Some(authorization) = self.authorization()? {
            route
                .headers
                .insert(http::header::AUTHORIZATION, authorization);
        }
        if let Some(names) = self.with("forward_headers", value::header_names)? {
            route.forward_headers = names;
        }
        if let Some(timeout) = self.take("connect_timeout", positive_duration)? {
            route.connect_timeout = timeout;
        }
        route.response_timeout = self.take("response_timeout", positive_duration)?;
        if let Some(timeout) = self.take("unavailable_timeout", duration)? {
            route.unavailable_timeout = timeout;
        }
        route.cancel_url = self.take("cancel_url", value::cancel_url)?;
        route.progress_header = self.take("progress_header", value::header_name)?;
        route.progress_url = self.take("progress_url", value::progress_url)?;
        route.ca_file = self.take("ca_file", super::value::path)?;
        Ok(route)
    }

    fn authorization(&self) -> Result<Option<http::HeaderValue>, ConfigError> {
        let token = self.take("token", value::secret)?;
        let user = self.take("username", value::secret)?;
        let password = self.take("password", value::secret)?;
        match (token, user, password) {
            (None, None, None) => Ok(None),
            (Some(token), None, None) => self
                .take("token", |_| value::bearer(&token))
                .map(Option::flatten),
            (None, Some(user), password) => self
                .take("username", |_| {
                    value::basic(&user, password.as_deref().unwrap_or(""))
                })
                .map(Option::flatten),
            (None, None, Some(_)) => {
                self.refuse(&["password"], "username")?;
                Ok(None)
            }
            (Some(_), ..) => {
                self.refuse(&["username", "password"], "no token")?;
                Ok(None)
            }
        }
    }

    fn command(&self) -> Result<CommandRoute, ConfigError> {
        let command = self.needed("command", self.with("command", value::command)?)?;
        let mut route = CommandRoute::new(command);
        if let Some(env) = self.with("env", value::variables)? {
            route.env = env;
        }
        route.directory = self.take("directory", super::value::path)?;
        route.output = self
            .take("output", value::output)?
            .unwrap_or(OutputForm::Auto);
        let number = |count: usize| count as u64;
        let limits = &mut route.limits;
        limits.cpu_seconds = self.take("cpu_seconds", count)?.map(number);
        limits.address_space = self.take("address_space", size)?.map(number);
        if let Some(files) = self.take("open_files", count)? {
            limits.open_files = number(files);
        }
        limits.file_size = self.take("file_size", size)?.map(number);
        Ok(route)
    }

    /// The table as it was told, without what may be secret.
    fn listing(&self) -> String {
        let line = line_of(self.text, self.at);
        let mut listing = format!("\n[[route]]  # config file, line {line}\n");
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(_, (at, _))| *at);
        for (key, (_, value)) in entries {
            let told = match SECRET.contains(key) {
                true => without_secrets(value.get_ref()),
                false => self.raw(value.span()),
            };
            // Writing to a text does not fail.
            let _ = writeln!(listing, "{key} = {told}");
        }
        listing
    }

    fn raw(&self, span: Range<usize>) -> String {
        self.text.get(span).unwrap_or_default().trim().to_owned()
    }
}

/// A value in which every text that is not taken from a variable is hidden.
fn without_secrets(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Table(entries) => table_without_secrets(entries),
        DeValue::String(text) if text.contains("${") => format!("{:?}", text.as_ref()),
        _ => "\"(not shown)\"".to_owned(),
    }
}

fn table_without_secrets(entries: &DeTable<'_>) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(name, value)| {
            let value = without_secrets(value.get_ref());
            format!("{:?} = {value}", name.get_ref().as_ref())
        })
        .collect();
    format!("{{ {} }}", entries.join(", "))
}

#[cfg(test)]
mod tests;
