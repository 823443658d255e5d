//! Handlers that write a journal of what they do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kjob_core::Payload;
use kjob_core::engine::{HandlerError, JobContext, Registry, RouteError, RouteOptions};
use serde::{Deserialize, Serialize};

use crate::call::Rule;
use crate::journal::{self, Entry, Moment, Writer};

/// Started at most once.
pub const ONCE: &str = "/trial/once";

/// Started until it succeeds.
pub const RETRY: &str = "/trial/retry";

/// Started again, but not often.
pub const FEW: &str = "/trial/few";

/// More attempts than there are kills in a trial.
const MANY_ATTEMPTS: u32 = 1_000_000;
const FEW_ATTEMPTS: u32 = 2;

/// How long a stubborn handler goes on after it was told to stop.
const STUBBORN: Duration = Duration::from_millis(300);

/// What a payload says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The tag of the call.
    pub token: String,
    /// What to do.
    pub act: Act,
    /// How long to take.
    pub millis: u64,
    /// How long a text the result is to carry.
    pub result_len: usize,
    /// Makes the payload longer.
    pub filler: String,
}

/// What a handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Takes its time, reports progress, and stops when it is told to.
    Work,
    /// As `Work`, but goes on for a while after it was told to stop.
    Stubborn,
    /// Fails when its time is over.
    Fail,
    /// Fails at its first attempt in a way that another may mend.
    Flaky,
}

/// What a result says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The job.
    pub id: i64,
    /// The attempt that gave it.
    pub attempt: u32,
    /// The payload's token.
    pub token: String,
    /// Of the payload's filler.
    pub payload_crc: u32,
    /// A text that follows from the token.
    pub filler: String,
}

/// A text of this length, which is that of this token and no other.
pub fn filler(token: &str, len: usize) -> String {
    token.chars().chain(['.']).cycle().take(len).collect()
}

/// How often the handlers of an endpoint may run.
pub fn rule(endpoint: &str) -> Rule {
    match endpoint {
        RETRY => Rule::Retry {
            max_attempts: MANY_ATTEMPTS,
        },
        FEW => Rule::Retry {
            max_attempts: FEW_ATTEMPTS,
        },
        _ => Rule::Once,
    }
}

/// The endpoints, which all write to this journal.
///
/// # Errors
/// None: the patterns are fixed.
pub fn registry(journal: &Arc<Writer>) -> Result<Registry, RouteError> {
    let mut registry = Registry::default();
    for endpoint in [ONCE, RETRY, FEW] {
        let options = match rule(endpoint) {
            Rule::Once => RouteOptions::default(),
            Rule::Retry { max_attempts } => RouteOptions::default().retry(max_attempts),
        };
        let journal = journal.clone();
        let handler = move |context, payload| run(journal.clone(), context, payload);
        registry.route(endpoint, handler, options)?;
    }
    Ok(registry)
}

async fn run(
    journal: Arc<Writer>,
    context: JobContext,
    payload: Payload,
) -> Result<Payload, HandlerError> {
    let request: Request = serde_json::from_slice(&payload.data).map_err(HandlerError::failed)?;
    let line = Line::start(journal, &context, &request).map_err(HandlerError::failed)?;
    let outcome = act(&context, &request).await;
    let moment = match &outcome {
        Ok(_) => Moment::Done,
        Err(HandlerError::Stopped) => Moment::Stopped,
        Err(_) => Moment::Failed,
    };
    line.end(moment).map_err(HandlerError::failed)?;
    outcome
}

async fn act(context: &JobContext, request: &Request) -> Result<Payload, HandlerError> {
    tokio::select! {
        biased;
        () = context.cancelled() => {
            if request.act == Act::Stubborn {
                tokio::time::sleep(STUBBORN).await;
            }
            return Err(HandlerError::Stopped);
        }
        () = pass(context, request.millis) => {}
    }
    match request.act {
        Act::Fail => return Err(HandlerError::failed(format!("{} fails", request.token))),
        Act::Flaky if context.job().attempt == 1 => {
            return Err(HandlerError::transient("not this time"));
        }
        _ => {}
    }
    let job = context.job();
    let response = Response {
        id: job.id.get(),
        attempt: job.attempt,
        token: request.token.clone(),
        payload_crc: crc32fast::hash(request.filler.as_bytes()),
        filler: filler(&request.token, request.result_len),
    };
    serde_json::to_string(&response)
        .map(Payload::json)
        .map_err(HandlerError::failed)
}

async fn pass(context: &JobContext, millis: u64) {
    const STEPS: u8 = 10;
    for step in 1..=STEPS {
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis / u64::from(STEPS))).await;
        }
        context.progress(step * (100 / STEPS));
    }
}

/// A run that has begun; its end is written in any case but a kill.
struct Line {
    journal: Arc<Writer>,
    entry: Option<Entry>,
}

impl Line {
    fn start(journal: Arc<Writer>, context: &JobContext, request: &Request) -> io::Result<Self> {
        let job = context.job();
        let entry = Entry {
            at: journal::now(),
            id: job.id.get(),
            attempt: job.attempt,
            tag: job.tag.to_string(),
            token: request.token.clone(),
            what: Moment::Start,
        };
        journal.write(&entry)?;
        Ok(Self {
            journal,
            entry: Some(entry),
        })
    }

    fn end(mut self, what: Moment) -> io::Result<()> {
        self.write(what)
    }

    fn write(&mut self, what: Moment) -> io::Result<()> {
        match self.entry.take() {
            Some(entry) => self.journal.write(&Entry {
                at: journal::now(),
                what,
                ..entry
            }),
            None => Ok(()),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Where a journal cannot be written to, the next start fails.
        let _ = self.write(Moment::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fillers_are_of_their_token() {
        assert_eq!(filler("ab", 7), "ab.ab.a");
        assert_ne!(filler("ab", 7), filler("ba", 7));
    }
}
