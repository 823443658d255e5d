//! The types that the schemas' fields have.
//!
//! Each is a marker with the four things that a codec does to a value. The records name one for each
//! field, so that a field's Rust type, Avro type, limit and both encodings can never drift apart.

use bytes::Bytes;

use crate::cursor::{Cursor, Failed};
use crate::sink::Sink;
use crate::{StringMap, Text};

pub(crate) trait Kind {
    type Value;

    /// The type as the schema writes it, in one line.
    const AVRO: &'static str;

    fn write(value: &Self::Value, sink: &mut impl Sink);
    fn read(cursor: &mut Cursor<'_>) -> Result<Self::Value, Failed>;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident($value:ty) $avro:literal, $read:ident, |$v:ident, $sink:ident| $write:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) enum $name {}

        impl Kind for $name {
            type Value = $value;
            const AVRO: &'static str = $avro;

            #[inline]
            fn write($v: &$value, $sink: &mut impl Sink) {
                $write
            }

            #[inline]
            fn read(cursor: &mut Cursor<'_>) -> Result<$value, Failed> {
                cursor.$read()
            }
        }
    )*};
}

kinds! {
    Boolean(bool) r#""boolean""#, boolean, |value, sink| sink.put_byte(u8::from(*value));
    Int(i32) r#""int""#, int, |value, sink| sink.put_long(i64::from(*value));
    Long(i64) r#""long""#, long, |value, sink| sink.put_long(*value);
    /// Text within `max_string`.
    String(Text) r#""string""#, string, |value, sink| sink.put_string(value.as_bytes());
    /// Text within `max_string`, most often a word of the protocol.
    Word(Text) r#""string""#, word, |value, sink| sink.put_string(value.as_bytes());
    /// Bytes bounded by the body only, shared and not copied.
    Payload(Bytes) r#""bytes""#, payload, |value, sink| {
        sink.put_len(value.len());
        sink.put_payload(value)
    };
    /// Text bounded by the body only, shared and not copied.
    PayloadText(Text) r#""string""#, payload_text, |value, sink| {
        sink.put_len(value.as_bytes().len());
        sink.put_payload(value.as_bytes())
    };
    Map(StringMap) r#"{"type":"map","values":"string"}"#, map, |value, sink| {
        if !value.is_empty() {
            sink.put_len(value.len());
            for (key, value) in value {
                sink.put_string(key.as_bytes());
                sink.put_string(value.as_bytes());
            }
        }
        sink.put_byte(0)
    };
    Longs(Vec<i64>) r#"{"type":"array","items":"long"}"#, longs, |value, sink| {
        if !value.is_empty() {
            sink.put_len(value.len());
            value.iter().for_each(|item| sink.put_long(*item));
        }
        sink.put_byte(0)
    };
    Strings(Vec<Text>) r#"{"type":"array","items":"string"}"#, strings, |value, sink| {
        if !value.is_empty() {
            sink.put_len(value.len());
            value.iter().for_each(|item| sink.put_string(item.as_bytes()));
        }
        sink.put_byte(0)
    };
}
