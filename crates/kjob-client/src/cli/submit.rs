//! `kjob submit`.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use kjob_client::{JobKey, Payload, Submit};
use serde::Serialize;

use super::args::{self, PayloadFrom};
use super::failure::{Exit, Failure};
use super::follow::follow;
use super::look::hand_over;
use super::session::{Session, print_json, print_line};

#[derive(Serialize)]
struct Document<'a> {
    id: i64,
    tag: &'a str,
    query_id: &'a str,
    existing: bool,
}

pub(crate) async fn run(session: &Session, args: args::Submit) -> Result<Exit, Failure> {
    if !args.wait && (args.output.output.is_some() || args.output.result_encoding.is_some()) {
        return Err(Failure::Usage(
            "there is a result to write only with --wait",
        ));
    }
    let mut submit = Submit::new(args.endpoint, payload(args.payload)?);
    if let Some(tag) = args.tag {
        submit = submit.with_tag(tag);
    }
    if args.reuse_tag_if_failed {
        submit = submit.reuse_tag_if_failed();
    }
    if let Some(priority) = args.priority {
        submit = submit.priority(priority);
    }
    if let Some(delay) = args.delay {
        submit = submit.delay(delay);
    }
    if let Some(timeout) = args.job_timeout {
        submit = submit.timeout(timeout);
    }
    if let Some(retention) = args.retention {
        submit = submit.retention(retention);
    }
    if let Some(text) = args.user_data {
        submit = submit.user_data(text);
    }
    for (name, value) in args.options {
        submit = submit.option(name, value);
    }

    let submitted = session.client.submit(&submit).await?;
    if !args.wait {
        return match session.is_json {
            true => print_json(&Document {
                id: submitted.id,
                tag: &submitted.tag,
                query_id: &submitted.query_id,
                existing: submitted.existing,
            }),
            false => {
                let was = if submitted.existing {
                    "was there already"
                } else {
                    "submitted"
                };
                session.say(&format!("job {} {was}", submitted.id));
                print_line(&submitted.tag)
            }
        }
        .map(|()| Exit::Done);
    }
    let key = JobKey::from(&submitted);
    match follow(session, &key, &args.patience, true).await? {
        Some(job) => hand_over(session, &key, job, &args.output).await,
        None => Ok(Exit::Interrupted),
    }
}

fn payload(from: PayloadFrom) -> Result<Payload, Failure> {
    Ok(match from {
        PayloadFrom {
            data: Some(text), ..
        } => Payload::json(text),
        PayloadFrom {
            json: Some(path), ..
        } => {
            let text = String::from_utf8(read(&path)?);
            let text = text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            Payload::json(text.map_err(Failure::file(&path))?)
        }
        PayloadFrom {
            binary: Some(path), ..
        } => Payload::binary(read(&path)?),
        _ => Payload::json("{}"),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let done = match path == Path::new("-") {
        true => io::stdin().lock().read_to_end(&mut bytes).map(|_| ()),
        false => fs::read(path).map(|read| bytes = read),
    };
    done.map_err(Failure::file(path))?;
    Ok(bytes)
}
