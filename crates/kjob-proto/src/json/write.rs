//! Writing JSON: compact, members in the schema's order.

use bytes::Bytes;

use super::escape::{escaped_len, put_bytes, put_string};
use crate::kind::{self, Kind};
use crate::{StringMap, Text};

pub(crate) trait WriteJson: Kind {
    fn write_json(value: &Self::Value, out: &mut Vec<u8>);

    /// How many bytes to have ready for it: enough for most values, and nearly right for large ones.
    fn room(_: &Self::Value) -> usize {
        // The longest of the others is an integer.
        20
    }
}

/// Room for a text, of whose characters some may be escaped.
fn room_for(text: &str) -> usize {
    text.len() + text.len() / 8 + 2
}

/// A member's name and its colon; `name` is one of the schemas' and needs no escapes.
pub(crate) fn put_key(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn put_array<T>(items: &[T], out: &mut Vec<u8>, mut put: impl FnMut(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put(item, out);
    }
    out.push(b']');
}

pub(crate) fn put_long(value: i64, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    _ = std::io::Write::write_fmt(out, format_args!("{value}"));
}

/// The shortest number that reads back as the same float, or a string where JSON has no number.
#[cfg(feature = "dynamic")]
pub(crate) fn put_float<F: Copy + Into<f64> + serde::Serialize>(value: F, out: &mut Vec<u8>) {
    let wide: f64 = value.into();
    if wide.is_finite() {
        // Writing to a Vec cannot fail.
        _ = serde_json::to_writer(out, &value);
    } else if wide.is_nan() {
        put_string("NaN", out);
    } else {
        put_string(if wide > 0.0 { "Infinity" } else { "-Infinity" }, out);
    }
}

impl WriteJson for kind::Boolean {
    fn write_json(value: &bool, out: &mut Vec<u8>) {
        out.extend_from_slice(if *value { b"true" } else { b"false" });
    }
}

impl WriteJson for kind::Int {
    fn write_json(value: &i32, out: &mut Vec<u8>) {
        put_long(i64::from(*value), out);
    }
}

impl WriteJson for kind::Long {
    fn write_json(value: &i64, out: &mut Vec<u8>) {
        put_long(*value, out);
    }
}

impl WriteJson for kind::String {
    fn write_json(value: &Text, out: &mut Vec<u8>) {
        put_string(value, out);
    }

    fn room(value: &Text) -> usize {
        room_for(value)
    }
}

impl WriteJson for kind::Word {
    fn write_json(value: &Text, out: &mut Vec<u8>) {
        put_string(value, out);
    }

    fn room(value: &Text) -> usize {
        room_for(value)
    }
}

impl WriteJson for kind::Payload {
    fn write_json(value: &Bytes, out: &mut Vec<u8>) {
        put_bytes(value, out);
    }

    fn room(value: &Bytes) -> usize {
        escaped_len(value) + 2
    }
}

impl WriteJson for kind::PayloadText {
    fn write_json(value: &Text, out: &mut Vec<u8>) {
        put_string(value, out);
    }

    fn room(value: &Text) -> usize {
        room_for(value)
    }
}

impl WriteJson for kind::Map {
    fn write_json(value: &StringMap, out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, (key, value)) in value.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            put_string(key, out);
            out.push(b':');
            put_string(value, out);
        }
        out.push(b'}');
    }

    fn room(value: &StringMap) -> usize {
        let entry = |(key, value): &(Text, Text)| room_for(key) + room_for(value) + 2;
        value.iter().map(entry).sum::<usize>() + 2
    }
}

impl WriteJson for kind::Longs {
    fn write_json(value: &Vec<i64>, out: &mut Vec<u8>) {
        put_array(value, out, |item, out| put_long(*item, out));
    }

    fn room(value: &Vec<i64>) -> usize {
        // Ids have up to 16 digits.
        17 * value.len() + 2
    }
}

impl WriteJson for kind::Strings {
    fn write_json(value: &Vec<Text>, out: &mut Vec<u8>) {
        put_array(value, out, |item, out| put_string(item, out));
    }

    fn room(value: &Vec<Text>) -> usize {
        value.iter().map(|item| room_for(item) + 1).sum::<usize>() + 2
    }
}
