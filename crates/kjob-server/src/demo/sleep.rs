//! `/demo/sleep`: waits, reports how far it is, and stops at once when told to.

use std::time::Duration;

use kjob_core::Payload;
use kjob_core::engine::{HandlerError, JobContext};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::{Info, read, write};

/// The longest sleep: a day.
const MILLIS_MAX: u64 = 24 * 60 * 60 * 1000;

/// How far apart reports are at least; a sleep reports each percent at most once.
const REPORT_MILLIS: u64 = 50;

#[derive(Deserialize)]
struct Request {
    millis: i64,
}

#[derive(Serialize)]
struct Response {
    slept_millis: u64,
    info: Info,
}

pub(super) async fn sleep(context: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    let Request { millis } = read(&payload)?;
    let slept_millis = u64::try_from(millis)
        .ok()
        .filter(|millis| *millis <= MILLIS_MAX)
        .ok_or_else(|| {
            HandlerError::failed(format!("millis is {millis}, not in 0 ..= {MILLIS_MAX}"))
        })?;
    tokio::select! {
        biased;
        () = context.cancelled() => return Err(HandlerError::Stopped),
        () = pass(slept_millis, &context) => {}
    }
    write(&Response {
        slept_millis,
        info: Info {},
    })
}

async fn pass(millis: u64, context: &JobContext) {
    let begin = Instant::now();
    let steps = (millis / REPORT_MILLIS).clamp(1, 100);
    for step in 1..=steps {
        sleep_until(begin + Duration::from_millis(millis * step / steps)).await;
        context.progress(u8::try_from(100 * step / steps).unwrap_or(100));
    }
}
