//! The forms that values have.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use tracing_subscriber::EnvFilter;

use super::database::{DatabaseUrl, without_password};
use crate::CallbackHosts;
use crate::gateway::Upstream;
use crate::outbound::is_port_clear;
use crate::tls::TlsVersion;

/// Counts end here: more of anything is no sensible limit, and sums of counts must not overflow.
const COUNT_MAX: usize = 1_000_000_000;

/// More threads than a process should have.
const THREADS_MAX: usize = 4096;

/// Durations end here, some hundred years on, so that moments do not overflow.
const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// JSON is not read any deeper (docs/protocol.md says nothing of depth; the records need two levels).
const DEPTH_MAX: usize = 127;

/// The head of the smallest request that an official client sends has some 300 bytes; below this
/// even the HTTP library does not go.
const HEAD_MIN: usize = 8 << 10;

/// A text is not of the form that its setting has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadValue(String);

impl BadValue {
    pub(super) fn new(found: &str, wanted: impl Display) -> Self {
        Self(format!("{found:?} is not {wanted}"))
    }

    /// What was wanted instead of the empty text.
    pub(super) fn wanted(&self) -> &str {
        self.0.strip_prefix("\"\" is not ").unwrap_or(&self.0)
    }

    /// The value of `name` is not one that `what` can have. It may be secret, and is not told.
    pub(super) fn of_secret(name: &str, what: &str) -> Self {
        Self(format!(
            "the value of {name:?} is not one that {what} can have"
        ))
    }
}

/// A setting that need not be told: its text is then `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maybe<T> {
    /// Told.
    Told(T),
    /// Left to the server.
    Auto,
}

impl<T> Maybe<T> {
    /// What was told, if anything.
    pub fn as_told(&self) -> Option<T>
    where
        T: Clone,
    {
        match self {
            Self::Told(value) => Some(value.clone()),
            Self::Auto => None,
        }
    }

    /// What was told, else `auto`.
    pub fn or(&self, auto: T) -> T
    where
        T: Clone,
    {
        self.as_told().unwrap_or(auto)
    }
}

/// Where jobs live.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreKind {
    /// In files of the data directory.
    Embedded,
    /// In memory: they end with the process.
    Memory,
    /// In a database, which other nodes may use as well; or in several, each of which is a shard.
    Postgres(Vec<DatabaseUrl>),
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They may.
    Optional,
    /// They must.
    Required,
}

/// Who says who calls, where there is an upstream and there are no accounts of the server's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccountsOfUpstream {
    /// The upstream, which is shown the caller's credentials.
    Ask,
    /// Nobody: all callers are one, and see all jobs.
    Ignore,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

pub(super) fn address(text: &str) -> Result<SocketAddr, BadValue> {
    let wanted =
        "an address and a port such as 127.0.0.1:9191 or [::1]:9191 (port 0 takes any free one)";
    parse(text, wanted)
}

pub(super) fn boolean(text: &str) -> Result<bool, BadValue> {
    parse(text, "true or false")
}

pub(super) fn maybe_boolean(text: &str) -> Result<Maybe<bool>, BadValue> {
    maybe(text, boolean)
}

pub(super) fn count(text: &str) -> Result<usize, BadValue> {
    within(text, 1, COUNT_MAX)
}

pub(super) fn maybe_count(text: &str) -> Result<Maybe<usize>, BadValue> {
    maybe(text, count)
}

pub(super) fn maybe_number(text: &str) -> Result<Maybe<usize>, BadValue> {
    maybe(text, |text| within(text, 0, COUNT_MAX))
}

pub(super) fn maybe_threads(text: &str) -> Result<Maybe<usize>, BadValue> {
    maybe(text, |text| within(text, 1, THREADS_MAX))
}

pub(super) fn depth(text: &str) -> Result<usize, BadValue> {
    within(text, 2, DEPTH_MAX)
}

pub(super) fn size(text: &str) -> Result<usize, BadValue> {
    size_from(1, text)
}

pub(super) fn head(text: &str) -> Result<usize, BadValue> {
    size_from(HEAD_MIN, text)
}

fn size_from(least: usize, text: &str) -> Result<usize, BadValue> {
    let size = text.parse::<bytesize::ByteSize>().ok();
    size.and_then(|size| usize::try_from(size.as_u64()).ok())
        .filter(|bytes| *bytes >= least && *bytes <= isize::MAX as usize)
        .ok_or_else(|| {
            let wanted = format!("a size such as \"64MiB\" or \"1GiB\", of at least {least} bytes");
            BadValue::new(text, wanted)
        })
}

pub(super) fn maybe_size(text: &str) -> Result<Maybe<usize>, BadValue> {
    maybe(text, size)
}

