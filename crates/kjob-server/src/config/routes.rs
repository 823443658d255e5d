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
use super::value::{count, positive_duration, size};
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
    "cancel_url",
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
            let known = [COMMON, HTTP, COMMAND].concat();
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
        route.cancel_url = self.take("cancel_url", value::cancel_url)?;
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
mod tests {
    use std::time::Duration;

    use kjob_core::engine::Interrupted;

    use super::super::Keys;
    use super::*;

    fn read(text: &str) -> Result<Vec<Route>, String> {
        let keys =
            Keys::from_toml(text, "kjob.toml".as_ref()).map_err(|error| error.to_string())?;
        Ok(keys.routes.into_iter().map(|given| given.route).collect())
    }

    fn refusal(text: &str) -> String {
        read(text).map(drop).unwrap_err()
    }

    #[test]
    fn the_two_kinds_are_read() {
        let routes = read(
            r#"
            workers = 2
            [[route]]
            endpoint = "/report/*"
            kind = "http"
            upstream = "http://127.0.0.1:8080"
            wire = "plain"
            timeout = "10m"
            concurrency = 16
            on_interrupt = "retry"
            headers = { "x-a" = "b" }
            forward_headers = ["X-Request-Id"]
            [[route]]
            endpoint = "/tools/wc"
            kind = "command"
            command = ["wc", "-c"]
            cpu_seconds = 10
            address_space = "1GiB"
            env = { A = "b" }
            "#,
        )
        .unwrap();
        let [report, wc] = routes.as_slice() else {
            panic!("{routes:?}");
        };
        assert_eq!(report.endpoint, "/report/*");
        assert_eq!(report.options.timeout, Some(Duration::from_secs(600)));
        assert_eq!(report.options.concurrency, Some(16));
        let retry = Interrupted::Retry { max_attempts: 3 };
        assert_eq!(report.options.on_interrupt, retry);
        let RouteKind::Http(http) = &report.kind else {
            panic!("{report:?}");
        };
        assert_eq!(http.upstreams, ["http://127.0.0.1:8080".parse().unwrap()]);
        assert_eq!(http.wire, Wire::Plain);
        assert_eq!(http.headers["x-a"], "b");
        assert_eq!(http.forward_headers, ["x-request-id"]);
        let RouteKind::Command(wc) = &wc.kind else {
            panic!("{wc:?}");
        };
        assert_eq!(wc.command, ["wc", "-c"]);
        assert_eq!(wc.limits.cpu_seconds, Some(10));
        assert_eq!(wc.limits.address_space, Some(1 << 30));
        assert_eq!(wc.env, [("A".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        const HTTP: &str = "[[route]]\nendpoint = '/x'\nkind = 'http'\nupstream = 'http://h'\n";
        const COMMAND: &str = "[[route]]\nendpoint = '/x'\nkind = 'command'\ncommand = ['wc']\n";
        for (text, told) in [
            (
                "[[route]]\nendpiont = '/x'".to_owned(),
                "kjob.toml:2: unknown key \"endpiont\"; did you mean \"endpoint\"? allowed are endpoint, kind, ",
            ),
            (
                "route = 7".to_owned(),
                "kjob.toml:1: route: \"a TOML integer\" is not [[route]] tables",
            ),
            (
                "\n[[route]]\nkind = 'http'".to_owned(),
                "kjob.toml:2: the route has no endpoint",
            ),
            (
                "[[route]]\nendpoint = '/x'".to_owned(),
                "kjob.toml:1: the route has no kind",
            ),
            (
                "[[route]]\nendpoint = '/x'\nkind = 'http'".to_owned(),
                "kjob.toml:1: the route has no upstream",
            ),
            (
                "[[route]]\nendpoint = '/x'\nkind = 'grpc'".to_owned(),
                "kjob.toml:3: kind: \"grpc\" is not one of http, command",
            ),
            (
                "[[route]]\nendpoint = 'x'\nkind = 'command'\ncommand = ['x']".to_owned(),
                "kjob.toml:2: endpoint pattern \"x\" must begin with /",
            ),
            (
                "[[route]]\nendpoint = '/get/job'\nkind = 'command'\ncommand = ['x']".to_owned(),
                "kjob.toml:2: endpoint \"/get/job\" is the server's own",
            ),
            (
                format!("{HTTP}{HTTP}"),
                "kjob.toml:6: endpoint pattern \"/x\" is routed twice",
            ),
            (
                format!("{HTTP}command = ['wc']"),
                "kjob.toml:5: command is set, and needs kind = \"command\"",
            ),
            (
                format!("{COMMAND}upstream = 'http://h'"),
                "kjob.toml:5: upstream is set, and needs kind = \"http\"",
            ),
            (
                format!("{HTTP}max_attempts = 3"),
                "kjob.toml:5: max_attempts is set, and needs on_interrupt = \"retry\"",
            ),
            (
                format!("{HTTP}timeout = '0s'"),
                "kjob.toml:5: timeout: \"0s\" is not a duration above zero",
            ),
            (
                format!("{HTTP}headers = {{ 'a b' = 'c' }}"),
                "kjob.toml:5: headers: \"a b\" is not the name of a header",
            ),
            (
                format!("{HTTP}headers = {{ Host = 'c' }}"),
                "kjob.toml:5: headers: \"Host\" is not a header that may be set",
            ),
            (
                format!("{HTTP}headers = {{ a = \"b\\nc\" }}"),
                "kjob.toml:5: headers: the value of \"a\" is not one that a header can have",
            ),
            (
                format!("{HTTP}token = '${{KJOB_TEST_NO_SUCH_VARIABLE}}'"),
                "kjob.toml:5: token: \"${KJOB_TEST_NO_SUCH_VARIABLE}\" is not set in the environment",
            ),
            (
                format!("{HTTP}password = 'x'"),
                "kjob.toml:5: password is set, and needs username",
            ),
            (
                format!("{HTTP}cancel_url = 'http://h/'"),
                "kjob.toml:5: cancel_url: \"http://h/\" is not a URL with {job_id} in its path or query",
            ),
            (
                "[[route]]\nendpoint = '/x'\nkind = 'http'\nupstream = ['http://a', 'http://b']"
                    .to_owned(),
                "kjob.toml:4: upstream (with more than one URL) is set, and needs wire = \"kinetica\"",
            ),
            (
                "[[route]]\nendpoint = '/x'\nkind = 'http'\nupstream = 'h:80'".to_owned(),
                "kjob.toml:4: upstream: \"h:80\" is not a URL such as http://127.0.0.1:8080",
            ),
            (
                "[[route]]\nendpoint = '/x'\nkind = 'command'\ncommand = 'wc -c'".to_owned(),
                "kjob.toml:4: command: \"a TOML string\" is not an array of texts",
            ),
            (
                format!("{COMMAND}env = {{ KJOB_X = 'y' }}"),
                "kjob.toml:5: env: \"KJOB_X\" is not the name of a variable",
            ),
            (
                format!("{COMMAND}open_files = 0"),
                "kjob.toml:5: open_files: \"0\" is not a number",
            ),
        ] {
            let error = refusal(&text);
            assert!(error.starts_with(told), "{error}\nis not\n{told}");
        }
    }

    #[test]
    fn what_is_printed_is_read_as_the_same_and_has_no_secrets() {
        let text = "[[route]]\nendpoint = '/x'  # a comment\nkind = \"http\"\nupstream = [ # more\n 'http://a', 'http://b' ]\nwire = 'kinetica'\nusername = 'ann'\npassword = 'hush'\n[route.headers]\nx-key = 'hush'\nx-path = '${PATH}'\n";
        let keys = Keys::from_toml(text, "kjob.toml".as_ref()).unwrap();
        let listing = &keys.routes[0].listing;
        assert!(
            !listing.contains("hush") && !listing.contains("ann"),
            "{listing}"
        );
        assert!(listing.contains("\"x-path\" = \"${PATH}\""), "{listing}");
        let again = read(listing).unwrap();
        let RouteKind::Http(again) = &again[0].kind else {
            panic!("{again:?}");
        };
        assert_eq!(again.upstreams.len(), 2);
        assert!(!again.headers["x-path"].is_empty());
        let shown = format!("{:?}", keys.routes[0].route);
        assert!(!shown.contains("hush"), "{shown}");
    }
}
