//! What all records have in common.

use std::fmt::Debug;

use bytes::Bytes;

use crate::cursor::{Cursor, Failed};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::segments::{Segments, Write, segments};
use crate::sink::{Measure, Sink};
use crate::{Encoding, Limits};

/// A record of the protocol: its name, its schema and its codecs. Implemented by the thirteen records of
/// docs/protocol.md sections 3 and 4, and closed to others.
///
/// Decoding shares the received body: each text and each payload is a slice of it and keeps it alive.
/// What a decode may take is bounded by [`Limits`], and by a small multiple of the body's own size.
pub trait Record:
    Wire + Sized + Default + Clone + PartialEq + Debug + Send + Sync + 'static
{
    /// The schema's name of the record, such as `create_job_request`; also the envelope's `data_type`.
    const NAME: &'static str;

    /// The Avro schema of the record, as JSON text.
    const SCHEMA: &'static str;

    /// Decodes a body in any encoding.
    ///
    /// # Errors
    /// Those of [`Record::decode_binary`], of snappy and of JSON;
    /// [`DecodeErrorKind::Unsupported`] if the feature for `encoding` is off.
    fn decode(encoding: Encoding, body: Bytes, limits: &Limits) -> Result<Self, DecodeError> {
        match encoding {
            Encoding::Binary => Self::decode_binary(body, limits),
            #[cfg(feature = "json")]
            Encoding::Json => Self::decode_json(body, limits),
            #[cfg(feature = "snappy")]
            Encoding::Snappy => read_whole(&crate::snappy::decompress(&body, limits)?, limits),
            #[cfg(not(all(feature = "json", feature = "snappy")))]
            other => Err(DecodeError::new(
                DecodeErrorKind::Unsupported(other),
                DecodeError::BODY,
                0,
            )),
        }
    }

    /// Decodes Avro binary: one record and nothing after it. Every legal form of maps and arrays is
    /// taken; a map key that comes twice keeps its last value.
    ///
    /// # Errors
    /// Anything malformed, past a limit, or left over after the record.
    fn decode_binary(body: Bytes, limits: &Limits) -> Result<Self, DecodeError> {
        check_body(&body, limits)?;
        read_whole(&body, limits)
    }

    /// Decodes JSON text: one object and nothing after it but white space. Members come in any order;
    /// missing ones are empty, unknown ones are ignored, of repeated ones the last counts. A null map is
    /// empty, numbers and booleans in a map become their text, and `5.0` is an integer. Bytes are strings
    /// with a character U+0000 to U+00FF for each byte.
    ///
    /// # Errors
    /// Anything malformed, of another type or past a limit.
    #[cfg(feature = "json")]
    fn decode_json(body: Bytes, limits: &Limits) -> Result<Self, DecodeError> {
        crate::json::read_record(&body, limits)
    }

    /// The record as compact JSON text, members in the schema's order, escaped to ASCII.
    #[cfg(feature = "json")]
    fn encode_json(&self) -> Vec<u8> {
        crate::json::write_record(self)
    }

    /// The length of the Avro binary form, in bytes.
    fn encoded_len(&self) -> usize {
        let mut measure = Measure::default();
        self.write_to(&mut measure);
        measure.0
    }

    /// Appends the Avro binary form, in the very form that the clients write: each map or array is one
    /// block, in order of insertion. Allocates only what `out` lacks in capacity.
    fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        self.write_to(out);
    }

    /// The Avro binary form in one buffer of exactly its size.
    fn encode_to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.write_to(&mut out);
        Bytes::from(out)
    }

    /// The Avro binary form in pieces, big payloads not copied.
    fn encode_segments(&self) -> Segments {
        segments(&AsWrite(self))
    }
}

/// The fields of a record, in the schema's order. Public in name only: it closes [`Record`].
pub trait Wire {
    /// Names and Avro types.
    const FIELDS: &'static [(&'static str, &'static str)];

    fn write_to(&self, sink: &mut impl Sink);

    fn read_from(cursor: &mut Cursor<'_>) -> Result<Self, Failed>
    where
        Self: Sized;

    #[cfg(feature = "json")]
    fn write_json_to(&self, out: &mut Vec<u8>);

    /// How many bytes to have ready for the JSON text.
    #[cfg(feature = "json")]
    fn json_room(&self) -> usize;

    /// Takes the value of the member `name`, which is one of [`Wire::FIELDS`].
    #[cfg(feature = "json")]
    fn read_json_member<'de, A: serde::de::MapAccess<'de>>(
        &mut self,
        name: &'static str,
        members: &mut crate::json::MemberReader<'_, A>,
    ) -> Result<(), A::Error>;
}

struct AsWrite<'a, R>(&'a R);

impl<R: Wire> Write for AsWrite<'_, R> {
    fn write(&self, sink: &mut impl Sink) {
        self.0.write_to(sink);
    }
}

