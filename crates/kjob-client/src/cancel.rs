//! Cancelling jobs.

use kjob_proto::{AdminAlterJobsRequest, AdminAlterJobsResponse, Text};

use crate::{Client, Error, JobKey, Status};

/// What a cancel did to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancel {
    /// It was waiting and will not run.
    Cancelled,
    /// It runs and was told to stop.
    Cancelling,
    /// It had ended so.
    Already(Status),
    /// The caller has no such job.
    NotFound,
    /// Something that this version does not know.
    Other(Text),
}

impl Client {
    /// Asks a job to stop. What is told is durable; whether a job that runs stops, or is done
    /// first, is seen by waiting for it.
    ///
    /// # Errors
    /// The server cannot be asked; or it refuses, as kjob-server does for an unknown tag (for an
    /// unknown id it is [`Cancel::NotFound`]).
    pub async fn cancel(&self, job: impl Into<JobKey>) -> Result<Cancel, Error> {
        let mut request = AdminAlterJobsRequest::default();
        match job.into() {
            JobKey::Id(id) => request.job_ids.push(id),
            JobKey::Tag(tag) => drop(request.options.insert("job_tag", tag)),
        }
        let told = self.alter(request).await?;
        Ok(told
            .into_iter()
            .next()
            .map_or(Cancel::NotFound, |(_, cancel)| cancel))
    }

    /// Asks several jobs to stop. Gives what was done to each, in order.
    ///
    /// # Errors
    /// The server cannot be asked, or refuses.
    pub async fn cancel_all(&self, ids: &[i64]) -> Result<Vec<(i64, Cancel)>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.alter(AdminAlterJobsRequest {
            job_ids: ids.to_vec(),
            ..AdminAlterJobsRequest::default()
        })
        .await
    }

    async fn alter(&self, mut request: AdminAlterJobsRequest) -> Result<Vec<(i64, Cancel)>, Error> {
        request.action = Text::from_static("cancel");
        let response: AdminAlterJobsResponse = self.ask("/admin/alter/jobs", &request).await?;
        let words = response.status.into_iter().map(Cancel::from);
        Ok(response.job_ids.into_iter().zip(words).collect())
    }
}

impl From<Text> for Cancel {
    fn from(word: Text) -> Self {
        match word.as_str() {
            "cancelled" => Self::Cancelled,
            "cancelling" => Self::Cancelling,
            "not found" => Self::NotFound,
            other => match other.strip_prefix("already ") {
                Some(status) => Self::Already(Status::from(Text::copy_from(status))),
                None => Self::Other(word),
            },
        }
    }
}
