//! What came of a job.

use std::time::Duration;

use bytes::Bytes;
use kjob_proto::Text;
use serde::de::DeserializeOwned;

use crate::{Client, Error, Job, Payload, Status, Submit};

/// Why a job has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsuccessful {
    /// It failed, with this message.
    #[error("the job failed: {0}")]
    Failed(Text),
    /// It was cancelled.
    #[error("the job was cancelled")]
    Cancelled,
    /// It has not ended; so far in percent.
    #[error("the job has not ended; it is at {0} %")]
    Running(i32),
    /// The server says something that this version does not know.
    #[error("the job has the unknown status {0}")]
    Other(Text),
}

impl Client {
    /// Submits a job, waits for its end, and gives its result as a value of a type of serde.
    ///
    /// ```no_run
    /// use kjob_client::{Client, Submit};
    /// use std::time::Duration;
    ///
    /// #[derive(serde::Serialize)]
    /// struct Primes {
    ///     limit: u64,
    /// }
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Counted {
    ///     count: u64,
    /// }
    ///
    /// # async fn example() -> Result<(), kjob_client::Error> {
    /// let client = Client::new("http://127.0.0.1:9191")?;
    /// let submit = Submit::from_value("/demo/primes", &Primes { limit: 1_000_000 })?;
    /// let counted: Counted = client.call(&submit, Duration::from_secs(60)).await?;
    /// assert_eq!(counted.count, 78_498);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`run`](Self::run); and [`unsuccessful`](Error::unsuccessful) if the job failed, was
    /// cancelled, or has not ended when `patience` is over (it goes on); and [`is_odd`](Error::is_odd) if its
    /// result is no such value, or not JSON.
    pub async fn call<T: DeserializeOwned>(
        &self,
        submit: &Submit,
        patience: Duration,
    ) -> Result<T, Error> {
        self.run(submit, patience).await?.into_value()
    }

    /// As [`call`](Self::call), with the result's bytes as they are, however they are encoded.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), kjob_client::Error> {
    /// # use kjob_client::{Client, Submit};
    /// # use std::time::Duration;
    /// # let client = Client::new("http://127.0.0.1:9191")?;
    /// let submit = Submit::from_bytes("/tools/wc", "one two three");
    /// let counted = client.call_for_bytes(&submit, Duration::from_secs(60)).await?;
    /// assert_eq!(counted, "13\n");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`run`](Self::run); and [`unsuccessful`](Error::unsuccessful).
    pub async fn call_for_bytes(
        &self,
        submit: &Submit,
        patience: Duration,
    ) -> Result<Bytes, Error> {
        self.run(submit, patience).await?.into_bytes()
    }
}

impl Job {
    /// Its result as a value of a type of serde.
    ///
    /// # Errors
    /// It has none ([`unsuccessful`](Error::unsuccessful)), or it is no such value, or not JSON
    /// ([`is_odd`](Error::is_odd)).
    pub fn into_value<T: DeserializeOwned>(self) -> Result<T, Error> {
        self.into_result()?.to_value()
    }

    /// Its result's bytes as they are, however they are encoded.
    ///
    /// # Errors
    /// It has none ([`unsuccessful`](Error::unsuccessful)).
    pub fn into_bytes(self) -> Result<Bytes, Error> {
        Ok(self.into_result()?.data)
    }

    /// Its result.
    ///
    /// # Errors
    /// It has none: it failed, was cancelled, or has not ended.
    pub fn into_result(self) -> Result<Payload, Unsuccessful> {
        match (self.status, self.result) {
            (Status::Done, Some(result)) => Ok(result),
            (Status::Done, None) => Err(Unsuccessful::Other(Text::from_static("DONE, no result"))),
            (Status::Error, _) => Err(Unsuccessful::Failed(self.error_message.unwrap_or_default())),
            (Status::Cancelled, _) => Err(Unsuccessful::Cancelled),
            (Status::Running, _) => Err(Unsuccessful::Running(self.progress)),
            (Status::Other(word), _) => Err(Unsuccessful::Other(word)),
        }
    }
}
