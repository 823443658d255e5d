//! `GET /jobs`: a page of the caller's jobs.

use http::header::LINK;
use http::{HeaderValue, Response, StatusCode};
use kjob_core::{JobId, Order, Owner};
use serde::Serialize;

use super::record::JobRecord;
use super::{Ask, json};
use crate::budget::Held;
use crate::job_list;
use crate::options::Options;
use crate::refusal::Refusal;
use crate::reply::ReplyBody;

const LIMIT: u64 = 100;

const LIMIT_MAX: u64 = 1000;

/// What a list is asked by here, and not by the wire protocol.
const OWN_NAMES: [&str; 4] = ["owner", "order", "since", "until"];

/// Whatever a list is asked by.
pub(super) const NAMES: [&str; job_list::NAMES.len() + OWN_NAMES.len()] = {
    let ([status, endpoint, tag, limit, after], [owner, order, since, until]) =
        (job_list::NAMES, OWN_NAMES);
    [
        status, endpoint, tag, limit, after, owner, order, since, until,
    ]
};

#[derive(Serialize)]
struct JobPage<'a> {
    jobs: Vec<JobRecord<'a>>,
    /// The path of the next page, if there may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(super) async fn answer(ask: &Ask<'_>, held: &mut Held) -> Result<Response<ReplyBody>, Refusal> {
    let query = ask.extras.query(&NAMES)?;
    let options = query.options()?;
    let mut filter = job_list::filter(&options, LIMIT, LIMIT_MAX)?;
    let orders = [("asc", Order::OldestFirst), ("desc", Order::NewestFirst)];
    filter.order = options.word("order", &orders)?.unwrap_or_default();
    filter.owner = options.text("owner").map(|owner| Owner::new(owner));
    filter.since = options.time("since")?;
    filter.until = options.time("until")?;
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
    for name in ["status", "endpoint"].into_iter().chain(OWN_NAMES) {
        if let Some(value) = options.text(name) {
            query.append_pair(name, value);
        }
    }
    query.append_pair("limit", &limit.to_string());
    query.append_pair("after", &after.to_string());
    query.finish()
}
