//! Walks Avro binary along a schema, and writes JSON on the way.

use crate::Limits;
use crate::cursor::{Cursor, Failed};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::json::{put_bytes, put_float, put_long, put_string};

use super::Schema;
use super::node::{Node, NodeId};

type Result<T, E = Failed> = std::result::Result<T, E>;

pub(super) fn to_json(
    schema: &Schema,
    binary: &[u8],
    limits: &Limits,
) -> Result<String, DecodeError> {
    let mut text = Vec::new();
    walk(schema, binary, limits, Some(&mut text))?;
    // What is written is ASCII.
    String::from_utf8(text)
        .map_err(|_| DecodeError::new(DecodeErrorKind::NotUtf8, DecodeError::BODY, 0))
}

pub(super) fn check(schema: &Schema, binary: &[u8], limits: &Limits) -> Result<(), DecodeError> {
    walk(schema, binary, limits, None)
}

fn walk(
    schema: &Schema,
    binary: &[u8],
    limits: &Limits,
    out: Option<&mut Vec<u8>>,
) -> Result<(), DecodeError> {
    if binary.len() > limits.max_body {
        let kind = DecodeErrorKind::TooLong {
            found: binary.len() as u64,
            limit: limits.max_body,
        };
        return Err(DecodeError::new(kind, DecodeError::BODY, 0));
    }
    let budget = binary.len().saturating_add(limits.max_map_entries);
    let cursor = Cursor::of_slice(binary, limits);
    let mut walk = Walk {
        schema,
        limits,
        cursor,
        out,
        entries: 0,
        budget,
    };
    let walked = walk
        .value(schema.root, 1)
        .and_then(|()| walk.check_out(walk.cursor.offset()));
    walk.cursor.finish(walked)
}

struct Walk<'a> {
    schema: &'a Schema,
    limits: &'a Limits,
    cursor: Cursor<'a>,
    /// Where the JSON goes, if any is wanted.
    out: Option<&'a mut Vec<u8>>,
    /// Entries of all maps and arrays so far. A null takes no byte, so what is left bounds nothing.
    entries: u64,
    budget: usize,
}

impl<'a> Walk<'a> {
    fn value(&mut self, id: NodeId, depth: usize) -> Result<()> {
        let at = self.cursor.offset();
        self.check_out(at)?;
        let schema = self.schema;
        match schema.node(id) {
            Node::Null => self.put(|out| out.extend_from_slice(b"null")),
            Node::Boolean => {
                let value = self.cursor.boolean()?;
                self.put(|out| out.extend_from_slice(if value { b"true" } else { b"false" }));
            }
            Node::Int => {
                let value = self.cursor.int()?;
                self.put(|out| put_long(i64::from(value), out));
            }
            Node::Long => {
                let value = self.cursor.long()?;
                self.put(|out| put_long(value, out));
            }
            Node::Float => {
                let value = f32::from_le_bytes(self.array()?);
                self.put(|out| put_float(value, out));
            }
            Node::Double => {
                let value = f64::from_le_bytes(self.array()?);
                self.put(|out| put_float(value, out));
            }
            Node::Bytes => {
                let value = self.cursor.slice()?;
                self.put(|out| put_bytes(value, out));
            }
            Node::Fixed(len) => {
                let value = self.cursor.fixed(*len)?;
                self.put(|out| put_bytes(value, out));
            }
            Node::String => self.string()?,
            Node::Enum(symbols) => {
                let index = self.cursor.int()?;
                let symbol = usize::try_from(index)
                    .ok()
                    .and_then(|index| symbols.get(index));
                let symbol = symbol.ok_or_else(|| {
                    let message = format!("symbol {index}, the enum has {}", symbols.len());
                    self.cursor
                        .error_at(at, DecodeErrorKind::Schema(message.into()))
                })?;
                self.put(|out| put_string(symbol, out));
            }
            _ if depth > self.limits.max_depth => {
                let kind = DecodeErrorKind::TooDeep {
                    limit: self.limits.max_depth,
                };
                return Err(self.cursor.error_at(at, kind));
            }
            Node::Array(items) => {
                self.entries(b'[', b']', |walk| walk.value(*items, depth + 1))?;
            }
            Node::Map(values) => self.entries(b'{', b'}', |walk| {
                walk.string()?;
                walk.put(|out| out.push(b':'));
                walk.value(*values, depth + 1)
            })?,
            Node::Record(fields) => {
                let mut separator = b'{';
                for field in fields {
                    self.put(|out| {
                        out.push(separator);
                        put_string(&field.name, out);
                        out.push(b':');
                    });
                    separator = b',';
                    self.value(field.node, depth + 1)
                        .inspect_err(|_| self.cursor.in_field(&field.name))?;
                }
                self.put(|out| out.extend_from_slice(if fields.is_empty() { b"{}" } else { b"}" }));
            }
            Node::Union(branches) => {
                let index = self.cursor.long()?;
                let branch = usize::try_from(index)
                    .ok()
                    .and_then(|index| branches.get(index));
                let branch = branch.ok_or_else(|| {
                    let message = format!("branch {index}, the union has {}", branches.len());
                    self.cursor
                        .error_at(at, DecodeErrorKind::Schema(message.into()))
                })?;
                if matches!(schema.node(branch.node), Node::Null) {
                    return self.value(branch.node, depth + 1);
                }
                self.put(|out| {
                    out.push(b'{');
                    put_string(&branch.tag, out);
                    out.push(b':');
                });
                self.value(branch.node, depth + 1)?;
                self.put(|out| out.push(b'}'));
            }
        }
        Ok(())
    }

    /// Checked before each value and at the end, so that one value at most goes past the limit.
    fn check_out(&self, at: usize) -> Result<()> {
        let (found, limit) = (
            self.out.as_ref().map_or(0, |out| out.len()),
            self.limits.max_decompressed,
        );
        if found > limit {
            let kind = DecodeErrorKind::TooLong {
                found: found as u64,
                limit,
            };
            return Err(self.cursor.error_at(at, kind));
        }
        Ok(())
    }

    fn put(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        if let Some(out) = self.out.as_deref_mut() {
            put(out);
        }
    }

    fn string(&mut self) -> Result<()> {
        let bytes = self.cursor.slice()?;
        let start = self.cursor.offset() - bytes.len();
        let text = std::str::from_utf8(bytes).map_err(|error| {
            self.cursor
                .error_at(start + error.valid_up_to(), DecodeErrorKind::NotUtf8)
        })?;
        self.put(|out| put_string(text, out));
        Ok(())
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN]> {
        let mut array = [0; LEN];
        array.copy_from_slice(self.cursor.fixed(LEN)?);
        Ok(array)
    }

    /// The blocks of a map or an array.
    fn entries(
        &mut self,
        open: u8,
        close: u8,
        mut entry: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.put(|out| out.push(open));
        let mut is_first = true;
        while let Some(block) = self.cursor.block()? {
            self.entries = self.entries.saturating_add(block.count);
            if self.entries > self.budget as u64 {
                let kind = DecodeErrorKind::TooManyEntries {
                    found: self.entries,
                    limit: self.budget,
                };
                return Err(self.cursor.error_at(block.at, kind));
            }
            for _ in 0..block.count {
                if !std::mem::take(&mut is_first) {
                    self.put(|out| out.push(b','));
                }
                entry(self)?;
            }
            self.cursor.end_block(&block)?;
        }
        self.put(|out| out.push(close));
        Ok(())
    }
}
