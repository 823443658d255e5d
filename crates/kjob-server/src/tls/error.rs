//! Why a certificate or a key cannot be used.

use std::io;
use std::path::PathBuf;

/// Files that TLS cannot be set up with. No message has a byte of a key in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is no PEM.
    #[error("{path} is no PEM file: {why}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file of certificates has none.
    #[error("{path} has no certificate in it (-----BEGIN CERTIFICATE-----)", path = path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate is none that can be used.
    #[error("{path}: certificate {number} cannot be used: {why}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which of the file's certificates, counted from 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A file of a key has none.
    #[error("{path} has no private key in it (-----BEGIN PRIVATE KEY-----)", path = path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key needs a password, which nobody is there to give.
    #[error(
        "{path}: the private key is encrypted; give one that is not, in a file that only the server can read",
        path = path.display()
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The key is none that can be used.
    #[error("{path}: the private key cannot be used: {why}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key is another certificate's.
    #[error(
        "the private key in {key} is not that of the first certificate in {cert}",
        key = key.display(), cert = cert.display()
    )]
    KeyMismatch {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The files are well, and TLS cannot be set up all the same.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}
