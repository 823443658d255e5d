//! Walks JSON along a schema, and writes Avro binary on the way.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::error::{DecodeError, DecodeErrorKind};
use crate::json::{Context, Ignored, Number, latin1};
use crate::sink::Sink;
use crate::{Limits, Text};

use super::Schema;
use super::node::{Branch, Field, Node, NodeId};

pub(super) fn to_binary(
    schema: &Schema,
    json: &str,
    limits: &Limits,
) -> Result<Vec<u8>, DecodeError> {
    if json.len() > limits.max_body {
        let kind = DecodeErrorKind::TooLong {
            found: json.len() as u64,
            limit: limits.max_body,
        };
        return Err(DecodeError::new(kind, DecodeError::BODY, 0));
    }
    let nothing_shared = Text::new();
    let context = Context::new(json, &nothing_shared, limits);
    let mut out = Vec::new();
    let entries = Cell::new(0);
    let mut reader = serde_json::Deserializer::from_str(json);
    let walk = Walk {
        schema,
        context: &context,
        node: schema.root,
        depth: 1,
        tagged: true,
        entries: &entries,
        out: &mut out,
    };
    let walked = walk.deserialize(&mut reader).and_then(|()| reader.end());
    walked.map_err(|error| context.error(&error))?;
    if out.len() > limits.max_decompressed {
        let kind = DecodeErrorKind::TooLong {
            found: out.len() as u64,
            limit: limits.max_decompressed,
        };
        return Err(DecodeError::new(kind, DecodeError::BODY, json.len()));
    }
    // Nulls take no byte: as many of them as readers take, who would refuse what is written else.
    let limit = out.len().saturating_add(limits.max_map_entries);
    if entries.get() > limit {
        let kind = DecodeErrorKind::TooManyEntries {
            found: entries.get() as u64,
            limit,
        };
        return Err(DecodeError::new(kind, DecodeError::BODY, json.len()));
    }
    Ok(out)
}

/// A default of a field, whose unions are not tagged; the error says what is wrong.
pub(super) fn default_to_binary(
    schema: &Schema,
    node: NodeId,
    value: &serde_json::Value,
) -> Result<Vec<u8>, String> {
    // The operator wrote it: no limit but the depth, which guards the stack.
    let limits = Limits::default()
        .with_max_decompressed(usize::MAX)
        .with_max_map_entries(usize::MAX);
    let nothing_shared = Text::new();
    let context = Context::new("", &nothing_shared, &limits);
    let mut out = Vec::new();
    let walk = Walk {
        schema,
        context: &context,
        node,
        depth: 1,
        tagged: false,
        entries: &Cell::new(0),
        out: &mut out,
    };
    match walk.deserialize(value) {
        Ok(()) => Ok(out),
        Err(error) => Err(context.error(&error).kind.to_string()),
    }
}

/// Reads one value of the type `node` and appends its binary form to `out`.
struct Walk<'a> {
    schema: &'a Schema,
    context: &'a Context<'a>,
    node: NodeId,
    /// The level of `node`; the outermost value is level 1.
    depth: usize,
    /// Whether unions are tagged: in data they are, in defaults they are not.
    tagged: bool,
    /// Entries of all maps and arrays so far.
    entries: &'a Cell<usize>,
    out: &'a mut Vec<u8>,
}

