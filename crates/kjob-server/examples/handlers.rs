//! A server of one's own handlers: `kjob-server` with the endpoints `/text/upper` and `/text/count`.
//!
//! ```console
//! $ cargo run -p kjob-server --example handlers
//! $ curl -s localhost:9191/create/job -H 'Content-Type: application/json' -d '{
//!     "endpoint": "/text/upper", "request_encoding": "json", "data_str": "{\"text\": \"hello\"}"}'
//! ```

use std::process::ExitCode;

use kjob_core::Payload;
use kjob_core::engine::{HandlerError, JobContext, Registry, RouteError, RouteOptions};
use kjob_server::program::Program;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct Text {
    text: String,
}

#[derive(Serialize)]
struct Count {
    letters: usize,
}

fn main() -> ExitCode {
    let mut registry = Registry::default();
    match add_routes(&mut registry) {
        Ok(()) => Program::default().registry(registry).main(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn add_routes(registry: &mut Registry) -> Result<(), RouteError> {
    registry.route("/text/upper", upper, RouteOptions::default())?;
    // One at a time; a run that is cut off is tried again, up to three times in all.
    let options = RouteOptions::default().concurrency(1).retry(3);
    registry.route("/text/count", count, options)
}

async fn upper(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    let Text { text } = read(&payload)?;
    answer(&Text {
        text: text.to_uppercase(),
    })
}

async fn count(context: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    let Text { text } = read(&payload)?;
    let mut letters = 0;
    for line in text.lines() {
        // A handler that looks now and then stops soon when its job is cancelled.
        if context.is_cancelled() {
            return Err(HandlerError::Stopped);
        }
        letters += line.chars().filter(|letter| letter.is_alphabetic()).count();
        context.progress(u8::try_from(letters * 100 / text.len().max(1)).unwrap_or(99));
        tokio::task::yield_now().await;
    }
    answer(&Count { letters })
}

fn read(payload: &Payload) -> Result<Text, HandlerError> {
    serde_json::from_slice(&payload.data).map_err(HandlerError::failed)
}

fn answer(answer: &impl Serialize) -> Result<Payload, HandlerError> {
    let text = serde_json::to_string(answer).map_err(HandlerError::failed)?;
    Ok(Payload::json(text))
}
