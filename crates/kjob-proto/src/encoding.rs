//! The three encodings of a request.

use std::fmt;
use std::str::FromStr;

/// How a body, or a job's payload, is encoded (docs/protocol.md sections 2 and 4).
///
/// ```
/// use kjob_proto::Encoding;
///
/// assert_eq!("snappy".parse(), Ok(Encoding::Snappy));
/// assert_eq!(Encoding::from_content_type("application/JSON; charset=utf-8"), Some(Encoding::Json));
/// assert_eq!(Encoding::Snappy.reply_content_type(), "application/octet-stream");
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Encoding {
    /// Bare Avro binary.
    #[default]
    Binary,
    /// JSON text.
    Json,
    /// A raw snappy block of Avro binary.
    Snappy,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Binary, Self::Json, Self::Snappy];

    /// The word that `request_encoding` and `response_encoding` use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Json => "json",
            Self::Snappy => "snappy",
        }
    }

    /// The `Content-Type` of a request in this encoding.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Binary => "application/octet-stream",
            Self::Json => "application/json",
            Self::Snappy => "application/x-snappy",
        }
    }

    /// The encoding that a `Content-Type` names: letter case does not matter, parameters are
    /// ignored. `None` for any other media type.
    pub fn from_content_type(value: &str) -> Option<Self> {
        let media_type = value.split(';').next().unwrap_or(value).trim();
        Self::ALL
            .into_iter()
            .find(|encoding| media_type.eq_ignore_ascii_case(encoding.content_type()))
    }

    /// The encoding of the reply to a request in this one: replies are never compressed
    /// (docs/protocol.md section 1, rule 4).
    pub const fn reply(self) -> Self {
        match self {
            Self::Json => Self::Json,
            Self::Binary | Self::Snappy => Self::Binary,
        }
    }

    /// The `Content-Type` of the reply to a request in this encoding.
    pub const fn reply_content_type(self) -> &'static str {
        self.reply().content_type()
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no [`Encoding`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unknown encoding; allowed are binary, json and snappy")]
pub struct UnknownEncoding;

impl FromStr for Encoding {
    type Err = UnknownEncoding;

    /// Letter case matters, as it does to the clients.
    fn from_str(word: &str) -> Result<Self, UnknownEncoding> {
        Self::ALL
            .into_iter()
            .find(|encoding| encoding.as_str() == word)
            .ok_or(UnknownEncoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_content_types_come_back() {
        for encoding in Encoding::ALL {
            assert_eq!(encoding.as_str().parse(), Ok(encoding));
            assert_eq!(
                Encoding::from_content_type(encoding.content_type()),
                Some(encoding)
            );
        }
    }

    #[test]
    fn content_types_are_read_leniently_but_not_guessed() {
        let json = Some(Encoding::Json);
        assert_eq!(
            Encoding::from_content_type(" Application/Json ;charset=UTF-8"),
            json
        );
        assert_eq!(Encoding::from_content_type("application/json;"), json);
        for other in [
            "",
            ";",
            "json",
            "text/plain",
            "application/jsonx",
            "application/json, text/html",
        ] {
            assert_eq!(Encoding::from_content_type(other), None, "{other}");
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        for word in ["", "BINARY", "avro", "json "] {
            assert_eq!(word.parse::<Encoding>(), Err(UnknownEncoding), "{word}");
        }
    }

    #[test]
    fn replies_are_never_snappy() {
        assert_eq!(Encoding::Snappy.reply(), Encoding::Binary);
        assert_eq!(Encoding::Json.reply_content_type(), "application/json");
    }
}
