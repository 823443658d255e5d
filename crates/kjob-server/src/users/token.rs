//! Tokens: passwords for programs, made here and never chosen.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use blake2::{Blake2b256, Digest};
use secrecy::{ExposeSecret, SecretString};

/// By which people and programs that look for lost secrets know a token.
const PREFIX: &str = "kjob_";

/// What a hash's text begins with.
const HASH_PREFIX: &str = "blake2b-256:";

/// A token: `kjob_` and 256 random bits. It does not show in `Debug`, and is overwritten when dropped.
#[derive(Clone, Debug)]
pub struct Token(SecretString);

impl Token {
    pub(super) fn random() -> Self {
        let bits: [u8; 32] = rand::random();
        let text = format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&bits));
        Self(text.into())
    }

    /// The text that its user sends.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }
}

/// By what a token is known again.
///
/// One pass of a fast hash is enough, and a slow one with a salt would gain nothing: slow hashes make
/// up for passwords of which there are few, and nobody can try 2^256 tokens. Being so, they may also
/// be looked up by their hash: how long that takes tells of hashes, and from those is no way back.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &[u8]) -> Self {
        Self(Blake2b256::digest(token).into())
    }

    /// Reads the text of a hash.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        let read = Base64UrlUnpadded::decode(text.strip_prefix(HASH_PREFIX)?, &mut hash).ok()?;
        (read.len() == hash.len()).then_some(Self(hash))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{HASH_PREFIX}{}",
            Base64UrlUnpadded::encode_string(&self.0)
        )
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_are_known_by_their_hashes() {
        let (one, other) = (Token::random(), Token::random());
        assert_eq!(one.reveal().len(), PREFIX.len() + 43);
        assert_ne!(one.reveal(), other.reveal());
        let hash = TokenHash::of(one.reveal().as_bytes());
        assert_eq!(TokenHash::parse(&hash.to_string()), Some(hash));
        assert_ne!(TokenHash::of(other.reveal().as_bytes()), hash);
        assert!(!format!("{one:?}").contains(one.reveal()));
    }

    /// The hash of the empty text, by another program (b2sum -l 256).
    #[test]
    fn the_hash_is_blake2b() {
        let hex = "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8";
        let ours = TokenHash::of(b"")
            .0
            .map(|byte| format!("{byte:02x}"))
            .concat();
        assert_eq!(ours, hex);
    }

    #[test]
    fn other_texts_are_no_hashes() {
        for bad in [
            "",
            "blake2b-256:",
            "blake2b-256:AAAA",
            "sha256:AAAA",
            "blake2b-256:é",
        ] {
            assert_eq!(TokenHash::parse(bad), None, "{bad}");
        }
    }
}
