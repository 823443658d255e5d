//! What every answer of ordinary HTTP owes to who asked (docs/http.md).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use kjob_proto::Encoding;
use serde::Deserialize;

use super::http1::Reply;
use super::owed;
use super::requests::{Asked, Kind};

/// The page whose table of problems is held against what is answered.
const PAGE: &str = include_str!("../../../docs/http.md");

/// Where that page is, before the name of a kind.
const TYPE: &str = "https://github.com/kjob-rs/kjob/blob/main/docs/http.md#";

const PROBLEM: &str = "application/problem+json";

const TEXT: &str = "text/plain; charset=utf-8";

/// The kinds of problems, with their statuses.
static KINDS: LazyLock<BTreeMap<&str, u16>> = LazyLock::new(|| {
    let rows = PAGE.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| <a id=\"")?.split_once('"')?;
        let status = rest.split('|').nth(1)?.trim().parse().ok()?;
        Some((name, status))
    });
    rows.collect()
});

/// A problem, as far as all have it.
#[derive(Debug, Deserialize)]
struct Problem {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
}

/// Checks an answer, and says in a few words what it was.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(reply: &Reply, asked: &Asked) -> Result<String, String> {
    let status = reply.status;
    // What is no request is refused before there is anybody to say how long that took.
    let is_bare = reply.body.is_empty() && reply.header("content-type").is_none();
    if asked.may_be_no_http && is_bare && matches!(status, 400 | 414 | 431) {
        return Ok(format!("{status} of what is no HTTP"));
    }
    let seconds = reply.header("x-request-time-secs").unwrap_or_default();
    if seconds.parse::<f64>().is_err() {
        return Err(format!("{status}: x-request-time-secs is {seconds:?}"));
    }
    if status < 400 {
        return done(reply, asked);
    }
    let content_type = reply.header("content-type").unwrap_or_default();
    if content_type == TEXT && asked.is_mutated && matches!(status, 403..=405) {
        // At paths that are nobody's, or a page's.
        return Ok(format!("{status} in words"));
    }
    if content_type != PROBLEM {
        return in_envelope(reply, content_type, asked);
    }
    let name = if asked.is_head() {
        None
    } else {
        Some(problem(reply)?)
    };
    has_its_headers(reply, name)?;
    let name = name.unwrap_or("problem");
    let is_refused = asked.is_mutated || asked.kind.refusals().contains(&status);
    if !is_refused {
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        return Err(format!("{status} to a good request: {body}"));
    }
    if status >= 500 && !(name == "job-failed" && asked.may_call()) {
        return Err(format!("{status} {name}"));
    }
    Ok(format!("{status} {name}"))
}

fn done(reply: &Reply, asked: &Asked) -> Result<String, String> {
    let status = reply.status;
    if !asked.is_mutated && !asked.kind.successes().contains(&status) {
        return Err(format!("status {status}"));
    }
    if !asked.is_mutated
        && let Some(encoding) = asked.envelope()
    {
        owed::check(reply, encoding)?;
    }
    let is_job = matches!(asked.kind, Kind::Submit | Kind::Look | Kind::Cancel);
    if is_job && !asked.is_mutated && !asked.is_head() && job_id(reply).is_none() {
        return Err(format!("{status} without a job"));
    }
    if status == 206 && reply.header("content-range").is_none() {
        return Err("206 without Content-Range".to_owned());
    }
    let is_accepted = status == 202 && matches!(asked.kind, Kind::Submit | Kind::Call);
    if is_accepted && !asked.is_mutated && reply.header("location").is_none() {
        return Err("202 without Location".to_owned());
    }
    Ok(status.to_string())
}

/// A call of a wire client is refused in an envelope, in its encoding.
fn in_envelope(reply: &Reply, content_type: &str, asked: &Asked) -> Result<String, String> {
    let status = reply.status;
    let encoding = match content_type {
        "application/octet-stream" => Encoding::Binary,
        "application/json" => Encoding::Json,
        _ => return Err(format!("{status} in {content_type:?}")),
    };
    let is_right = asked.is_mutated || asked.envelope().map(Encoding::reply) == Some(encoding);
    if !is_right {
        return Err(format!("{status} in an envelope"));
    }
    // The answer to a HEAD has the headers only.
    if !asked.is_head() {
        owed::check(reply, encoding)?;
    }
    Ok(format!("{status} in an envelope"))
}

