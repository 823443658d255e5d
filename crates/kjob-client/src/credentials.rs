//! Who the caller says it is.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::Error;
use crate::error::Kind;

/// What is sent with each request. Printed only by its kind.
#[derive(Clone)]
pub(crate) enum Credentials {
    Basic { user: String, password: String },
    Bearer { token: String },
}

impl Credentials {
    /// The value of the header `Authorization`.
    pub(crate) fn header(&self) -> Result<HeaderValue, Error> {
        let refuse = |why| Error::from(Kind::Credentials { why });
        let text = match self {
            // RFC 7617 section 2.
            Self::Basic { user, .. } if user.contains(':') => {
                return Err(refuse("a user name has no colon in it"));
            }
            Self::Basic { user, password }
                if user.chars().chain(password.chars()).any(char::is_control) =>
            {
                return Err(refuse("a user name or password has no control characters"));
            }
            Self::Basic { user, password } => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
            // RFC 6750 section 2.1.
            Self::Bearer { token } if token.is_empty() || !token.bytes().all(is_token68) => {
                return Err(refuse("a token is made of A-Z a-z 0-9 - . _ ~ + / ="));
            }
            Self::Bearer { token } => format!("Bearer {token}"),
        };
        let value = HeaderValue::try_from(text);
        let mut value = value.map_err(|_| refuse("they are no text of a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::Bearer { .. } => "Bearer",
        })
    }
}

fn is_token68(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    fn bearer(token: &str) -> Credentials {
        Credentials::Bearer {
            token: token.to_owned(),
        }
    }

    #[test]
    fn names_and_passwords_are_written_as_http_wants() {
        // The example of RFC 7617 section 2, and the one with other letters of section 2.1.
        for (credentials, expected) in [
            (
                basic("Aladdin", "open sesame"),
                "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            ),
            (basic("test", "123\u{a3}"), "Basic dGVzdDoxMjPCow=="),
            (basic("", "a:b"), "Basic OmE6Yg=="),
            (bearer("mF_9.B5f-4.1JqM"), "Bearer mF_9.B5f-4.1JqM"),
        ] {
            assert_eq!(credentials.header().unwrap(), expected);
        }
    }

    #[test]
    fn what_no_header_can_carry_is_refused_and_not_repeated() {
        for credentials in [
            basic("an:n", "secret"),
            basic("ann", "sec\nret"),
            bearer(""),
            bearer("sec ret"),
            bearer("secret\r\nX: y"),
        ] {
            let error = credentials.header().unwrap_err();
            assert!(error.is_usage());
            assert!(!error.to_string().contains("sec"), "{error}");
        }
    }

    #[test]
    fn printing_tells_no_secret() {
        for credentials in [basic("ann", "secret"), bearer("secret")] {
            let shown = format!("{credentials:?} {:?}", credentials.header().unwrap());
            assert!(
                !shown.contains("secret") && !shown.contains("c2VjcmV0"),
                "{shown}"
            );
        }
    }
}
