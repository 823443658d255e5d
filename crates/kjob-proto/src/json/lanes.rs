//! Passes over many bytes of JSON at a time.
//!
//! fearless_simd compiles each of them for several sets of instructions, takes the best that the processor has, and
//! does without unsafe code of ours.

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, mask8x32, u8x32};

use super::escape::needs_escape;

/// Bytes that are looked at together.
const LANES: usize = 32;

/// A bit for each of them.
const ALL: u64 = (1 << LANES) - 1;

/// An escape that begins in the last lane has so many bytes beyond it, rounded up.
const AHEAD: usize = LANES + 8;

/// Unescaped bytes are gathered up to here before they are appended.
const GATHERED_MAX: usize = 512;

/// How many bytes at the start of `text` need no escape when they are written.
pub(super) fn plain_len(text: &[u8]) -> usize {
    dispatch!(Level::new(), simd => first(simd, text, needs_escape, #[inline(always)] |lanes| {
        lanes.simd_lt(b' ') | lanes.simd_gt(b'~') | lanes.simd_eq(b'"') | lanes.simd_eq(b'\\')
    }))
}

/// How many bytes at the start of `text` stand for themselves when they are read, up to the end of its string.
pub(super) fn literal_len(text: &[u8]) -> usize {
    let is_special = |byte| byte < b' ' || byte == b'"' || byte == b'\\';
    dispatch!(Level::new(), simd => first(simd, text, is_special, #[inline(always)] |lanes| {
        lanes.simd_lt(b' ') | lanes.simd_eq(b'"') | lanes.simd_eq(b'\\')
    }))
}

/// The place of the first byte that is special, as a function of one byte and one of many at a time say.
#[inline(always)]
fn first<S: Simd>(
    simd: S,
    text: &[u8],
    is_special: impl Fn(u8) -> bool,
    are_special: impl Fn(u8x32<S>) -> mask8x32<S>,
) -> usize {
    // What is not inlined here is compiled for the least processor, and several times as slow.
    simd.vectorize(
        #[inline(always)]
        || {
            let (chunks, rest) = text.as_chunks::<{ 2 * LANES }>();
            for (index, chunk) in chunks.iter().enumerate() {
                let (low, high) = chunk.split_at(LANES);
                let low = are_special(u8x32::from_slice(simd, low));
                let high = are_special(u8x32::from_slice(simd, high));
                if (low | high).any_true() {
                    let found = low.to_bitmask() | high.to_bitmask() << LANES;
                    return index * 2 * LANES + found.trailing_zeros() as usize;
                }
            }
            let found = rest.iter().position(|byte| is_special(*byte));
            text.len() - rest.len() + found.unwrap_or(rest.len())
        },
    )
}

/// Why [`unescape`] stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// At the quote that ends the string.
    Quote,
    /// At a `\u` that it leaves to the caller.
    Unicode,
    /// At something that is no such string.
    Odd,
}

/// What a string stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Meaning {
    /// Text: UTF-8 stays as it is.
    Text,
    /// Bytes: a character up to U+00FF is one byte, written as itself, in UTF-8, or as `\u00e9`.
    Bytes,
}

/// Appends what the inside of a string stands for. The place where it stopped, and why. That a text is UTF-8 it
/// does not look after.
pub(super) fn unescape(text: &[u8], meaning: Meaning, out: &mut Vec<u8>) -> (usize, Stop) {
    match meaning {
        Meaning::Text => {
            dispatch!(Level::new(), simd => unescape_with::<_, false>(simd, text, out))
        }
        Meaning::Bytes => {
            dispatch!(Level::new(), simd => unescape_with::<_, true>(simd, text, out))
        }
    }
}

