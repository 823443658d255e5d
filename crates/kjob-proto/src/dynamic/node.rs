//! A schema as a table of types, made from what apache-avro parsed.

use std::collections::HashMap;

use apache_avro::schema::{InnerDecimalSchema, NamespaceRef, Schema as Parsed, UuidSchema};

use super::{Schema, SchemaError, text};

/// A place in [`Schema::nodes`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NodeId(pub(super) usize);

/// A type. Logical types are the type that carries them.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(NodeId),
    Map(NodeId),
    Record(Vec<Field>),
    Union(Vec<Branch>),
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) node: NodeId,
    /// The default as Avro binary.
    pub(super) default: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(super) struct Branch {
    /// The name that tags a value of this branch in JSON.
    pub(super) tag: String,
    pub(super) node: NodeId,
}

pub(super) fn parse(schema: &str) -> Result<Schema, SchemaError> {
    let parsed = Parsed::parse_str(schema).map_err(refused)?;
    let mut builder = Builder::default();
    let root = builder.add(&parsed, None)?;
    let mut schema = Schema {
        nodes: builder.nodes,
        root,
    };
    // Only now, as a default may be of a type that is defined further down. A default may hold records
    // that lack members for which another default stands; so those of inner records come first.
    builder.defaults.reverse();
    for default in builder.defaults {
        let field = |schema: &Schema| match schema.node(default.record) {
            Node::Record(fields) => fields
                .get(default.field)
                .map(|field| (field.name.clone(), field.node)),
            _ => None,
        };
        let Some((name, node)) = field(&schema) else {
            continue;
        };
        let encoded = text::default_to_binary(&schema, node, &default.value)
            .map_err(|message| refused(format!("default of {name}: {message}")))?;
        if let Some(Node::Record(fields)) = schema.nodes.get_mut(default.record.0)
            && let Some(field) = fields.get_mut(default.field)
        {
            field.default = Some(encoded);
        }
    }
    Ok(schema)
}

fn refused(message: impl ToString) -> SchemaError {
    SchemaError {
        message: message.to_string(),
    }
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    /// Named types by full name.
    names: HashMap<String, NodeId>,
    defaults: Vec<PendingDefault>,
}

/// A default that is still JSON.
struct PendingDefault {
    record: NodeId,
    field: usize,
    value: serde_json::Value,
}

impl Builder {
    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    fn push_named(&mut self, name: String, node: Node) -> NodeId {
        let id = self.push(node);
        self.names.insert(name, id);
        id
    }

    fn add(&mut self, schema: &Parsed, namespace: NamespaceRef<'_>) -> Result<NodeId, SchemaError> {
        Ok(match schema {
            Parsed::Null => self.push(Node::Null),
            Parsed::Boolean => self.push(Node::Boolean),
            Parsed::Int | Parsed::Date | Parsed::TimeMillis => self.push(Node::Int),
            Parsed::Long
            | Parsed::TimeMicros
            | Parsed::TimestampMillis
            | Parsed::TimestampMicros
            | Parsed::TimestampNanos
            | Parsed::LocalTimestampMillis
            | Parsed::LocalTimestampMicros
            | Parsed::LocalTimestampNanos => self.push(Node::Long),
            Parsed::Float => self.push(Node::Float),
            Parsed::Double => self.push(Node::Double),
            Parsed::Bytes | Parsed::BigDecimal | Parsed::Uuid(UuidSchema::Bytes) => {
                self.push(Node::Bytes)
            }
            Parsed::String | Parsed::Uuid(UuidSchema::String) => self.push(Node::String),
            Parsed::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => self.push(Node::Bytes),
                InnerDecimalSchema::Fixed(fixed) => {
                    self.push_named(fixed.name.fullname(namespace), Node::Fixed(fixed.size))
                }
            },
            Parsed::Fixed(fixed)
            | Parsed::Duration(fixed)
            | Parsed::Uuid(UuidSchema::Fixed(fixed)) => {
                self.push_named(fixed.name.fullname(namespace), Node::Fixed(fixed.size))
            }
            Parsed::Enum(symbols) => self.push_named(
                symbols.name.fullname(namespace),
                Node::Enum(symbols.symbols.clone()),
            ),
            Parsed::Array(array) => {
                let items = self.add(&array.items, namespace)?;
                self.push(Node::Array(items))
            }
            Parsed::Map(map) => {
                let values = self.add(&map.types, namespace)?;
                self.push(Node::Map(values))
            }
            Parsed::Union(union) => {
                let mut branches = Vec::with_capacity(union.variants().len());
                for variant in union.variants() {
                    let node = self.add(variant, namespace)?;
                    branches.push(Branch {
                        tag: self.tag(variant, node, namespace),
                        node,
                    });
                }
                self.push(Node::Union(branches))
            }
            Parsed::Record(record) => {
                let name = record.name.fully_qualified_name(namespace);
                // Named before its fields are added, as they may refer to it.
                let id = self.push_named(name.to_string(), Node::Record(Vec::new()));
                let mut fields = Vec::with_capacity(record.fields.len());
                for (index, field) in record.fields.iter().enumerate() {
                    if let Some(value) = field.default.clone() {
                        self.defaults.push(PendingDefault {
                            record: id,
                            field: index,
                            value,
                        });
                    }
                    let node = self.add(&field.schema, name.namespace())?;
                    fields.push(Field {
                        name: field.name.clone(),
                        node,
                        default: None,
                    });
                }
                if let Some(node) = self.nodes.get_mut(id.0) {
                    *node = Node::Record(fields);
                }
                id
            }
            Parsed::Ref { name } => {
                let name = name.fullname(namespace);
                let known = self.names.get(&name).copied();
                known.ok_or_else(|| refused(format!("no type is named {name}")))?
            }
        })
    }

    /// Named types are tagged with their full name, others with the word for their type.
    fn tag(&self, variant: &Parsed, node: NodeId, namespace: NamespaceRef<'_>) -> String {
        let name = match variant {
            Parsed::Ref { name } => Some(name.fullname(namespace)),
            _ => variant.name().map(|name| name.fullname(namespace)),
        };
        if let Some(name) = name {
            return name;
        }
        let word = match self.nodes.get(node.0) {
            Some(Node::Boolean) => "boolean",
            Some(Node::Int) => "int",
            Some(Node::Long) => "long",
            Some(Node::Float) => "float",
            Some(Node::Double) => "double",
            Some(Node::Bytes) => "bytes",
            Some(Node::String) => "string",
            Some(Node::Array(_)) => "array",
            Some(Node::Map(_)) => "map",
            Some(Node::Fixed(_)) => "fixed",
            Some(Node::Enum(_)) => "enum",
            Some(Node::Record(_)) => "record",
            Some(Node::Union(_)) => "union",
            Some(Node::Null) | None => "null",
        };
        word.to_owned()
    }
}
