//! A reader of JSON as programs write it. It takes less than all of JSON and says nothing of why it does not take
//! something: then serde_json reads the text from its start, and has the last word on what is JSON and what is
//! wrong with it.
//!
//! What it takes it takes as serde_json does, several times as fast where strings are long. It does not look for
//! UTF-8 before it knows what a string is for: bytes are most of a body, and need none.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::lanes::{self, Meaning, Stop};

/// What a visitor asks for, by [`Deserializer::deserialize_newtype_struct`], if a string stands for bytes. To
/// serde_json it is a name like any other, and the visitor is given the deserializer again.
pub(super) const BYTES: &str = "$kjob::bytes";

/// Below the depth that serde_json ends at.
const DEPTH_MAX: usize = 100;

/// Every integer of so many digits fits 64 bits.
const DIGITS_MAX: usize = 18;

/// A body that is read. Texts in it are given to visitors as bytes that have yet to be checked, those with escapes
/// as strings.
pub(super) struct Usual<'de> {
    body: &'de [u8],
    at: usize,
    depth: usize,
}

/// The text is not for this reader, or a visitor refused it.
#[derive(Debug)]
pub(super) struct Declined;

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("declined")
    }
}

impl std::error::Error for Declined {}

impl Error for Declined {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type Result<T> = std::result::Result<T, Declined>;

/// What stands in a string, or what it stands for if it has escapes.
enum Inside<'de> {
    Literal(&'de [u8]),
    Unescaped(String),
}

impl<'de> Usual<'de> {
    pub(super) fn new(body: &'de [u8]) -> Self {
        Self {
            body,
            at: 0,
            depth: 0,
        }
    }

    /// Nothing but white space is left.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(Declined),
        }
    }

    fn rest(&self) -> &'de [u8] {
        self.body.get(self.at..).unwrap_or_default()
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.rest();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\t' | b'\r');
        let spaces = rest.iter().take_while(|byte| is_space(byte)).count();
        self.at += spaces;
        rest.get(spaces).copied()
    }

    /// Passes over the next byte that is no white space, if it is this one.
    fn take(&mut self, byte: u8) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(Declined);
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<()> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(Declined);
        }
        self.at += word.len();
        Ok(())
    }

    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        let is_negative = self.rest().first() == Some(&b'-');
        self.at += usize::from(is_negative);
        let rest = self.rest();
        let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = rest.get(..len).unwrap_or_default();
        self.at += len;
        let is_whole = !matches!(rest.get(len), Some(b'.' | b'e' | b'E'));
        let is_short =
            (1..=DIGITS_MAX).contains(&len) && (len == 1 || digits.first() != Some(&b'0'));
        if !is_whole || !is_short {
            return Err(Declined);
        }
        let value = digits
            .iter()
            .fold(0, |value, digit| 10 * value + u64::from(digit - b'0'));
        match (is_negative, value) {
            (false, _) => visitor.visit_u64(value),
            // A float, as integers have no such zero.
            (true, 0) => Err(Declined),
            (true, _) => visitor.visit_i64(-value.cast_signed()),
        }
    }

    /// Reads a string up to its end, if it has no escapes; its first quote was taken.
    fn literal(&mut self) -> Option<&'de [u8]> {
        let rest = self.rest();
        let (literal, rest) = rest.split_at(lanes::literal_len(rest));
        if rest.first() != Some(&b'"') {
            return None;
        }
        self.at += literal.len() + 1;
        Some(literal)
    }

    /// Reads a string up to its end; its first quote was taken.
    fn string(&mut self) -> Result<Inside<'de>> {
        if let Some(literal) = self.literal() {
            return Ok(Inside::Literal(literal));
        }
        let mut out = Vec::new();
        loop {
            let (len, stop) = lanes::unescape(self.rest(), Meaning::Text, &mut out);
            self.at += len;
            match stop {
                Stop::Quote => break,
                Stop::Unicode => {
                    let wide = self.unicode()?;
                    out.extend_from_slice(wide.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Stop::Odd => return Err(Declined),
            }
        }
        self.at += 1;
        out.shrink_to_fit();
        // An escape is a whole character, so that what is wrong on either side of one stays wrong.
        String::from_utf8(out)
            .map(Inside::Unescaped)
            .map_err(|_| Declined)
    }

    /// Reads `\u` and its number, and the second half of a pair.
    fn unicode(&mut self) -> Result<char> {
        let mut units = [self.unit()?, 0];
        if (0xd800..0xdc00).contains(&units[0]) {
            units[1] = self.unit()?;
        }
        let used = if units[1] == 0 { 1 } else { 2 };
        let mut chars = char::decode_utf16(units.into_iter().take(used));
        match (chars.next(), chars.next()) {
            (Some(Ok(found)), None) => Ok(found),
            _ => Err(Declined),
        }
    }

    fn unit(&mut self) -> Result<u16> {
        self.word("\\u")?;
        let digits = self.rest().get(..4).ok_or(Declined)?;
        self.at += digits.len();
        digits.iter().try_fold(0, |unit, digit| {
            let value = char::from(*digit).to_digit(16).ok_or(Declined)?;
            Ok(unit << 4 | value as u16)
        })
    }

    /// Reads a string that stands for bytes; its first quote was taken.
    fn bytes(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let (len, stop) = lanes::unescape(self.rest(), Meaning::Bytes, &mut out);
        if stop != Stop::Quote {
            return Err(Declined);
        }
        self.at += len + 1;
        out.shrink_to_fit();
        Ok(out)
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Declined);
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }
}

