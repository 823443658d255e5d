//! Reading JSON over serde_json.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::error::{DecodeError, DecodeErrorKind};
use crate::kind::{self, Kind};
use crate::record::{Wire, check_body};
use crate::{Limits, StringMap, Text};

/// Reads a record from JSON text: any order of members, missing ones empty, unknown ones ignored,
/// the last of repeated ones.
pub(crate) fn read_record<R: Wire + Default>(
    body: &Bytes,
    limits: &Limits,
) -> Result<R, DecodeError> {
    check_body(body, limits)?;
    let text = Text::try_from(body.clone()).map_err(|error| {
        DecodeError::new(
            DecodeErrorKind::NotUtf8,
            DecodeError::BODY,
            error.valid_up_to,
        )
    })?;
    let context = Context {
        text: &text,
        limits,
        field: Cell::new(DecodeError::BODY),
        failure: RefCell::new(None),
    };
    let mut reader = serde_json::Deserializer::from_str(&text);
    let record = reader.deserialize_any(RecordVisitor(&context, PhantomData));
    record
        .and_then(|record| reader.end().map(|()| record))
        .map_err(|error| context.error(&error))
}

/// What all visitors of one decode share.
struct Context<'a> {
    text: &'a Text,
    limits: &'a Limits,
    field: Cell<&'static str>,
    /// The typed form of the error that is on its way up through serde_json.
    failure: RefCell<Option<DecodeErrorKind>>,
}

impl Context<'_> {
    /// Hands an error to serde_json, which adds the place, and keeps its typed form.
    fn fail<E: Error>(&self, kind: DecodeErrorKind) -> E {
        let error = E::custom("see Context::failure");
        *self.failure.borrow_mut() = Some(kind);
        error
    }

    fn error(&self, error: &serde_json::Error) -> DecodeError {
        let lines = self
            .text
            .split_inclusive('\n')
            .take(error.line().saturating_sub(1));
        let offset = lines.map(str::len).sum::<usize>() + error.column();
        let kind = self.failure.take().unwrap_or_else(|| {
            let message = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            DecodeErrorKind::Json(message.strip_suffix(&place).unwrap_or(&message).into())
        });
        DecodeError::new(kind, self.field.get(), offset)
    }

    fn check_depth<E: Error>(&self, depth: usize) -> Result<(), E> {
        let limit = self.limits.max_depth;
        if depth > limit {
            Err(self.fail(DecodeErrorKind::TooDeep { limit }))
        } else {
            Ok(())
        }
    }

    fn check_entries<E: Error>(&self, found: usize) -> Result<(), E> {
        let limit = self.limits.max_map_entries;
        if found > limit {
            return Err(self.fail(DecodeErrorKind::TooManyEntries {
                found: found as u64,
                limit,
            }));
        }
        Ok(())
    }

    fn check_string(&self, text: &str) -> Result<(), DecodeErrorKind> {
        let limit = self.limits.max_string;
        if text.len() > limit {
            return Err(DecodeErrorKind::TooLong {
                found: text.len() as u64,
                limit,
            });
        }
        Ok(())
    }

    /// Text without escapes is a slice of the body; other text was put together and has to be copied.
    fn text(&self, text: Str<'_>) -> Text {
        match text {
            Str::InBody(text) => self.text.slice_of(text),
            Str::Unescaped(text) => Text::copy_from(text),
        }
    }
}

/// Levels of nesting: the record is an object, its maps and arrays are in it.
const RECORD_DEPTH: usize = 1;
const FIELD_DEPTH: usize = 2;

#[derive(Clone, Copy)]
pub(crate) enum Str<'a> {
    InBody(&'a str),
    Unescaped(&'a str),
}

impl Str<'_> {
    fn as_str(&self) -> &str {
        match self {
            Str::InBody(text) | Str::Unescaped(text) => text,
        }
    }
}