pub(super) fn duration(text: &str) -> Result<Duration, BadValue> {
    let form = "a duration such as \"10m\" or \"1h 30m\"";
    let duration = humantime::parse_duration(text).map_err(|_| BadValue::new(text, form))?;
    if duration > DURATION_MAX {
        return Err(BadValue::new(text, "a duration of at most 100 years"));
    }
    Ok(duration)
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, BadValue> {
    match duration(text)? {
        Duration::ZERO => Err(BadValue::new(text, "a duration above zero")),
        duration => Ok(duration),
    }
}

pub(super) fn path(text: &str) -> Result<PathBuf, BadValue> {
    match text {
        "" => Err(BadValue::new(text, "a path")),
        text => Ok(PathBuf::from(text)),
    }
}

/// A file that need not be told: the text is then `none`.
pub(super) fn maybe_file(text: &str) -> Result<Option<PathBuf>, BadValue> {
    match text {
        "none" => Ok(None),
        text => path(text).map(Some),
    }
}

/// Host names or addresses without ports, in lower case, or `none`.
pub(super) fn hosts(text: &str) -> Result<Vec<String>, BadValue> {
    let wanted = "host names without ports, separated by commas, or \"none\"";
    list(text, |host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_name = host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        let is_host = is_name || bare.parse::<IpAddr>().is_ok();
        is_host.then(|| bare.to_ascii_lowercase())
    })
    .ok_or_else(|| BadValue::new(text, wanted))
}

/// Origins as browsers send them, in lower case, or `none`.
pub(super) fn origins(text: &str) -> Result<Vec<String>, BadValue> {
    let wanted = "origins such as https://app.example.org, separated by commas, or \"none\" (a * is not possible)";
    list(text, |origin| {
        let told = url(origin).ok()?.as_told()?;
        // A browser sends no slash, and no port that the scheme has by default.
        let is_as_sent = !told.ends_with(if told.starts_with("https:") {
            ":443"
        } else {
            ":80"
        });
        (told == origin && is_as_sent && !told.contains('*')).then(|| told.to_ascii_lowercase())
    })
    .ok_or_else(|| BadValue::new(text, wanted))
}

/// Hosts for callbacks, or `none`.
pub(super) fn callback_hosts(text: &str) -> Result<CallbackHosts, BadValue> {
    if text == "none" {
        return Ok(CallbackHosts::default());
    }
    let wanted =
        "hosts such as hooks.example.com or 127.0.0.1:9000, separated by commas, or \"none\"";
    parse(text, wanted)
}

/// The entries of a list with commas; `none` has none. `None` if one of them is not possible.
fn list<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    if text == "none" {
        return Some(Vec::new());
    }
    text.split(',')
        .map(str::trim)
        .map(|entry| if entry.is_empty() { None } else { parse(entry) })
        .collect()
}

/// Clients take the URL apart at `,` and `;` (docs/protocol.md section 8), and append paths.
pub(super) fn url(text: &str) -> Result<Maybe<String>, BadValue> {
    maybe(text, |text| {
        let wanted = "a URL such as http://jobs.example.org:9191, without a path, or \"auto\"";
        let bad = || BadValue::new(text, wanted);
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let scheme = uri
            .scheme_str()
            .filter(|scheme| ["http", "https"].contains(scheme));
        let (Some(scheme), Some(authority), "/" | "", None) =
            (scheme, uri.authority(), uri.path(), uri.query())
        else {
            return Err(bad());
        };
        if authority.as_str().contains([',', ';', '@']) || !is_port_clear(authority) {
            return Err(bad());
        }
        Ok(format!("{scheme}://{authority}"))
    })
}

/// The URL of a server without a path, or `none`.
pub(super) fn upstream(text: &str) -> Result<Option<Upstream>, BadValue> {
    if text == "none" {
        return Ok(None);
    }
    let wanted = "a URL such as http://127.0.0.1:9191, without a path, or \"none\"";
    let upstream = url(text).ok().and_then(|url| url.as_told());
    let upstream = upstream.and_then(|url| url.parse().ok());
    upstream
        .map(Some)
        .ok_or_else(|| BadValue::new(text, wanted))
}

pub(super) fn upstream_accounts(text: &str) -> Result<AccountsOfUpstream, BadValue> {
    let words = [
        ("ask", AccountsOfUpstream::Ask),
        ("ignore", AccountsOfUpstream::Ignore),
    ];
    word(text, &words)
}

pub(super) fn store(text: &str) -> Result<StoreKind, BadValue> {
    let text = text.trim();
    match text {
        "embedded" => Ok(StoreKind::Embedded),
        "memory" => Ok(StoreKind::Memory),
        _ => match DatabaseUrl::all_of(text) {
            Some(urls) if urls.iter().any(DatabaseUrl::is_several) => Err(BadValue::new(
                &without_password(text),
                "the URLs of several databases separated by commas",
            )),
            Some(urls) => Ok(StoreKind::Postgres(urls)),
            None => Err(BadValue::new(
                &without_password(text),
                "embedded, memory, or the postgres:// URL of a database, or those of several with commas between",
            )),
        },
    }
}

