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

/// What the rules make of where a request says that it goes, and of the page that it says it is from. Nothing else
/// of that is kept while the request waits.
#[derive(Debug)]
pub(crate) struct Visit {
    refusal: Option<Refusal>,
    /// The page's origin, if it may read the answer.
    allowed_origin: Option<HeaderValue>,
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

    /// Looks at the head of a request.
    pub(crate) fn judge(&self, parts: &Parts) -> Visit {
        let headers = &parts.headers;
        let foreign = named_hosts(parts).find(|host| !self.is_host(host));
        let refusal = foreign.map(|host| Refusal::Host {
            found: shown(&host),
        });
        let mut visit = Visit {
            refusal,
            allowed_origin: None,
            asks: headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD),
        };
        let mut origins = headers.get_all(ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (None, _) => return visit,
            (Some(origin), None) => text(origin).to_ascii_lowercase(),
            // No browser sends several: of none that is allowed.
            _ => "null".to_owned(),
        };
        if visit.refusal.is_none() {
            let is_allowed = self.origins.contains(&origin);
            if is_allowed {
                visit.allowed_origin = HeaderValue::from_str(&origin).ok();
            } else if !self.is_own(parts, &origin) {
                let found = shown(&origin);
                visit.refusal = Some(Refusal::Origin { found });
            }
        }
        visit
    }

    /// Tells the browser what the page may read and send.
    pub(crate) fn allow(&self, visit: &Visit, is_preflight: bool, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        // Answers to other origins differ, for whoever keeps them.
        headers.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = &visit.allowed_origin else {
            return;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
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

    fn is_host(&self, host: &str) -> bool {
        if !self.is_bound {
            return true;
        }
        let Some(host) = host_of(host) else {
            return false;
        };
        is_loopback(&host) || self.hosts.iter().any(|own| host.eq_ignore_ascii_case(own))
    }

    /// Whether a page is from this server: from where it was asked for, or from where it says it is.
    fn is_own(&self, parts: &Parts, origin: &str) -> bool {
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        let is_asked = authority.is_some_and(|authority| {
            let mut hosts = named_hosts(parts).peekable();
            hosts.peek().is_some() && hosts.all(|host| host.eq_ignore_ascii_case(authority))
        });
        is_asked || self.own.iter().any(|own| own == origin)
    }
}

impl Visit {
    /// Whether the request may be looked at.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.refusal.clone().map_or(Ok(()), Err)
    }

    /// Whether the request is a browser's question, which is answered with [`WebRules::allow`].
    pub(crate) fn is_preflight(&self, method: &Method) -> bool {
        *method == Method::OPTIONS && self.asks && self.allowed_origin.is_some()
    }
}

/// All hosts that the head of a request names. HTTP/2 does it in the URI, and HTTP/1.1 may do so as well.
fn named_hosts(parts: &Parts) -> impl Iterator<Item = Cow<'_, str>> {
    let in_headers = parts.headers.get_all(HOST).iter().map(text);
    let in_uri = parts.uri.authority().map(|it| Cow::Borrowed(it.as_str()));
    in_headers.chain(in_uri)
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
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
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn shown(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    shown.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(rules: &WebRules, host: &str, origin: Option<&str>) -> Visit {
        let mut request = http::Request::builder().uri("/x");
        if !host.is_empty() {
            request = request.header(HOST, host);
        }
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        rules.judge(&request.body(()).unwrap().into_parts().0)
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
            assert!(judge(&rules, good, None).check().is_ok(), "{good}");
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
            let refused = judge(&rules, bad, None).check();
            assert!(matches!(refused, Err(Refusal::Host { .. })), "{bad}");
            assert!(judge(&WebRules::default(), bad, None).check().is_ok());
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
            let visit = rules.judge(&request.body(()).unwrap().into_parts().0);
            assert!(visit.check().is_err(), "{uri} {host}");
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
            let visit = judge(&rules, "here:9191", good);
            assert!(visit.check().is_ok(), "{good:?}");
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
            let refused = judge(&rules, "here:9191", Some(bad)).check();
            assert!(matches!(refused, Err(Refusal::Origin { .. })), "{bad}");
        }
    }

    #[test]
    fn nothing_is_allowed_where_no_origins_are() {
        let rules = WebRules::default();
        let mut headers = HeaderMap::new();
        let visit = judge(&rules, "here", Some("http://here"));
        rules.allow(&visit, true, &mut headers);
        assert!(headers.is_empty());
    }
}
