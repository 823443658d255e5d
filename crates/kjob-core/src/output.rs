//! What a handler gives back: the bytes of its result, and a few words about them.

use bytes::Bytes;
use kjob_proto::Text;

use crate::Payload;

/// A result: a payload, and what its handler says about it.
///
/// ```
/// use kjob_core::{Output, Payload};
///
/// let plain: Output = Payload::json("{}").into();
/// assert!(plain.info.is_empty());
///
/// let mut page = Output::binary("<p>done</p>");
/// page.info.insert("content_type", "text/html").unwrap();
/// assert_eq!(page.info.get("content_type").unwrap(), "text/html");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The bytes.
    pub payload: Payload,
    /// What is said about them.
    pub info: Info,
}

impl Output {
    /// Bare Avro, or any bytes, of which nothing is said.
    pub fn binary(data: impl Into<Bytes>) -> Self {
        Payload::binary(data).into()
    }

    /// JSON text of which nothing is said.
    pub fn json(text: impl Into<Text>) -> Self {
        Payload::json(text).into()
    }

    /// The same without its bytes.
    #[must_use]
    pub fn without_bytes(&self) -> Self {
        Self {
            payload: Payload {
                encoding: self.payload.encoding,
                data: Bytes::new(),
            },
            info: self.info.clone(),
        }
    }
}

impl From<Payload> for Output {
    fn from(payload: Payload) -> Self {
        Self {
            payload,
            info: Info::new(),
        }
    }
}

/// What a handler says about its result, by name: a content type, an upstream's status.
///
/// Small, as it is stored beside the job and told with it: at most [`Info::ENTRIES_MAX`] entries.
/// A name is 1 to [`Info::NAME_LEN_MAX`] of `a-z 0-9 _ - .`, a value at most
/// [`Info::VALUE_LEN_MAX`] bytes. Entries keep their order; a name that is given twice keeps its
/// place and takes the new value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    entries: Vec<(Text, Text)>,
}

impl Info {
    /// The most entries.
    pub const ENTRIES_MAX: usize = 16;
    /// The most bytes of a name.
    pub const NAME_LEN_MAX: usize = 64;
    /// The most bytes of a value.
    pub const VALUE_LEN_MAX: usize = 1024;

    /// Nothing; allocates nothing.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Says `value` of `name`.
    ///
    /// # Errors
    /// If a limit is passed; then nothing has changed.
    pub fn insert(
        &mut self,
        name: impl Into<Text>,
        value: impl Into<Text>,
    ) -> Result<(), InfoError> {
        let (name, value) = (name.into(), value.into());
        check_name(&name)?;
        if value.len() > Self::VALUE_LEN_MAX {
            return Err(InfoError::LongValue {
                name,
                found: value.len(),
            });
        }
        if let Some((_, old)) = self.entries.iter_mut().find(|(known, _)| *known == name) {
            *old = value;
        } else if self.entries.len() >= Self::ENTRIES_MAX {
            return Err(InfoError::Many { name });
        } else {
            self.entries.push((name, value));
        }
        Ok(())
    }

    /// What is said of `name`.
    pub fn get(&self, name: &str) -> Option<&Text> {
        let found = self.entries.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, (Text, Text)> {
        self.entries.iter()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn check_name(name: &Text) -> Result<(), InfoError> {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > Info::NAME_LEN_MAX {
        Err(InfoError::NameLen { found: name.len() })
    } else if name.bytes().all(is_plain) {
        Ok(())
    } else {
        Err(InfoError::Name { name: name.clone() })
    }
}

/// Why something cannot be said of a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InfoError {
    /// There are [`Info::ENTRIES_MAX`] entries already.
    #[error("a result's info has {max} entries already, so there is no room for {name:?}", max = Info::ENTRIES_MAX)]
    Many {
        /// The name that was to be added.
        name: Text,
    },
    /// A name is empty, or too long.
    #[error("a name in a result's info has {found} bytes; 1 to {max} are allowed", max = Info::NAME_LEN_MAX)]
    NameLen {
        /// Its length.
        found: usize,
    },
    /// A name has other characters than it may have.
    #[error("{name:?} in a result's info: a name has only a-z 0-9 _ - .")]
    Name {
        /// The name.
        name: Text,
    },
    /// A value is too long.
    #[error("{name:?} in a result's info has {found} bytes, more than the limit of {max}", max = Info::VALUE_LEN_MAX)]
    LongValue {
        /// The name of the value.
        name: Text,
        /// The value's length.
        found: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_at_it_and_one_past_it() {
        let mut info = Info::new();
        let long = |len: usize| Text::from("n".repeat(len));
        assert_eq!(info.insert(long(64), ""), Ok(()));
        let found = 65;
        assert_eq!(info.insert(long(65), ""), Err(InfoError::NameLen { found }));
        let none = InfoError::NameLen { found: 0 };
        assert_eq!(info.insert("", ""), Err(none));
        assert_eq!(info.insert("big", long(1024)), Ok(()));
        let (name, found) = (Text::from("big"), 1025);
        let too_long = InfoError::LongValue { name, found };
        assert_eq!(info.insert("big", long(1025)), Err(too_long));
        assert_eq!(
            info.get("big").map(|big| big.len()),
            Some(1024),
            "as it was"
        );
        for number in info.len()..16 {
            assert_eq!(info.insert(format!("n{number}"), "x"), Ok(()));
        }
        let name = Text::from("more");
        assert_eq!(info.insert("more", "x"), Err(InfoError::Many { name }));
        assert_eq!(
            info.insert("big", "new"),
            Ok(()),
            "a known name needs no room"
        );
        assert_eq!((info.len(), info.get("more")), (16, None));
    }

    #[test]
    fn names_are_plain_words() {
        let mut info = Info::new();
        for name in ["content_type", "x-upstream.status", "9"] {
            assert_eq!(info.insert(name, "ä\n"), Ok(()));
        }
        for name in ["Content", "a b", "ä", "a=b", "a\n"] {
            let error = InfoError::Name { name: name.into() };
            assert_eq!(info.insert(name, "x"), Err(error));
        }
    }

    #[test]
    fn a_name_said_twice_keeps_its_place() {
        let mut info = Info::new();
        for (name, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            info.insert(name, value).unwrap();
        }
        let told: Vec<_> = info.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(told, [("a", "3"), ("b", "2")]);
    }
}
