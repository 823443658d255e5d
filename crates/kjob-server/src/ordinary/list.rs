//! `GET /jobs`: a page of the caller's jobs, by rising id.

use http::header::LINK;
use http::{HeaderValue, Response, StatusCode};
use kjob_core::JobId;
use serde::Serialize;

use super::record::JobRecord;
use super::{Ask, json};
use crate::body::Held;
use crate::job_list;
use crate::options::Options;
use crate::refusal::Refusal;
use crate::reply::ReplyBody;

const LIMIT: u64 = 100;

const LIMIT_MAX: u64 = 1000;

#[derive(Serialize)]
struct JobPage<'a> {
    jobs: Vec<JobRecord<'a>>,
    /// The path of the next page, if there may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(super) async fn answer(ask: &Ask<'_>, held: &mut Held) -> Result<Response<ReplyBody>, Refusal> {
    let query = ask.extras.query(&job_list::NAMES)?;
    let options = query.options()?;
    let filter = job_list::filter(&options, LIMIT, LIMIT_MAX)?;
    let limit = filter.limit;
    let page = ask.by.list(options.job_tag()?, filter).await?;
    let next = page.next.map(|after| next_path(&options, limit, after));
    let link = next.as_ref().map(|next| format!("<{next}>; rel=\"next\""));
    let jobs = page.jobs.iter().map(JobRecord::of).collect();
    let mut response = json(StatusCode::OK, &JobPage { jobs, next });
    held.grow_to_answer(response.body().len())
        .map_err(Refusal::AnswerBusy)?;
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

/// The same question from there on.
fn next_path(options: &Options<'_>, limit: usize, after: JobId) -> String {
    let path = String::from("/jobs?");
    let len = path.len();
    let mut query = form_urlencoded::Serializer::for_suffix(path, len);
    for name in ["status", "endpoint"] {
        if let Some(value) = options.text(name) {
            query.append_pair(name, value);
        }
    }
    query.append_pair("limit", &limit.to_string());
    query.append_pair("after", &after.to_string());
    query.finish()
}