pub(crate) fn check_body(body: &Bytes, limits: &Limits) -> Result<(), DecodeError> {
    if body.len() <= limits.max_body {
        return Ok(());
    }
    let kind = DecodeErrorKind::TooLong {
        found: body.len() as u64,
        limit: limits.max_body,
    };
    Err(DecodeError::new(kind, DecodeError::BODY, 0))
}

/// Reads one record and nothing after it from bytes whose length was checked.
pub(crate) fn read_whole<R: Wire>(body: &Bytes, limits: &Limits) -> Result<R, DecodeError> {
    let mut cursor = Cursor::new(body, limits);
    let read = R::read_from(&mut cursor);
    cursor.finish(read)
}

/// Declares a record: the struct, its name and schema, and its fields with their kinds.
macro_rules! record {
    (
        $(#[$doc:meta])*
        $name:ident = $wire_name:literal {
            $($(#[$field_doc:meta])* $field:ident: $value:ty => $kind:ident,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        #[cfg_attr(
            feature = "serde",
            derive(serde::Serialize, serde::Deserialize),
            serde(default, rename = $wire_name)
        )]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $value,)*
        }

        impl $crate::record::Wire for $name {
            const FIELDS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), <$crate::kind::$kind as $crate::kind::Kind>::AVRO),)*];

            #[inline]
            fn write_to(&self, sink: &mut impl $crate::sink::Sink) {
                $(<$crate::kind::$kind as $crate::kind::Kind>::write(&self.$field, sink);)*
            }

            #[inline]
            fn read_from(
                cursor: &mut $crate::cursor::Cursor<'_>,
            ) -> Result<Self, $crate::cursor::Failed> {
                // Fields of a struct expression are evaluated as they are written: in the schema's order.
                Ok(Self {
                    $($field: <$crate::kind::$kind as $crate::kind::Kind>::read(
                        cursor.field(stringify!($field)),
                    )?,)*
                })
            }

            #[cfg(feature = "json")]
            fn write_json_to(&self, out: &mut Vec<u8>) {
                let mut separator = b'{';
                $(
                    out.push(std::mem::replace(&mut separator, b','));
                    $crate::json::put_key(stringify!($field), out);
                    <$crate::kind::$kind as $crate::json::WriteJson>::write_json(&self.$field, out);
                )*
                let _ = separator;
                out.push(b'}');
            }

            #[cfg(feature = "json")]
            fn json_room(&self) -> usize {
                // The names with their quotes, colons and separators, the values, and the last brace.
                1 $(
                    + stringify!($field).len() + 4
                    + <$crate::kind::$kind as $crate::json::WriteJson>::room(&self.$field)
                )*
            }

            #[cfg(feature = "json")]
            fn read_json_member<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                name: &'static str,
                members: &mut $crate::json::MemberReader<'_, A>,
            ) -> Result<(), A::Error> {
                $(
                    if name == stringify!($field) {
                        self.$field = members.value::<$crate::kind::$kind>()?;
                    }
                )*
                Ok(())
            }
        }

        impl $crate::record::Record for $name {
            const NAME: &'static str = $wire_name;
            const SCHEMA: &'static str =
                include_str!(concat!("../schemas/", $wire_name, ".avsc"));
        }
    };
}
pub(crate) use record;

#[cfg(test)]
mod tests {
    use apache_avro::schema::{RecordField, Schema};

    use super::*;
    use crate::*;

    /// Each struct has the fields of its official schema: names, order and types.
    #[test]
    fn records_are_their_schemas() {
        fn check<R: Record>() {
            let Schema::Record(schema) = Schema::parse_str(R::SCHEMA).unwrap() else {
                panic!("{} is no record", R::NAME);
            };
            assert_eq!(schema.name.fullname(None), R::NAME);
            let as_ours = |field: &RecordField| {
                let avro = serde_json::to_string(&field.schema).unwrap();
                (field.name.clone(), avro)
            };
            let theirs: Vec<_> = schema.fields.iter().map(as_ours).collect();
            let ours = R::FIELDS
                .iter()
                .map(|(name, avro)| ((*name).to_owned(), (*avro).to_owned()));
            assert_eq!(ours.collect::<Vec<_>>(), theirs, "{}", R::NAME);
        }
        check::<CreateJobRequest>();
        check::<CreateJobResponse>();
        check::<GetJobRequest>();
        check::<GetJobResponse>();
        check::<AdminShowJobsRequest>();
        check::<AdminShowJobsResponse>();
        check::<AdminAlterJobsRequest>();
        check::<AdminAlterJobsResponse>();
        check::<ShowSystemStatusRequest>();
        check::<ShowSystemStatusResponse>();
        check::<ShowSystemPropertiesRequest>();
        check::<ShowSystemPropertiesResponse>();
        check::<Envelope>();
    }
}
