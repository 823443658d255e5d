//! TLS: what a server shows to prove who it is, and what it asks of its clients.
//!
//! ```
//! use kjob_server::tls::{ClientCertificates, Tls, TlsError, TlsOptions, Validity};
//! use std::time::SystemTime;
//! # let dir = tempfile::tempdir()?;
//! # let authority = kjob_test_certificates::Authority::new("an authority");
//! # let files = authority.server(&["jobs.example.org"]).write(dir.path(), "server")?;
//! # let clients = dir.path().join("clients.pem");
//! # std::fs::write(&clients, authority.pem())?;
//! # let (cert, key) = (files.certificate, files.key);
//!
//! let mut options = TlsOptions::new(&cert, &key);
//! options.clients = ClientCertificates::Required { authorities: clients };
//! let tls = Tls::load(options)?; // for Server::with_tls
//! assert!(tls.certificate().is_for("jobs.example.org"));
//! assert_eq!(tls.certificate().validity(SystemTime::now()), Validity::Valid);
//!
//! // When the files have changed; what cannot be used changes nothing.
//! std::fs::write(&key, "no key")?;
//! assert!(matches!(tls.reload(), Err(TlsError::NoKey { .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod certificate;
mod error;
mod files;
mod handshake;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::ring::{self, Ticketer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error as RustlsError, RootCertStore, ServerConfig, SupportedProtocolVersion};

pub use certificate::{Certificate, Validity};
pub use error::TlsError;
pub(crate) use handshake::Hello;

/// The protocols that are spoken over TLS, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where a server's certificate is, and what it asks of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsOptions {
    /// A PEM file: the server's certificate, then those between it and the authority's, if any.
    pub cert: PathBuf,
    /// A PEM file: the private key, not encrypted.
    pub key: PathBuf,
    /// Whether clients show certificates. Default: they are not asked.
    pub clients: ClientCertificates,
    /// The oldest version that is spoken. Default 1.2.
    pub min_version: TlsVersion,
}

impl TlsOptions {
    /// The defaults, with these files.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            cert: cert.into(),
            key: key.into(),
            clients: ClientCertificates::Ignored,
            min_version: TlsVersion::V1_2,
        }
    }
}

/// Whether clients show certificates. One that shows a bad one is refused, also where it need not
/// show any. A certificate lets a client in, and says nothing of which user it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// They are not asked for any.
    Ignored,
    /// They may.
    Optional {
        /// A PEM file: the certificates of the authorities that theirs are from.
        authorities: PathBuf,
    },
    /// They must.
    Required {
        /// A PEM file: the certificates of the authorities that theirs are from.
        authorities: PathBuf,
    },
}

/// A version of TLS. Older ones are not safe, and are not spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// What a server needs to speak TLS. Clones share it, so that all of them see a
/// [reload](Self::reload).
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    options: TlsOptions,
    current: RwLock<Current>,
}

/// What one reading of the files gave.
#[derive(Clone)]
struct Current {
    config: Arc<ServerConfig>,
    certificate: Certificate,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing or has not in it what it should, or the key is not the certificate's.
    /// A certificate that has ended is none: it is in the log.
    pub fn load(options: TlsOptions) -> Result<Self, TlsError> {
        let current = RwLock::new(Current::load(&options)?);
        Ok(Self(Arc::new(Inner { options, current })))
    }

    /// Reads the files again. Handshakes from now on take what is in them; connections that are
    /// there go on. Sessions of before cannot be resumed, so that nobody comes in by a certificate
    /// that is no longer taken.
    ///
    /// # Errors
    /// As [`load`](Self::load); then all stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Current::load(&self.0.options)?;
        *self
            .0
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The certificate that is shown now.
    pub fn certificate(&self) -> Certificate {
        self.read(|current| current.certificate.clone())
    }

    /// Writes to the log until when the certificate is valid, and a warning if that is soon.
    pub fn log_certificate(&self) {
        self.certificate().log(&self.0.options.cert);
    }

    /// What a handshake that begins now takes.
    fn current(&self) -> Arc<ServerConfig> {
        self.read(|current| current.config.clone())
    }

    fn read<T>(&self, part: impl FnOnce(&Current) -> T) -> T {
        // What is in there is swapped whole, so a panic elsewhere has left nothing half done.
        part(
            &self
                .0
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.options).finish()
    }
}

impl Current {
    fn load(options: &TlsOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = files::certificates(&options.cert)?;
        let Some(first) = chain.first() else {
            let path = options.cert.clone();
            return Err(TlsError::NoCertificate { path });
        };
        let certificate = Certificate::read(&options.cert, first)?;
        let key = files::private_key(&options.key)?;
        if files::is_open_to_all(&options.key) {
            tracing::warn!(
                path = %options.key.display(),
                "every user of this machine can read or change the private key; chmod 600 it"
            );
        }
        let certified = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| key_error(options, &error))?;
        let versions: &[&'static SupportedProtocolVersion] = match options.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(setup)?;
        let builder = match &options.clients {
            ClientCertificates::Ignored => builder.with_no_client_auth(),
            ClientCertificates::Optional { authorities }
            | ClientCertificates::Required { authorities } => {
                let roots = Arc::new(roots(authorities)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match &options.clients {
                    ClientCertificates::Required { .. } => verifier,
                    _ => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(setup)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        // Sessions are kept by the clients, in tickets under keys that are changed every few hours:
        // the server keeps none in memory.
        config.ticketer = Ticketer::new().map_err(setup)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            config: Arc::new(config),
            certificate,
        })
    }
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in files::certificates(path)?.into_iter().enumerate() {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::Certificate {
            path: path.to_owned(),
            number: index + 1,
            why: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn key_error(options: &TlsOptions, error: &RustlsError) -> TlsError {
    match error {
        RustlsError::InconsistentKeys(_) => TlsError::KeyMismatch {
            cert: options.cert.clone(),
            key: options.key.clone(),
        },
        RustlsError::InvalidCertificate(_) => TlsError::Certificate {
            path: options.cert.clone(),
            number: 1,
            why: error.to_string(),
        },
        error => TlsError::Key {
            path: options.key.clone(),
            why: error.to_string(),
        },
    }
}

fn setup(error: impl fmt::Display) -> TlsError {
    TlsError::Setup(error.to_string())
}
