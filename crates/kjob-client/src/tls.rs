//! Whom the client trusts, and what it shows of itself.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use crate::Error;
use crate::error::Kind;

/// Settings as they were given, in PEM. Printed without what is in them.
#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    /// Authorities that are trusted besides the operating system's.
    pub(crate) roots: Vec<Vec<u8>>,
    /// What the client shows: its certificates, and their key.
    pub(crate) own: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) accepts_any: bool,
}

impl TlsSettings {
    /// Puts TLS on top of `http`, for URLs that want it.
    pub(crate) fn wrap(
        &self,
        mut http: HttpConnector,
        is_https: bool,
    ) -> Result<HttpsConnector<HttpConnector>, Error> {
        http.enforce_http(false);
        let config = self.config(is_https)?;
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        Ok(builder.https_or_http().enable_http1().wrap_connector(http))
    }

    fn config(&self, is_https: bool) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse("TLS", error))?;
        if !is_https {
            // Nobody will be asked, so the system's authorities need not be read.
            let nobody = RootCertStore::empty();
            return Ok(builder.with_root_certificates(nobody).with_no_client_auth());
        }
        let verifier: Arc<dyn ServerCertVerifier> = if self.accepts_any {
            Arc::new(AnyServer(provider))
        } else {
            let what = "a root certificate";
            let mut roots = Vec::new();
            for pem in &self.roots {
                roots.extend(certificates(what, pem)?);
            }
            let verifier = Verifier::new_with_extra_roots(roots, provider);
            Arc::new(verifier.map_err(|error| refuse(what, error))?)
        };
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some((chain, key)) = &self.own else {
            return Ok(builder.with_no_client_auth());
        };
        let what = "the client certificate";
        let chain = certificates(what, chain)?;
        // The reader's own errors have parts of the key in them.
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| refuse(what, "there is no private key, or it is encrypted"))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| refuse(what, error))
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("roots", &self.roots.len())
            .field("own", &self.own.is_some())
            .field("accepts_any", &self.accepts_any)
            .finish()
    }
}

/// Whether TLS itself is among the causes of an error: a certificate that one side does not take, or
/// nothing to agree on. Trying again would end the same way.
pub(crate) fn is_cause(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        // As a source, an I/O error gives that of what it holds, and hides what it holds itself.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(|io| io.get_ref());
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    false
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(refuse(what, "there is none in the PEM text")),
        Ok(all) => Ok(all),
        Err(_) => Err(refuse(what, "it is no PEM text")),
    }
}

fn refuse(what: &'static str, why: impl fmt::Display) -> Error {
    Error::from(Kind::TlsSetup {
        what,
        why: why.to_string(),
    })
}

/// Takes any certificate. That the server has its key is still checked.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
