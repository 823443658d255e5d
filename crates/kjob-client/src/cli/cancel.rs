//! `kjob cancel`.

use kjob_client::{Cancel, JobKey};
use serde::Serialize;

use super::args;
use super::failure::{Exit, Failure};
use super::session::{Session, print, print_json};
use super::text::shown;

#[derive(Serialize)]
struct Document {
    job: String,
    outcome: String,
}

/// Asks all, also those after one that is not there.
pub(crate) async fn run(session: &Session, args: args::Cancel) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    for key in &args.jobs {
        let outcome = outcome(session, key).await?;
        if outcome == Cancel::NotFound {
            exit = Exit::NoSuchJob;
        }
        let (job, outcome) = (key.to_string(), word(&outcome));
        match session.is_json {
            true => print_json(&Document { job, outcome })?,
            false => print(format!("{job}\t{}\n", shown(&outcome)).as_bytes())?,
        }
    }
    Ok(exit)
}

async fn outcome(session: &Session, key: &JobKey) -> Result<Cancel, Failure> {
    match session.client.cancel(key).await {
        Err(error) if error.is_no_such_job() => Ok(Cancel::NotFound),
        told => Ok(told?),
    }
}

/// As the server says it.
fn word(outcome: &Cancel) -> String {
    match outcome {
        Cancel::Cancelled => "cancelled".to_owned(),
        Cancel::Cancelling => "cancelling".to_owned(),
        Cancel::Already(status) => format!("already {status}"),
        Cancel::NotFound => "not found".to_owned(),
        other => match other {
            Cancel::Other(word) => word.to_string(),
            _ => format!("{other:?}"),
        },
    }
}
