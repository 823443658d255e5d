//! Which URLs may be called back.

use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;

use crate::outbound::is_port_clear;

/// The longest URL, in bytes. It is kept in memory for as long as the job lives.
const URL_LEN_MAX: usize = 2048;

/// Hosts that may be called back, each perhaps with a port.
///
/// The text form is a list with commas: `hooks.example.com, hooks.example.org:8443, 127.0.0.1:9000`.
/// Without a port it is the one that the URL's scheme has by default. A name stands for itself alone,
/// not for names below it, and leads to public addresses only; an address may be any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallbackHosts(Vec<(Host, Option<u16>)>);

/// A text is no list of hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name or an address, perhaps with a port")]
pub struct BadCallbackHost(String);

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// In lower case.
    Name(String),
    Address(IpAddr),
}

/// A URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) is_https: bool,
    pub(super) host: Host,
    pub(super) port: u16,
    /// As the `Host` header has it.
    pub(super) authority: String,
    /// With the query.
    pub(super) path: String,
}

/// Why a URL is not called back. The text has no more of it than its host: the rest may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallbackUrlError {
    #[error("callback_url: this server makes no callbacks")]
    NoneAllowed,
    #[error("callback_url has {found} bytes, more than the limit of {URL_LEN_MAX}")]
    Long { found: usize },
    #[error("callback_url is to be an absolute http or https URL without credentials and fragment")]
    Form,
    #[error("callback_url: callbacks to {authority:?} are not allowed by this server")]
    NotAllowed { authority: String },
}

impl CallbackHosts {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes an allowed URL apart.
    pub(super) fn check(&self, url: &str) -> Result<Target, CallbackUrlError> {
        let found = url.len();
        if found > URL_LEN_MAX {
            return Err(CallbackUrlError::Long { found });
        }
        let target = parse(url).ok_or(CallbackUrlError::Form)?;
        let usual = if target.is_https { 443 } else { 80 };
        let is_allowed = self
            .0
            .iter()
            .any(|(host, port)| *host == target.host && port.unwrap_or(usual) == target.port);
        if is_allowed {
            Ok(target)
        } else {
            let authority = target.authority;
            Err(CallbackUrlError::NotAllowed { authority })
        }
    }
}

