//! Certificates and keys in PEM files.

use std::fs;
use std::path::Path;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// How the kinds of encrypted keys are marked: PKCS #8, and the older ones.
const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| no_pem(path, &error))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

/// The first private key of a file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    // Some encrypted keys look like plain ones but for a line of their own.
    let is_encrypted = |mark: &&[u8]| text.windows(mark.len()).any(|found| found == *mark);
    let path = path.to_owned();
    if ENCRYPTED.iter().any(is_encrypted) {
        return Err(TlsError::EncryptedKey { path });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        PemError::NoItemsFound => TlsError::NoKey { path },
        error => no_pem(&path, &error),
    })
}

/// Whether every user of the machine may read a file. Of the file's group that is often meant.
#[cfg(unix)]
pub(super) fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
}

/// Elsewhere files have no such modes.
#[cfg(not(unix))]
pub(super) fn is_open_to_all(_: &Path) -> bool {
    false
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The errors of the PEM reader have parts of the file in them, so they are told in our own words.
fn no_pem(path: &Path, error: &PemError) -> TlsError {
    TlsError::Pem {
        path: path.to_owned(),
        why: match error {
            PemError::MissingSectionEnd { .. } => "a section has no -----END line",
            PemError::IllegalSectionStart { .. } => "a -----BEGIN line is not whole",
            PemError::Base64Decode(_) => "a section is no base64",
            PemError::SectionTooLarge => "a section is too large",
            _ => "it cannot be understood",
        },
    }
}