/// The kind of a problem, which has all that a problem has.
fn problem(reply: &Reply) -> Result<&'static str, String> {
    let status = reply.status;
    let problem: Problem = serde_json::from_slice(&reply.body)
        .map_err(|error| format!("{status} with a problem that is none: {error}"))?;
    let name = problem.r#type.strip_prefix(TYPE).unwrap_or_default();
    let Some((name, documented)) = KINDS.get_key_value(name) else {
        return Err(format!("{status} of a type that no page has: {problem:?}"));
    };
    if *documented != status || problem.status != status {
        return Err(format!(
            "{status}, though documented as {documented}: {problem:?}"
        ));
    }
    // A job's error is its handler's, which may have nothing to say.
    let is_told = !problem.detail.is_empty() || *name == "job-failed";
    if problem.title.is_empty() || !is_told {
        return Err(format!("{status} that says nothing: {problem:?}"));
    }
    Ok(name)
}

fn has_its_headers(reply: &Reply, name: Option<&str>) -> Result<(), String> {
    let status = reply.status;
    let missing = match (status, name) {
        (429, _) if !owed::says_when_to_come_back(reply) => "Retry-After",
        (_, Some("job-not-ended")) if !owed::says_when_to_come_back(reply) => "Retry-After",
        (405, _) if reply.header("allow").is_none() => "Allow",
        (416, _) if reply.header("content-range").is_none() => "Content-Range",
        _ => return Ok(()),
    };
    Err(format!("{status} without {missing}"))
}

/// The job that an answer is about.
pub(crate) fn job_id(reply: &Reply) -> Option<i64> {
    let job: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
    job.get("job_id")?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
        Reply::made_up(status, headers, body.to_owned())
    }

    fn refused(status: u16, name: &str, more: &[(&str, &str)]) -> Reply {
        let headers = [&[("content-type", PROBLEM)], more].concat();
        let body =
            format!(r#"{{"type":"{TYPE}{name}","title":"t","status":{status},"detail":"d"}}"#);
        reply(status, &headers, &body)
    }

    #[test]
    fn the_page_has_the_kinds() {
        assert_eq!(KINDS.get("job-not-found"), Some(&404));
        assert_eq!(KINDS.get("job-failed"), Some(&502));
        assert!(KINDS.len() > 25, "{KINDS:?}");
    }

    #[test]
    fn what_is_owed_and_missing_is_found() {
        let look = Asked::plain(Kind::Look, "GET");
        let job = reply(200, &[], r#"{"job_id":7}"#);
        assert_eq!(check(&job, &look), Ok("200".to_owned()));
        let good = refused(404, "job-not-found", &[]);
        assert_eq!(check(&good, &look), Ok("404 job-not-found".to_owned()));
        let mut mutated = look.clone();
        mutated.is_mutated = true;
        let ready = refused(503, "stopping", &[("retry-after", "1")]);
        let mut mute = good.clone();
        mute.headers.remove(0);
        for (reply, asked, why) in [
            (mute, &look, "x-request-time-secs"),
            (reply(200, &[], "{}"), &look, "without a job"),
            (reply(206, &[], "{}"), &look, "status 206"),
            (reply(206, &[], "{}"), &mutated, "Content-Range"),
            (reply(404, &[], ""), &look, "in \"\""),
            (reply(400, &[], ""), &mutated, "in \"\""),
            (refused(405, "method-not-allowed", &[]), &mutated, "Allow"),
            (refused(429, "busy", &[]), &mutated, "Retry-After"),
            (
                refused(404, "job-not-ended", &[]),
                &look,
                "documented as 409",
            ),
            (
                reply(404, &[("content-type", TEXT)], "no"),
                &look,
                "in \"text",
            ),
            (
                reply(500, &[("content-type", TEXT)], "no"),
                &mutated,
                "in \"text",
            ),
            (refused(404, "no-such-kind", &[]), &look, "no page has"),
            (
                refused(422, "invalid-parameter", &[]),
                &look,
                "good request",
            ),
            (ready, &mutated, "503 stopping"),
            (refused(502, "upstream", &[]), &mutated, "502 upstream"),
        ] {
            let found = check(&reply, asked).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
        mutated.may_be_no_http = true;
        assert!(check(&reply(400, &[], ""), &mutated).is_ok());
        let call = Asked::plain(Kind::Call, "POST");
        assert!(check(&refused(502, "job-failed", &[]), &call).is_ok());
        assert!(check(&refused(502, "job-failed", &[]), &look).is_err());
    }
}
