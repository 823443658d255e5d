//! An endpoint's records: payloads checked at the door, and turned between Avro and JSON.

use kjob_proto::{Encoding, Limits, Text};

use crate::Payload;

/// The request and the response record of an endpoint.
///
/// With them a payload is checked when it is submitted, a job submitted in one encoding can be
/// handled in another, and a result can be fetched in another. They are made with feature
/// `dynamic`; without it there are none.
#[cfg(feature = "dynamic")]
pub struct Schemas {
    request: kjob_proto::dynamic::Schema,
    response: kjob_proto::dynamic::Schema,
}

/// The request and the response record of an endpoint. There are none without feature `dynamic`.
#[cfg(not(feature = "dynamic"))]
#[derive(Debug)]
pub enum Schemas {}

/// Which of an endpoint's two records bytes are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

#[cfg(feature = "dynamic")]
impl Schemas {
    /// Reads the two schemas, each an Avro schema as JSON text.
    ///
    /// # Errors
    /// A text that is no Avro schema.
    pub fn parse(request: &str, response: &str) -> Result<Self, kjob_proto::dynamic::SchemaError> {
        use kjob_proto::dynamic::Schema;
        Ok(Self {
            request: Schema::parse(request)?,
            response: Schema::parse(response)?,
        })
    }

    fn schema(&self, side: Side) -> &kjob_proto::dynamic::Schema {
        match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        }
    }

    /// Whether unpacked bytes are a record of `side`.
    pub(super) fn check(&self, side: Side, payload: &Payload, limits: &Limits) -> Result<(), Text> {
        let schema = self.schema(side);
        match payload.encoding {
            Encoding::Json => schema.check_json(text_of(payload)?, limits),
            _ => schema.check_binary(&payload.data, limits),
        }
        .map_err(|error| Text::from(error.to_string()))
    }

    /// The same record in another encoding.
    pub(super) fn turn(
        &self,
        side: Side,
        payload: &Payload,
        to: Encoding,
        limits: &Limits,
    ) -> Result<Payload, Text> {
        let schema = self.schema(side);
        let turned = match (payload.encoding, to) {
            (Encoding::Json, Encoding::Binary) => schema
                .json_to_binary(text_of(payload)?, limits)
                .map(Payload::binary),
            (Encoding::Binary, Encoding::Json) => schema
                .binary_to_json(&payload.data, limits)
                .map(Payload::json),
            _ => return Ok(payload.clone()),
        };
        turned.map_err(|error| Text::from(error.to_string()))
    }
}

#[cfg(feature = "dynamic")]
fn text_of(payload: &Payload) -> Result<&str, Text> {
    std::str::from_utf8(&payload.data).map_err(|error| Text::from(format!("not UTF-8: {error}")))
}

#[cfg(not(feature = "dynamic"))]
impl Schemas {
    pub(super) fn check(&self, _: Side, _: &Payload, _: &Limits) -> Result<(), Text> {
        match *self {}
    }

    pub(super) fn turn(
        &self,
        _: Side,
        _: &Payload,
        _: Encoding,
        _: &Limits,
    ) -> Result<Payload, Text> {
        match *self {}
    }
}

#[cfg(feature = "dynamic")]
impl std::fmt::Debug for Schemas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schemas").finish_non_exhaustive()
    }
}
