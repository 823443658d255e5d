//! Following a job.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_core::stream::FusedStream;
use tokio::time::Instant;

use crate::retry::until_next_look;
use crate::{Client, Error, Job, JobKey};

/// How often a job is looked at, unless told.
const EVERY: Duration = Duration::from_millis(500);

/// A job as it goes on: [`next`](Watch::next) gives it as it stands, then each time it has changed,
/// then as it ended.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = kjob_client::Client::new("http://127.0.0.1:9191")?;
/// let mut watch = client.watch("nightly-report");
/// while let Some(job) = watch.next().await {
///     let job = job?;
///     println!("{} {} %", job.status, job.progress);
/// }
/// # Ok(()) }
/// ```
///
/// It is a [`Stream`] of the same, for those who want to combine it with others.
#[must_use = "a watch does nothing until it is asked for what is next"]
pub struct Watch {
    looks: Looks,
    /// The search for what is next, once it has begun.
    pending: Option<Pin<Box<dyn Future<Output = Found> + Send + Sync>>>,
    is_over: bool,
}

/// What is looked at, and what has been seen.
#[derive(Clone, Debug)]
struct Looks {
    client: Client,
    key: JobKey,
    every: Duration,
    /// What was given last, without its result.
    last: Option<Seen>,
}

/// What has to differ for a job to have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    status: String,
    phase: Option<String>,
    progress: i32,
    attempt: Option<String>,
}

/// Something new about a job, and how it stands now.
type Found = Result<(Job, Seen), Error>;

impl Client {
    /// Follows a job. Asks for nothing until it is asked itself.
    pub fn watch(&self, job: impl Into<JobKey>) -> Watch {
        let looks = Looks {
            client: self.clone(),
            key: job.into(),
            every: EVERY,
            last: None,
        };
        Watch {
            looks,
            pending: None,
            is_over: false,
        }
    }
}

impl Watch {
    /// Looks at the job so often; half a second unless told, at least a millisecond. Its end is told
    /// at once by servers that know how to wait; those that do not are asked a little more often, with
    /// jitter.
    pub fn every(mut self, interval: Duration) -> Self {
        self.looks.every = interval.max(Duration::from_millis(1));
        self
    }

    /// The job, once there is something new about it; at first, as it stands. `None` once its end was
    /// given, or an error that stands.
    ///
    /// **Dropping the future** loses nothing: the next call goes on where it was. Dropping the watch closes
    /// its connection, if a reply is still to come.
    ///
    /// # Errors
    /// Those of [`Client::get`]. After one that may pass, such as a server that cannot be reached, this
    /// may be called again.
    pub async fn next(&mut self) -> Option<Result<Job, Error>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

/// As [`next`](Watch::next) gives it.
impl Stream for Watch {
    type Item = Result<Job, Error>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Job, Error>>> {
        let watch = &mut *self;
        if watch.is_over {
            return Poll::Ready(None);
        }
        let pending = watch
            .pending
            .get_or_insert_with(|| Box::pin(watch.looks.clone().news()));
        let found = ready!(pending.as_mut().poll(context));
        watch.pending = None;
        Poll::Ready(Some(match found {
            Ok((job, seen)) => {
                watch.is_over = !job.running;
                watch.looks.last = Some(seen);
                Ok(job)
            }
            Err(error) => {
                watch.is_over = error.is_refused();
                Err(error)
            }
        }))
    }
}

impl FusedStream for Watch {
    fn is_terminated(&self) -> bool {
        self.is_over
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("looks", &self.looks)
            .field("is_pending", &self.pending.is_some())
            .field("is_over", &self.is_over)
            .finish()
    }
}

impl Looks {
    /// Looks until there is something new.
    async fn news(self) -> Found {
        // At first there is nothing to wait for.
        let mut wait = match self.last {
            Some(_) => self.every,
            None => Duration::ZERO,
        };
        loop {
            let asked = Instant::now();
            let job = self.client.look(&self.key, wait, None).await?;
            let seen = Seen::of(&job);
            if !job.running || self.last.as_ref() != Some(&seen) {
                return Ok((job, seen));
            }
            // A server that does not wait answers early.
            tokio::time::sleep(until_next_look(wait, asked.elapsed())).await;
            wait = self.every;
        }
    }
}

impl Seen {
    fn of(job: &Job) -> Self {
        let info = |name: &str| job.info.get(name).map(ToString::to_string);
        Self {
            status: job.status.to_string(),
            phase: info("phase"),
            progress: job.progress,
            attempt: info("attempt"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It goes wherever streams go: into tasks, behind references, and where nothing may be pinned.
    #[test]
    fn a_watch_is_bound_to_no_place() {
        fn free<T: Stream + Send + Sync + Unpin + 'static>(_: T) {}
        free(Client::new("http://127.0.0.1:1").unwrap().watch(7));
    }
}
