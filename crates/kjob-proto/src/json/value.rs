//! How each kind of field is read from a JSON value.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::context::{Context, Str};
use super::usual::BYTES;
use crate::error::DecodeErrorKind;
use crate::kind::{self, Kind};
use crate::{StringMap, Text};

/// The level of a record's maps and arrays: they are in its object.
pub(crate) const FIELD_DEPTH: usize = 2;

/// How a kind of field reads each type of JSON value. What it does not take is a type error.
pub(crate) trait ReadJson: Kind {
    const EXPECTED: &'static str;

    /// Whether strings stand for bytes.
    const IS_BYTES: bool = false;

    fn of_null() -> Result<Self::Value, DecodeErrorKind> {
        Err(mismatch::<Self>("null"))
    }

    fn of_bool(value: bool) -> Result<Self::Value, DecodeErrorKind> {
        Err(mismatch::<Self>(if value { "true" } else { "false" }))
    }

    fn of_number(value: Number) -> Result<Self::Value, DecodeErrorKind> {
        Err(mismatch::<Self>(&format!("the number {value}")))
    }

    fn of_str(_: Str<'_>, _: &Context<'_>) -> Result<Self::Value, DecodeErrorKind> {
        Err(mismatch::<Self>("a string"))
    }

    /// The bytes that a string stands for. Readers that do not know of [`BYTES`] give the string.
    fn of_bytes(_: Vec<u8>) -> Result<Self::Value, DecodeErrorKind> {
        Err(mismatch::<Self>("bytes"))
    }

    fn of_seq<'de, A: SeqAccess<'de>>(
        _: A,
        context: &Context<'_>,
    ) -> Result<Self::Value, A::Error> {
        Err(context.fail(mismatch::<Self>("an array")))
    }

    fn of_map<'de, A: MapAccess<'de>>(
        _: A,
        context: &Context<'_>,
    ) -> Result<Self::Value, A::Error> {
        Err(context.fail(mismatch::<Self>("an object")))
    }
}

fn mismatch<K: ReadJson + ?Sized>(found: &str) -> DecodeErrorKind {
    DecodeErrorKind::JsonType {
        expected: K::EXPECTED,
        found: found.into(),
    }
}

/// A JSON number as serde_json gives it.
#[derive(Clone, Copy)]
pub(crate) enum Number {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            // As JSON writes it: 1.0 and not 1.
            Self::Float(value) => fmt::Debug::fmt(value, f),
        }
    }
}

impl Number {
    /// Whole floats count as integers where every integer has a float of its own: up to 2^53.
    pub(crate) fn whole(self) -> Option<i64> {
        const EXACT_MAX: f64 = (1_i64 << 53) as f64;
        match self {
            Self::Signed(value) => Some(value),
            Self::Unsigned(value) => i64::try_from(value).ok(),
            Self::Float(value) if value.fract() == 0.0 && value.abs() <= EXACT_MAX => {
                Some(value as i64)
            }
            Self::Float(_) => None,
        }
    }
}

