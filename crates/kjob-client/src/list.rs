//! Listing jobs.

use std::collections::HashMap;

use kjob_proto::{AdminShowJobsRequest, AdminShowJobsResponse, StringMap, Text};

use crate::{Client, Error, Status};

/// Which jobs to list. By default all that have not ended.
///
/// All but [`with_ended`](List::with_ended) is an extension of kjob-server; other servers ignore it.
#[derive(Clone, Debug, Default)]
#[must_use = "a list does nothing until it is given to Client::list"]
pub struct List {
    options: StringMap,
}

/// A piece of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobList {
    /// The jobs, by rising id.
    pub jobs: Vec<ListedJob>,
    /// If there are more: the id to list [`after`](List::after).
    pub next: Option<i64>,
}

/// A job as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedJob {
    /// Its id.
    pub id: i64,
    /// Its tag, if the server says it.
    pub tag: Option<Text>,
    /// Its status.
    pub status: Status,
    /// What it calls.
    pub endpoint: Text,
    /// When it was submitted, in milliseconds since the Unix epoch.
    pub received_at_millis: i64,
    /// Who submitted it.
    pub user: Text,
    /// From where.
    pub source_ip: Text,
    /// The text that it was submitted with.
    pub user_data: Text,
    /// Words of the server about it; of kjob-server its phase, such as `queued`.
    pub flags: Text,
}

impl List {
    /// Jobs that have ended too.
    pub fn with_ended(self) -> Self {
        self.option("show_async_jobs", "true")
    }

    /// Only jobs with this status.
    pub fn status(self, status: &Status) -> Self {
        self.option("status", status.to_string())
    }

    /// Only calls of this endpoint.
    pub fn endpoint(self, endpoint: impl Into<Text>) -> Self {
        self.option("endpoint", endpoint)
    }

    /// Only the job with this tag, ended or not.
    pub fn tag(self, tag: impl Into<Text>) -> Self {
        self.option("job_tag", tag)
    }

    /// Only jobs with larger ids.
    pub fn after(self, id: i64) -> Self {
        self.option("after", id.to_string())
    }

    /// At most this many.
    pub fn limit(self, jobs: usize) -> Self {
        self.option("limit", jobs.to_string())
    }

    /// Any option of `/admin/show/jobs`.
    pub fn option(mut self, name: impl Into<Text>, value: impl Into<Text>) -> Self {
        self.options.insert(name, value);
        self
    }
}

impl Client {
    /// Jobs that the caller may see.
    ///
    /// # Errors
    /// The server cannot be asked, or its reply is no list.
    pub async fn list(&self, list: &List) -> Result<JobList, Error> {
        let request = AdminShowJobsRequest {
            options: list.options.clone(),
        };
        let response: AdminShowJobsResponse = self.ask("/admin/show/jobs", &request).await?;
        table(response)
    }
}

/// The columns of a response as rows.
fn table(response: AdminShowJobsResponse) -> Result<JobList, Error> {
    let rows = response.job_id.len();
    let columns = [
        ("status", response.status.len()),
        ("endpoint_name", response.endpoint_name.len()),
        ("time_received", response.time_received.len()),
        ("auth_id", response.auth_id.len()),
        ("source_ip", response.source_ip.len()),
        ("user_data", response.user_data.len()),
        ("flags", response.flags.len()),
    ];
    if let Some((name, found)) = columns.into_iter().find(|(_, found)| *found != rows) {
        return Err(Error::odd(format!(
            "a list has {rows} job_id but {found} {name}"
        )));
    }
    let mut tags = tags(&response.info);
    let mut columns = (
        response.status.into_iter(),
        response.endpoint_name.into_iter(),
        response.time_received.into_iter(),
        response.auth_id.into_iter(),
        response.source_ip.into_iter(),
        response.user_data.into_iter(),
        response.flags.into_iter(),
    );
    let row = |id: i64| {
        Some(ListedJob {
            id,
            tag: tags.remove(&id.to_string()).map(Text::from),
            status: columns.0.next()?.into(),
            endpoint: columns.1.next()?,
            received_at_millis: columns.2.next()?,
            user: columns.3.next()?,
            source_ip: columns.4.next()?,
            user_data: columns.5.next()?,
            flags: columns.6.next()?,
        })
    };
    Ok(JobList {
        jobs: response.job_id.into_iter().map_while(row).collect(),
        next: response.info.get("next").and_then(|id| id.parse().ok()),
    })
}

/// Tags by job id. How other servers write them is not known (docs/protocol.md section 10); what
/// is no such object counts as none.
fn tags(info: &StringMap) -> HashMap<String, String> {
    let text = info.get("job_tag").map(Text::as_str).unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_other_lengths_are_refused() {
        let response = AdminShowJobsResponse {
            job_id: vec![1],
            ..AdminShowJobsResponse::default()
        };
        let error = table(response).unwrap_err();
        assert!(error.is_odd());
        assert!(
            error.to_string().contains("1 job_id but 0 status"),
            "{error}"
        );
    }

    #[test]
    fn tags_of_another_form_are_none() {
        for (text, count) in [("", 0), ("a,b", 0), ("[]", 0), (r#"{"1":"a"}"#, 1)] {
            let info = StringMap::from_iter([("job_tag", text)]);
            assert_eq!(tags(&info).len(), count, "{text}");
        }
    }
}