impl<'de> Deserializer<'de> for &mut Usual<'de> {
    type Error = Declined;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.peek().ok_or(Declined)? {
            b'"' => {
                self.at += 1;
                match self.string()? {
                    Inside::Literal(text) => visitor.visit_borrowed_bytes(text),
                    Inside::Unescaped(text) => visitor.visit_string(text),
                }
            }
            b'{' => self.deeper(|text| {
                let value = visitor.visit_map(Entries::new(text))?;
                text.take(b'}').map(|()| value)
            }),
            b'[' => self.deeper(|text| {
                let value = visitor.visit_seq(Entries::new(text))?;
                text.take(b']').map(|()| value)
            }),
            b't' => self.word("true").and_then(|()| visitor.visit_bool(true)),
            b'f' => self.word("false").and_then(|()| visitor.visit_bool(false)),
            b'n' => self.word("null").and_then(|()| visitor.visit_unit()),
            b'-' | b'0'..=b'9' => self.number(visitor),
            _ => Err(Declined),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        if name != BYTES || self.peek() != Some(b'"') {
            return visitor.visit_newtype_struct(self);
        }
        self.at += 1;
        let start = self.at;
        match self.literal() {
            // Without a copy.
            Some(literal) if literal.is_ascii() => visitor.visit_borrowed_bytes(literal),
            _ => {
                self.at = start;
                visitor.visit_byte_buf(self.bytes()?)
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The entries of an object or the items of an array, up to what ends them.
struct Entries<'a, 'de> {
    text: &'a mut Usual<'de>,
    is_first: bool,
}

impl<'a, 'de> Entries<'a, 'de> {
    fn new(text: &'a mut Usual<'de>) -> Self {
        Self {
            text,
            is_first: true,
        }
    }

    /// Whether there is another one; then the next is its first byte.
    fn next(&mut self, end: u8) -> Result<bool> {
        if self.text.peek() == Some(end) {
            return Ok(false);
        }
        if !std::mem::replace(&mut self.is_first, false) {
            self.text.take(b',')?;
            self.text.peek();
        }
        Ok(true)
    }
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = Declined;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        if !self.next(b'}')? {
            return Ok(None);
        }
        if self.text.peek() != Some(b'"') {
            return Err(Declined);
        }
        seed.deserialize(&mut *self.text).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        self.text.take(b':')?;
        seed.deserialize(&mut *self.text)
    }
}

impl<'de> SeqAccess<'de> for Entries<'_, 'de> {
    type Error = Declined;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if !self.next(b']')? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.text).map(Some)
    }
}
