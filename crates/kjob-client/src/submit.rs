//! Submitting a job.

use std::time::Duration;

use bytes::Bytes;
use kjob_proto::{CreateJobRequest, CreateJobResponse, Encoding, StringMap, Text};
use serde::Serialize;
use uuid::Uuid;

use crate::{Client, Error, Payload};

/// A call to be made as a job. It has its tag from the start, so that whoever submits it twice,
/// or anew after an error, gets one job.
///
/// ```
/// use kjob_client::{Payload, Submit};
/// use std::time::Duration;
///
/// let submit = Submit::new("/demo/echo", Payload::json(r#"{"message": "hello"}"#))
///     .timeout(Duration::from_secs(60))
///     .priority(9);
/// assert_eq!(submit.tag().len(), 36); // a UUIDv7, unless one is given
/// assert_eq!(submit.clone().tag(), submit.tag());
/// ```
#[derive(Clone, Debug)]
#[must_use = "a submit does nothing until it is given to Client::submit"]
pub struct Submit {
    endpoint: Text,
    payload: Payload,
    tag: Text,
    options: StringMap,
}

/// A job that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Submitted {
    /// Its id.
    pub id: i64,
    /// Its tag.
    pub tag: Text,
    /// Its id in the server's logs and traces; empty if the server gave none.
    pub query_id: Text,
    /// Whether the server had it already, from an earlier submit with the same tag.
    pub existing: bool,
}

impl Submit {
    /// A call of `endpoint` with `payload`, under a new tag: a UUIDv7, which stores index best.
    pub fn new(endpoint: impl Into<Text>, payload: Payload) -> Self {
        Self {
            endpoint: endpoint.into(),
            payload,
            tag: Text::from(Uuid::now_v7().to_string()),
            options: StringMap::new(),
        }
    }

    /// A call of `endpoint` with a value, which goes there as JSON text, under a new tag.
    /// [`Client::call`] gives what comes back.
    ///
    /// # Errors
    /// The value has no JSON form ([`is_usage`](Error::is_usage)), as a map whose keys are no texts.
    pub fn from_value(
        endpoint: impl Into<Text>,
        value: &(impl Serialize + ?Sized),
    ) -> Result<Self, Error> {
        Ok(Self::new(endpoint, Payload::from_value(value)?))
    }

    /// A call of `endpoint` with bytes as they are, under a new tag: bare Avro, or, where the endpoint takes
    /// any, whatever. [`Client::call_for_bytes`] gives what comes back.
    pub fn from_bytes(endpoint: impl Into<Text>, bytes: impl Into<Bytes>) -> Self {
        Self::new(endpoint, Payload::binary(bytes))
    }

    /// Gives the job this tag: 1 to 255 of `A-Z a-z 0-9 _ -`.
    ///
    /// A tag of one's own also guards against doing something twice in two runs of a program. The
    /// same tag with another call is refused.
    pub fn with_tag(mut self, tag: impl Into<Text>) -> Self {
        self.tag = tag.into();
        self
    }

    /// Lets the tag of a job that failed or was cancelled start a new one. A retry after a lost
    /// answer may then run the job again, if it has failed in the meantime.
    pub fn reuse_tag_if_failed(self) -> Self {
        self.option("tag_reuse", "if_failed")
    }

    /// Fails the job if an attempt runs longer. In whole milliseconds.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.option("timeout_ms", timeout.as_millis().to_string())
    }

    /// Its order among waiting jobs: 0 (low) to 9 (high), 5 unless told.
    pub fn priority(self, priority: u8) -> Self {
        self.option("priority", priority.to_string())
    }

    /// Does not start the job before this long from now. In whole milliseconds.
    pub fn delay(self, delay: Duration) -> Self {
        self.option("delay_ms", delay.as_millis().to_string())
    }

    /// Keeps the ended job for this long. In whole seconds.
    pub fn retention(self, retention: Duration) -> Self {
        self.option("retention_seconds", retention.as_secs().to_string())
    }

    /// Drops the job soon after its result was fetched.
    pub fn remove_on_complete(self) -> Self {
        self.option("remove_job_on_complete", "true")
    }

    /// A text that lists show with the job.
    pub fn user_data(self, text: impl Into<Text>) -> Self {
        self.option("user_data", text)
    }

    /// Any option of `/create/job`.
    pub fn option(mut self, name: impl Into<Text>, value: impl Into<Text>) -> Self {
        self.options.insert(name, value);
        self
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        self.tag.as_str()
    }

    fn request(&self) -> Result<CreateJobRequest, Error> {
        let mut request = CreateJobRequest {
            endpoint: self.endpoint.clone(),
            request_encoding: Text::from_static(self.payload.encoding.as_str()),
            options: self.options.clone(),
            ..CreateJobRequest::default()
        };
        request.options.insert("job_tag", self.tag.clone());
        match self.payload.encoding {
            Encoding::Json => {
                let text = Text::try_from(self.payload.data.clone());
                request.data_str = text.map_err(Error::payload)?;
            }
            _ => request.data = self.payload.data.clone(),
        }
        Ok(request)
    }
}

impl Client {
    /// Submits a job. The server has made it durable when this answers.
    ///
    /// Tried again on broken connections, late answers and a busy server; the tag sees to it that
    /// this makes one job.
    ///
    /// **Dropping the future** leaves it open whether there is a job. Submitting the same
    /// [`Submit`] again finds out: it gives the job that there is, or makes it.
    ///
    /// # Errors
    /// The server refuses the job, cannot be reached, or stays busy. After any but
    /// [`is_refused`](Error::is_refused) there may be a job all the same, as after a drop.
    pub async fn submit(&self, submit: &Submit) -> Result<Submitted, Error> {
        let request = submit.request()?;
        let response: CreateJobResponse = self.ask("/create/job", &request).await?;
        let info = |name: &str| response.info.get(name).cloned();
        Ok(Submitted {
            id: response.job_id,
            tag: info("job_tag").unwrap_or_else(|| submit.tag.clone()),
            query_id: info("query_id").unwrap_or_default(),
            existing: info("existing").is_some_and(|word| word == "true"),
        })
    }
}
