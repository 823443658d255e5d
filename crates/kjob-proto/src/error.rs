//! What can be wrong with received bytes.

use crate::Encoding;

/// A body, or something in it, could not be decoded: what, in which field, and at which byte.
///
/// The caller did it, not we: no decode fails for a reason of ours.
///
/// ```
/// use bytes::Bytes;
/// use kjob_proto::{DecodeErrorKind, GetJobRequest, Limits, Record};
///
/// // A job id, then a map that announces four entries where one byte is left.
/// let body = Bytes::from_static(&[0x0a, 0x08, 0x00]);
/// let error = GetJobRequest::decode_binary(body, &Limits::default()).unwrap_err();
/// assert_eq!(error.kind, DecodeErrorKind::UnexpectedEnd { found: 1, needed: 8 });
/// assert_eq!((error.field, error.offset), ("options", 1));
/// assert_eq!(error.to_string(), "options: 8 more bytes are needed and 1 left, at byte 1");
/// ```
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field}: {kind}, at byte {offset}")]
#[non_exhaustive]
pub struct DecodeError {
    /// What is wrong, with what was found and what the limit is.
    pub kind: DecodeErrorKind,
    /// The schema's name of the field, or `body` where it is no field's fault.
    pub field: &'static str,
    /// Where in the body, after decompression, counted in bytes from 0.
    pub offset: usize,
}

impl DecodeError {
    pub(crate) fn new(kind: DecodeErrorKind, field: &'static str, offset: usize) -> Self {
        Self {
            kind,
            field,
            offset,
        }
    }

    /// The name that [`DecodeError::field`] has where a body as a whole is at fault.
    pub const BODY: &'static str = "body";
}

/// What is wrong with received bytes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The body ends too early.
    #[error("{needed} more bytes are needed and {found} left")]
    UnexpectedEnd {
        /// Bytes that are left.
        found: usize,
        /// Bytes that are needed at least.
        needed: u64,
    },
    /// A variable-length integer has more than ten bytes, or bits beyond the 64th.
    #[error("an integer has more than 64 bits")]
    BadVarint,
    /// An integer does not fit its type.
    #[error("the integer {found} does not fit {bits} bits")]
    IntegerRange {
        /// The integer that was read.
        found: i64,
        /// The width of the field's type.
        bits: u32,
    },
    /// A length below zero.
    #[error("negative length {found}")]
    NegativeLength {
        /// The length that was read.
        found: i64,
    },
    /// The count of a block is the one number that cannot be negated.
    #[error("block count {found} has no absolute value")]
    BadCount {
        /// The count that was read.
        found: i64,
    },
    /// A block announced a size in bytes which its entries do not have.
    #[error("a block announces {announced} bytes and has {found}")]
    BlockSize {
        /// Bytes as announced.
        announced: u64,
        /// Bytes up to the end of the last entry.
        found: u64,
    },
    /// A string or a body is longer than allowed.
    #[error("{found} bytes, limit {limit}")]
    TooLong {
        /// Length, in bytes.
        found: u64,
        /// The limit that applies.
        limit: usize,
    },
    /// A map or an array has more entries than allowed.
    #[error("{found} entries, limit {limit}")]
    TooManyEntries {
        /// Entries, as far as they were counted.
        found: u64,
        /// [`Limits::max_map_entries`](crate::Limits::max_map_entries), or what the budget of memory allows.
        limit: usize,
    },
    /// Values are nested deeper than allowed.
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// [`Limits::max_depth`](crate::Limits::max_depth).
        limit: usize,
    },
    /// Text is not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// A boolean is neither 0 nor 1.
    #[error("boolean byte {found}, allowed are 0 and 1")]
    BadBoolean {
        /// The byte that was read.
        found: u8,
    },
    /// Bytes are left after the record.
    #[error("{found} bytes are left after the end")]
    TrailingBytes {
        /// How many.
        found: usize,
    },
    /// A member of bytes holds a character above U+00FF.
    #[error("character U+{:04X} in bytes, allowed are U+0000 to U+00FF", u32::from(*.found))]
    NotLatin1 {
        /// The character.
        found: char,
    },
    /// A JSON value is not of the type that the field has.
    #[error("expected {expected}, found {found}")]
    JsonType {
        /// What the field holds.
        expected: &'static str,
        /// What the text holds.
        found: Box<str>,
    },
    /// The text is no JSON; the message is the JSON reader's.
    #[error("invalid JSON: {0}")]
    Json(Box<str>),
    /// The bytes are no snappy block; the message is the decompressor's.
    #[error("invalid snappy block: {0}")]
    Snappy(Box<str>),
    /// This build has no codec for the encoding: a feature of the crate is off.
    #[error("no support for the {0} encoding is built in")]
    Unsupported(Encoding),
    /// A record that has the form of an envelope is none: its status is no word of envelopes.
    #[error("{found:?}, allowed are OK and ERROR")]
    BadStatus {
        /// The status, or its start.
        found: Box<str>,
    },
    /// The value does not fit a schema that is known only at run time.
    #[error("does not fit the schema: {0}")]
    Schema(Box<str>),
    /// Something is wrong in a field that only a schema known at run time names.
    #[error("{name}: {kind}")]
    InField {
        /// The names of the fields from the outermost to the innermost, joined by dots.
        name: Box<str>,
        /// What is wrong in there.
        kind: Box<Self>,
    },
}

impl DecodeErrorKind {
    /// Adds the name of a field that only a schema known at run time has.
    #[cfg(feature = "dynamic")]
    pub(crate) fn in_field(self, field: &str) -> Self {
        match self {
            Self::InField { name, kind } => Self::InField {
                name: format!("{field}.{name}").into(),
                kind,
            },
            kind => Self::InField {
                name: field.into(),
                kind: Box::new(kind),
            },
        }
    }
}
