//! Looking at a job, and waiting for its end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kjob_proto::{Encoding, GetJobRequest, GetJobResponse, StringMap, Text};
use tokio::time::Instant;

use crate::retry::Polls;
use crate::{Client, Error, Payload, Submit, Submitted};

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
        self.look(&job.into(), Duration::ZERO, None).await
    }

    /// A job as it stands, with its result in this encoding (binary or JSON), if it is done. Without,
    /// a result is in the encoding of the job's payload. An extension of kjob-server.
    ///
    /// # Errors
    /// See [`get`](Self::get). Also refused is an encoding that the server cannot turn the result into.
    pub async fn get_in(&self, job: impl Into<JobKey>, encoding: Encoding) -> Result<Job, Error> {
        self.look(&job.into(), Duration::ZERO, Some(encoding)).await
    }

    /// Submits a job and waits for its end: [`submit`](Self::submit), then [`wait`](Self::wait).
    ///
    /// # Errors
    /// Those of either.
    pub async fn run(&self, submit: &Submit, patience: Duration) -> Result<Job, Error> {
        let submitted = self.submit(submit).await?;
        self.wait(&submitted, patience).await
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
            let job = self.look(&key, wait, None).await?;
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

    /// One look at a job, which may wait so long at the server for the job's end.
    pub(crate) async fn look(
        &self,
        key: &JobKey,
        wait: Duration,
        encoding: Option<Encoding>,
    ) -> Result<Job, Error> {
        let mut request = GetJobRequest::default();
        match key {
            JobKey::Id(id) => request.job_id = *id,
            JobKey::Tag(tag) => drop(request.options.insert("job_tag", tag.clone())),
        }
        if !wait.is_zero() {
            let millis = wait.as_millis().to_string();
            request.options.insert("wait_ms", millis);
        }
        if let Some(encoding) = encoding {
            let word = Text::from_static(encoding.as_str());
            request.options.insert("response_encoding", word);
        }
        let response: GetJobResponse = self.ask_within("/get/job", &request, wait).await?;
        Ok(Job::from(response))
    }
}

impl Job {
    /// Its id, if the server says it. kjob-server does.
    pub fn id(&self) -> Option<i64> {
        self.info.get("job_id")?.parse().ok()
    }

    /// Its tag, if the server says it.
    pub fn tag(&self) -> Option<&str> {
        self.info.get("job_tag").map(Text::as_str)
    }

    /// What the job does in more words than [`status`](Self::status) has, such as `queued` or
    /// `cancelling`, if the server says it.
    pub fn phase(&self) -> Option<&str> {
        self.info.get("phase").map(Text::as_str)
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

/// As people write it: the id, if it is a number, else the tag; `id:7` and `tag:7` say which.
///
/// ```
/// use kjob_client::JobKey;
/// assert_eq!("7".parse(), Ok(JobKey::Id(7)));
/// assert_eq!("tag:7".parse(), Ok(JobKey::from("7")));
/// assert_eq!("nightly-report".parse(), Ok(JobKey::from("nightly-report")));
/// assert_eq!("id:seven".parse::<JobKey>().unwrap_err().to_string(), "\"seven\" is no job id");
/// assert!("night report".parse::<JobKey>().is_err());
/// ```
impl FromStr for JobKey {
    type Err = BadJobKey;

    fn from_str(text: &str) -> Result<Self, BadJobKey> {
        let id = |text: &str| text.parse().ok().filter(|id| *id > 0).map(Self::Id);
        if let Some(rest) = text.strip_prefix("id:") {
            return id(rest).ok_or_else(|| BadJobKey::Id(rest.to_owned()));
        }
        let (tag, may_be_id) = match text.strip_prefix("tag:") {
            Some(tag) => (tag, false),
            None => (text, true),
        };
        if may_be_id && let Some(id) = id(tag) {
            return Ok(id);
        }
        let is_of_tags = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        match (1..=255).contains(&tag.len()) && tag.bytes().all(is_of_tags) {
            true => Ok(Self::from(tag)),
            false => Err(BadJobKey::Tag(tag.to_owned())),
        }
    }
}

/// A text that names no job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadJobKey {
    /// It says that it is an id.
    #[error("{0:?} is no job id")]
    Id(String),
    /// It is no tag either.
    #[error("{0:?} is no job tag, which has 1 to 255 of A-Z a-z 0-9 _ -")]
    Tag(String),
}

/// As [`JobKey::from_str`] reads it.
impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Tag(tag) if tag.bytes().all(|byte| byte.is_ascii_digit()) => {
                write!(f, "tag:{tag}")
            }
            Self::Tag(tag) => f.write_str(tag),
        }
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
