//! What runs a job: the trait, and what a handler is told and can tell.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use kjob_proto::Text;
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use crate::{JobId, JobTag, Lease, Output, Owner, Payload, QueryId, Timestamp};

/// Runs the jobs of an endpoint.
///
/// A function or closure `Fn(JobContext, Payload) -> impl Future` is a handler, whether its future
/// gives a [`Payload`] or an [`Output`], which says more about it. The future is polled on the runtime's threads: work that blocks belongs into `tokio::task::spawn_blocking`.
///
/// **Stopping.** On a cancel, a deadline or a drain, [`JobContext::cancelled`] completes, and the
/// handler has the engine's grace time to return; then its future is dropped. A handler that
/// gives a result all the same makes the job DONE. A panic fails this job only.
///
/// ```
/// use kjob_core::engine::{Handler, HandlerError, JobContext};
/// use kjob_core::Payload;
///
/// fn is_handler(_: impl Handler) {}
/// is_handler(|context: JobContext, payload: Payload| async move {
///     context.progress(50);
///     if payload.data.is_empty() {
///         return Err(HandlerError::failed("nothing to do"));
///     }
///     Ok(payload)
/// });
/// ```
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs one job, once. `payload` is bare Avro or JSON, as the job was submitted or as the
    /// route's [`encoding`](super::RouteOptions::encoding) asks; the result is to be in the same
    /// encoding, unless the route's schemas let the engine turn it.
    async fn call(&self, context: JobContext, payload: Payload) -> Result<Output, HandlerError>;
}

#[async_trait]
impl<F, Fut, R> Handler for F
where
    F: Fn(JobContext, Payload) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    R: Into<Output>,
{
    async fn call(&self, context: JobContext, payload: Payload) -> Result<Output, HandlerError> {
        self(context, payload).await.map(Into::into)
    }
}

/// Why a handler gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// The job fails with this message.
    #[error("{0}")]
    Failed(Text),
    /// Another attempt may do better. On a route that retries, the job is queued again with
    /// backoff while it has attempts left; on others it fails with this message.
    #[error("{0}")]
    Transient(Text),
    /// The handler stopped because [`JobContext::cancelled`] told it to.
    #[error("stopped as requested")]
    Stopped,
}

impl HandlerError {
    /// The job fails with this message.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(Text::from(message.to_string()))
    }

    /// Another attempt may do better.
    pub fn transient(message: impl fmt::Display) -> Self {
        Self::Transient(Text::from(message.to_string()))
    }
}

/// What a handler knows of its job, and how it is told to stop. Clones are of the same job.
#[derive(Clone, Debug)]
pub struct JobContext {
    pub(super) job: Arc<JobInfo>,
    pub(super) stop: CancellationToken,
    pub(super) progress: Progress,
}

/// What a submit hands to its handler beside the payload: any value, such as the caller's
/// credentials. It is kept in memory only: a job that is started after a restart has none.
///
/// ```
/// use kjob_core::engine::Attachment;
///
/// let attachment = Attachment::new("a secret".to_owned());
/// assert_eq!(attachment.get::<String>().map(String::as_str), Some("a secret"));
/// assert_eq!(attachment.get::<u64>(), None);
/// assert_eq!(format!("{attachment:?}"), "Attachment");
/// ```
#[derive(Clone)]
// Twice on the heap, so that a job that waits without one costs a single word.
pub struct Attachment(Arc<Box<dyn Any + Send + Sync>>);

impl Attachment {
    /// One that holds this.
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Arc::new(Box::new(value)))
    }

    /// What it holds, if that is a `T`.
    pub fn get<T: Any>(&self) -> Option<&T> {
        let Self(value) = self;
        // The box itself is `Any` as well.
        (**value).as_ref().downcast_ref()
    }
}

/// Never shows what it holds, which may be secret.
impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attachment")
    }
}

/// What is known of a running job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobInfo {
    /// Its id: the same at each attempt, so it serves as an idempotency key.
    pub id: JobId,
    /// Its tag.
    pub tag: JobTag,
    /// Who submitted it.
    pub owner: Owner,
    /// The endpoint that was called.
    pub endpoint: Text,
    /// Its id in logs and traces.
    pub query_id: QueryId,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Which start this is: as the attempt, but it also counts runs that cost none.
    pub lease: Lease,
    /// When it is told to stop, if its time is limited.
    pub deadline: Option<Timestamp>,
    /// What the submit handed over, if it did so since the engine was opened.
    pub attachment: Option<Attachment>,
}

impl JobContext {
    /// The job.
    pub fn job(&self) -> &JobInfo {
        &self.job
    }

    /// Completes when the handler is to stop: a cancel, its deadline, or the server's drain.
    pub async fn cancelled(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the handler is to stop. For work that does not await.
    pub fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Reports how far the job is, in percent. Cheap: reports that come quickly are joined, and
    /// clients see a report once the store has it. Over 99 counts as 99, and it never falls.
    pub fn progress(&self, percent: u8) {
        self.progress.report(percent);
    }
}
