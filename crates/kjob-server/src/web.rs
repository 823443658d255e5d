//! What web pages may do: the `Host` and `Origin` headers, and CORS.
//!
//! A browser sends what any page tells it to, from inside the network that it is in. So a server that
//! asks nobody who they are looks at where a request says that it goes, and any server at where a page
//! says that it is from.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST,
    ORIGIN, VARY,
};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method};

use crate::refusal::Refusal;

/// What pages of other origins may send. The clients' own are in docs/protocol.md section 2.
const ALLOWED_HEADERS: &str = "authorization, content-type, idempotency-key, if-none-match, if-range, \
     last-event-id, prefer, range, traceparent, x-kinetica-group, x-kinetica-session";

const ALLOWED_METHODS: &str = "GET, POST, DELETE";

/// What they may read beside the body.
const EXPOSED_HEADERS: &str = "accept-ranges, allow, content-range, etag, link, location, \
     preference-applied, retry-after, x-request-time-secs";

/// How long a browser may remember the answer, in seconds.
const MAX_AGE_SECS: &str = "600";

/// The longest text of a header that a refusal repeats, in characters.
const SHOWN_CHARS_MAX: usize = 128;

/// Which hosts a server answers for, and to pages of which origins. The default is any host, and no
/// page of another origin.
///
/// ```
/// use kjob_server::WebRules;
///
/// let rules = WebRules::default()
///     .loopback_hosts_only()
///     .host("jobs.example.org")
///     .origin("https://app.example.org");
/// ```
#[derive(Clone, Debug, Default)]
pub struct WebRules {
    is_bound: bool,
    hosts: Vec<String>,
    own: Vec<String>,
    origins: Vec<String>,
}

/// Where a request says that it goes, and which page it says that it is from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visit {
    hosts: Vec<String>,
    origin: Option<String>,
    /// Whether a browser asks if it may send something.
    asks: bool,
}

impl WebRules {
    /// Answers only requests to loopback addresses and `localhost`, and to hosts that are added. That
    /// keeps out pages whose name was made to lead here (DNS rebinding). A request that names no host
    /// comes from no browser.
    #[must_use]
    pub fn loopback_hosts_only(mut self) -> Self {
        self.is_bound = true;
        self
    }

