//! The demo endpoints, which documentation and tests may rely on.
//!
//! | endpoint | request | response |
//! |---|---|---|
//! | `/demo/echo` | `message: string` | `message: string` |
//! | `/demo/sleep` | `millis: long` | `slept_millis: long` |
//! | `/demo/primes` | `limit: long` | `count: long, largest: long` |
//! | `/demo/fail` | `message: string` | none: it fails with the message |
//!
//! Each request also has `options: map<string>` and each response `info: map<string>`. The records
//! are in `schemas/`, so that payloads of any encoding are taken, and checked when they are
//! submitted.

mod primes;
mod sleep;

use kjob_core::Payload;
use kjob_core::engine::{HandlerError, JobContext, Registry, RouteError, RouteOptions, Schemas};
use kjob_proto::Encoding;
use kjob_proto::dynamic::SchemaError;
use serde::{Deserialize, Serialize};

/// Adds the demo endpoints.
///
/// # Errors
/// One of them is routed already, or the registry is full.
pub fn add_routes(registry: &mut Registry) -> Result<(), DemoError> {
    for endpoint in ENDPOINTS {
        let schemas = Schemas::parse(endpoint.request, endpoint.response)?;
        let options = RouteOptions::default().schemas(schemas).cooperative();
        (endpoint.add)(registry, endpoint.path, options)?;
    }
    Ok(())
}

/// Why the demo endpoints cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The registry refuses a route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// One of the records is not valid.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

struct Endpoint {
    path: &'static str,
    request: &'static str,
    response: &'static str,
    add: fn(&mut Registry, &str, RouteOptions) -> Result<(), RouteError>,
}

macro_rules! schema {
    ($name:literal) => {
        include_str!(concat!("../schemas/demo_", $name, ".avsc"))
    };
}

const ENDPOINTS: [Endpoint; 4] = [
    Endpoint {
        path: "/demo/echo",
        request: schema!("echo_request"),
        response: schema!("echo_response"),
        add: |registry, path, options| {
            registry.route(path, echo, options.encoding(Encoding::Binary))
        },
    },
    Endpoint {
        path: "/demo/sleep",
        request: schema!("sleep_request"),
        response: schema!("sleep_response"),
        add: |registry, path, options| {
            registry.route(path, sleep::sleep, options.encoding(Encoding::Json))
        },
    },
    Endpoint {
        path: "/demo/primes",
        request: schema!("primes_request"),
        response: schema!("primes_response"),
        add: |registry, path, options| {
            // Each keeps a processor busy; more of them at once would only be slower.
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let options = options.encoding(Encoding::Json).concurrency(processors);
            registry.route(path, primes::primes, options)
        },
    },
    Endpoint {
        path: "/demo/fail",
        request: schema!("fail_request"),
        response: schema!("fail_response"),
        add: |registry, path, options| registry.route(path, fail, options.encoding(Encoding::Json)),
    },
];

/// Gives the request back: its record has the very fields of the response's, so the bytes are the
/// same, and what came as `options` goes back as `info`.
async fn echo(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    Ok(payload)
}

#[derive(Deserialize)]
struct FailRequest {
    message: String,
}

async fn fail(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    let request: FailRequest = read(&payload)?;
    Err(HandlerError::failed(request.message))
}

/// A response's `info`; the demo endpoints have nothing to say there.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Info {}

/// Reads a JSON payload, which the engine has checked against the endpoint's record.
fn read<'a, T: Deserialize<'a>>(payload: &'a Payload) -> Result<T, HandlerError> {
    serde_json::from_slice(&payload.data).map_err(HandlerError::failed)
}

fn write(response: &impl Serialize) -> Result<Payload, HandlerError> {
    let text = serde_json::to_string(response).map_err(HandlerError::failed)?;
    Ok(Payload::json(text))
}
