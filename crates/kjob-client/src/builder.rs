//! Making a client.

use std::time::Duration;

use http::Uri;
use kjob_proto::Encoding;

use crate::credentials::Credentials;
#[cfg(feature = "tls")]
use crate::tls::TlsSettings;
use crate::transport::{self, Connector, Transport};
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
///     .basic("ann", "a password")
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
    credentials: Option<Credentials>,
    #[cfg(feature = "tls")]
    tls: TlsSettings,
}

impl ClientBuilder {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            encoding: Encoding::Binary,
            timeout: Duration::from_secs(30),
            tries: 5,
            max_reply: 256 << 20,
            credentials: None,
            #[cfg(feature = "tls")]
            tls: TlsSettings::default(),
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

    /// Who calls: a user and its password, by HTTP Basic. They can be read on the way unless the URL
    /// is of the scheme `https`.
    pub fn basic(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::Basic {
            user: user.into(),
            password: password.into(),
        });
        self
    }

    /// Who calls: whoever this token is of, instead of a user and a password. It can be read on the
    /// way unless the URL is of the scheme `https`.
    pub fn bearer(mut self, token: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::Bearer {
            token: token.into(),
        });
        self
    }

    /// Trusts the authorities in this PEM text too, besides those that the operating system trusts.
    /// May be called more than once.
    #[cfg(feature = "tls")]
    pub fn add_root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.roots.push(pem.into());
        self
    }

    /// Shows this certificate to servers that ask for one. Both are PEM texts: the certificate and
    /// those between it and its authority's, and the key, which must not be encrypted.
    #[cfg(feature = "tls")]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.tls.own = Some((certificate.into(), key.into()));
        self
    }

    /// Takes whatever certificate the server shows. **Whoever stands between can then read and
    /// change everything**, passwords too: for tests only. A server with an authority of its own
    /// is better trusted by [`add_root_certificate`](Self::add_root_certificate).
    #[cfg(feature = "tls")]
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.tls.accepts_any = true;
        self
    }

    /// The client. Connects to nothing yet. With `https` it reads whom the operating system trusts.
    ///
    /// # Errors
    /// The URL is none, or of another scheme than `http` and (with the feature `tls`) `https`; or
    /// credentials or certificates that were given cannot be used.
    pub fn build(self) -> Result<Client, Error> {
        let base = base(&self.url)?;
        let authorization = self.credentials.as_ref().map(Credentials::header);
        let connector = self.connector(&base)?;
        Ok(Client {
            transport: Transport::new(
                base,
                self.encoding,
                self.max_reply,
                authorization.transpose()?,
                connector,
            ),
            timeout: self.timeout,
            tries: self.tries,
        })
    }

    #[cfg(feature = "tls")]
    fn connector(&self, base: &str) -> Result<Connector, Error> {
        self.tls.wrap(transport::tcp(), base.starts_with("https:"))
    }

    #[cfg(not(feature = "tls"))]
    fn connector(&self, _: &str) -> Result<Connector, Error> {
        Ok(transport::tcp())
    }
}

/// The part of the URL that endpoints are appended to.
fn base(url: &str) -> Result<String, Error> {
    let refuse = |why| Error::url(url, why);
    let uri: Uri = url
        .parse()
        .map_err(|_| refuse("not a URL such as http://127.0.0.1:9191"))?;
    let scheme = match uri.scheme_str() {
        Some("http") => "http",
        Some("https") if cfg!(feature = "tls") => "https",
        Some("https") => return Err(refuse("https needs the feature tls of kjob-client")),
        _ => return Err(refuse("the scheme must be http or https")),
    };
    let host = uri
        .authority()
        .map(http::uri::Authority::as_str)
        .unwrap_or_default();
    if host.contains('@') {
        return Err(refuse(
            "user and password do not belong into the URL; use ClientBuilder::basic",
        ));
    }
    if uri.query().is_some() {
        return Err(refuse("a query has no meaning here"));
    }
    Ok(format!(
        "{scheme}://{host}{}",
        uri.path().trim_end_matches('/')
    ))
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
    fn https_is_there_with_its_feature_only() {
        let found = base("https://example.org:9191/");
        if cfg!(feature = "tls") {
            assert_eq!(found.unwrap(), "https://example.org:9191");
        } else {
            assert!(found.unwrap_err().to_string().contains("feature tls"));
        }
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        for (url, why) in [
            ("", "not a URL"),
            ("127.0.0.1:9191", "must be http"),
            ("/create/job", "must be http"),
            ("ftp://example.org", "must be http"),
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
