//! The URL of a database, with those words of libpq that the driver does not know.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;

use super::OpenError;

/// What a URL says.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) config: Config,
    pub(crate) files: TlsFiles,
}

/// Whom to trust over TLS, and as whom to speak: files in PEM.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// `sslrootcert`; the authorities that the operating system trusts if left out.
    pub(crate) roots: Option<PathBuf>,
    /// `sslcert` and `sslkey`.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// Reads a URL, or words with values (`host=db user=kjob`), which name no files.
pub(crate) fn parse(url: &str) -> Result<Target, OpenError> {
    let driver = |text: &str| {
        let config = text.parse::<Config>();
        config.map_err(|source| OpenError::BadUrl { source })
    };
    let Some((start, query)) = url
        .split_once('?')
        .filter(|(start, _)| start.contains("://"))
    else {
        let (config, files) = (driver(url)?, TlsFiles::default());
        return Ok(Target { config, files });
    };
    let (mut roots, mut certificate, mut key) = (None, None, None);
    let mut left = Vec::new();
    let mut is_tls_meant = false;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let file = || {
            Some(PathBuf::from(
                &*percent_decode_str(value).decode_utf8_lossy(),
            ))
        };
        match (name, value) {
            // As libpq says it; it is the default here.
            ("sslrootcert", "system") => {}
            ("sslrootcert", _) => roots = file(),
            ("sslcert", _) => certificate = file(),
            ("sslkey", _) => key = file(),
            // What is spoken to over TLS is verified in any case, its name included.
            ("sslmode", "verify-ca" | "verify-full") => left.push("sslmode=require"),
            _ => left.push(pair),
        }
        is_tls_meant |= ["sslrootcert", "sslcert", "sslkey"].contains(&name);
    }
    // Who says whom to trust does not want to speak to anybody without being asked.
    if is_tls_meant && !left.iter().any(|pair| pair.starts_with("sslmode=")) {
        left.push("sslmode=require");
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (certificate, _) => {
            return Err(OpenError::HalfAnIdentity {
                missing: if certificate.is_some() {
                    "sslkey"
                } else {
                    "sslcert"
                },
            });
        }
    };
    Ok(Target {
        config: driver(&format!("{start}?{}", left.join("&")))?,
        files: TlsFiles { roots, identity },
    })
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::*;

    #[test]
    fn words_for_files_are_taken_out_and_the_rest_is_the_drivers() {
        let target = parse(
            "postgres://ann@db/jobs?sslmode=verify-full&sslrootcert=%2Fetc%2Fdb%20ca.pem&connect_timeout=3",
        )
        .unwrap();
        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(target.config.get_user(), Some("ann"));
        assert_eq!(target.config.get_connect_timeout().unwrap().as_secs(), 3);
        let roots = Some(PathBuf::from("/etc/db ca.pem"));
        let identity = None;
        assert_eq!(target.files, TlsFiles { roots, identity });

        let target = parse("postgres://db?sslcert=a.pem&sslkey=a.key&sslrootcert=system").unwrap();
        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
        let identity = Some(("a.pem".into(), "a.key".into()));
        let roots = None;
        assert_eq!(target.files, TlsFiles { roots, identity });

        let prefer = parse("postgres://db?sslrootcert=system&sslmode=prefer").unwrap();
        assert_eq!(prefer.config.get_ssl_mode(), SslMode::Prefer);
        for plain in [
            "postgres://db/jobs",
            "host=db password=a?sslcert=b user=ann",
        ] {
            assert_eq!(parse(plain).unwrap().files, TlsFiles::default(), "{plain}");
        }
    }

    #[test]
    fn half_an_identity_and_unknown_words_are_refused() {
        for (url, missing) in [
            ("postgres://db?sslcert=a.pem", "sslkey"),
            ("postgres://db?sslkey=a.key", "sslcert"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(
                matches!(error, OpenError::HalfAnIdentity { missing: found } if found == missing),
                "{error:?}"
            );
        }
        for (url, why) in [
            ("postgres://db?sslmode=maybe", "sslmode"),
            ("postgres://db?sslrotcert=x", "sslrotcert"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(matches!(error, OpenError::BadUrl { .. }), "{url}");
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
