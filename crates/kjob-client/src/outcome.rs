//! What came of a job.

use kjob_proto::Text;

use crate::{Job, Payload, Status};

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

impl Job {
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