    /// Answers requests to this host, on any port, and to no others but those that are added, and
    /// loopback ones.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.is_bound = true;
        self.hosts.push(host.to_ascii_lowercase());
        self
    }

    /// Answers pages of this origin, such as `https://app.example.org`, from which a browser lets them
    /// send requests and read the answers. They have to send their credentials themselves: those that
    /// the browser keeps are never asked for.
    #[must_use]
    pub fn origin(mut self, origin: &str) -> Self {
        self.origins.push(origin.to_ascii_lowercase());
        self
    }

    /// The server is at this origin itself, besides the host that it is asked under.
    #[must_use]
    pub fn own_origin(mut self, origin: &str) -> Self {
        self.own.push(origin.to_ascii_lowercase());
        self
    }

    /// Whether only some hosts are answered for.
    pub(crate) fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Whether the request may be looked at.
    pub(crate) fn check(&self, visit: &Visit) -> Result<(), Refusal> {
        self.check_host(visit)?;
        let Some(origin) = &visit.origin else {
            return Ok(());
        };
        if self.is_own(visit, origin) || self.origins.contains(origin) {
            return Ok(());
        }
        Err(Refusal::Origin {
            found: shown(origin),
        })
    }

    /// Whether the request goes to a host of this server.
    pub(crate) fn check_host(&self, visit: &Visit) -> Result<(), Refusal> {
        let is_foreign = |host: &&String| !self.is_host(host);
        match visit.hosts.iter().find(is_foreign) {
            Some(host) => Err(Refusal::Host { found: shown(host) }),
            None => Ok(()),
        }
    }

    /// Whether the request is a browser's question, which this answers with [`allow`](Self::allow).
    pub(crate) fn is_preflight(&self, visit: &Visit, method: &Method) -> bool {
        method == Method::OPTIONS && visit.asks && self.allowed_origin(visit).is_some()
    }

    /// Tells the browser what the page may read and send.
    pub(crate) fn allow(&self, visit: &Visit, is_preflight: bool, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        // Answers to other origins differ, for whoever keeps them.
        headers.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = self.allowed_origin(visit) else {
            return;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if is_preflight {
            let asked = "access-control-request-method, access-control-request-headers";
            headers.append(VARY, HeaderValue::from_static(asked));
            for (name, value) in [
                (ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
                (ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
                (ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECS),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
        } else {
            let exposed = HeaderValue::from_static(EXPOSED_HEADERS);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }

    fn allowed_origin(&self, visit: &Visit) -> Option<HeaderValue> {
        let origin = visit.origin.as_ref()?;
        let is_allowed = self.origins.contains(origin) && self.check_host(visit).is_ok();
        is_allowed.then(|| HeaderValue::from_str(origin).ok())?
    }

    fn is_host(&self, host: &str) -> bool {
        if !self.is_bound {
            return true;
        }
        let Some(host) = host_of(host) else {
            return false;
        };
        is_loopback(&host) || self.hosts.iter().any(|own| *own == host)
    }

    /// Whether a page is from this server: from where it was asked for, or from where it says it is.
    fn is_own(&self, visit: &Visit, origin: &str) -> bool {
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        let is_asked = authority.is_some_and(|authority| {
            !visit.hosts.is_empty() && visit.hosts.iter().all(|host| host == authority)
        });
        is_asked || self.own.iter().any(|own| own == origin)
    }
}

impl Visit {
    /// What the head of a request says.
    pub(crate) fn of(parts: &Parts) -> Self {
        let text =
            |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        let mut hosts: Vec<String> = parts.headers.get_all(HOST).iter().map(text).collect();
        hosts.extend(
            parts
                .uri
                .authority()
                .map(|it| it.as_str().to_ascii_lowercase()),
        );
        let mut origins = parts.headers.get_all(ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (first, None) => first.map(text),
            // No browser sends several: of none that is allowed.
            _ => Some("null".to_owned()),
        };
        Self {
            hosts,
            origin,
            asks: parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD),
        }
    }
}

/// The host of a host with or without a port; without the brackets of IPv6, and without the dot that
/// may end a name.
fn host_of(text: &str) -> Option<Cow<'_, str>> {
    if let Some(host) = plain_host(text) {
        return Some(Cow::Borrowed(without_end(host)));
    }
    let authority: Authority = text.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(Cow::Owned(without_end(host).to_owned()))
}

/// A host of nothing but letters, digits, dots and dashes, with or without a port: that of nearly all requests, to be
/// known without a copy of it.
fn plain_host(text: &str) -> Option<&str> {
    let host = match text.rsplit_once(':') {
        Some((host, port)) => {
            let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            is_port.then_some(host)?
        }
        None => text,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    (!host.is_empty() && host.bytes().all(is_plain)).then_some(host)
}

fn without_end(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// Other names that end in `.localhost` lead here in browsers, too, but nobody is known to use them.
fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(host: &str, origin: Option<&str>) -> Visit {
        let mut request = http::Request::builder().uri("/x");
        if !host.is_empty() {
            request = request.header(HOST, host);
        }
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        Visit::of(&request.body(()).unwrap().into_parts().0)
    }

    proptest::proptest! {
        /// What is taken for a plain host is one by the rules of addresses, and the same.
        #[test]
        fn plain_hosts_are_those_of_authorities(text in "[a-z0-9.-]{0,12}:?[0-9]{0,6}") {
            if let Some(host) = plain_host(&text) {
                let authority: Authority = text.parse().unwrap();
                proptest::prop_assert_eq!(host, authority.host());
            }
        }
    }

    #[test]
    fn a_bound_server_answers_for_its_hosts_alone() {
        let rules = WebRules::default()
            .loopback_hosts_only()
            .host("Jobs.example.org");
        for good in [
            "",
            "localhost",
            "LOCALHOST:9191",
            "localhost.:1",
            "127.0.0.1:9191",
            "127.9.9.9",
            "[::1]:9191",
            "[::1]",
            "jobs.example.org",
            "JOBS.EXAMPLE.ORG:443",
        ] {
            assert!(rules.check(&visit(good, None)).is_ok(), "{good}");
        }
        for bad in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.example:9191",
            "192.0.2.1",
            "[::2]:9191",
            "localhost@evil.example",
            "evil.example@localhost",
            "local host",
            "2130706433",
        ] {
            let refused = rules.check(&visit(bad, None));
            assert!(matches!(refused, Err(Refusal::Host { .. })), "{bad}");
            assert!(WebRules::default().check(&visit(bad, None)).is_ok());
        }
    }

    /// HTTP/2 names the host in the request's URI, and HTTP/1.1 may do so as well.
    #[test]
    fn every_host_that_a_request_names_counts() {
        let rules = WebRules::default().loopback_hosts_only();
        for (uri, host) in [
            ("http://evil.example/x", "localhost"),
            ("http://localhost/x", "evil.example"),
        ] {
            let request = http::Request::builder().uri(uri).header(HOST, host);
            let visit = Visit::of(&request.body(()).unwrap().into_parts().0);
            assert!(rules.check(&visit).is_err(), "{uri} {host}");
        }
    }

    #[test]
    fn a_page_is_answered_if_it_is_ours_or_allowed() {
        let rules = WebRules::default()
            .own_origin("https://jobs.example.org")
            .origin("https://app.example.org");
        for good in [
            None,
            Some("http://here:9191"),
            Some("HTTP://HERE:9191"),
            Some("https://jobs.example.org"),
            Some("https://app.example.org"),
        ] {
            let visit = visit("here:9191", good);
            assert!(rules.check(&visit).is_ok(), "{good:?}");
        }
        for bad in [
            "null",
            "",
            "http://here",
            "http://app.example.org",
            "https://app.example.org:444",
            "https://app.example.org.evil.example",
            "https://evil.example",
            "file://",
        ] {
            let refused = rules.check(&visit("here:9191", Some(bad)));
            assert!(matches!(refused, Err(Refusal::Origin { .. })), "{bad}");
        }
    }

    #[test]
    fn nothing_is_allowed_where_no_origins_are() {
        let rules = WebRules::default();
        let mut headers = HeaderMap::new();
        rules.allow(&visit("here", Some("http://here")), true, &mut headers);
        assert!(headers.is_empty());
    }
}
