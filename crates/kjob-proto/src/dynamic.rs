//! Avro with schemas that are known only at run time: checks, and binary to JSON and back.
//!
//! For the payloads of jobs, whose endpoints declare their own records.
//!
//! - **JSON form**: plain JSON for records, maps, arrays and primitives. Bytes and fixed are strings with a
//!   character U+0000 to U+00FF for each byte. Unions are tagged, as Avro's JSON encoding has it: `null`, or an
//!   object with the branch's name as its one member, such as `{"string": "a"}`; the untagged form is refused.
//!   A float that JSON has no number for is one of the strings `NaN`, `Infinity` and `-Infinity`.
//! - **Reading JSON**: members come in any order, unknown ones are ignored. A missing one takes the
//!   schema's default; without a default, maps and arrays are empty, as the JavaScript client drops undefined
//!   members, and anything else is an error.
//! - **Logical types** are treated as the type that carries them: a date is its number of days.
//! - **Trust**: apache-avro parses and resolves the schema, which comes from the operator. The data comes from
//!   anybody, so it is walked by the same checking cursor as the records of this crate, in one pass and with no
//!   tree of values. apache-avro's own reader would allocate what a length announces up to a process-wide
//!   512 MiB, take a text that is cut short for a null, drop bits beyond the 64th, and lose the order of
//!   maps. Tests hold what is written here against it.

mod binary;
mod node;
mod text;

use crate::{DecodeError, Limits};
use node::{Node, NodeId};

/// A parsed schema.
///
/// ```
/// use kjob_proto::{Limits, dynamic::Schema};
///
/// let schema = Schema::parse(
///     r#"{"type": "record", "name": "demo_sleep_request", "fields": [
///         {"name": "millis", "type": "long"},
///         {"name": "options", "type": {"type": "map", "values": "string"}}
///     ]}"#,
/// )?;
/// let limits = Limits::default();
/// let binary = schema.json_to_binary(r#"{"millis": 250}"#, &limits)?;
/// assert_eq!(binary, [0xf4, 0x03, 0x00]);
/// assert_eq!(schema.binary_to_json(&binary, &limits)?, r#"{"millis":250,"options":{}}"#);
///
/// let error = schema.check_json(r#"{"millis": "soon"}"#, &limits).unwrap_err();
/// assert_eq!(error.to_string(), "body: millis: expected a 64-bit integer, found a string, at byte 17");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Schema {
    /// All types; references between them are places in here, so that a recursive schema is no cycle.
    nodes: Vec<Node>,
    root: NodeId,
}

/// A text is no Avro schema.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid Avro schema: {message}")]
pub struct SchemaError {
    /// What is wrong with it.
    pub message: String,
}

impl Schema {
    /// Parses a schema, as JSON text, and resolves its names.
    ///
    /// # Errors
    /// The text is no schema, names a type it does not define, or has a default that its field cannot hold.
    pub fn parse(schema: &str) -> Result<Self, SchemaError> {
        node::parse(schema)
    }

    /// Turns Avro binary, one value and nothing after it, into compact JSON text escaped to ASCII.
    ///
    /// # Errors
    /// Anything malformed, past a limit or left over. [`Limits::max_body`] bounds `binary`,
    /// [`Limits::max_decompressed`] the text. All arrays and maps together may have
    /// [`Limits::max_map_entries`] entries more than `binary` has bytes, for those that take none.
    pub fn binary_to_json(&self, binary: &[u8], limits: &Limits) -> Result<String, DecodeError> {
        binary::to_json(self, binary, limits)
    }

    /// Checks what [`Schema::binary_to_json`] checks, but the length of the text, and allocates nothing.
    ///
    /// # Errors
    /// Those of [`Schema::binary_to_json`].
    pub fn check_binary(&self, binary: &[u8], limits: &Limits) -> Result<(), DecodeError> {
        binary::check(self, binary, limits)
    }

    /// Turns JSON text, one value and nothing after it but white space, into Avro binary: each map or array
    /// one block, in order of the text.
    ///
    /// # Errors
    /// Anything malformed, past a limit or not fitting. [`Limits::max_body`] bounds `json`,
    /// [`Limits::max_decompressed`] the result, which defaults can make longer than the text.
    pub fn json_to_binary(&self, json: &str, limits: &Limits) -> Result<Vec<u8>, DecodeError> {
        text::to_binary(self, json, limits)
    }

    /// Checks what [`Schema::json_to_binary`] checks.
    ///
    /// # Errors
    /// Those of [`Schema::json_to_binary`].
    pub fn check_json(&self, json: &str, limits: &Limits) -> Result<(), DecodeError> {
        self.json_to_binary(json, limits).map(drop)
    }

    fn node(&self, id: NodeId) -> &Node {
        // Ids come from `node::parse` alone, which makes a node for each.
        self.nodes.get(id.0).unwrap_or(&Node::Null)
    }
}
