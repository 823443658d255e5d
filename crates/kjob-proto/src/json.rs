//! The JSON encoding (docs/protocol.md section 3, "JSON details").

mod context;
mod read;
mod value;
mod write;

use bytes::Bytes;

pub(crate) use read::MemberReader;
pub(crate) use write::WriteJson;

pub(crate) use read::read_record;
pub(crate) use write::put_key;
#[cfg(feature = "dynamic")]
pub(crate) use {
    context::Context,
    read::Ignored,
    value::{Number, latin1},
    write::{put_bytes, put_float, put_long, put_string},
};

use crate::record::Wire;
use crate::{Record, Text};

/// A record as JSON text.
pub(crate) fn text_of(record: &impl Record) -> Text {
    // What the writer gives is ASCII.
    Text::try_from(Bytes::from(record.encode_json())).unwrap_or_default()
}

pub(crate) fn write_record(record: &impl Wire) -> Vec<u8> {
    let mut out = Vec::new();
    record.write_json_to(&mut out);
    out
}
