//! Reading records from JSON, by the usual reader first and then by serde_json.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::context::Context;
use super::usual::Usual;
use super::value::{FIELD_DEPTH, ReadJson, Seed};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::record::{Wire, check_body};
use crate::{Limits, Text};

/// The level of a record's own object.
const RECORD_DEPTH: usize = 1;

/// Reads a record from JSON text: any order of members, missing ones empty, unknown ones ignored,
/// the last of repeated ones.
pub(crate) fn read_record<R: Wire + Default>(
    body: &Bytes,
    limits: &Limits,
) -> Result<R, DecodeError> {
    check_body(body, limits)?;
    usual(body, limits).map_or_else(|| complete(body, limits), Ok)
}

/// The record, if the text is as usual and nothing is wrong with it.
pub(super) fn usual<R: Wire + Default>(body: &Bytes, limits: &Limits) -> Option<R> {
    let no_text = Text::new();
    let context = Context::unchecked(body, &no_text, limits);
    let mut reader = Usual::new(body);
    let record = reader.deserialize_any(RecordVisitor(&context, PhantomData));
    record.ok().filter(|_| reader.end().is_ok())
}

/// The record, or what is wrong.
pub(super) fn complete<R: Wire + Default>(body: &Bytes, limits: &Limits) -> Result<R, DecodeError> {
    let text = Text::try_from(body.clone()).map_err(|error| {
        DecodeError::new(
            DecodeErrorKind::NotUtf8,
            DecodeError::BODY,
            error.valid_up_to,
        )
    })?;
    let context = Context::new(&text, &text, limits);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let record = reader.deserialize_any(RecordVisitor(&context, PhantomData));
    record
        .and_then(|record| reader.end().map(|()| record))
        .map_err(|error| context.error(&error))
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

    /// A name in the body, not yet checked.
    fn visit_bytes<E: Error>(self, found: &[u8]) -> Result<Self::Value, E> {
        self.visit_str(std::str::from_utf8(found).map_err(E::custom)?)
    }
}

/// Passes over a value, whatever it is, down to the allowed depth.
pub(crate) struct Ignored<'a> {
    pub(crate) context: &'a Context<'a>,
    /// The level that a container here would have.
    pub(crate) depth: usize,
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

    /// Text in the body, not yet checked.
    fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<(), E> {
        std::str::from_utf8(text).map(drop).map_err(E::custom)
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
