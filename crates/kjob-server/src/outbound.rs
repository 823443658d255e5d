//! Requests to other servers: kept-alive connections, over TCP or TLS. Redirects are never followed.

use std::error::Error as StdError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

/// How long a connection is kept that is not used: less than the five seconds after which some common
/// servers close theirs, as a request that meets a closing connection is lost.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Whether there is nothing but a port that is a number behind the host of an authority without a user. The
/// HTTP library takes any other port, such as 99999, for none, and would go to the one that the scheme has by
/// default; and it passes over what stands between the bracket of an address and the colon.
pub(crate) fn is_port_clear(authority: &Authority) -> bool {
    let rest = authority.as_str().strip_prefix(authority.host());
    match rest.and_then(|rest| rest.strip_prefix(':')) {
        Some(port) => port.parse::<u16>().is_ok() && authority.port().is_some(),
        None => rest == Some(""),
    }
}

/// What calls itself so in `User-Agent`.
pub(crate) const AGENT: &str = concat!("kjob-server/", env!("CARGO_PKG_VERSION"));

/// Any error of a body.
pub(crate) type BodyFailure = Box<dyn StdError + Send + Sync>;

/// The body of a request on its way out.
pub(crate) type OutBody = UnsyncBoxBody<Bytes, BodyFailure>;

/// A client of other servers. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    http: Client<HttpsConnector<HttpConnector>, OutBody>,
}

/// How to reach the other servers.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    /// How long making a connection may take, for each address of a name.
    pub(crate) connect_timeout: Duration,
    /// Whether any of them speaks TLS; the operating system's authorities are read only then.
    pub(crate) is_https: bool,
    /// A PEM file of authorities that are trusted instead of the operating system's.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Why other servers cannot be reached as told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    /// The file cannot be read.
    #[error("ca_file {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file has no certificates.
    #[error("ca_file {path}: {why}", path = path.display())]
    Authorities { path: PathBuf, why: String },
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// There was no connection, so that the request was not sent.
    #[error("no connection: {0}")]
    Connect(String),
    /// The connection broke: the request may have been received, and acted on.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl Outbound {
    /// Sets up, and makes no connection yet.
    ///
    /// # Errors
    /// See [`ReachError`].
    pub(crate) fn new(reach: &Reach) -> Result<Self, ReachError> {
        let mut tcp = HttpConnector::new();
        // Requests are written whole, so there is nothing to wait for and join.
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(reach.connect_timeout));
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(reach)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector);
        Ok(Self { http })
    }

    /// Sends a request, and gives the answer once its head is there. When the future, or the body of
    /// the answer, is dropped, the connection is closed at once: that is how the other side learns
    /// that nobody waits any more.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) async fn send(
        &self,
        request: Request<OutBody>,
    ) -> Result<Response<Incoming>, SendError> {
        self.http.request(request).await.map_err(|error| {
            let is_connect = error.is_connect();
            let text = with_sources(&error);
            match is_connect {
                true => SendError::Connect(text),
                false => SendError::Broken(text),
            }
        })
    }
}

/// A body that is there whole.
pub(crate) fn whole(body: impl Into<Bytes>) -> OutBody {
    http_body_util::Full::new(body.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn tls(reach: &Reach) -> Result<ClientConfig, ReachError> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match &reach.ca_file {
        Some(path) => builder.with_root_certificates(authorities(path)?),
        // Nobody will be asked, so the system's authorities need not be read.
        None if !reach.is_https => builder.with_root_certificates(RootCertStore::empty()),
        None => builder.with_platform_verifier()?,
    };
    Ok(builder.with_no_client_auth())
}

fn authorities(path: &Path) -> Result<RootCertStore, ReachError> {
    let pem = fs::read(path).map_err(|source| ReachError::Read {
        path: path.to_owned(),
        source,
    })?;
    let bad = |why: &dyn ToString| ReachError::Authorities {
        path: path.to_owned(),
        why: why.to_string(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| bad(&"it is no PEM text"))?;
        roots.add(certificate).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(bad(&"there is no certificate in it"));
    }
    Ok(roots)
}

/// An error and what it comes from: HTTP libraries say only there what is wrong.
pub(crate) fn with_sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
