//! Following a job.

use std::time::Duration;

use tokio::time::Instant;

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
/// It is a stream for those who want one:
/// `futures::stream::unfold(watch, async |mut watch| Some((watch.next().await?, watch)))`.
#[derive(Debug)]
#[must_use = "a watch does nothing until it is asked for what is next"]
pub struct Watch {
    client: Client,
    key: JobKey,
    every: Duration,
    /// What was given last, without its result.
    last: Option<Seen>,
    is_over: bool,
}

/// What has to differ for a job to have changed.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: String,
    phase: Option<String>,
    progress: i32,
    attempt: Option<String>,
}

impl Client {
    /// Follows a job. Asks for nothing until it is asked itself.
    pub fn watch(&self, job: impl Into<JobKey>) -> Watch {
        Watch {
            client: self.clone(),
            key: job.into(),
            every: EVERY,
            last: None,
            is_over: false,
        }
    }
}

impl Watch {
    /// Looks at the job so often; half a second unless told, at least a millisecond. Its end is told
    /// at once by servers that know how to wait.
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = interval.max(Duration::from_millis(1));
        self
    }

    /// The job, once there is something new about it; at first, as it stands. `None` once its end was
    /// given, or an error that stands.
    ///
    /// **Dropping the future** loses nothing: the next call goes on.
    ///
    /// # Errors
    /// Those of [`Client::get`]. After one that may pass, such as a server that cannot be reached, this
    /// may be called again.
    pub async fn next(&mut self) -> Option<Result<Job, Error>> {
        if self.is_over {
            return None;
        }
        // At first there is nothing to wait for.
        let mut wait = match self.last {
            Some(_) => self.every,
            None => Duration::ZERO,
        };
        loop {
            let asked = Instant::now();
            let job = match self.client.look(&self.key, wait, None).await {
                Ok(job) => job,
                Err(error) => {
                    self.is_over = error.is_refused();
                    return Some(Err(error));
                }
            };
            let seen = Seen::of(&job);
            if !job.running || self.last.as_ref() != Some(&seen) {
                self.is_over = !job.running;
                self.last = Some(seen);
                return Some(Ok(job));
            }
            // A server that does not wait answers early.
            tokio::time::sleep(wait.saturating_sub(asked.elapsed())).await;
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
