//! Calling a handler so that nothing it does harms anybody but its own job.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use super::handler::{HandlerError, JobContext};
use super::registry::Route;
use crate::{Output, Payload};

type Returned = Result<Output, HandlerError>;
type Here = Option<Pin<Box<dyn Future<Output = Returned> + Send>>>;

/// A handler's run.
pub(super) enum Call {
    /// A task of its own, so that its panics, and the thread that it may block, are not those of the
    /// engine's task for the job.
    Task(JoinHandle<Returned>),
    /// That of a cooperative route: a part of the engine's task for the job. `None` once it is over.
    Here(Here),
}

/// How a handler was left.
pub(super) enum Outcome {
    Returned(Returned),
    /// It did not stop in time, so its future is dropped, or will be once it lets go of its
    /// thread.
    Dropped,
    Panicked,
}

impl Call {
    /// Begins a run: of a cooperative route here, of others on a runtime, or on the one that this is
    /// called on. Asks once more, when the handler is about to be called, whether it may be.
    pub(super) fn begin(
        route: &Route,
        context: JobContext,
        payload: Payload,
        runtime: Option<&Handle>,
        may_begin: impl FnOnce() -> bool + Send + 'static,
    ) -> Self {
        let handler = route.handler.clone();
        let run = async move {
            // It may have been long until its thread came to it, as where the process stood still meanwhile.
            if !may_begin() {
                return Err(HandlerError::Stopped);
            }
            handler.call(context, payload).await
        };
        if route.options.cooperative {
            return Self::Here(Some(Box::pin(run)));
        }
        Self::Task(match runtime {
            Some(runtime) => runtime.spawn(run),
            None => tokio::spawn(run),
        })
    }

    /// Has the future dropped as soon as it lets go of its thread.
    pub(super) fn abort(&mut self) {
        match self {
            Self::Task(task) => task.abort(),
            Self::Here(run) => drop_quietly(run.take()),
        }
    }

    /// Completes when the run is over and its future is gone.
    pub(super) async fn over(&mut self) -> Outcome {
        match self {
            Self::Task(task) => match task.await {
                Ok(result) => Outcome::Returned(result),
                Err(error) => lost(error),
            },
            Self::Here(run) => poll_fn(|context| poll_here(run, context)).await,
        }
    }
}

/// Nobody waits for it any more, as when the engine is dropped.
impl Drop for Call {
    fn drop(&mut self) {
        self.abort();
    }
}

fn poll_here(run: &mut Here, context: &mut Context<'_>) -> Poll<Outcome> {
    let Some(future) = run else {
        return Poll::Ready(Outcome::Dropped);
    };
    // What it leaves half done when it panics is its own, and dropped.
    let outcome = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => return Poll::Pending,
        Ok(Poll::Ready(result)) => Outcome::Returned(result),
        Err(panic) => {
            forget_unless_harmless(panic);
            Outcome::Panicked
        }
    };
    drop_quietly(run.take());
    Poll::Ready(outcome)
}

/// Dropping a handler's future runs its code, which may panic.
fn drop_quietly(run: Here) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(run))) {
        forget_unless_harmless(panic);
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