#[cfg(feature = "dynamic")]
impl Number {
    pub(crate) fn as_f64(self) -> f64 {
        match self {
            Self::Signed(value) => value as f64,
            Self::Unsigned(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

impl ReadJson for kind::Boolean {
    const EXPECTED: &'static str = "true or false";

    fn of_bool(value: bool) -> Result<bool, DecodeErrorKind> {
        Ok(value)
    }
}

impl ReadJson for kind::Int {
    const EXPECTED: &'static str = "a 32-bit integer";

    fn of_number(value: Number) -> Result<i32, DecodeErrorKind> {
        let found = value
            .whole()
            .ok_or_else(|| mismatch::<Self>(&format!("the number {value}")))?;
        i32::try_from(found).map_err(|_| DecodeErrorKind::IntegerRange { found, bits: 32 })
    }
}

impl ReadJson for kind::Long {
    const EXPECTED: &'static str = "a 64-bit integer";

    fn of_number(value: Number) -> Result<i64, DecodeErrorKind> {
        value
            .whole()
            .ok_or_else(|| mismatch::<Self>(&format!("the number {value}")))
    }
}

impl ReadJson for kind::String {
    const EXPECTED: &'static str = "a string";

    fn of_str(text: Str<'_>, context: &Context<'_>) -> Result<Text, DecodeErrorKind> {
        context.check_string(text.as_str())?;
        Ok(context.text(text))
    }
}

impl ReadJson for kind::Word {
    const EXPECTED: &'static str = kind::String::EXPECTED;

    fn of_str(text: Str<'_>, context: &Context<'_>) -> Result<Text, DecodeErrorKind> {
        kind::String::of_str(text, context)
    }
}

impl ReadJson for kind::PayloadText {
    const EXPECTED: &'static str = "a string";

    fn of_str(text: Str<'_>, context: &Context<'_>) -> Result<Text, DecodeErrorKind> {
        Ok(context.text(text))
    }
}

impl ReadJson for kind::Payload {
    const EXPECTED: &'static str = "a string of characters U+0000 to U+00FF";
    const IS_BYTES: bool = true;

    fn of_str(text: Str<'_>, context: &Context<'_>) -> Result<Bytes, DecodeErrorKind> {
        if text.as_str().is_ascii() {
            return Ok(context.text(text).into_bytes());
        }
        latin1(text.as_str()).map(Bytes::from)
    }

    fn of_bytes(bytes: Vec<u8>) -> Result<Bytes, DecodeErrorKind> {
        Ok(Bytes::from(bytes))
    }
}

/// The bytes that a text of characters U+0000 to U+00FF stands for.
pub(crate) fn latin1(text: &str) -> Result<Vec<u8>, DecodeErrorKind> {
    // Sized by a count: collecting would grow step by step to twice the need.
    let mut bytes = Vec::with_capacity(text.chars().count());
    for found in text.chars() {
        bytes.push(u8::try_from(found).map_err(|_| DecodeErrorKind::NotLatin1 { found })?);
    }
    Ok(bytes)
}

/// The value of a map's entry: text, or a number or a boolean, which become their text.
enum MapValue {}

impl Kind for MapValue {
    type Value = Text;
    const AVRO: &'static str = kind::String::AVRO;

    fn write(value: &Text, sink: &mut impl crate::sink::Sink) {
        kind::String::write(value, sink);
    }

    fn read(cursor: &mut crate::cursor::Cursor<'_>) -> Result<Text, crate::cursor::Failed> {
        kind::String::read(cursor)
    }
}

impl ReadJson for MapValue {
    const EXPECTED: &'static str = "a string, a number or a boolean";

    fn of_bool(value: bool) -> Result<Text, DecodeErrorKind> {
        Ok(Text::from_static(if value { "true" } else { "false" }))
    }

    fn of_number(value: Number) -> Result<Text, DecodeErrorKind> {
        Ok(Text::from(value.to_string()))
    }

    fn of_str(text: Str<'_>, context: &Context<'_>) -> Result<Text, DecodeErrorKind> {
        kind::String::of_str(text, context)
    }
}

impl ReadJson for kind::Map {
    const EXPECTED: &'static str = "an object";

    fn of_null() -> Result<StringMap, DecodeErrorKind> {
        Ok(StringMap::new())
    }

    fn of_map<'de, A: MapAccess<'de>>(
        mut map: A,
        context: &Context<'_>,
    ) -> Result<StringMap, A::Error> {
        context.check_depth(FIELD_DEPTH)?;
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(Seed::<kind::String>::new(context))? {
            context.check_entries(entries.len() + 1)?;
            entries.push((key, map.next_value_seed(Seed::<MapValue>::new(context))?));
        }
        Ok(StringMap::from_entries(entries))
    }
}

impl ReadJson for kind::Longs {
    const EXPECTED: &'static str = "an array";

    fn of_seq<'de, A: SeqAccess<'de>>(seq: A, context: &Context<'_>) -> Result<Vec<i64>, A::Error> {
        items::<kind::Long, A>(seq, context)
    }
}

impl ReadJson for kind::Strings {
    const EXPECTED: &'static str = "an array";

    fn of_seq<'de, A: SeqAccess<'de>>(
        seq: A,
        context: &Context<'_>,
    ) -> Result<Vec<Text>, A::Error> {
        items::<kind::String, A>(seq, context)
    }
}

fn items<'de, K: ReadJson, A: SeqAccess<'de>>(
    mut seq: A,
    context: &Context<'_>,
) -> Result<Vec<K::Value>, A::Error> {
    context.check_depth(FIELD_DEPTH)?;
    let mut items = Vec::new();
    while let Some(item) = seq.next_element_seed(Seed::<K>::new(context))? {
        context.check_entries(items.len() + 1)?;
        items.push(item);
    }
    Ok(items)
}

/// Reads one value of kind `K`.
pub(crate) struct Seed<'a, K>(&'a Context<'a>, PhantomData<K>);

impl<'a, K> Seed<'a, K> {
    pub(crate) fn new(context: &'a Context<'a>) -> Self {
        Self(context, PhantomData)
    }
}

impl<'de, K: ReadJson> DeserializeSeed<'de> for Seed<'_, K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        if K::IS_BYTES {
            deserializer.deserialize_newtype_struct(BYTES, self)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

impl<'de, K: ReadJson> Visitor<'de> for Seed<'_, K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::EXPECTED)
    }

    fn visit_unit<E: Error>(self) -> Result<K::Value, E> {
        K::of_null().map_err(|kind| self.0.fail(kind))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<K::Value, E> {
        K::of_bool(value).map_err(|kind| self.0.fail(kind))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<K::Value, E> {
        K::of_number(Number::Signed(value)).map_err(|kind| self.0.fail(kind))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<K::Value, E> {
        K::of_number(Number::Unsigned(value)).map_err(|kind| self.0.fail(kind))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<K::Value, E> {
        K::of_number(Number::Float(value)).map_err(|kind| self.0.fail(kind))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<K::Value, E> {
        K::of_str(Str::InBody(text), self.0).map_err(|kind| self.0.fail(kind))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<K::Value, E> {
        K::of_str(Str::Unescaped(text), self.0).map_err(|kind| self.0.fail(kind))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<K::Value, E> {
        K::of_str(Str::Owned(text.into()), self.0).map_err(|kind| self.0.fail(kind))
    }

    /// Text in the body, not yet checked.
    fn visit_borrowed_bytes<E: Error>(self, text: &'de [u8]) -> Result<K::Value, E> {
        let text = self.0.checked(text);
        text.and_then(|text| K::of_str(Str::Owned(text), self.0))
            .map_err(|kind| self.0.fail(kind))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<K::Value, E> {
        K::of_bytes(bytes).map_err(|kind| self.0.fail(kind))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, again: D) -> Result<K::Value, D::Error> {
        again.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<K::Value, A::Error> {
        K::of_seq(seq, self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<K::Value, A::Error> {
        K::of_map(map, self.0)
    }
}
