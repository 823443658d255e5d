//! What a certificate says about itself.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;

use super::TlsError;

/// From then on the end of a certificate is worth a warning.
const WARNED_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The certificate that a server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Whether a certificate is valid at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Validity {
    /// It is, for a month and longer.
    Valid,
    /// It is, for this time only, which is less than 30 days.
    EndsIn(Duration),
    /// It was, until this long ago.
    Ended(Duration),
    /// It will be, in this time.
    BeginsIn(Duration),
}

impl Certificate {
    /// Reads the first certificate of the file at `path`.
    pub(super) fn read(path: &Path, der: &CertificateDer<'static>) -> Result<Self, TlsError> {
        let refuse = |why| TlsError::Certificate {
            path: path.to_owned(),
            number: 1,
            why,
        };
        // Raw: whether it is one by all rules is for those to say who are to trust it.
        let read = CertificateInner::<Raw>::from_der(der);
        let read = read.map_err(|error| refuse(error.to_string()))?;
        let validity = read.tbs_certificate().validity();
        Ok(Self {
            der: der.clone(),
            not_before: validity.not_before.to_system_time(),
            not_after: validity.not_after.to_system_time(),
        })
    }

    /// The first moment at which it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last moment at which it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it is valid at a moment.
    pub fn validity(&self, now: SystemTime) -> Validity {
        if let Ok(wait) = self.not_before.duration_since(now)
            && !wait.is_zero()
        {
            return Validity::BeginsIn(wait);
        }
        match self.not_after.duration_since(now) {
            Ok(left) if left >= WARNED_BEFORE => Validity::Valid,
            Ok(left) => Validity::EndsIn(left),
            Err(error) => Validity::Ended(error.duration()),
        }
    }

    /// Whether clients that asked for this host, a DNS name or an IP address, accept it.
    pub fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else {
            return false;
        };
        let parsed = ParsedCertificate::try_from(&self.der);
        parsed.is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }

    /// Writes to the log until when it is valid: as a warning if clients refuse it now or soon.
    pub(super) fn log(&self, path: &Path) {
        let path = path.display();
        let ends = humantime::format_rfc3339_seconds(self.not_after);
        match self.validity(SystemTime::now()) {
            Validity::Valid => tracing::info!(%path, %ends, "the TLS certificate is valid"),
            Validity::EndsIn(left) => {
                let days = left.as_secs() / (24 * 60 * 60);
                tracing::warn!(%path, %ends, days, "the TLS certificate ends soon");
            }
            Validity::Ended(_) => {
                tracing::warn!(%path, %ends, "the TLS certificate has ended: clients refuse it");
            }
            Validity::BeginsIn(_) => {
                let begins = humantime::format_rfc3339_seconds(self.not_before);
                tracing::warn!(%path, %begins, "the TLS certificate is not valid yet: clients refuse it");
            }
        }
    }
}
