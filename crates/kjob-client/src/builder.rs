//! Making a client.

use std::time::Duration;

use http::Uri;
use kjob_proto::Encoding;

use crate::transport::Transport;
use crate::{Client, Error};

/// Settings of a [`Client`].
///
/// ```
/// use kjob_client::{Client, Encoding};
/// use std::time::Duration;
///
/// let client = Client::builder("http://127.0.0.1:9191")
///     .encoding(Encoding::Json)
///     .timeout(Duration::from_secs(10))
///     .tries(3)
///     .build()?;
/// # Ok::<(), kjob_client::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder makes a client by build"]
pub struct ClientBuilder {
    url: String,
    encoding: Encoding,
    timeout: Duration,
    tries: u32,
    max_reply: usize,
}

impl ClientBuilder {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            encoding: Encoding::Binary,
            timeout: Duration::from_secs(30),
            tries: 5,
            max_reply: 256 << 20,
        }
    }

    /// How requests and replies are encoded; binary by default. It is independent of how payloads
    /// are. Replies to snappy requests are plain binary.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// How long one try of a call may take, connecting included; 30 s by default. A wait for a
    /// job comes on top.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often a call is tried at most, if it meets broken connections, late answers or a busy
    /// server; 5 by default, at least 1. Between two tries it waits for a tenth of a second, and
    /// each time twice as long, or as long as the server asks.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    /// How many bytes a reply may have; 256 MiB by default.
    pub fn max_reply(mut self, bytes: usize) -> Self {
        self.max_reply = bytes;
        self
    }

    /// The client. Connects to nothing yet.
    ///
    /// # Errors
    /// The URL is none, or not of the scheme `http`.
    pub fn build(self) -> Result<Client, Error> {
        let base = base(&self.url)?;
        Ok(Client {
            transport: Transport::new(base, self.encoding, self.max_reply),
            timeout: self.timeout,
            tries: self.tries,
        })
    }
}

/// The part of the URL that endpoints are appended to.
fn base(url: &str) -> Result<String, Error> {
    let refuse = |why| Error::url(url, why);
    let uri: Uri = url
        .parse()
        .map_err(|_| refuse("not a URL such as http://127.0.0.1:9191"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(refuse("https is not supported by this version; use http")),
        _ => return Err(refuse("the scheme must be http")),
    }
    let host = uri
        .authority()
        .map(http::uri::Authority::as_str)
        .unwrap_or_default();
    if host.contains('@') {
        return Err(refuse(
            "user and password are not supported by this version",
        ));
    }
    if uri.query().is_some() {
        return Err(refuse("a query has no meaning here"));
    }
    Ok(format!("http://{host}{}", uri.path().trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_may_have_a_path_that_endpoints_are_appended_to() {
        for (url, expected) in [
            ("http://127.0.0.1:9191", "http://127.0.0.1:9191"),
            ("http://127.0.0.1:9191/", "http://127.0.0.1:9191"),
            ("http://[::1]/gpudb-0/", "http://[::1]/gpudb-0"),
        ] {
            assert_eq!(base(url).unwrap(), expected);
        }
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        for (url, why) in [
            ("", "not a URL"),
            ("127.0.0.1:9191", "must be http"),
            ("/create/job", "must be http"),
            ("https://example.org", "https is not supported"),
            ("http://ann:secret@example.org", "user and password"),
            ("http://example.org/?a=b", "query"),
        ] {
            let error = base(url).unwrap_err();
            assert!(
                error.is_usage() && error.to_string().contains(why),
                "{error}"
            );
        }
    }
}
