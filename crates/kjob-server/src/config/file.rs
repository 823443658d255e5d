//! Reading the config file.

use std::fs;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::keys::Origin;
use super::{BadValue, ConfigError, Keys, routes};
use crate::options::meant;

impl Keys {
    /// Reads a config file.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or has a key or a value that is not possible.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_toml(&text, path)
    }

    /// Reads the text of a config file; `path` is what errors call it.
    ///
    /// # Errors
    /// The text is no TOML, or has a key or a value that is not possible.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let path = path.display().to_string();
        let place = |offset| format!("{path}:{}", line_of(text, offset));

        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            place: place(error.span().map_or(text.len(), |span| span.start)),
            message: one_line(error.message()),
        })?;
        let mut keys = Self {
            has_file: true,
            ..Self::default()
        };
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let at = name.span().start;
            if name.get_ref() == "route" {
                keys.routes = routes::read(value, text, &path)?;
                continue;
            }
            let known = Self::NAMES
                .iter()
                .find(|known| **known == name.get_ref().as_ref());
            let Some(known) = known else {
                return Err(unknown(name.get_ref(), place(at)));
            };
            let bad = |why| ConfigError::BadValue {
                place: place(at),
                key: known,
                why,
            };
            let told = scalar(value.get_ref()).map_err(bad)?;
            let line = line_of(text, at);
            if let Some(Err(why)) = keys.set(known, &told, Origin::File { line }) {
                return Err(bad(why));
            }
        }
        Ok(keys)
    }
}

fn unknown(name: &str, place: String) -> ConfigError {
    ConfigError::UnknownKey {
        place,
        key: name.to_owned(),
        nearest: meant(name, Keys::NAMES).or_else(|| meant(name, &["route"])),
        allowed: [Keys::NAMES, &["route"]].concat(),
    }
}

/// The line that a byte of a text is in, counted from 1.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// The text of a value that is a text, an integer or a boolean.
pub(super) fn scalar(value: &DeValue<'_>) -> Result<String, BadValue> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(word) => Ok(word.to_string()),
        DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
            .map(|number| number.to_string())
            .map_err(|_| BadValue::new(digits.as_str(), "an integer of 64 bits")),
        other => Err(BadValue::new(
            &format!("a TOML {}", other.type_str()),
            "a text, an integer or a boolean",
        )),
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Keys, String> {
        Keys::from_toml(text, "kjob.toml".as_ref()).map_err(|error| error.to_string())
    }

    fn refusal(text: &str) -> String {
        read(text).map(drop).unwrap_err()
    }

    #[test]
    fn numbers_and_booleans_may_be_written_as_such_or_as_texts() {
        for text in [
            "workers = 8\ninsecure = true\nmax_body = 1024",
            "workers = '8'\ninsecure = 'true'\nmax_body = '1KiB'",
            "workers = 0x8\ninsecure = true\nmax_body = 1_024",
        ] {
            let settings = read(text).unwrap().settings().unwrap();
            assert_eq!(settings.workers, 8);
            assert!(settings.insecure);
            assert_eq!(settings.max_body, 1024);
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_what_is_allowed() {
        let error = refusal("# a comment\nworkers = 8\ndata-dir = 'x'");
        assert!(
            error.starts_with("kjob.toml:3: unknown key \"data-dir\"; did you mean \"data_dir\"? allowed are listen, "),
            "{error}"
        );
        let error = refusal("colour = 'blue'");
        assert!(
            error.starts_with("kjob.toml:1: unknown key \"colour\"; allowed are"),
            "{error}"
        );
        // Tables of routes are no setting, but a key of the file.
        let error = refusal("[[routes]]\nendpoint = '/x'");
        assert!(
            error.starts_with("kjob.toml:1: unknown key \"routes\"; did you mean \"route\"?"),
            "{error}"
        );
    }

    #[test]
    fn the_first_mistake_in_the_file_is_the_one_that_is_told() {
        let error = refusal("zzz = 1\naaa = 1");
        assert!(
            error.starts_with("kjob.toml:1: unknown key \"zzz\""),
            "{error}"
        );
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        assert_eq!(
            refusal("\n\nretention = '1 fortnight'"),
            "kjob.toml:3: retention: \"1 fortnight\" is not a duration such as \"10m\" or \"1h 30m\""
        );
        assert_eq!(
            refusal("workers = [1]"),
            "kjob.toml:1: workers: \"a TOML array\" is not a text, an integer or a boolean"
        );
        assert_eq!(
            refusal("workers = -1"),
            "kjob.toml:1: workers: \"-1\" is not a number from 1 to 1000000000"
        );
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let error = refusal("workers = 1\nworkers = 2");
        assert!(error.starts_with("kjob.toml:2: "), "{error}");
        assert!(!error.contains('\n'), "{error}");
        let error = refusal("workers = \n");
        assert!(error.starts_with("kjob.toml:1: "), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Keys::from_file("no/such/kjob.toml".as_ref()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the config file no/such/kjob.toml cannot be read: "),
            "{error}"
        );
    }
}
