//! Job tags: the name under which a client can find its job again.

use std::fmt;
use std::sync::Arc;

use rand::Rng;

use crate::JobId;

/// The name that a user gives a job, or that the server makes for it: 1 to 255 of
/// `A-Z a-z 0-9 _ -`. Scoped to the submitting user.
///
/// The alphabet is documented by the protocol, the length is our choice (docs/protocol.md
/// section 4, `/create/job`).
///
/// A [generated](JobTag::generate) tag carries the id of its job, so that finding the job by its
/// tag needs no index. A user may of course write a tag of the same form; it is generated only
/// if it [carries](JobTag::carried_id) the id of the job it names.
///
/// ```
/// use kjob_core::{JobTag, TagError};
/// let tag: JobTag = "nightly_2026-11-01".parse()?;
/// assert_eq!(tag.as_str(), "nightly_2026-11-01");
/// assert_eq!("a b".parse::<JobTag>(), Err(TagError::BadCharacter { at: 1 }));
/// # Ok::<(), TagError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobTag(Arc<str>);

/// Why a text is no tag. Positions are byte offsets; the text itself is not repeated, as it may
/// hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// A tag has at least one character.
    #[error("job_tag is empty")]
    Empty,
    /// Longer than [`JobTag::LEN_MAX`].
    #[error("job_tag has {found} bytes, more than {max}", max = JobTag::LEN_MAX)]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// A character outside the alphabet.
    #[error("job_tag has a character at byte {at} that is not one of A-Z a-z 0-9 _ -")]
    BadCharacter {
        /// Where it stands.
        at: usize,
    },
}

impl JobTag {
    /// The most characters a tag has.
    pub const LEN_MAX: usize = 255;

    const GENERATED_PREFIX: &'static str = "job-";
    const RANDOM_LEN: usize = 12;

    /// A tag for the job `id` whose user gave none: `job-ID-RANDOM`.
    ///
    /// The random part (62 bits from `rng`) keeps a tag from naming another job after a store
    /// was lost and ids began anew.
    pub fn generate(id: JobId, rng: &mut impl Rng) -> Self {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut bits = rng.next_u64();
        let mut text = Self::GENERATED_PREFIX.to_owned() + &id.to_string();
        text.push('-');
        for _ in 0..Self::RANDOM_LEN {
            let index = (bits % 36) as usize;
            bits /= 36;
            text.push(char::from(ALPHABET[index]));
        }
        Self(text.into())
    }

    /// The id inside a tag of the generated form.
    ///
    /// The tag names that job only if the job's own tag is this one: the form can be written by
    /// anyone.
    pub fn carried_id(&self) -> Option<JobId> {
        let (id, random) = self
            .0
            .strip_prefix(Self::GENERATED_PREFIX)?
            .split_once('-')?;
        let canonical = !id.starts_with('0') && id.bytes().all(|b| b.is_ascii_digit());
        let random_ok = random.len() == Self::RANDOM_LEN
            && random
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !canonical || !random_ok {
            return None;
        }
        JobId::new(id.parse().ok()?)
    }

    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for JobTag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        if text.is_empty() {
            return Err(TagError::Empty);
        }
        if text.len() > Self::LEN_MAX {
            return Err(TagError::TooLong { found: text.len() });
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        match text.bytes().position(|b| !allowed(b)) {
            Some(at) => Err(TagError::BadCharacter { at }),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for JobTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobTag({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_length_is_bounded_at_255() {
        assert!("a".repeat(255).parse::<JobTag>().is_ok());
        assert_eq!(
            "a".repeat(256).parse::<JobTag>(),
            Err(TagError::TooLong { found: 256 })
        );
        assert_eq!("".parse::<JobTag>(), Err(TagError::Empty));
    }

    #[test]
    fn only_the_exact_form_carries_an_id() {
        for text in [
            "job-7-abc",
            "job-07-abcdefabcdef",
            "job--abcdefabcdef",
            "job-0-abcdefabcdef",
            "job-+7-abcdefabcdef",
            "job-9007199254740992-abcdefabcdef",
            "job-7-ABCDEFABCDEF",
        ] {
            assert_eq!(
                text.parse::<JobTag>().ok().and_then(|t| t.carried_id()),
                None,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn generated_tags_are_tags_and_carry_their_id(id in 1..=JobId::MAX, seed: u64) {
            let id = JobId::new(id).unwrap();
            let tag = JobTag::generate(id, &mut rand::rngs::StdRng::seed_from_u64(seed));
            prop_assert_eq!(tag.as_str().parse::<JobTag>().unwrap(), tag.clone());
            prop_assert_eq!(tag.carried_id(), Some(id));
        }

        #[test]
        fn a_tag_is_exactly_its_alphabet(text in ".{0,300}") {
            let good = (1..=255).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            prop_assert_eq!(text.parse::<JobTag>().is_ok(), good);
        }
    }
}
