//! Serialize and Deserialize for what records are made of.
//!
//! In human-readable formats a payload is text with a character U+0000 to U+00FF for each byte, as in
//! the protocol's JSON; in others it is bytes. [`Limits`](crate::Limits) do not apply here.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{StringMap, Text};

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_string(TextVisitor)
    }
}

impl Serialize for StringMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MapVisitor)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text::copy_from(text))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Text, E> {
        Ok(Text::from(text))
    }
}

struct MapVisitor;

impl<'de> Visitor<'de> for MapVisitor {
    type Value = StringMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMap, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry::<Text, Text>()? {
            entries.push(entry);
        }
        Ok(StringMap::from_entries(entries))
    }
}

/// A field of bytes.
pub(crate) mod payload {
    use bytes::Bytes;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        payload: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&Latin1(payload))
        } else {
            serializer.serialize_bytes(payload)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(PayloadVisitor)
        } else {
            deserializer.deserialize_byte_buf(PayloadVisitor)
        }
    }

    struct Latin1<'a>(&'a [u8]);

    impl fmt::Display for Latin1<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            use fmt::Write;
            self.0
                .iter()
                .try_for_each(|byte| f.write_char(char::from(*byte)))
        }
    }

    struct PayloadVisitor;

    impl Visitor<'_> for PayloadVisitor {
        type Value = Bytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes, or a string of characters U+0000 to U+00FF")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(Bytes::from(bytes))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
            let byte = |char| u8::try_from(char).map_err(|_| E::custom("a character above U+00FF"));
            text.chars().map(byte).collect()
        }
    }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use bytes::Bytes;

    use crate::{CreateJobRequest, Record, StringMap};

    /// The derived form and the protocol's own codec are two ways to the same JSON.
    #[test]
    fn json_by_serde_is_the_protocols_json() {
        let request = CreateJobRequest {
            endpoint: "/demo/é".into(),
            data: Bytes::from_static(&[0, b'a', 0x7f, 0x80, 0xff]),
            options: StringMap::from_iter([("b", "1"), ("a", "2")]),
            ..Default::default()
        };
        let by_serde = serde_json::to_string(&request).unwrap();
        assert_eq!(
            serde_json::from_str::<CreateJobRequest>(&by_serde).unwrap(),
            request
        );
        let body = Bytes::from(by_serde);
        assert_eq!(
            CreateJobRequest::decode_json(body, &Default::default()).unwrap(),
            request
        );
        let by_codec = request.encode_json();
        assert_eq!(
            serde_json::from_slice::<CreateJobRequest>(&by_codec).unwrap(),
            request
        );
    }

    #[test]
    fn missing_members_are_empty_and_wide_characters_refused() {
        let empty: CreateJobRequest = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, CreateJobRequest::default());
        assert!(serde_json::from_str::<CreateJobRequest>(r#"{"data":"\u0100"}"#).is_err());
    }
}
