//! Names of users and of their tokens.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use kjob_core::Owner;

/// The longest name, in bytes.
const LEN_MAX: usize = 128;

/// A name: 1 to 128 of `A-Z a-z 0-9 . _ @ + -`, the first of them a letter, a digit or `_`. It has no
/// colon, which ends the name in HTTP's Basic scheme. `anonymous` is nobody's, as it owns the jobs of
/// servers without accounts.
///
/// ```
/// use kjob_server::users::UserName;
/// assert_eq!("ann@example.org".parse::<UserName>()?.as_str(), "ann@example.org");
/// for bad in ["", "a:b", "-a", "a b", "anonymous"] {
///     assert!(bad.parse::<UserName>().is_err());
/// }
/// # Ok::<(), kjob_server::users::BadName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

/// A text is no [`UserName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name: it takes 1 to 128 of A-Z a-z 0-9 . _ @ + -, beginning with a letter, a digit or _, and \"anonymous\" is reserved"
)]
pub struct BadName(String);

impl UserName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Who owns the user's jobs.
    pub(crate) fn owner(&self) -> Owner {
        Owner::new(&self.0)
    }
}

impl FromStr for UserName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let mut bytes = text.bytes();
        let starts_well = bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_');
        let goes_on_well =
            bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte));
        let is_reserved = text == Owner::anonymous().as_str();
        if starts_well && goes_on_well && text.len() <= LEN_MAX && !is_reserved {
            return Ok(Self(text.to_owned()));
        }
        let shown = text.chars().take(LEN_MAX).collect();
        Err(BadName(shown))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for UserName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_a_length() {
        assert!("a".repeat(LEN_MAX).parse::<UserName>().is_ok());
        assert!("a".repeat(LEN_MAX + 1).parse::<UserName>().is_err());
        assert!("é".parse::<UserName>().is_err());
        assert!("_9.@+-".parse::<UserName>().is_ok());
    }
}
