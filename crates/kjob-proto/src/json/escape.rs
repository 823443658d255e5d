//! The strings that are written: escaped to ASCII, so that no client can cut a character in two
//! (docs/protocol.md section 2, last point).

use super::lanes;

/// Escapes are put together for so many bytes at a time.
const BLOCK: usize = 64;

/// The longest is `\u00e9`.
const ESCAPE_MAX: usize = 6;

/// For each byte up to six of text, and how many of them there are in the last one.
static ESCAPES: [[u8; 8]; 256] = {
    let mut all = [[0; 8]; 256];
    let mut byte = 0;
    while byte < all.len() {
        all[byte] = escape(byte as u8);
        byte += 1;
    }
    all
};

const HEX: &[u8; 16] = b"0123456789abcdef";

const fn escape(byte: u8) -> [u8; 8] {
    let short = match byte {
        0x08 => b'b',
        0x09 => b't',
        0x0a => b'n',
        0x0c => b'f',
        0x0d => b'r',
        b'"' | b'\\' => byte,
        _ if needs_escape(byte) => {
            let (high, low) = (HEX[(byte >> 4) as usize], HEX[(byte & 0xf) as usize]);
            return [b'\\', b'u', b'0', b'0', high, low, 0, 6];
        }
        _ => return [byte, 0, 0, 0, 0, 0, 0, 1],
    };
    [b'\\', short, 0, 0, 0, 0, 0, 2]
}

pub(super) const fn needs_escape(byte: u8) -> bool {
    byte < b' ' || byte > b'~' || byte == b'"' || byte == b'\\'
}

pub(crate) fn put_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    while !rest.is_empty() {
        let (plain, special) = rest.split_at(lanes::plain_len(rest.as_bytes()));
        out.extend_from_slice(plain.as_bytes());
        rest = put_special(special, out);
    }
    out.push(b'"');
}

/// Writes some of a text that begins with something to escape, and gives the rest. Where there is one escape
/// there are most often others, between which it does not pay to look for the next.
fn put_special<'a>(text: &'a str, out: &mut Vec<u8>) -> &'a str {
    let bytes = text.as_bytes();
    let block = bytes.get(..BLOCK).unwrap_or(bytes);
    let ascii_len = if block.is_ascii() {
        block.len()
    } else {
        block.iter().take_while(|byte| byte.is_ascii()).count()
    };
    let (ascii, rest) = text.split_at(ascii_len);
    if !ascii.is_empty() {
        put_blocks(ascii.as_bytes(), out);
        return rest;
    }
    let mut chars = rest.chars();
    while let Some(wide) = chars
        .as_str()
        .chars()
        .next()
        .filter(|next| !next.is_ascii())
    {
        for unit in wide.encode_utf16(&mut [0; 2]) {
            put_unit(*unit, out);
        }
        chars.next();
    }
    chars.as_str()
}

/// The escape of what is no byte of ASCII.
fn put_unit(unit: u16, out: &mut Vec<u8>) {
    let digit = |shift: u32| HEX[usize::from(unit >> shift & 0xf)];
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}

/// One character U+0000 to U+00FF for each byte.
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    put_blocks(bytes, out);
    out.push(b'"');
}

/// Each escape is written as eight bytes, of which the next one overwrites what is too much: so there is
/// nothing to guess for the processor.
fn put_blocks(bytes: &[u8], out: &mut Vec<u8>) {
    let mut escaped = [0; BLOCK * ESCAPE_MAX + 8];
    for block in bytes.chunks(BLOCK) {
        let mut used = 0;
        for byte in block {
            let escape = &ESCAPES[usize::from(*byte)];
            if let Some(room) = escaped.get_mut(used..used + escape.len()) {
                room.copy_from_slice(escape);
            }
            used += usize::from(escape[7]);
        }
        out.extend_from_slice(escaped.get(..used).unwrap_or_default());
    }
}

/// How many bytes [`put_bytes`] writes between its quotes.
pub(super) fn escaped_len(bytes: &[u8]) -> usize {
    /// So many times up to six is what a byte can count.
    const ROUNDS: usize = 42;
    const LANES: usize = 32;

    let mut len = 0;
    for part in bytes.chunks(ROUNDS * LANES) {
        let (chunks, rest) = part.as_chunks::<LANES>();
        let mut counts = [0_u8; LANES];
        for chunk in chunks {
            for (count, byte) in counts.iter_mut().zip(chunk) {
                let is_number = *byte < b' ' || *byte > b'~';
                let is_letter = (0x08..=0x0d).contains(byte) && *byte != 0x0b;
                let is_itself = *byte == b'"' || *byte == b'\\';
                *count +=
                    1 + 5 * u8::from(is_number) - 4 * u8::from(is_letter) + u8::from(is_itself);
            }
        }
        len += counts
            .iter()
            .map(|count| usize::from(*count))
            .sum::<usize>();
        len += rest
            .iter()
            .map(|byte| usize::from(ESCAPES[usize::from(*byte)][7]))
            .sum::<usize>();
    }
    len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn texts_are_read_back(text in "([ -~]|\\PC|[\"\\\\\u{0}-\u{1f}]){0,200}") {
            let written = written(|out| put_string(&text, out));
            prop_assert!(written.is_ascii());
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }

        /// The length is that of what is written, and the characters are those of the bytes.
        #[test]
        fn bytes_are_measured_and_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..3_000)) {
            let written = written(|out| put_bytes(&bytes, out));
            prop_assert_eq!(written.len(), escaped_len(&bytes) + 2);
            let read: String = serde_json::from_str(&written).unwrap();
            let meant: String = bytes.iter().copied().map(char::from).collect();
            prop_assert_eq!(read, meant);
        }
    }
}