/// Finds out, for all lanes at once, what a character that begins there would stand for, and then keeps
/// those in which one begins.
#[inline(always)]
fn unescape_with<S: Simd, const BYTES: bool>(
    simd: S,
    text: &[u8],
    out: &mut Vec<u8>,
) -> (usize, Stop) {
    simd.vectorize(
        #[inline(always)]
        || {
            let mut gathered = [0; GATHERED_MAX + LANES];
            let mut used = 0;
            let mut at = 0;
            // The lanes that belong to a character which began before them.
            let mut inside = 0;
            loop {
                let rest = text.get(at..).unwrap_or_default();
                let mut padded = [0; AHEAD];
                let bytes = rest.first_chunk().unwrap_or_else(|| {
                    // Zeros are odd, so that nothing goes beyond the end.
                    padded
                        .iter_mut()
                        .zip(rest)
                        .for_each(|(to, from)| *to = *from);
                    &padded
                });
                let lanes = Lanes::read::<BYTES>(simd, bytes, inside);
                inside = lanes.inside;

                let starts = !inside & ALL;
                let stops = starts & (lanes.quotes | lanes.unicode | !lanes.fine);
                // All bits below the first of them.
                let before = stops.wrapping_sub(1) & !stops;
                let kept = starts & before;
                let values = lanes.values.compress(mask8x32::from_bitmask(simd, kept));
                if let Some(room) = gathered.get_mut(used..used + LANES) {
                    values.store_slice(room);
                }
                used += kept.count_ones() as usize;
                if stops != 0 || used >= GATHERED_MAX {
                    out.extend_from_slice(gathered.get(..used).unwrap_or_default());
                    used = 0;
                }
                if stops != 0 {
                    let first = stops & stops.wrapping_neg();
                    let stop = if lanes.fine & first == 0 {
                        Stop::Odd
                    } else if lanes.quotes & first != 0 {
                        Stop::Quote
                    } else {
                        Stop::Unicode
                    };
                    return (at + stops.trailing_zeros() as usize, stop);
                }
                inside >>= LANES;
                at += LANES;
            }
        },
    )
}

/// What is in so many bytes of a string. Bits say something of a lane only if a character begins in it.
struct Lanes<S: Simd> {
    /// What the characters stand for.
    values: u8x32<S>,
    /// The lanes in which none begins, and those beyond the last.
    inside: u64,
    quotes: u64,
    /// Escapes by number that are not read here.
    unicode: u64,
    /// All is as it should be.
    fine: u64,
}

impl<S: Simd> Lanes<S> {
    #[inline(always)]
    fn read<const BYTES: bool>(simd: S, bytes: &[u8; AHEAD], inside: u64) -> Self {
        let lanes = |ahead: usize| {
            u8x32::from_slice(simd, bytes.get(ahead..ahead + LANES).unwrap_or_default())
        };
        let (first, second) = (lanes(0), lanes(1));
        let backslash = first.simd_eq(b'\\');
        let numbered = backslash & second.simd_eq(b'u');
        let escapes = without_escaped(backslash.to_bitmask() & !inside);
        let by_number = escapes & numbered.to_bitmask();

        let mut values = first;
        let mut fine = first.simd_ge(b' ') & !backslash;
        if escapes & !by_number != 0 {
            let (value, known) = by_letter(simd, second);
            values = backslash.select(value, values);
            fine |= backslash & known;
        }
        let mut inside = inside | escapes << 1;
        if BYTES {
            let (value, is_hex) = hex(simd, lanes(4), lanes(5));
            let is_byte = lanes(2).simd_eq(b'0') & lanes(3).simd_eq(b'0') & is_hex;
            values = numbered.select(value, values);
            // U+0080 to U+00BF begin with C2 and end with themselves, those up to U+00FF with C3 and 0x40 less.
            let upper = first.simd_eq(0xc3);
            let two = (first.simd_eq(0xc2) | upper) & (second & 0xc0).simd_eq(0x80);
            let added = upper.select(u8x32::splat(simd, 0x40), u8x32::splat(simd, 0));
            values = two.select(second | added, values);
            fine = (fine & first.simd_lt(0x80)) | (numbered & is_byte) | two;
            inside |= two.to_bitmask() << 1;
            inside |= by_number << 2 | by_number << 3 | by_number << 4 | by_number << 5;
        } else {
            fine |= numbered;
        }
        Self {
            values,
            inside,
            quotes: first.simd_eq(b'"').to_bitmask(),
            unicode: if BYTES { 0 } else { by_number },
            fine: fine.to_bitmask(),
        }
    }
}

/// Of backslashes that follow each other, every other one: those that begin an escape.
#[inline(always)]
fn without_escaped(backslashes: u64) -> u64 {
    if backslashes & backslashes << 1 == 0 {
        return backslashes;
    }
    let (mut found, mut rest) = (0, backslashes);
    while rest != 0 {
        let first = rest & rest.wrapping_neg();
        found |= first;
        rest &= !(first | first << 1);
    }
    found
}

/// What a letter stands for after a backslash, and whether it stands for anything.
#[inline(always)]
fn by_letter<S: Simd>(simd: S, letter: u8x32<S>) -> (u8x32<S>, mask8x32<S>) {
    let mut known = letter.simd_eq(b'"') | letter.simd_eq(b'\\') | letter.simd_eq(b'/');
    let mut value = letter;
    for (name, meant) in [
        (b'b', 0x08),
        (b'f', 0x0c),
        (b'n', 0x0a),
        (b'r', 0x0d),
        (b't', 0x09),
    ] {
        let is_it = letter.simd_eq(name);
        value = is_it.select(u8x32::splat(simd, meant), value);
        known |= is_it;
    }
    (value, known)
}