pub(super) fn client_auth(text: &str) -> Result<Maybe<ClientAuth>, BadValue> {
    let words = [
        ("none", ClientAuth::None),
        ("optional", ClientAuth::Optional),
        ("required", ClientAuth::Required),
    ];
    maybe(text, |text| word(text, &words))
}

pub(super) fn tls_version(text: &str) -> Result<TlsVersion, BadValue> {
    word(
        text,
        &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)],
    )
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, BadValue> {
    let words = [
        ("auto", LogFormat::Auto),
        ("human", LogFormat::Human),
        ("json", LogFormat::Json),
    ];
    word(text, &words)
}

pub(super) fn filter(text: &str) -> Result<String, BadValue> {
    let wanted = "a level (error, warn, info, debug, trace, off), or levels by module such as \"info,kjob_core=debug\"";
    // Names of modules are ASCII. The parser cuts other letters in two where there is a space before them,
    // and panics.
    let text = text.trim();
    if !text.is_ascii() || text.is_empty() {
        return Err(BadValue::new(text, wanted));
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        _ => Err(BadValue::new(text, wanted)),
    }
}

fn parse<T: FromStr>(text: &str, wanted: &str) -> Result<T, BadValue> {
    text.parse().map_err(|_| BadValue::new(text, wanted))
}

fn within(text: &str, min: usize, max: usize) -> Result<usize, BadValue> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| BadValue::new(text, format!("a number from {min} to {max}")))
}

fn maybe<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, BadValue>,
) -> Result<Maybe<T>, BadValue> {
    match text {
        "auto" => Ok(Maybe::Auto),
        text => parse(text).map(Maybe::Told),
    }
}

pub(super) fn word<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, BadValue> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        BadValue::new(text, format!("one of {}", allowed.join(", ")))
    })
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Memory => f.write_str("memory"),
            Self::Postgres(urls) => {
                let shown: Vec<String> = urls.iter().map(DatabaseUrl::to_string).collect();
                f.write_str(&shown.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_or_decimal_and_bounded() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1 kB"), Ok(1000));
        assert_eq!(size("123"), Ok(123));
        for bad in [
            "",
            "0",
            "-1",
            "1 XB",
            "many",
            "9999999999999999999999",
            "8EiB",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(head("8KiB"), Ok(8192));
        assert!(head("8191").is_err());
    }

    #[test]
    fn counts_have_both_ends() {
        assert_eq!(count("1"), Ok(1));
        assert_eq!(count("1000000000"), Ok(COUNT_MAX));
        for bad in ["0", "1000000001", "1.5", "-3", ""] {
            assert!(count(bad).is_err(), "{bad}");
        }
        assert_eq!(depth("127"), Ok(127));
        assert!(depth("128").is_err() && depth("1").is_err());
    }

    #[test]
    fn durations_are_bounded() {
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(positive_duration("0s").is_err());
        assert!(duration("101years").is_err());
        assert!(
            duration("10").is_err(),
            "a number without a unit is not clear"
        );
    }

    #[test]
    fn urls_are_kept_without_their_slash() {
        assert_eq!(url("auto"), Ok(Maybe::Auto));
        assert_eq!(
            url("http://example.org:9191/"),
            Ok(Maybe::Told("http://example.org:9191".into()))
        );
        for bad in [
            "example.org",
            "ftp://example.org",
            "http://",
            "http://example.org/path",
            "http://a,b",
            "http://user@example.org",
            "http://example.org/?q",
            "http://example.org:99999",
            "http://example.org:",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_are_of_hosts_or_origins() {
        assert_eq!(hosts("none"), Ok(vec![]));
        let found = hosts("Jobs.example.org, 192.0.2.1,[2001:DB8::1]").unwrap();
        assert_eq!(found, ["jobs.example.org", "192.0.2.1", "2001:db8::1"]);
        for bad in ["", "a,,b", "a:80", "http://a", "a b", "*"] {
            assert!(hosts(bad).is_err(), "{bad}");
        }
        let found = origins("https://app.example.org,http://localhost:3000").unwrap();
        assert_eq!(found, ["https://app.example.org", "http://localhost:3000"]);
        for bad in [
            "",
            "*",
            "null",
            "https://*.example.org",
            "app.example.org",
            "https://app.example.org/",
            "https://app.example.org:443",
            "http://app.example.org:80",
            "auto",
        ] {
            assert!(origins(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_are_named_when_none_fits() {
        assert_eq!(store("memory"), Ok(StoreKind::Memory));
        assert_eq!(
            store("disk").unwrap_err().to_string(),
            "\"disk\" is not embedded, memory, or the postgres:// URL of a database, or those of several with commas between"
        );
        assert_eq!(log_format("json"), Ok(LogFormat::Json));
    }

    #[test]
    fn filters_are_checked() {
        for good in ["info", "off", "warn,kjob_core=debug"] {
            assert_eq!(filter(good), Ok(good.to_owned()));
        }
        for bad in ["info,\tA\u{bca}=", "", "info,kjob_core=loud", "=="] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
