//! Certificates for tests: an authority of one's own, and what it signs.
//!
//! ```
//! use kjob_test_certificates::Authority;
//!
//! let authority = Authority::new("test authority");
//! let server = authority.server(&["localhost", "127.0.0.1"]);
//! assert!(authority.pem().starts_with("-----BEGIN CERTIFICATE-----"));
//! assert!(server.key.starts_with("-----BEGIN PRIVATE KEY-----"));
//! ```

#![allow(
    clippy::unwrap_used,
    reason = "used by tests, whose names and dates are right"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, both as PEM.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate alone, without the authority's.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// The files of a [`Signed`].
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, which only the owner can read.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority, which nobody trusts yet.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Its own certificate, as PEM: what those who trust it are given.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server of these DNS names and IP addresses.
    pub fn server(&self, names: &[&str]) -> Signed {
        self.server_until(names, SystemTime::now() + 365 * DAY)
    }

    /// The same, with an end.
    pub fn server_until(&self, names: &[&str], end: SystemTime) -> Signed {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth, end)
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str) -> Signed {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let end = SystemTime::now() + 365 * DAY;
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth, end)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        end: SystemTime,
    ) -> Signed {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch;
        params.not_after = epoch + end.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        Signed {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Signed {
    /// Writes both to files in `dir` that are named after `name`; replaces those that are there.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> io::Result<Files> {
        let files = Files {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        fs::write(&files.certificate, &self.certificate)?;
        fs::write(&files.key, &self.key)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600))?;
        }
        Ok(files)
    }
}
