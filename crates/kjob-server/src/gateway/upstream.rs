//! Where an upstream is, and where an endpoint is there.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::outbound::is_port_clear;

/// A server that jobs are passed on to: scheme, host and the path that endpoints are appended to. It is
/// from the config alone; what clients send can only name a place below that path.
///
/// ```
/// use kjob_server::gateway::Upstream;
///
/// let upstream: Upstream = "http://127.0.0.1:8080/api/".parse()?;
/// assert_eq!(upstream.at("/report/daily")?.to_string(), "http://127.0.0.1:8080/api/report/daily");
/// assert_eq!(upstream.at("/report/für")?.path(), "/api/report/f%C3%BCr");
/// assert!(upstream.at("/report/../admin").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Without a slash at its end.
    base: String,
    is_https: bool,
}

/// A text is not the URL of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an upstream is a URL such as http://127.0.0.1:8080 or https://example.org/api, without a user, \
     a query or a fragment"
)]
pub struct BadUpstream;

/// An endpoint that is not passed on, as it might lead out of the upstream's path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint {endpoint:?} cannot be passed on: {why}")]
pub struct BadEndpoint {
    /// The endpoint.
    pub endpoint: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Upstream {
    /// The place of an endpoint. What a path cannot have is percent-encoded; what servers between
    /// here and there might take for more than a name is refused.
    ///
    /// # Errors
    /// An empty segment, `.` or `..` (also with parameters behind `;`), a percent sign, a question
    /// mark, a number sign, a backslash, or a control character.
    pub fn at(&self, endpoint: &str) -> Result<Uri, BadEndpoint> {
        let bad = |why| BadEndpoint {
            endpoint: endpoint.to_owned(),
            why,
        };
        let path = endpoint.strip_prefix('/');
        let path = path.ok_or_else(|| bad("it does not begin with /"))?;
        let mut text = self.base.clone();
        let count = path.split('/').count();
        for (index, segment) in path.split('/').enumerate() {
            // A slash at the end makes an empty last segment, which leads nowhere else.
            if segment.is_empty() && index + 1 < count {
                return Err(bad("a segment of it is empty"));
            }
            let name = segment.split(';').next().unwrap_or_default();
            if matches!(name, "." | "..") {
                return Err(bad("a segment of it is . or .."));
            }
            text.push('/');
            for letter in segment.chars() {
                push_encoded(&mut text, letter).map_err(bad)?;
            }
        }
        text.parse().map_err(|_| bad("it makes no URL"))
    }

    /// Whether TLS is spoken with it.
    pub fn is_https(&self) -> bool {
        self.is_https
    }
}

fn push_encoded(text: &mut String, letter: char) -> Result<(), &'static str> {
    const PLAIN: &str = "-._~!$&'()*+,;=:@";
    match letter {
        '%' => return Err("it has a percent sign"),
        '?' => return Err("it has a question mark"),
        '#' => return Err("it has a number sign"),
        '\\' => return Err("it has a backslash"),
        letter if letter.is_control() => return Err("it has a control character"),
        letter if letter.is_ascii_alphanumeric() || PLAIN.contains(letter) => text.push(letter),
        letter => {
            let mut buffer = [0; 4];
            let letter = letter.encode_utf8(&mut buffer);
            text.extend(utf8_percent_encode(letter, NON_ALPHANUMERIC));
        }
    }
    Ok(())
}

impl FromStr for Upstream {
    type Err = BadUpstream;

    fn from_str(text: &str) -> Result<Self, BadUpstream> {
        // It is dropped unseen in the parsed form.
        if text.contains('#') {
            return Err(BadUpstream);
        }
        let uri: Uri = text.parse().map_err(|_| BadUpstream)?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(BadUpstream),
        };
        let authority = uri.authority().ok_or(BadUpstream)?;
        let is_plain = !authority.as_str().contains('@') && is_port_clear(authority);
        if !is_plain || authority.host().is_empty() || uri.query().is_some() {
            return Err(BadUpstream);
        }
        let scheme = if is_https { "https" } else { "http" };
        let path = uri.path().trim_end_matches('/');
        let base = format!("{scheme}://{authority}{path}");
        Ok(Self { base, is_https })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn upstream() -> Upstream {
        "http://127.0.0.1:8080/base".parse().unwrap()
    }

    #[test]
    fn endpoints_are_appended() {
        for (base, endpoint, url) in [
            ("http://h", "/x", "http://h/x"),
            ("http://h/", "/x", "http://h/x"),
            ("https://h:1/a/b/", "/x/y/", "https://h:1/a/b/x/y/"),
            (
                "http://[::1]:7",
                "/a b\"<é",
                "http://[::1]:7/a%20b%22%3C%C3%A9",
            ),
            ("http://h", "/a@b:c;d=1,2", "http://h/a@b:c;d=1,2"),
        ] {
            let upstream: Upstream = base.parse().unwrap();
            assert_eq!(upstream.at(endpoint).unwrap().to_string(), url);
        }
    }

    #[test]
    fn nothing_leads_out() {
        for endpoint in [
            "",
            "x",
            "//",
            "//evil/x",
            "/a//b",
            "/..",
            "/../x",
            "/a/./b",
            "/a/..",
            "/..;/x",
            "/.;x=1/y",
            "/%2e%2e/x",
            "/a%2fb",
            "/a?b",
            "/a#b",
            "/a\\..\\b",
            "/a\r\nHost: x",
            "/a\0",
            "/a\u{85}b",
        ] {
            assert!(upstream().at(endpoint).is_err(), "{endpoint:?}");
        }
    }

    #[test]
    fn upstreams_have_no_more_than_a_path() {
        for text in [
            "",
            "127.0.0.1:8080",
            "/x",
            "ftp://h",
            "http://",
            "http://u@h",
            "http://u:p@h/",
            "http://h?x",
            "http://h/#x",
            "http://h:99999",
            "unix:/x",
        ] {
            assert_eq!(text.parse::<Upstream>(), Err(BadUpstream), "{text}");
        }
    }

    proptest! {
        /// Whatever an endpoint is, its URL has the upstream's host and is below its path, also for
        /// who decodes it once more.
        #[test]
        fn any_endpoint_stays_below(endpoint in "/(\\PC|[./;%?#@:\\\\]){0,40}") {
            if let Ok(uri) = upstream().at(&endpoint) {
                prop_assert_eq!(uri.authority().unwrap().as_str(), "127.0.0.1:8080");
                prop_assert_eq!(uri.query(), None);
                let below = uri.path().strip_prefix("/base/");
                prop_assert!(below.is_some());
                for segment in below.unwrap().split('/') {
                    prop_assert!(!matches!(segment, "." | ".."));
                }
                prop_assert!(!uri.path().contains("//"));
            }
        }
    }
}