/// The number of two hexadecimal digits, and whether they are such.
#[inline(always)]
fn hex<S: Simd>(simd: S, high: u8x32<S>, low: u8x32<S>) -> (u8x32<S>, mask8x32<S>) {
    let digit = |character: u8x32<S>| {
        let number = character - u8x32::splat(simd, b'0');
        let letter = (character | u8x32::splat(simd, 0x20)) - u8x32::splat(simd, b'a');
        let is_number = number.simd_lt(10);
        let value = is_number.select(number, letter + u8x32::splat(simd, 10));
        (value, is_number | letter.simd_lt(6))
    };
    let ((high, high_is), (low, low_is)) = (digit(high), digit(low));
    (high << 4 | low, high_is & low_is)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte at a time, as the standard library does it.
    fn expected(text: &[u8], is_it: impl Fn(u8) -> bool) -> usize {
        text.iter()
            .position(|byte| is_it(*byte))
            .unwrap_or(text.len())
    }

    /// Each byte at each place, in texts that end within, at and past a chunk.
    #[test]
    fn the_first_special_byte_is_found() {
        for len in [0, 1, 31, 32, 33, 63, 64, 65, 130] {
            for place in 0..=len {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'a'; len];
                    if let Some(at) = text.get_mut(place) {
                        *at = byte;
                    }
                    let needs = expected(&text, needs_escape);
                    assert_eq!(plain_len(&text), needs, "{len} {place} {byte}");
                    let ends = expected(&text, |byte| byte < 0x20 || byte == b'"' || byte == b'\\');
                    assert_eq!(literal_len(&text), ends, "{len} {place} {byte}");
                }
            }
        }
    }

    fn read(text: &str, meaning: Meaning) -> (Vec<u8>, usize, Stop) {
        let mut out = Vec::new();
        let (end, stop) = unescape(text.as_bytes(), meaning, &mut out);
        (out, end, stop)
    }

    /// Each kind of character at each place of a chunk, so that it ends in the next one.
    #[test]
    fn characters_may_lie_across_chunks() {
        for (character, meant) in [
            ("a", "a"),
            ("\\n", "\n"),
            ("\\/", "/"),
            ("\\\\", "\\"),
            ("\\\\\\\"", "\\\""),
            ("é", "é"),
            ("ÿ\u{80}", "ÿ\u{80}"),
        ] {
            for before in 0..70 {
                let text = format!(
                    "{}{character}{}\" rest",
                    "x".repeat(before),
                    "y".repeat(before)
                );
                let meant = format!("{}{meant}{}", "x".repeat(before), "y".repeat(before));
                let end = text.len() - "\" rest".len();
                let expected = (meant.clone().into_bytes(), end, Stop::Quote);
                assert_eq!(read(&text, Meaning::Text), expected, "{text}");
                let bytes = meant.chars().map(|c| u8::try_from(c).unwrap()).collect();
                assert_eq!(
                    read(&text, Meaning::Bytes),
                    (bytes, end, Stop::Quote),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn escapes_by_number_are_bytes_and_stop_a_text() {
        for before in 0..70 {
            for byte in 0..=u8::MAX {
                let plain = "x".repeat(before);
                for text in [
                    format!("{plain}\\u{byte:04x}\""),
                    format!("{plain}\\u{byte:04X}\""),
                ] {
                    let mut bytes = plain.clone().into_bytes();
                    assert_eq!(
                        read(&text, Meaning::Text),
                        (bytes.clone(), before, Stop::Unicode)
                    );
                    bytes.push(byte);
                    assert_eq!(
                        read(&text, Meaning::Bytes),
                        (bytes, before + 6, Stop::Quote)
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_odd_is_not_passed() {
        for (text, both) in [
            ("", true),
            ("\n", true),
            ("\\", true),
            ("\\x\"", true),
            ("\\é\"", true),
            ("\\\\\\", true),
            ("€\"", false),
            ("\u{100}\"", false),
            ("\\u0100\"", false),
            ("\\u10ff\"", false),
            ("\\u00g0\"", false),
            ("\\u000:\"", false),
            ("\\u00\"", false),
            ("\\u00", false),
            ("\\u00é0\"", false),
        ] {
            for before in 0..70 {
                let text = format!("{}{text}", "x".repeat(before));
                let (kept, end, stop) = read(&text, Meaning::Bytes);
                assert_eq!(stop, Stop::Odd, "{text}");
                assert!(kept.starts_with("x".repeat(before).as_bytes()), "{text}");
                assert!(end >= before && end <= text.len(), "{text}");
                let (_, _, stop) = read(&text, Meaning::Text);
                assert_eq!(stop == Stop::Odd, both, "{text}");
            }
        }
    }
}
