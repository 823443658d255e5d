//! Option maps: typed values, and typos refused by name.
//!
//! Clients of other versions send options of their own, so unknown ones are ignored. One that nearly
//! is a known one is a mistake though, and taken for nothing it would silently lose what its writer
//! counts on: a `job_tga` loses idempotency.

use std::ops::RangeInclusive;
use std::time::{Duration, UNIX_EPOCH};

use kjob_core::{JobTag, TagError, Timestamp};
use kjob_proto::{StringMap, Text};

/// The most options that a request may have; the official clients send a handful.
pub(crate) const OPTIONS_MAX: usize = 256;

/// The longest time that an option may ask for: ten years, in seconds.
pub(crate) const SECONDS_MAX: u64 = 10 * 365 * 24 * 60 * 60;

/// How many letters may differ for an unknown option to count as a typo of a known one.
const TYPO_DISTANCE_MAX: usize = 2;

/// The options of a request, those that its endpoint knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options<'a> {
    map: &'a StringMap,
}

/// What is wrong with an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    /// An unknown name, close to a known one.
    #[error("unknown option {found:?}; did you mean {known:?}?")]
    NearMiss { found: Text, known: &'static str },
    /// An unknown name where all are to be known.
    #[error("unknown option {found:?}; there are: {known}")]
    Unknown { found: Text, known: String },
    /// A value that the option cannot have.
    #[error("option {name} cannot be {found:?}; allowed: {allowed}")]
    BadValue {
        name: &'static str,
        found: Text,
        allowed: String,
    },
    /// A text that is too long.
    #[error("option {name} has {found} bytes, limit {limit}")]
    TooLong {
        name: &'static str,
        found: usize,
        limit: usize,
    },
    /// Not a tag.
    #[error("option {name}: {error}")]
    BadTag { name: &'static str, error: TagError },
    /// More options than [`OPTIONS_MAX`].
    #[error("options: {found} entries, limit {limit}")]
    TooMany { found: usize, limit: usize },
}

impl<'a> Options<'a> {
    /// Checks the names against those that the endpoint knows.
    pub(crate) fn new(map: &'a StringMap, known: &[&'static str]) -> Result<Self, OptionError> {
        if map.len() > OPTIONS_MAX {
            return Err(OptionError::TooMany {
                found: map.len(),
                limit: OPTIONS_MAX,
            });
        }
        for (name, _) in map {
            if let Some(known) = meant(name, known) {
                return Err(OptionError::NearMiss {
                    found: name.clone(),
                    known,
                });
            }
        }
        Ok(Self { map })
    }

    /// As [`new`](Self::new), where no other options are to come: a caller of ordinary HTTP is no
    /// client of another version.
    pub(crate) fn strict(map: &'a StringMap, known: &[&'static str]) -> Result<Self, OptionError> {
        let options = Self::new(map, known)?;
        match map.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(options),
            Some((name, _)) => Err(OptionError::Unknown {
                found: name.clone(),
                known: join(known.iter().copied()),
            }),
        }
    }

    /// The option's text, if it is given.
    pub(crate) fn text(&self, name: &str) -> Option<&'a Text> {
        self.map.get(name)
    }

    /// A text of at most `limit` bytes, copied, so that it does not keep the request's body alive.
    pub(crate) fn short_text(
        &self,
        name: &'static str,
        limit: usize,
    ) -> Result<Option<Text>, OptionError> {
        match self.text(name) {
            Some(text) if text.len() > limit => Err(OptionError::TooLong {
                name,
                found: text.len(),
                limit,
            }),
            text => Ok(text.map(|text| Text::copy_from(text))),
        }
    }

    /// A whole number inside `range`.
    pub(crate) fn number(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, OptionError> {
        self.parsed(
            name,
            |text| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let number = digits.then(|| text.parse().ok()).flatten();
                number.filter(|number| range.contains(number))
            },
            || format!("a whole number from {} to {}", range.start(), range.end()),
        )
    }

    /// A time in milliseconds, at least `millis_min`.
    pub(crate) fn millis(
        &self,
        name: &'static str,
        millis_min: u64,
    ) -> Result<Option<Duration>, OptionError> {
        let millis = self.number(name, millis_min..=SECONDS_MAX * 1000)?;
        Ok(millis.map(Duration::from_millis))
    }

    /// `true` or `false`, in any letter case, as the Python client writes `True` in some versions.
    pub(crate) fn flag(&self, name: &'static str) -> Result<Option<bool>, OptionError> {
        self.parsed(
            name,
            |text| {
                let is = |word| text.eq_ignore_ascii_case(word);
                is("true").then_some(true).or(is("false").then_some(false))
            },
            || "true, false".to_owned(),
        )
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(
        &self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, OptionError> {
        self.parsed(
            name,
            |text| {
                words
                    .iter()
                    .find(|(word, _)| text == *word)
                    .map(|(_, value)| *value)
            },
            || join(words.iter().map(|(word, _)| *word)),
        )
    }

    /// One or more of a few words, separated by commas; none if the option is not given.
    pub(crate) fn words<T: Copy>(
        &self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Result<Vec<T>, OptionError> {
        let values = self.parsed(
            name,
            |text| {
                let value = |part: &str| {
                    let word = words.iter().find(|(word, _)| part.trim() == *word);
                    word.map(|(_, value)| *value)
                };
                text.split(',').map(value).collect::<Option<Vec<T>>>()
            },
            || join(words.iter().map(|(word, _)| *word)),
        )?;
        Ok(values.unwrap_or_default())
    }

    /// A moment, as RFC 3339 has it, in UTC.
    pub(crate) fn time(&self, name: &'static str) -> Result<Option<Timestamp>, OptionError> {
        self.parsed(
            name,
            |text| {
                let time = humantime::parse_rfc3339(text).ok()?;
                let since = time.duration_since(UNIX_EPOCH).ok()?;
                let millis = i64::try_from(since.as_millis()).ok()?;
                Some(Timestamp::from_millis(millis))
            },
            || "a moment such as 2026-11-24T01:02:03Z".to_owned(),
        )
    }

    /// The option `job_tag`.
    pub(crate) fn job_tag(&self) -> Result<Option<JobTag>, OptionError> {
        let name = "job_tag";
        let tag = self.text(name).map(|tag| tag.parse()).transpose();
        tag.map_err(|error| OptionError::BadTag { name, error })
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
        allowed: impl FnOnce() -> String,
    ) -> Result<Option<T>, OptionError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let bad = || OptionError::BadValue {
            name,
            found: text.clone(),
            allowed: allowed(),
        };
        parse(text.trim()).map(Some).ok_or_else(bad)
    }
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

/// The known name that `name` is a misspelling of; `None` if it is known itself, or far from all.
pub(crate) fn meant(name: &str, known: &[&'static str]) -> Option<&'static str> {
    if known.contains(&name) {
        return None;
    }
    // Distances cost the product of the lengths, and a name may be a mebibyte long.
    let longest = known.iter().map(|known| known.len()).max().unwrap_or(0);
    if name.len() > longest + TYPO_DISTANCE_MAX {
        return None;
    }
    let plain = name.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|known| (strsim::levenshtein(&plain, known), *known))
        .filter(|(distance, _)| *distance <= TYPO_DISTANCE_MAX)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["job_tag", "timeout_ms", "priority", "limit"];

    fn check(name: &'static str) -> Result<(), OptionError> {
        Options::new(&StringMap::from_iter([(name, "1")]), KNOWN).map(|_| ())
    }

    fn near(found: &'static str, known: &'static str) -> Result<(), OptionError> {
        Err(OptionError::NearMiss {
            found: found.into(),
            known,
        })
    }

    #[test]
    fn two_letters_off_is_a_typo_and_three_are_another_option() {
        assert_eq!(check("job_tag"), Ok(()));
        assert_eq!(check("job_tga"), near("job_tga", "job_tag"));
        assert_eq!(check("jobtag"), near("jobtag", "job_tag"));
        assert_eq!(check("job_ta"), near("job_ta", "job_tag"));
        assert_eq!(check("JOB-TAG"), near("JOB-TAG", "job_tag"));
        assert_eq!(check("Timeout-MS"), near("Timeout-MS", "timeout_ms"));
        assert_eq!(check("timeout"), Ok(()));
        assert_eq!(check("tag"), Ok(()));
        assert_eq!(check(""), Ok(()));
    }

    #[test]
    fn the_nearest_name_is_proposed() {
        let map = StringMap::from_iter([("limits", "1")]);
        let error = Options::new(&map, &["lima", "limit"]).unwrap_err();
        assert_eq!(error, near("limits", "limit").unwrap_err());
    }

    #[test]
    fn numbers_are_digits_inside_their_range() {
        for (text, expected) in [
            ("0", Some(0)),
            ("9", Some(9)),
            (" 7 ", Some(7)),
            ("10", None),
            ("-1", None),
            ("+1", None),
            ("1e0", None),
            ("1.0", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            let map = StringMap::from_iter([("priority", text)]);
            let options = Options::new(&map, KNOWN).unwrap();
            let found = options.number("priority", 0..=9);
            assert_eq!(found.clone().ok().flatten(), expected, "{text}");
            if expected.is_none() {
                let message = found.unwrap_err().to_string();
                assert!(message.contains("priority") && message.contains("from 0 to 9"));
            }
        }
    }

    #[test]
    fn flags_and_words_say_what_is_allowed() {
        let map = StringMap::from_iter([("flag", "True"), ("bad", "yes"), ("list", "A, B")]);
        let options = Options::new(&map, &[]).unwrap();
        assert_eq!(options.flag("flag"), Ok(Some(true)));
        assert_eq!(options.flag("absent"), Ok(None));
        let refusal = options.flag("bad").unwrap_err().to_string();
        assert_eq!(
            refusal,
            r#"option bad cannot be "yes"; allowed: true, false"#
        );
        let words = [("A", 1), ("B", 2)];
        assert_eq!(options.words("list", &words), Ok(vec![1, 2]));
        assert_eq!(options.words("absent", &words), Ok(vec![]));
        assert!(options.word("list", &words).is_err());
    }

    #[test]
    fn the_number_of_options_is_bounded() {
        let map = |count: usize| {
            let entries = (0..count).map(|n| (format!("option number {n}"), "1"));
            entries.collect::<StringMap>()
        };
        assert!(Options::new(&map(OPTIONS_MAX), KNOWN).is_ok());
        let error = Options::new(&map(OPTIONS_MAX + 1), KNOWN).unwrap_err();
        let (found, limit) = (OPTIONS_MAX + 1, OPTIONS_MAX);
        assert_eq!(error, OptionError::TooMany { found, limit });
    }

    #[test]
    fn texts_are_bounded_and_copied() {
        let map = StringMap::from_iter([("user_data", "12345")]);
        let options = Options::new(&map, &[]).unwrap();
        assert_eq!(options.short_text("user_data", 5), Ok(Some("12345".into())));
        let refusal = options.short_text("user_data", 4).unwrap_err().to_string();
        assert_eq!(refusal, "option user_data has 5 bytes, limit 4");
    }
}
