//! Handlers that block their thread.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::handler::{Handler, HandlerError, JobContext};
use crate::{Output, Payload};

/// A handler that computes or waits without `await`: each run has a thread to itself.
///
/// It is told to stop by [`JobContext::is_cancelled`], and should look now and then. A run that
/// does not look cannot be stopped by anyone: its job ends after the grace time, and the thread
/// goes on until it returns. Such threads count against `threads`, so a handler that never returns
/// uses up its own threads and nobody else's; its later jobs then wait until their deadline.
///
/// ```
/// use kjob_core::engine::{Blocking, HandlerError, JobContext, Registry, RouteOptions};
/// use kjob_core::Payload;
///
/// let digest = |context: &JobContext, payload: Payload| {
///     let mut sum = 0u64;
///     for (n, piece) in payload.data.chunks(4096).enumerate() {
///         if context.is_cancelled() {
///             return Err(HandlerError::Stopped);
///         }
///         sum += piece.iter().map(|byte| u64::from(*byte)).sum::<u64>();
///         context.progress((n * 4096 * 100 / payload.data.len()) as u8);
///     }
///     Ok(Payload::binary(sum.to_be_bytes().to_vec()))
/// };
/// let mut registry = Registry::default();
/// registry.route("/digest", Blocking::new(4, digest), RouteOptions::default().concurrency(4))?;
/// # Ok::<(), kjob_core::engine::RouteError>(())
/// ```
pub struct Blocking<F> {
    work: Arc<F>,
    threads: Arc<Semaphore>,
}

impl<F, R> Blocking<F>
where
    F: Fn(&JobContext, Payload) -> Result<R, HandlerError> + Send + Sync + 'static,
    R: Into<Output>,
{
    /// Runs `work` on at most `threads` threads (at least one) of the runtime's pool for blocking
    /// work.
    pub fn new(threads: usize, work: F) -> Self {
        Self {
            work: Arc::new(work),
            threads: Arc::new(Semaphore::new(threads.clamp(1, Semaphore::MAX_PERMITS))),
        }
    }
}

#[async_trait]
impl<F, R> Handler for Blocking<F>
where
    F: Fn(&JobContext, Payload) -> Result<R, HandlerError> + Send + Sync + 'static,
    R: Into<Output> + Send + 'static,
{
    async fn call(&self, context: JobContext, payload: Payload) -> Result<Output, HandlerError> {
        let permit = tokio::select! {
            biased;
            permit = self.threads.clone().acquire_owned() => permit,
            () = context.cancelled() => return Err(HandlerError::Stopped),
        };
        let work = self.work.clone();
        let thread = tokio::task::spawn_blocking(move || {
            // Given back when the thread is, which may be long after the job has ended.
            let _permit = permit;
            work(&context, payload)
        });
        match thread.await {
            Ok(result) => result.map(Into::into),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down.
                Err(_) => Err(HandlerError::Stopped),
            },
        }
    }
}

impl<F> std::fmt::Debug for Blocking<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocking")
            .field("threads_free", &self.threads.available_permits())
            .finish_non_exhaustive()
    }
}
