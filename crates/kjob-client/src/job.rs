//! Looking at a job, and waiting for its end.

use std::fmt;
use std::time::Duration;

use kjob_proto::{Encoding, GetJobRequest, GetJobResponse, StringMap, Text};
use tokio::time::Instant;

use crate::retry::Polls;
use crate::{Client, Error, Payload, Submitted};

/// The longest that one request waits for a job: short enough for what is between client and
/// server to take the connection for alive.
const WAIT_MAX: Duration = Duration::from_secs(25);

/// How a job is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobKey {
    /// By its id.
    Id(i64),
    /// By its tag.
    Tag(Text),
}

/// The status of a job (docs/protocol.md section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// `RUNNING`: it waits, runs, or is being cancelled.
    Running,
    /// `DONE`: it has a result.
    Done,
    /// `ERROR`: it failed.
    Error,
    /// `CANCELLED`.
    Cancelled,
    /// A word that this version does not know.
    Other(Text),
}

/// A job as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// What it calls.
    pub endpoint: Text,
    /// Its status.
    pub status: Status,
    /// Whether it has not ended.
    pub running: bool,
    /// How far it is, in percent.
    pub progress: i32,
    /// What came of it, if it is done. A slice of the received body.
    pub result: Option<Payload>,
    /// Why it failed, if it did.
    pub error_message: Option<Text>,
    /// What else the server says, by name.
    pub info: StringMap,
}

impl Client {
    /// A job as it stands, with its result if it is done.
    ///
    /// # Errors
    /// There is no such job ([`is_refused`](Error::is_refused)), or the server cannot be asked.
    pub async fn get(&self, job: impl Into<JobKey>) -> Result<Job, Error> {
        self.get_within(&job.into(), Duration::ZERO).await
    }

    /// Waits until a job has ended or `patience` is over, and gives it as it stands then: look at
    /// [`running`](Job::running).
    ///
    /// The server is asked to answer when the job ends. One that does not know how to (it answers
    /// at once) is polled, with pauses that grow to two seconds.
    ///
    /// **Dropping the future** does nothing to the job.
    ///
    /// # Errors
    /// There is no such job ([`is_refused`](Error::is_refused)), or the server cannot be asked,
    /// also after some tries.
    pub async fn wait(&self, job: impl Into<JobKey>, patience: Duration) -> Result<Job, Error> {
        let key = job.into();
        let begin = Instant::now();
        let left = || patience.saturating_sub(begin.elapsed());
        let mut polls = Polls::default();
        loop {
            let asked = Instant::now();
            let wait = left().min(WAIT_MAX);
            let job = self.get_within(&key, wait).await?;
            let left = left();
            if !job.running || left.is_zero() {
                return Ok(job);
            }
            // An answer that comes early, with the job still running, comes from a server that
            // does not wait, or is about to end.
            if asked.elapsed() < wait {
                tokio::time::sleep(polls.pause().min(left)).await;
            }
        }
    }

    async fn get_within(&self, key: &JobKey, wait: Duration) -> Result<Job, Error> {
        let mut request = GetJobRequest::default();
        match key {
            JobKey::Id(id) => request.job_id = *id,
            JobKey::Tag(tag) => drop(request.options.insert("job_tag", tag.clone())),
        }
        if !wait.is_zero() {
            let millis = wait.as_millis().to_string();
            request.options.insert("wait_ms", millis);
        }
        let response: GetJobResponse = self.call_within("/get/job", &request, wait).await?;
        Ok(Job::from(response))
    }
}

impl From<GetJobResponse> for Job {
    fn from(response: GetJobResponse) -> Self {
        let status = Status::from(response.job_status);
        let result = match response.response_encoding.parse() {
            _ if status != Status::Done => None,
            Ok(Encoding::Json) => Some(Payload::json(response.job_response_str)),
            _ => Some(Payload::binary(response.job_response)),
        };
        Self {
            endpoint: response.endpoint,
            error_message: response.status_map.get("error_message").cloned(),
            status,
            running: response.running,
            progress: response.progress,
            result,
            info: response.info,
        }
    }
}

impl From<Text> for Status {
    fn from(word: Text) -> Self {
        match word.as_str() {
            "RUNNING" => Self::Running,
            "DONE" => Self::Done,
            "ERROR" => Self::Error,
            "CANCELLED" => Self::Cancelled,
            _ => Self::Other(word),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "RUNNING",
            Self::Done => "DONE",
            Self::Error => "ERROR",
            Self::Cancelled => "CANCELLED",
            Self::Other(word) => word.as_str(),
        })
    }
}

impl From<i64> for JobKey {
    fn from(id: i64) -> Self {
        Self::Id(id)
    }
}

impl From<&str> for JobKey {
    fn from(tag: &str) -> Self {
        Self::Tag(Text::copy_from(tag))
    }
}

impl From<Text> for JobKey {
    fn from(tag: Text) -> Self {
        Self::Tag(tag)
    }
}

/// By tag, which names the job on a backup server too.
impl From<&Submitted> for JobKey {
    fn from(submitted: &Submitted) -> Self {
        Self::Tag(submitted.tag.clone())
    }
}

impl From<&JobKey> for JobKey {
    fn from(key: &JobKey) -> Self {
        key.clone()
    }
}