impl FromStr for CallbackHosts {
    type Err = BadCallbackHost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entry = |entry: &str| {
            let bad = || BadCallbackHost(entry.to_owned());
            if let Ok(address) = entry.parse::<IpAddr>() {
                return Ok((Host::Address(address.to_canonical()), None));
            }
            let authority: Authority = entry.parse().map_err(|_| bad())?;
            let port = authority.port_u16();
            let host = host(authority.host()).filter(|_| is_port_clear(&authority));
            Ok((host.ok_or_else(bad)?, port))
        };
        text.split(',')
            .map(str::trim)
            .map(entry)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn parse(url: &str) -> Option<Target> {
    if url.contains('#') {
        return None;
    }
    let uri: Uri = url.parse().ok()?;
    let is_https = match uri.scheme_str()? {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let authority = uri.authority()?;
    if authority.as_str().contains('@') || !is_port_clear(authority) {
        return None;
    }
    let port = match (uri.port_u16(), is_https) {
        (Some(port), _) => port,
        (None, true) => 443,
        (None, false) => 80,
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Some(Target {
        is_https,
        host: host(uri.host()?)?,
        port,
        authority: authority.to_string(),
        path: path.to_owned(),
    })
}

fn host(text: &str) -> Option<Host> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
        return Some(Host::Address(address.to_canonical()));
    }
    let name = text.trim_end_matches('.');
    // An address with a dot behind it is neither.
    let is_name = !name.is_empty()
        && name.parse::<IpAddr>().is_err()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    is_name.then(|| Host::Name(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed() -> CallbackHosts {
        "Hooks.example.com, other.example.com:8443, 127.0.0.1:9000, [::1]:9001, 10.0.0.1"
            .parse()
            .unwrap()
    }

    #[test]
    fn only_hosts_on_the_list_are_called_back() {
        for url in [
            "https://hooks.example.com/x?key=1",
            "http://HOOKS.example.com",
            "https://hooks.example.com:443/",
            "https://hooks.example.com./",
            "https://other.example.com:8443/",
            "http://127.0.0.1:9000/",
            "http://[::1]:9001/",
            "http://[::ffff:127.0.0.1]:9000/",
            "http://10.0.0.1/",
        ] {
            assert!(allowed().check(url).is_ok(), "{url}");
        }
        for (url, authority) in [
            ("https://hooks.example.com:444/", "hooks.example.com:444"),
            ("https://hooks.example.com:80/", "hooks.example.com:80"),
            ("https://a.hooks.example.com/", "a.hooks.example.com"),
            (
                "https://hooks.example.com.evil.org/?secret",
                "hooks.example.com.evil.org",
            ),
            ("https://other.example.com/", "other.example.com"),
            ("http://127.0.0.1/", "127.0.0.1"),
            ("http://127.0.0.1:9001/", "127.0.0.1:9001"),
            ("http://127.1:9000/", "127.1:9000"),
            ("http://2130706433:9000/", "2130706433:9000"),
            ("http://[::1]/", "[::1]"),
        ] {
            let authority = authority.to_owned();
            let refused = CallbackUrlError::NotAllowed { authority };
            assert_eq!(allowed().check(url), Err(refused), "{url}");
        }
        let none = CallbackHosts::default().check("https://hooks.example.com/");
        assert!(matches!(none, Err(CallbackUrlError::NotAllowed { .. })));
    }

    #[test]
    fn what_is_no_plain_absolute_url_is_refused() {
        for url in [
            "",
            "/x",
            "hooks.example.com/x",
            "ftp://hooks.example.com/",
            "file:///etc/passwd",
            "https://hooks.example.com/#part",
            "https://user:pass@hooks.example.com/",
            "https://evil.org@hooks.example.com/",
            "https:///x",
            "https://hooks.example.com:99999/",
            "https://hooks.example.com:/",
            "https://hooks.example.com/ x",
            "https://hooks.example.com/\r\nX: y",
        ] {
            assert_eq!(allowed().check(url), Err(CallbackUrlError::Form), "{url:?}");
        }
        let url = |len: usize| format!("https://hooks.example.com/{}", "x".repeat(len - 26));
        assert!(allowed().check(&url(2048)).is_ok());
        let found = 2049;
        assert_eq!(
            allowed().check(&url(2049)),
            Err(CallbackUrlError::Long { found })
        );
    }

    #[test]
    fn a_list_that_is_none_is_refused() {
        for text in [
            "",
            "a,,b",
            "a b",
            "https://a",
            "a/b",
            "u@a",
            "a:x",
            "a:99999",
            "[::1].:1",
            "[::1]x",
            "0.0.0.0.",
            ".",
            "*",
        ] {
            assert!(text.parse::<CallbackHosts>().is_err(), "{text:?}");
        }
    }

    proptest! {
        /// Whatever is asked for, what is called is a host and a port that were allowed.
        #[test]
        fn any_url_is_refused_or_leads_where_it_may(
            scheme in "(https?://)?",
            host in "(hooks\\.example\\.com|127\\.0\\.0\\.1|10\\.0\\.0\\.1|\\[::1\\]|[\\[\\]a-z0-9.:@%\\\\-]{0,12})\\.?",
            rest in "(:[0-9]{0,6}|@|/\\PC{0,8}|\\?|#|\\\\){0,2}",
        ) {
            let url = format!("{scheme}{host}{rest}");
            if let Ok(target) = allowed().check(&url) {
                let usual = if target.is_https { 443 } else { 80 };
                let is_allowed = allowed().0.contains(&(target.host.clone(), Some(target.port)))
                    || target.port == usual && allowed().0.contains(&(target.host, None));
                prop_assert!(is_allowed);
                prop_assert!(!target.authority.contains(['@', '/', '\\', ' ']));
                prop_assert!(target.path.starts_with(['/', '?']), "{:?}", target.path);
                let authority: Authority = target.authority.parse().unwrap();
                let told = &authority.as_str()[authority.host().len()..];
                prop_assert!(told.is_empty() || told[1..].parse() == Ok(target.port), "{}", told);
            }
        }

        /// And where it is allowed, it is called.
        #[test]
        fn any_list_is_refused_or_allows_its_hosts(
            text in "([a-bA-B.]{1,3}|[0-9a-f:.]{1,12}|\\[[0-9a-f:.]{1,12}\\]|::ffff:1\\.2\\.3\\.4)(:[0-9]{0,6})?",
            other in "[\\PC,]{0,20}",
        ) {
            let _ = other.parse::<CallbackHosts>();
            if let Ok(hosts) = text.parse::<CallbackHosts>() {
                let (host, port) = &hosts.0[0];
                let name = match host {
                    Host::Name(name) => name.clone(),
                    Host::Address(IpAddr::V6(ip)) => format!("[{ip}]"),
                    Host::Address(ip) => ip.to_string(),
                };
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                let url = format!("https://{name}{port}/");
                prop_assert!(hosts.check(&url).is_ok(), "{}", url);
            }
        }
    }
}
