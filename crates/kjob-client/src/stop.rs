//! Cancelling a job when nobody waits for it any more.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::{Client, Error, Job, JobKey};

/// Cancels its job when it is dropped, unless the job is known to have ended.
///
/// So a caller that goes away (a request that was closed, a task that was aborted) leaves no work
/// behind. The cancel is sent by a task of its own, which the drop does not wait for: it is lost if the
/// runtime ends first or the server cannot be reached, and the job then runs to its end.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use kjob_client::{Client, Payload, Submit};
/// use std::time::Duration;
///
/// let client = Client::new("http://127.0.0.1:9191")?;
/// let submit = Submit::new("/demo/sleep", Payload::json(r#"{"millis": 60000}"#));
/// let submitted = client.submit(&submit).await?;
/// let mut guard = client.cancel_on_drop(&submitted);
/// // Whoever drops this future here cancels the job.
/// let job = guard.wait(Duration::from_secs(120)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a guard that is dropped at once cancels at once"]
pub struct CancelOnDrop {
    client: Client,
    /// None once there is nothing to cancel.
    job: Option<JobKey>,
    runtime: Handle,
}

impl Client {
    /// A guard that cancels a job when it is dropped.
    ///
    /// # Panics
    /// When it is called outside of a tokio runtime.
    pub fn cancel_on_drop(&self, job: impl Into<JobKey>) -> CancelOnDrop {
        CancelOnDrop {
            client: self.clone(),
            job: Some(job.into()),
            runtime: Handle::current(),
        }
    }
}

impl CancelOnDrop {
    /// Waits as [`Client::wait`] does. If the job has ended, there is nothing to cancel any more.
    ///
    /// # Errors
    /// Those of [`Client::wait`]; the guard holds on.
    pub async fn wait(&mut self, patience: Duration) -> Result<Job, Error> {
        let Some(key) = self.job.clone() else {
            return Err(Error::odd("the job of this guard has ended".to_owned()));
        };
        let job = self.client.wait(key, patience).await?;
        if !job.running {
            self.job = None;
        }
        Ok(job)
    }

    /// Lets the job go on.
    pub fn keep(mut self) {
        self.job = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            let client = self.client.clone();
            self.runtime.spawn(async move { client.cancel(job).await });
        }
    }
}
