//! What the settings of TLS ask of each other.

use super::{ClientAuth, ConfigError, Maybe, Settings};
use crate::tls::{ClientCertificates, TlsOptions};

/// What TLS is to be set up with, if it is to be spoken.
pub(super) fn options(settings: &Settings) -> Result<Option<TlsOptions>, ConfigError> {
    let needs = |key, needed| Err(ConfigError::Needs { key, needed });
    let (cert, key) = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) => return needs("tls_cert", "tls_key"),
        (None, Some(_)) => return needs("tls_key", "tls_cert"),
        // Whoever asks for certificates of clients must not be served without TLS.
        (None, None) if settings.tls_client_ca.is_some() => {
            return needs("tls_client_ca", "tls_cert");
        }
        (None, None) => match settings.tls_client_auth {
            Maybe::Told(ClientAuth::Optional | ClientAuth::Required) => {
                return needs("tls_client_auth", "tls_cert");
            }
            _ => return Ok(None),
        },
    };
    let mut options = TlsOptions::new(cert, key);
    options.min_version = settings.tls_min_version;
    options.clients = match (&settings.tls_client_auth, settings.tls_client_ca.clone()) {
        (Maybe::Told(ClientAuth::None), _) | (Maybe::Auto, None) => ClientCertificates::Ignored,
        (Maybe::Told(ClientAuth::Optional), Some(authorities)) => {
            ClientCertificates::Optional { authorities }
        }
        (Maybe::Told(ClientAuth::Required) | Maybe::Auto, Some(authorities)) => {
            ClientCertificates::Required { authorities }
        }
        (Maybe::Told(_), None) => return needs("tls_client_auth", "tls_client_ca"),
    };
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Keys};
    use super::*;
    use crate::tls::TlsVersion;

    fn resolve(text: &str) -> Result<Option<TlsOptions>, String> {
        let config = Config::resolve(Keys::from_toml(text, "kjob.toml".as_ref()).unwrap());
        config
            .map(|config| config.tls)
            .map_err(|error| error.to_string())
    }

    const PAIR: &str = "tls_cert = 'a.pem'\ntls_key = 'a.key'\n";

    #[test]
    fn a_certificate_and_its_key_come_together() {
        assert_eq!(resolve(""), Ok(None));
        assert_eq!(
            resolve(PAIR),
            Ok(Some(TlsOptions::new("a.pem", "a.key"))),
            "TLS 1.2, and clients are not asked"
        );
        for (text, message) in [
            (
                "tls_cert = 'a.pem'",
                "tls_cert is set, and needs tls_key, which is not",
            ),
            (
                "tls_key = 'a.key'",
                "tls_key is set, and needs tls_cert, which is not",
            ),
            (
                "tls_client_ca = 'ca.pem'",
                "tls_client_ca is set, and needs tls_cert, which is not",
            ),
            (
                "tls_client_auth = 'required'",
                "tls_client_auth is set, and needs tls_cert, which is not",
            ),
        ] {
            assert_eq!(resolve(text), Err(message.to_owned()));
        }
    }

    #[test]
    fn clients_are_asked_if_there_is_something_to_hold_them_against() {
        let authorities = || "ca.pem".into();
        for (auth, clients) in [
            (
                "",
                ClientCertificates::Required {
                    authorities: authorities(),
                },
            ),
            (
                "tls_client_auth = 'required'",
                ClientCertificates::Required {
                    authorities: authorities(),
                },
            ),
            (
                "tls_client_auth = 'optional'",
                ClientCertificates::Optional {
                    authorities: authorities(),
                },
            ),
            ("tls_client_auth = 'none'", ClientCertificates::Ignored),
        ] {
            let text = format!("{PAIR}tls_client_ca = 'ca.pem'\n{auth}");
            assert_eq!(resolve(&text).unwrap().unwrap().clients, clients, "{auth}");
        }
        let error = resolve(&format!("{PAIR}tls_client_auth = 'optional'")).unwrap_err();
        assert_eq!(
            error,
            "tls_client_auth is set, and needs tls_client_ca, which is not"
        );
    }

    #[test]
    fn versions_are_those_that_are_safe() {
        let text = format!("{PAIR}tls_min_version = '1.3'");
        let options = resolve(&text).unwrap().unwrap();
        assert_eq!(options.min_version, TlsVersion::V1_3);
        let error = Keys::from_toml("tls_min_version = '1.1'", "kjob.toml".as_ref());
        assert_eq!(
            error.unwrap_err().to_string(),
            "kjob.toml:1: tls_min_version: \"1.1\" is not one of 1.2, 1.3"
        );
    }
}