impl Walk<'_> {
    fn inner(&mut self, node: NodeId) -> Walk<'_> {
        Walk {
            node,
            depth: self.depth + 1,
            out: self.out,
            ..*self
        }
    }

    fn mismatch<E: Error>(&self, found: impl fmt::Display) -> E {
        let expected = match self.schema.node(self.node) {
            Node::Null => "null",
            Node::Boolean => "true or false",
            Node::Int => "a 32-bit integer",
            Node::Long => "a 64-bit integer",
            Node::Float | Node::Double => "a number",
            Node::Bytes | Node::Fixed(_) => "a string of characters U+0000 to U+00FF",
            Node::String => "a string",
            Node::Enum(_) => "one of the enum's symbols",
            Node::Array(_) => "an array",
            Node::Map(_) | Node::Record(_) => "an object",
            Node::Union(_) => "null or an object with the branch's name",
        };
        self.context.fail(DecodeErrorKind::JsonType {
            expected,
            found: found.to_string().into(),
        })
    }

    fn refuse<E: Error>(&self, message: impl fmt::Display) -> E {
        self.context
            .fail(DecodeErrorKind::Schema(message.to_string().into()))
    }

    /// Checked before each value, so that no more than one value goes past the limit.
    fn check<E: Error>(&self) -> Result<(), E> {
        let (found, limit) = (self.out.len(), self.context.limits.max_decompressed);
        if found > limit {
            return Err(self.context.fail(DecodeErrorKind::TooLong {
                found: found as u64,
                limit,
            }));
        }
        let node = self.schema.node(self.node);
        if matches!(
            node,
            Node::Array(_) | Node::Map(_) | Node::Record(_) | Node::Union(_)
        ) {
            self.context.check_depth(self.depth)?;
        }
        Ok(())
    }

    /// The type to read in an untagged union: the first branch that takes such a value.
    fn untagged(mut self, takes: impl Fn(&Node) -> bool) -> Self {
        if let (false, Node::Union(branches)) = (self.tagged, self.schema.node(self.node))
            && let Some((index, branch)) = branches
                .iter()
                .enumerate()
                .find(|(_, branch)| takes(self.schema.node(branch.node)))
        {
            self.out.put_len(index);
            self.node = branch.node;
        }
        self
    }

    fn number<E: Error>(self, value: Number) -> Result<(), E> {
        let walk = self.untagged(|node| {
            let whole = matches!(node, Node::Int | Node::Long) && value.whole().is_some();
            whole || matches!(node, Node::Float | Node::Double)
        });
        let mismatch = || walk.mismatch(format_args!("the number {value}"));
        match walk.schema.node(walk.node) {
            Node::Int => {
                let found = value.whole().ok_or_else(mismatch)?;
                let value = i32::try_from(found).map_err(|_| {
                    walk.context
                        .fail(DecodeErrorKind::IntegerRange { found, bits: 32 })
                })?;
                walk.out.put_long(i64::from(value));
            }
            Node::Long => walk.out.put_long(value.whole().ok_or_else(mismatch)?),
            Node::Float => {
                let value = value.as_f64() as f32;
                if value.is_infinite() {
                    return Err(mismatch());
                }
                walk.out.put(&value.to_le_bytes());
            }
            Node::Double => walk.out.put(&value.as_f64().to_le_bytes()),
            _ => return Err(mismatch()),
        }
        Ok(())
    }

    fn record<'de, A: MapAccess<'de>>(
        mut self,
        fields: &[Field],
        mut map: A,
    ) -> Result<(), A::Error> {
        // Members are written as they come; where that is not the schema's order they are put in order after.
        let start = self.out.len();
        let mut written: Vec<Option<Range<usize>>> = vec![None; fields.len()];
        while let Some(name) = map.next_key_seed(Key)? {
            let known = fields
                .iter()
                .zip(&mut written)
                .find(|(field, _)| field.name == name);
            let Some((field, place)) = known else {
                map.next_value_seed(Ignored {
                    context: self.context,
                    depth: self.depth + 1,
                })?;
                continue;
            };
            let member_start = self.out.len();
            let context = self.context;
            map.next_value_seed(self.inner(field.node))
                .inspect_err(|_| context.in_field(&name))?;
            *place = Some(member_start..self.out.len());
        }

        let mut end = start;
        let is_in_order = written.iter().all(|place| {
            place
                .as_ref()
                .is_some_and(|place| std::mem::replace(&mut end, place.end) == place.start)
        });
        if is_in_order && end == self.out.len() {
            return Ok(());
        }
        let members = self.out.split_off(start);
        for (field, place) in fields.iter().zip(written) {
            let member =
                place.and_then(|place| members.get(place.start - start..place.end - start));
            match (member, &field.default) {
                (Some(member), _) => self.out.put(member),
                (None, Some(default)) => self.out.put(default),
                (None, None) => match self.schema.node(field.node) {
                    Node::Map(_) | Node::Array(_) => self.out.put_byte(0),
                    _ => return Err(self.refuse(format_args!("member {} is missing", field.name))),
                },
            }
        }
        Ok(())
    }

    fn map<'de, A: MapAccess<'de>>(mut self, values: NodeId, mut map: A) -> Result<(), A::Error> {
        let start = self.out.len();
        let mut count = 0;
        while let Some(key) = map.next_key_seed(Key)? {
            self.out.put_string(key.as_bytes());
            let context = self.context;
            map.next_value_seed(self.inner(values))
                .inspect_err(|_| context.in_field(&key))?;
            count += 1;
        }
        self.end_entries(start, count);
        Ok(())
    }

    fn union<'de, A: MapAccess<'de>>(
        mut self,
        branches: &[Branch],
        mut map: A,
    ) -> Result<(), A::Error> {
        let Some(tag) = map.next_key_seed(Key)? else {
            return Err(self.mismatch("an empty object"));
        };
        let Some(index) = branches.iter().position(|branch| branch.tag == tag) else {
            return Err(self.refuse(format_args!("the union has no branch {tag}")));
        };
        self.out.put_len(index);
        if let Some(branch) = branches.get(index) {
            map.next_value_seed(self.inner(branch.node))?;
        }
        match map.next_key_seed(Key)? {
            None => Ok(()),
            Some(_) => Err(self.mismatch("an object with several members")),
        }
    }

    /// Puts the count before entries that are already written, and the end after them.
    fn end_entries(&mut self, start: usize, count: usize) {
        self.entries.set(self.entries.get().saturating_add(count));
        if count > 0 {
            let mut head = Vec::with_capacity(crate::varint::LEN_MAX);
            head.put_len(count);
            self.out.splice(start..start, head);
        }
        self.out.put_byte(0);
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.check()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of the schema")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        match self.schema.node(self.node) {
            Node::Null => Ok(()),
            Node::Union(branches) => {
                let is_null = |branch: &Branch| matches!(self.schema.node(branch.node), Node::Null);
                let index = branches
                    .iter()
                    .position(is_null)
                    .ok_or_else(|| self.mismatch("null"))?;
                self.out.put_len(index);
                Ok(())
            }
            _ => Err(self.mismatch("null")),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        let walk = self.untagged(|node| matches!(node, Node::Boolean));
        match walk.schema.node(walk.node) {
            Node::Boolean => walk.out.put_byte(u8::from(value)),
            _ => return Err(walk.mismatch(value)),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.number(Number::Signed(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.number(Number::Unsigned(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.number(Number::Float(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let walk = self.untagged(|node| match node {
            Node::Enum(symbols) => symbols.iter().any(|symbol| symbol == text),
            Node::String | Node::Bytes | Node::Fixed(_) => true,
            _ => false,
        });
        match walk.schema.node(walk.node) {
            Node::String => walk.out.put_string(text.as_bytes()),
            Node::Bytes => {
                let bytes = latin1(text).map_err(|kind| walk.context.fail(kind))?;
                walk.out.put_string(&bytes);
            }
            Node::Fixed(len) => {
                let bytes = latin1(text).map_err(|kind| walk.context.fail(kind))?;
                if bytes.len() != *len {
                    return Err(
                        walk.refuse(format_args!("{} bytes, the type has {len}", bytes.len()))
                    );
                }
                walk.out.put(&bytes);
            }
            Node::Enum(symbols) => {
                let index = symbols.iter().position(|symbol| symbol == text);
                walk.out
                    .put_len(index.ok_or_else(|| walk.mismatch("another string"))?);
            }
            Node::Float => {
                let value = not_a_number(text).ok_or_else(|| walk.mismatch("a string"))?;
                walk.out.put(&(value as f32).to_le_bytes());
            }
            Node::Double => {
                let value = not_a_number(text).ok_or_else(|| walk.mismatch("a string"))?;
                walk.out.put(&value.to_le_bytes());
            }
            _ => return Err(walk.mismatch("a string")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut walk = self.untagged(|node| matches!(node, Node::Array(_)));
        let Node::Array(items) = *walk.schema.node(walk.node) else {
            return Err(walk.mismatch("an array"));
        };
        let start = walk.out.len();
        let mut count = 0;
        while seq.next_element_seed(walk.inner(items))?.is_some() {
            count += 1;
        }
        walk.end_entries(start, count);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let walk = self.untagged(|node| matches!(node, Node::Map(_) | Node::Record(_)));
        let schema = walk.schema;
        match schema.node(walk.node) {
            Node::Record(fields) => walk.record(fields, map),
            Node::Map(values) => walk.map(*values, map),
            Node::Union(branches) if walk.tagged => walk.union(branches, map),
            _ => Err(walk.mismatch("an object")),
        }
    }
}

/// The floats that JSON has no number for.
fn not_a_number(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// The name of a member.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
        Ok(name.to_owned())
    }
}
