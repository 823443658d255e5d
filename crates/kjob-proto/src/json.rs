//! The JSON encoding (docs/protocol.md section 3, "JSON details").

#[cfg(any(test, feature = "fuzzing"))]
mod agreement;
mod context;
mod escape;
mod lanes;
mod read;
mod usual;
mod value;
mod write;

use bytes::Bytes;

pub(crate) use read::MemberReader;
pub(crate) use write::WriteJson;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use agreement::check_readers;
pub(crate) use read::read_record;
pub(crate) use write::put_key;
#[cfg(feature = "dynamic")]
pub(crate) use {
    context::Context,
    escape::{put_bytes, put_string},
    read::Ignored,
    value::{Number, latin1},
    write::{put_float, put_long},
};

use crate::record::Wire;
use crate::{Record, Text};

/// A record as JSON text.
pub(crate) fn text_of(record: &impl Record) -> Text {
    // What the writer gives is ASCII.
    Text::try_from(Bytes::from(record.encode_json())).unwrap_or_default()
}

pub(crate) fn write_record(record: &impl Wire) -> Vec<u8> {
    let mut out = Vec::with_capacity(record.json_room());
    record.write_json_to(&mut out);
    out
}
