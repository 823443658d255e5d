//! Making a client.

use std::time::Duration;

use kjob_proto::Encoding;
use rand::seq::SliceRandom;

use crate::credentials::Credentials;
use crate::ring::Ring;
#[cfg(feature = "tls")]
use crate::tls::TlsSettings;
use crate::transport::{self, Connector, Transport};
use crate::{Client, Error, Urls};

/// Settings of a [`Client`].
///
/// ```
/// use kjob_client::{Client, Encoding};
/// use std::time::Duration;
///
/// let client = Client::builder(["http://127.0.0.1:9191", "http://127.0.0.2:9191"])
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
    urls: Urls,
    is_shuffled: bool,
    encoding: Encoding,
    connect_timeout: Duration,
    timeout: Duration,
    tries: u32,
    max_reply: usize,
    credentials: Option<Credentials>,
    #[cfg(feature = "tls")]
    tls: TlsSettings,
}

impl ClientBuilder {
    pub(crate) fn new(urls: Urls) -> Self {
        Self {
            urls,
            is_shuffled: false,
            encoding: Encoding::Binary,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            tries: 5,
            max_reply: 256 << 20,
            credentials: None,
            #[cfg(feature = "tls")]
            tls: TlsSettings::default(),
        }
    }

    /// Puts the servers of a ring into a random order, so that not all clients begin with the same one.
    /// By default they are asked in the order of their URLs.
    pub fn shuffled(mut self) -> Self {
        self.is_shuffled = true;
        self
    }

    /// How requests and replies are encoded; binary by default. It is independent of how payloads
    /// are. Replies to snappy requests are plain binary.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// How long it may take to connect (TCP) to a server; 5 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one try of a call may take, connecting included; 30 s by default. A wait for a
    /// job comes on top.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often a call is tried at most at each server, if it meets broken connections, late answers
    /// or a busy server; 5 by default, at least 1. Between two tries at one it waits for a tenth of a
    /// second, and each time twice as long, or as long as the server asks.
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
    /// There is no URL, or one is none, or of another scheme than `http` and (with the feature `tls`)
    /// `https`; or credentials or certificates that were given cannot be used.
    pub fn build(self) -> Result<Client, Error> {
        let mut bases = self.urls.bases()?;
        if self.is_shuffled {
            bases.shuffle(&mut rand::rng());
        }
        let authorization = self.credentials.as_ref().map(Credentials::header);
        let connector = self.connector(&bases)?;
        Ok(Client {
            transport: Transport::new(
                self.encoding,
                self.max_reply,
                authorization.transpose()?,
                connector,
            ),
            ring: Ring::new(bases),
            timeout: self.timeout,
            tries: self.tries,
        })
    }

    #[cfg(feature = "tls")]
    fn connector(&self, bases: &[String]) -> Result<Connector, Error> {
        let is_https = bases.iter().any(|base| base.starts_with("https:"));
        self.tls
            .wrap(transport::tcp(self.connect_timeout), is_https)
    }

    #[cfg(not(feature = "tls"))]
    fn connector(&self, _: &[String]) -> Result<Connector, Error> {
        Ok(transport::tcp(self.connect_timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_shuffled_if_told() {
        let urls: Vec<String> = (0..20).map(|n| format!("http://s{n}")).collect();
        let build = |builder: ClientBuilder| builder.build().unwrap().ring.bases().to_vec();
        assert_eq!(build(Client::builder(&urls[..])), urls);
        let mut shuffled = build(Client::builder(&urls[..]).shuffled());
        assert_ne!(shuffled, urls, "one in 20! orders");
        shuffled.sort_by_key(|url| urls.iter().position(|known| known == url));
        assert_eq!(shuffled, urls);
    }
}
