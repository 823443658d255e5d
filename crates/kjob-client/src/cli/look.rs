//! `kjob get`, `kjob wait` and `kjob result`.

use std::io::{self, IsTerminal};
use std::path::Path;

use kjob_client::{Encoding, Job, JobKey, Payload, Status};

use super::args::{Get, Output, ResultOf, Wait};
use super::document::JobDocument;
use super::failure::{Exit, Failure};
use super::follow::follow;
use super::replace::replace;
use super::session::{Session, print, print_json, print_line, say};
use super::text::{is_plain, shown, status, time_short};

/// Exits with 0 however the job stands: it was asked for, and is shown.
pub(crate) async fn get(session: &Session, args: Get) -> Result<Exit, Failure> {
    let key = args.job.job;
    let job = session.client.get(&key).await?;
    match session.is_json {
        true => print_json(&JobDocument::new(&key, &job))?,
        false => {
            for (name, value) in described(&key, &job) {
                print_line(&format!("{name:10}{value}"))?;
            }
        }
    }
    Ok(Exit::Done)
}

pub(crate) async fn wait(session: &Session, args: Wait) -> Result<Exit, Failure> {
    let key = args.job.job;
    let Some(job) = follow(session, &key, &args.patience, true).await? else {
        return Ok(Exit::Interrupted);
    };
    match session.is_json {
        true => print_json(&JobDocument::new(&key, &job))?,
        false => {
            print_line(&job.status.to_string())?;
            tell_why(&job);
        }
    }
    Ok(Exit::from(&job.status))
}

pub(crate) async fn result(session: &Session, args: ResultOf) -> Result<Exit, Failure> {
    let key = args.job.job;
    let is_patient = args.patience.timeout.is_some() || args.patience.cancel_on_interrupt;
    if !args.wait && is_patient {
        return Err(Failure::Usage("there is a wait to bound only with --wait"));
    }
    let job = match args.wait {
        true => follow(session, &key, &args.patience, false).await?,
        false => Some(session.client.get(&key).await?),
    };
    match job {
        Some(job) => hand_over(session, &key, job, &args.output).await,
        None => Ok(Exit::Interrupted),
    }
}

/// Prints what came of a job, or writes it to a file.
pub(crate) async fn hand_over(
    session: &Session,
    key: &JobKey,
    mut job: Job,
    output: &Output,
) -> Result<Exit, Failure> {
    if let (Some(wanted), Some(found)) = (output.result_encoding, &job.result)
        && found.encoding != Encoding::from(wanted)
    {
        job = session.client.get_in(key, wanted.into()).await?;
    }
    let exit = Exit::from(&job.status);
    let to_file = output
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    if let Some(path) = to_file
        && let Some(result) = job.result.take()
    {
        replace(path, &result.data).map_err(Failure::file(path))?;
    }
    if session.is_json {
        print_json(&JobDocument::new(key, &job))?;
        return Ok(exit);
    }
    match &job.result {
        Some(result) => print_result(result, output.output.is_some())?,
        None if job.status == Status::Running => say("the job has not ended; --wait waits for it"),
        None => tell_why(&job),
    }
    Ok(exit)
}

/// Why a job has no result, on stderr.
fn tell_why(job: &Job) {
    match &job.status {
        Status::Error => {
            let message = job.error_message.as_deref().unwrap_or("no message");
            say(&format!("the job failed: {}", shown(message)));
        }
        Status::Cancelled => say("the job was cancelled"),
        _ => {}
    }
}

/// The bytes as they are. On a terminal with a line's end, and only if they do nothing there that a text does
/// not; unless it was named.
fn print_result(result: &Payload, is_stdout_named: bool) -> Result<(), Failure> {
    let is_terminal = io::stdout().is_terminal();
    if is_terminal && !is_stdout_named && !is_plain(&result.data) {
        return Err(Failure::NotForTerminal(match result.encoding {
            Encoding::Json => "a result with control characters",
            _ => "a binary result",
        }));
    }
    print(&result.data)?;
    let is_open =
        is_plain(&result.data) && !result.data.is_empty() && !result.data.ends_with(b"\n");
    match is_terminal && is_open {
        true => print(b"\n"),
        false => Ok(()),
    }
}

fn described(key: &JobKey, job: &Job) -> Vec<(&'static str, String)> {
    let info = |name: &str| job.info.get(name).map(ToString::to_string);
    let at = |name: &str| time_short(info(name)?.parse().ok()?);
    let id = match key {
        JobKey::Id(id) => Some(*id),
        JobKey::Tag(_) => job.id(),
    };
    let result = job
        .result
        .as_ref()
        .map(|result| format!("{} bytes, {}", result.data.len(), result.encoding));
    [
        ("id", id.map(|id| id.to_string())),
        ("tag", job.tag().map(str::to_owned)),
        ("endpoint", Some(job.endpoint.to_string())),
        ("status", Some(status(&job.status, job.phase()))),
        ("progress", Some(format!("{} %", job.progress))),
        ("attempt", info("attempt")),
        ("error", job.error_message.as_ref().map(ToString::to_string)),
        ("result", result),
        ("received", at("time_received")),
        ("started", at("time_started")),
        ("ended", at("time_ended")),
        ("expires", at("time_expires")),
        ("query id", info("query_id")),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}
