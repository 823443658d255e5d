//! Passwords, and the hashes by which they are known again.

use std::fmt;
use std::sync::{Arc, LazyLock};

use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};

/// The shortest password, in characters (NIST SP 800-63B section 5.1.1.1).
const CHARS_MIN: usize = 8;

/// The longest password, in bytes.
const LEN_MAX: usize = 1024;

/// Memory of one hash, in KiB, passes over it, and lanes: OWASP's first choice of 2023 for argon2id
/// (Password Storage Cheat Sheet).
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What a hash from a users file may ask for at most: whoever tries a password makes the server do it.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 8;

/// A password that somebody chose. Does not show in `Debug`, and is overwritten when dropped.
#[derive(Clone, Debug)]
pub struct Password(SecretString);

/// A text is no password that a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPassword {
    /// It is too short.
    #[error("the password has {found} characters; the least is 8")]
    TooShort {
        /// How many characters it has.
        found: usize,
    },
    /// It is too long.
    #[error("the password has {found} bytes; the most is 1024")]
    TooLong {
        /// How many bytes it has.
        found: usize,
    },
    /// It has a control character, which is a slip of whatever gave it.
    #[error("the password has a control character, such as a tab")]
    Control,
}

impl Password {
    /// Checks a new password: 8 characters to 1024 bytes, and no control characters.
    ///
    /// # Errors
    /// [`BadPassword`].
    pub fn new(text: SecretString) -> Result<Self, BadPassword> {
        let shown = text.expose_secret();
        let chars = shown.chars().count();
        if chars < CHARS_MIN {
            return Err(BadPassword::TooShort { found: chars });
        }
        if shown.len() > LEN_MAX {
            return Err(BadPassword::TooLong { found: shown.len() });
        }
        if shown.chars().any(char::is_control) {
            return Err(BadPassword::Control);
        }
        Ok(Self(text))
    }
}

/// The argon2id hash of a password, with its salt and its cost. Not secret enough to be shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PasswordHash(Arc<phc::PasswordHash>);

impl PasswordHash {
    /// Hashes with a new salt.
    pub(super) fn of(password: &Password) -> Self {
        let salt: [u8; 16] = rand::random();
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None);
        let argon2 = Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            params.unwrap_or(Params::DEFAULT),
        );
        let hash = argon2.hash_password_with_salt(password.0.expose_secret().as_bytes(), &salt);
        match hash {
            Ok(hash) => Self(Arc::new(hash)),
            // Cost, salt and length are all within what argon2 takes, as a test shows.
            Err(error) => unreachable!("argon2 refuses its own parameters: {error}"),
        }
    }

    /// Reads the text of a hash. Why it cannot be used, without repeating it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let hash = phc::PasswordHash::new(text).map_err(|_| "it is no PHC string".to_owned())?;
        if hash.algorithm.as_str() != Algorithm::Argon2id.as_str() {
            return Err("it is of another algorithm than argon2id".to_owned());
        }
        let is_whole = hash.salt.is_some() && hash.hash.is_some();
        if !is_whole || hash.version != Some(Version::V0x13.into()) {
            return Err("it lacks its salt, its hash or the version 19".to_owned());
        }
        let cost = Params::try_from(&hash).map_err(|_| "its cost cannot be read".to_owned())?;
        let (memory, passes, lanes) = (cost.m_cost(), cost.t_cost(), cost.p_cost());
        if memory > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
            return Err(format!(
                "its cost is m={memory},t={passes},p={lanes}; the most is \
                 m={MEMORY_KIB_MAX},t={PASSES_MAX},p={LANES_MAX}"
            ));
        }
        Ok(Self(Arc::new(hash)))
    }

    /// Whether this is the hash of a password. Slow, and takes memory, as told by the hash; the time
    /// does not depend on where the two differ.
    pub(crate) fn is_of(&self, password: &[u8]) -> bool {
        Argon2::default()
            .verify_password(password, self.0.as_ref())
            .is_ok()
    }
}

