//! What a request says of who sends it.

use std::fmt;

use base64ct::{Base64, Encoding as _};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::zeroize::Zeroizing;

/// The longest `Authorization`, in bytes. Each is hashed, before anything is known of who sends it.
const LEN_MAX: usize = 4096;

/// The `Authorization` of a request. Does not show in `Debug`, and is overwritten when dropped.
#[derive(Clone)]
pub(crate) enum Credentials {
    /// There is none.
    None,
    /// There are several, or there is one of more than 4 KiB.
    Odd,
    /// The header's value.
    Given(Zeroizing<Vec<u8>>),
}

/// What is in it.
pub(crate) enum Claim {
    /// HTTP's Basic scheme (RFC 7617).
    Password {
        name: String,
        password: Zeroizing<Vec<u8>>,
    },
    /// HTTP's Bearer scheme (RFC 6750).
    Token(Zeroizing<Vec<u8>>),
}

impl Credentials {
    /// Those of a request with these headers.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(value), None) if value.len() <= LEN_MAX => {
                Self::Given(Zeroizing::new(value.as_bytes().to_vec()))
            }
            _ => Self::Odd,
        }
    }
}

impl Claim {
    /// Reads the value of an `Authorization`. `None` if it is of another scheme, or not of its form.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let space = value.iter().position(|byte| *byte == b' ')?;
        let (scheme, rest) = value.split_at(space);
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return (!rest.is_empty()).then(|| Self::Token(Zeroizing::new(rest.to_vec())));
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let text = std::str::from_utf8(rest).ok()?;
        let pair = Zeroizing::new(Base64::decode_vec(text).ok()?);
        let colon = pair.iter().position(|byte| *byte == b':')?;
        let (name, password) = pair.split_at(colon);
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let password = password.get(1..).unwrap_or_default().to_vec();
        Some(Self::Password {
            name,
            password: Zeroizing::new(password),
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Odd => "Odd",
            Self::Given(_) => "Given(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn password(value: &str) -> Option<(String, String)> {
        match Claim::parse(value.as_bytes())? {
            Claim::Password { name, password } => {
                Some((name, String::from_utf8(password.to_vec()).unwrap()))
            }
            Claim::Token(_) => None,
        }
    }

    #[test]
    fn basic_is_read_as_the_rfc_has_it() {
        let aladdin = Some(("Aladdin".to_owned(), "open sesame".to_owned()));
        for scheme in ["Basic", "basic", "BASIC"] {
            let value = format!("{scheme} QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
            assert_eq!(password(&value), aladdin);
        }
        // RFC 7617 section 2.1: "test" and "123£" in UTF-8; a password may have colons.
        let pound = Some(("test".to_owned(), "123£".to_owned()));
        assert_eq!(password("Basic dGVzdDoxMjPCow=="), pound);
        let colons = Some(("a".to_owned(), "b:c".to_owned()));
        assert_eq!(password("Basic YTpiOmM="), colons);
    }

    #[test]
    fn what_is_of_no_form_is_nothing() {
        for bad in [
            "",
            "Basic",
            "Basic ",
            "Basic !!!!",
            "Basic QWxhZGRpbg==",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ",
            "Bearer",
            "Bearer ",
            "Negotiate YTpi",
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Basic /zpi",
        ] {
            assert!(Claim::parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
        assert!(matches!(Claim::parse(b"bearer x"), Some(Claim::Token(_))));
    }

    #[test]
    fn several_or_long_ones_are_odd() {
        let mut headers = HeaderMap::new();
        assert!(matches!(Credentials::of(&headers), Credentials::None));
        let value = |len| HeaderValue::try_from("x".repeat(len)).unwrap();
        headers.insert(AUTHORIZATION, value(LEN_MAX));
        assert!(matches!(Credentials::of(&headers), Credentials::Given(_)));
        assert_eq!(format!("{:?}", Credentials::of(&headers)), "Given(..)");
        headers.insert(AUTHORIZATION, value(LEN_MAX + 1));
        assert!(matches!(Credentials::of(&headers), Credentials::Odd));
        headers.insert(AUTHORIZATION, value(1));
        headers.append(AUTHORIZATION, value(1));
        assert!(matches!(Credentials::of(&headers), Credentials::Odd));
    }

    proptest! {
        #[test]
        fn any_value_is_read_or_refused(
            scheme in "(Basic|bearer|Negotiate|[ -~]{0,8}) {0,2}",
            rest in prop::collection::vec(any::<u8>(), 0..64),
            is_encoded: bool,
        ) {
            let rest = match is_encoded {
                true => Base64::encode_string(&rest).into_bytes(),
                false => rest,
            };
            match Claim::parse(&[scheme.as_bytes(), &rest].concat()) {
                Some(Claim::Password { name, .. }) => prop_assert!(!name.contains(':')),
                Some(Claim::Token(token)) => {
                    prop_assert!(!token.is_empty() && token.trim_ascii() == &token[..]);
                }
                None => {}
            }
        }

        #[test]
        fn any_pair_is_read_as_it_was_written(name in "[^:]{0,20}", secret in "\\PC{0,20}") {
            let pair = Base64::encode_string(format!("{name}:{secret}").as_bytes());
            prop_assert_eq!(password(&format!("Basic {pair}")), Some((name, secret)));
        }
    }
}
