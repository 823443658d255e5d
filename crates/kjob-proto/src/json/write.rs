//! Writing JSON: compact, members in the schema's order, escaped to ASCII so that no client can cut a
//! character in two (docs/protocol.md section 2, last point).

use bytes::Bytes;

use crate::kind::{self, Kind};
use crate::{StringMap, Text};

pub(crate) trait WriteJson: Kind {
    fn write_json(value: &Self::Value, out: &mut Vec<u8>);
}

/// A member's name and its colon; `name` is one of the schemas' and needs no escapes.
pub(crate) fn put_key(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

pub(crate) fn put_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    // Most texts are plain from end to end, and then this is one copy.
    while let Some(at) = rest.bytes().position(needs_escape) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut chars = special.chars();
        if let Some(special) = chars.next() {
            for unit in special.encode_utf16(&mut [0; 2]) {
                put_escaped(*unit, out);
            }
        }
        rest = chars.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

/// One character U+0000 to U+00FF for each byte.
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    for run in bytes.chunk_by(|a, b| needs_escape(*a) == needs_escape(*b)) {
        if run.first().is_some_and(|byte| needs_escape(*byte)) {
            run.iter()
                .for_each(|byte| put_escaped(u16::from(*byte), out));
        } else {
            out.extend_from_slice(run);
        }
    }
    out.push(b'"');
}

const fn needs_escape(byte: u8) -> bool {
    byte < b' ' || byte > b'~' || byte == b'"' || byte == b'\\'
}

fn put_escaped(unit: u16, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match unit {
        0x08 => b'b',
        0x09 => b't',
        0x0a => b'n',
        0x0c => b'f',
        0x0d => b'r',
        0x22 => b'"',
        0x5c => b'\\',
        _ => {
            let digit = |shift: u32| HEX[usize::from(unit >> shift & 0xf)];
            out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
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
}

impl WriteJson for kind::Word {
    fn write_json(value: &Text, out: &mut Vec<u8>) {
        put_string(value, out);
    }
}

impl WriteJson for kind::Payload {
    fn write_json(value: &Bytes, out: &mut Vec<u8>) {
        put_bytes(value, out);
    }
}

impl WriteJson for kind::PayloadText {
    fn write_json(value: &Text, out: &mut Vec<u8>) {
        put_string(value, out);
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
}

impl WriteJson for kind::Longs {
    fn write_json(value: &Vec<i64>, out: &mut Vec<u8>) {
        put_array(value, out, |item, out| put_long(*item, out));
    }
}

impl WriteJson for kind::Strings {
    fn write_json(value: &Vec<Text>, out: &mut Vec<u8>) {
        put_array(value, out, |item, out| put_string(item, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_escaped_to_ascii() {
        let text = written(|out| put_string("a\"\\/\u{0}\n\u{1f}\u{7f}é€😀z", out));
        assert_eq!(
            text,
            r#""a\"\\/\u0000\n\u001f\u007f\u00e9\u20ac\ud83d\ude00z""#
        );
    }

    #[test]
    fn bytes_are_one_character_each() {
        let text = written(|out| put_bytes(b"a\x00\x08\"\x80\xff\xffb", out));
        assert_eq!(text, r#""a\u0000\b\"\u0080\u00ff\u00ffb""#);
    }

    #[test]
    fn what_serde_json_reads_back_is_what_was_written() {
        let text: String = (0..=0x2fff)
            .chain(0x1_f000..0x1_f100)
            .filter_map(char::from_u32)
            .collect();
        let read: String = serde_json::from_str(&written(|out| put_string(&text, out))).unwrap();
        assert_eq!(read, text);
    }
}
