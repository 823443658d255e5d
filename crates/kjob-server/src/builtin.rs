//! `/show/system/status` and `/show/system/properties` as endpoints of jobs. They answer there
//! what they answer when they are called directly.

use std::future::ready;

use kjob_core::Payload;
use kjob_core::engine::{
    Handler, HandlerError, JobContext, Registry, RouteError, RouteOptions, Schemas,
};
use kjob_proto::dynamic::SchemaError;
use kjob_proto::{
    Encoding, Limits, Record, ShowSystemPropertiesRequest, ShowSystemStatusRequest, Text,
};

use crate::SystemInfo;

/// Adds the two endpoints.
///
/// # Errors
/// One of them is routed already, or the registry is full.
pub fn add_routes(registry: &mut Registry, system: &SystemInfo) -> Result<(), BuiltinError> {
    let of = system.clone();
    add(
        registry,
        "/show/system/status",
        move |_: ShowSystemStatusRequest| of.status(),
    )?;

    let of = system.clone();
    add(
        registry,
        "/show/system/properties",
        move |request: ShowSystemPropertiesRequest| {
            of.properties(request.options.get("properties").map(Text::as_str))
        },
    )
}

/// Why the system endpoints cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuiltinError {
    /// The registry refuses a route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// One of the records is not valid.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

fn add<Request: Record, Response: Record>(
    registry: &mut Registry,
    endpoint: &str,
    answer: impl Fn(Request) -> Response + Send + Sync + 'static,
) -> Result<(), BuiltinError> {
    let schemas = Schemas::parse(Request::SCHEMA, Response::SCHEMA)?;
    let options = RouteOptions::default().schemas(schemas).cooperative();
    Ok(registry.route(endpoint, answering(answer), options)?)
}

/// A handler that gives its answer at once, in the encoding of the question.
fn answering<Request: Record, Response: Record>(
    answer: impl Fn(Request) -> Response + Send + Sync + 'static,
) -> impl Handler {
    move |_: JobContext, payload: Payload| {
        // The engine has held the payload against its own limits when it was submitted.
        let request = Request::decode(payload.encoding, payload.data, &Limits::default());
        let result = request.map(&answer).map(|response| match payload.encoding {
            Encoding::Json => Payload {
                encoding: Encoding::Json,
                data: response.encode_json().into(),
            },
            _ => Payload::binary(response.encode_to_bytes()),
        });
        ready(result.map_err(HandlerError::failed))
    }
}
