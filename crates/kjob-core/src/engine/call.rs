//! Calling a handler so that nothing it does harms anybody but its own job.

use std::any::Any;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use super::handler::{Handler, HandlerError, JobContext};
use crate::{Output, Payload};

/// A handler's run: a task of its own, so that its panics, and the thread that it may block, are
/// not those of the engine's task for the job.
pub(super) struct Call {
    task: JoinHandle<Result<Output, HandlerError>>,
}

/// How a handler was left.
pub(super) enum Outcome {
    Returned(Result<Output, HandlerError>),
    /// It did not stop in time, so its future is dropped, or will be once it lets go of its
    /// thread.
    Dropped,
    Panicked,
}

impl Call {
    /// Begins a run on a runtime, or on the one that this is called on.
    pub(super) fn begin(
        handler: Arc<dyn Handler>,
        context: JobContext,
        payload: Payload,
        runtime: Option<&Handle>,
    ) -> Self {
        let run = async move { handler.call(context, payload).await };
        let task = match runtime {
            Some(runtime) => runtime.spawn(run),
            None => tokio::spawn(run),
        };
        Self { task }
    }

    /// Has the future dropped as soon as it lets go of its thread.
    pub(super) fn abort(&self) {
        self.task.abort();
    }

    /// Completes when the run is over and its future is gone.
    pub(super) async fn over(&mut self) -> Outcome {
        match (&mut self.task).await {
            Ok(result) => Outcome::Returned(result),
            Err(error) => lost(error),
        }
    }
}

/// Nobody waits for it any more, as when the engine is dropped.
impl Drop for Call {
    fn drop(&mut self) {
        self.abort();
    }
}

fn lost(error: JoinError) -> Outcome {
    match error.try_into_panic() {
        Ok(panic) => {
            forget_unless_harmless(panic);
            Outcome::Panicked
        }
        // Aborted, or its runtime is gone.
        Err(_) => Outcome::Dropped,
    }
}

/// Dropping what a handler panicked with runs the handler's code, which may panic again, here.
fn forget_unless_harmless(panic: Box<dyn Any + Send>) {
    if !panic.is::<String>() && !panic.is::<&'static str>() {
        std::mem::forget(panic);
    }
}