/// A hash of no password, by which a try at a user whom there is not costs the time of one at a user
/// whom there is.
pub(crate) fn dummy() -> &'static PasswordHash {
    static DUMMY: LazyLock<PasswordHash> = LazyLock::new(|| {
        let nobody_knows: [u8; 32] = rand::random();
        let text: String = nobody_knows.map(|byte| format!("{byte:02x}")).concat();
        PasswordHash::of(&Password(text.into()))
    });
    &DUMMY
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned().into()).unwrap()
    }

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let hash = PasswordHash::of(&password("correct horse"));
        let text = hash.to_string();
        assert!(
            text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{text}"
        );
        let read = PasswordHash::parse(&text).unwrap();
        assert_eq!(read, hash);
        assert!(read.is_of(b"correct horse"));
        assert!(!read.is_of(b"correct horsf") && !read.is_of(b""));
        assert!(!dummy().is_of(b"correct horse"));
    }

    #[test]
    fn lengths_have_both_ends() {
        let new = |text: String| Password::new(text.into()).map(drop);
        assert_eq!(
            new("1234567".into()),
            Err(BadPassword::TooShort { found: 7 })
        );
        assert_eq!(new("éééééééé".into()), Ok(()));
        assert_eq!(new("x".repeat(1024)), Ok(()));
        let found = 1025;
        assert_eq!(new("x".repeat(found)), Err(BadPassword::TooLong { found }));
        assert_eq!(new("12345678\t".into()), Err(BadPassword::Control));
    }

    #[test]
    fn hashes_that_cost_too_much_or_too_little_are_refused() {
        let tail = "$c2FsdHNhbHRzYWx0c2FsdA$JN8kR4pAUGyqKIlNQeXxbBtmIQhkHgbPfHcXgyYZ4zY";
        let parse = |head: &str| PasswordHash::parse(&format!("{head}{tail}")).map(drop);
        parse("$argon2id$v=19$m=262144,t=16,p=8").unwrap();
        for (head, why) in [
            ("$argon2id$v=19$m=262145,t=2,p=1", "its cost is"),
            ("$argon2id$v=19$m=19456,t=17,p=1", "its cost is"),
            ("$argon2id$v=19$m=19456,t=2,p=9", "its cost is"),
            ("$argon2i$v=19$m=19456,t=2,p=1", "another algorithm"),
            ("$argon2id$v=16$m=19456,t=2,p=1", "version"),
            ("plain", "no PHC string"),
        ] {
            let error = parse(head).unwrap_err();
            assert!(error.contains(why), "{head}: {error}");
            assert!(!error.contains("c2FsdH"), "{error}");
        }
    }

    #[test]
    fn neither_shows_in_debug() {
        let password = password("correct horse");
        let hash = PasswordHash::of(&password);
        let shown = format!("{password:?} {hash:?}");
        assert!(
            !shown.contains("horse") && !shown.contains("argon2"),
            "{shown}"
        );
    }

    /// Nearly a PHC string, of little cost, so that a password can be tried at it.
    fn phc() -> impl Strategy<Value = String> {
        let base64 = |len| {
            prop::collection::vec(any::<u8>(), len).prop_map(|bytes: Vec<u8>| {
                use base64ct::{Base64Unpadded, Encoding as _};
                Base64Unpadded::encode_string(&bytes)
            })
        };
        let odd = "[ -~]{0,12}";
        let version = prop_oneof![8 => Just("v=19".to_owned()), 1 => odd];
        let cost = prop_oneof![
            8 => "m=[0-9]{1,2},t=[0-4],p=[0-3]",
            1 => "m=[0-9]{1,12},t=[0-9]{1,12},p=[0-9]{1,12}",
            1 => odd,
        ];
        let salt = prop_oneof![8 => base64(0..64), 1 => odd];
        (version, cost, salt, base64(0..80)).prop_map(|(version, cost, salt, hash)| {
            format!("$argon2id${version}${cost}${salt}${hash}")
        })
    }

    proptest! {
        #[test]
        fn any_hash_is_read_or_refused(text in "[ -~]{0,80}", phc in phc()) {
            let _ = PasswordHash::parse(&text);
            if let Ok(hash) = PasswordHash::parse(&phc) {
                let cost = Params::try_from(hash.0.as_ref()).unwrap();
                prop_assert!(cost.m_cost() <= MEMORY_KIB_MAX && cost.t_cost() <= PASSES_MAX);
                prop_assert!(cost.p_cost() <= LANES_MAX);
                prop_assert_eq!(PasswordHash::parse(&hash.to_string()), Ok(hash.clone()));
                if cost.m_cost() < 1024 {
                    prop_assert!(!hash.is_of(b"correct horse"));
                }
            }
        }
    }
}