/// How a kind of field reads each type of JSON value. What it does not take is a type error.
pub(crate) trait ReadJson: Kind {
    const EXPECTED: &'static str;

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
    fn whole(self) -> Option<i64> {
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

impl ReadJson for kind::PayloadText {
    const EXPECTED: &'static str = "a string";

    fn of_str(text: Str<'_>, context: &Context<'_>) -> Result<Text, DecodeErrorKind> {
        Ok(context.text(text))
    }
}

impl ReadJson for kind::Payload {
    const EXPECTED: &'static str = "a string of characters U+0000 to U+00FF";

    fn of_str(text: Str<'_>, context: &Context<'_>) -> Result<Bytes, DecodeErrorKind> {
        if text.as_str().is_ascii() {
            return Ok(context.text(text).into_bytes());
        }
        let byte =
            |found: char| u8::try_from(found).map_err(|_| DecodeErrorKind::NotLatin1 { found });
        // Sized by a count: collecting would grow step by step to twice the need.
        let mut bytes = Vec::with_capacity(text.as_str().chars().count());
        for char in text.as_str().chars() {
            bytes.push(byte(char)?);
        }
        Ok(Bytes::from(bytes))
    }
}

/// The value of a map's entry: text, or a number or a boolean, which become their text.
enum MapValue {}

impl Kind for MapValue {
    type Value = Text;
    const AVRO: &'static str = kind::String::AVRO;

    fn write(value: &Text, sink: &mut impl crate::sink::Sink) {
        kind::String::write(value, sink);
    }

    fn read(cursor: &mut crate::cursor::Cursor<'_>) -> Result<Text, DecodeError> {
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
struct Seed<'a, K>(&'a Context<'a>, PhantomData<K>);

impl<'a, K> Seed<'a, K> {
    fn new(context: &'a Context<'a>) -> Self {
        Self(context, PhantomData)
    }
}

impl<'de, K: ReadJson> DeserializeSeed<'de> for Seed<'_, K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        deserializer.deserialize_any(self)
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

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<K::Value, A::Error> {
        K::of_seq(seq, self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<K::Value, A::Error> {
        K::of_map(map, self.0)
    }
}

/// Gives a record its members, one at a time.
pub struct MemberReader<'a, A> {
    map: A,
    context: &'a Context<'a>,
}

impl<'de, A: MapAccess<'de>> MemberReader<'_, A> {
    /// The value of the member whose name was just read.
    pub(crate) fn value<K: ReadJson>(&mut self) -> Result<K::Value, A::Error> {
        self.map.next_value_seed(Seed::<K>::new(self.context))
    }
}

struct RecordVisitor<'a, R>(&'a Context<'a>, PhantomData<R>);

impl<R> RecordVisitor<'_, R> {
    fn mismatch<E: Error>(&self, found: &str) -> E {
        self.0.fail(DecodeErrorKind::JsonType {
            expected: "an object",
            found: found.into(),
        })
    }
}

impl<'de, R: Wire + Default> Visitor<'de> for RecordVisitor<'_, R> {
    type Value = R;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<R, A::Error> {
        let context = self.0;
        context.check_depth(RECORD_DEPTH)?;
        let mut record = R::default();
        let mut members = MemberReader { map, context };
        loop {
            context.field.set(DecodeError::BODY);
            let Some(name) = members.map.next_key_seed(NameSeed(R::FIELDS))? else {
                return Ok(record);
            };
            match name {
                Some(name) => {
                    context.field.set(name);
                    record.read_json_member(name, &mut members)?;
                }
                None => members.map.next_value_seed(Ignored {
                    context,
                    depth: FIELD_DEPTH,
                })?,
            }
        }
    }

    fn visit_unit<E: Error>(self) -> Result<R, E> {
        Err(self.mismatch("null"))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<R, E> {
        Err(self.mismatch("a boolean"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<R, E> {
        Err(self.mismatch("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<R, E> {
        Err(self.mismatch("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<R, E> {
        Err(self.mismatch("a number"))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<R, E> {
        Err(self.mismatch("a string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<R, A::Error> {
        Err(self.mismatch("an array"))
    }
}

/// The name of a member, if it is a field's.
struct NameSeed(&'static [(&'static str, &'static str)]);

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, found: &str) -> Result<Self::Value, E> {
        Ok(self
            .0
            .iter()
            .map(|(name, _)| *name)
            .find(|name| *name == found))
    }
}

/// Passes over a value, whatever it is, down to the allowed depth.
struct Ignored<'a> {
    context: &'a Context<'a>,
    /// The level that a container here would have.
    depth: usize,
}

impl Ignored<'_> {
    fn deeper(&self) -> Self {
        Ignored {
            context: self.context,
            depth: self.depth + 1,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Ignored<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Ignored<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.context.check_depth(self.depth)?;
        while seq.next_element_seed(self.deeper())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.context.check_depth(self.depth)?;
        while map.next_key_seed(self.deeper())?.is_some() {
            map.next_value_seed(self.deeper())?;
        }
        Ok(())
    }
}
