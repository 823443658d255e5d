//! Traces of jobs, for collectors that speak OTLP (OpenTelemetry).
//!
//! A span is made of what is known when it is over, and put into a bounded queue: nobody waits for a
//! collector. What finds no place is dropped and counted.

#![cfg_attr(
    not(feature = "otlp"),
    allow(dead_code, reason = "nobody is sent what is told")
)]

#[cfg(feature = "otlp")]
mod export;
mod ids;
mod jobs;
mod request;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kjob_core::engine::Observer;
use kjob_core::{QueryId, Timestamp};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;

use crate::gateway::Upstream;
use crate::metrics::Metrics;
pub(crate) use ids::Run;
pub(crate) use request::RequestSpan;

/// Spans that wait for the collector, of about a kilobyte each.
const QUEUE_MAX: usize = 8 * 1024;

/// How long the last spans may take to be sent.
const SENT_WITHIN: Duration = Duration::from_secs(3);

/// Traces cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    /// The program was built without.
    #[error("this program was built without traces (feature otlp of kjob-server)")]
    NotBuilt,
    /// The way to the collector cannot be set up.
    #[error("{0}")]
    Exporter(String),
}

/// Takes spans, to be sent. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    queue: mpsc::Sender<Span>,
    metrics: Metrics,
}

/// What sends them.
#[derive(Debug)]
pub(crate) struct Sending {
    stop: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

/// Something that was done, and when.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace: QueryId,
    pub(crate) id: u64,
    /// The span that it is a part of; 0 for none.
    pub(crate) parent: u64,
    /// Whether that is another program's.
    pub(crate) is_parent_remote: bool,
    pub(crate) kind: Kind,
    pub(crate) name: Cow<'static, str>,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// A span of another trace that led to it.
    pub(crate) link: Option<(QueryId, u64)>,
    /// What went wrong, in a word.
    pub(crate) error: Option<&'static str>,
}

/// Which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Server,
    Producer,
    Consumer,
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(Cow<'static, str>),
    Number(i64),
    Yes(bool),
}

impl Traces {
    /// Begins to send spans to a collector.
    ///
    /// # Errors
    /// See [`TracesError`].
    #[cfg(feature = "otlp")]
    pub(crate) fn start(
        collector: &Upstream,
        metrics: Metrics,
    ) -> Result<(Self, Sending), TracesError> {
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let (stop, stopped) = mpsc::channel(1);
        let exporter = export::Exporter::new(collector, metrics.clone())?;
        let task = tokio::spawn(exporter.run(spans, stopped));
        Ok((Self { queue, metrics }, Sending { stop, task }))
    }

    #[cfg(not(feature = "otlp"))]
    pub(crate) fn start(_: &Upstream, _: Metrics) -> Result<(Self, Sending), TracesError> {
        Err(TracesError::NotBuilt)
    }

    /// Puts a span into the queue, if there is a place.
    pub(crate) fn record(&self, span: Span) {
        match self.queue.try_send(span) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => self.metrics.spans_dropped(1),
        }
    }

    /// To be told what the engine does; tells `next` as well.
    pub(crate) fn observer(&self, next: Arc<dyn Observer>) -> Arc<dyn Observer> {
        Arc::new(jobs::Jobs::new(self.clone(), next))
    }
}

impl Sending {
    /// Sends what is in the queue, if the collector takes it soon.
    pub(crate) async fn finish(self) {
        // It has ended by itself if nobody is there to be told.
        let _ = self.stop.send(()).await;
        if tokio::time::timeout(SENT_WITHIN, self.task).await.is_err() {
            tracing::warn!("the last spans of traces are not sent: the collector does not answer");
        }
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

/// A moment of the engine.
fn moment(at: Timestamp) -> SystemTime {
    let millis = u64::try_from(at.as_millis()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_millis(millis)
}
