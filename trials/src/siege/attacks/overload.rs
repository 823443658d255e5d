//! More submits than may wait, or be stored: refused politely, and none that was taken is lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kjob_proto::{
    CreateJobRequest, CreateJobResponse, Encoding, GetJobRequest, GetJobResponse, Limits, Record,
    Reply, Text,
};
use tokio::task::JoinSet;

use super::Field;
use crate::siege::http1::{self, Connection};
use crate::siege::owed;

/// How many submit at once.
const ATTACKERS: usize = 32;

/// How long the jobs of a full queue may take to end.
const PATIENCE_MS: &str = "120000";

/// Jobs that take a while, from more clients than there are places.
pub(super) async fn submits(field: Field) {
    overload(field, "/demo/sleep", "{\"millis\":5}".to_owned()).await;
}

/// Jobs whose payloads fill what may be stored.
pub(super) async fn bytes(field: Field) {
    let message = "x".repeat(8 << 10);
    overload(
        field,
        "/demo/echo",
        format!("{{\"message\":\"{message}\"}}"),
    )
    .await;
}

async fn overload(field: Field, endpoint: &'static str, payload: String) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let noted = taken.clone();
    let attacker = move |field: Field, _| {
        let (noted, payload) = (noted.clone(), payload.clone());
        async move {
            let Ok(mut connection) = Connection::open(field.server).await else {
                return field.tally.answered("not connected");
            };
            field.tally.connected();
            let request = CreateJobRequest {
                endpoint: endpoint.into(),
                request_encoding: "json".into(),
                data_str: Text::from(payload),
                ..Default::default()
            };
            let body = request.encode_to_bytes();
            while !field.is_over() {
                match call::<CreateJobResponse>(&field, &mut connection, "/create/job", &body).await
                {
                    Some(Ok(created)) => {
                        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                        noted.push(created.job_id);
                    }
                    Some(Err(())) => {}
                    None => return,
                }
            }
        }
    };
    field.again_and_again(ATTACKERS, attacker).await;
    let taken = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
    field.tally.note(format!(
        "{} jobs were taken, and each has to end",
        taken.len()
    ));
    check_all(&field, taken).await;
}

/// Every job that was taken ends, with its result.
async fn check_all(field: &Field, taken: Vec<i64>) {
    let mut tasks = JoinSet::new();
    for ids in taken.chunks(taken.len().div_ceil(ATTACKERS).max(1)) {
        let (field, ids) = (field.clone(), ids.to_vec());
        tasks.spawn(async move {
            let Ok(mut connection) = Connection::open(field.server).await else {
                return field.tally.violation("not connected, to look for jobs");
            };
            for id in ids {
                let request = GetJobRequest {
                    job_id: id,
                    options: [("wait_ms", PATIENCE_MS)].into_iter().collect(),
                };
                let body = request.encode_to_bytes();
                let job = call::<GetJobResponse>(&field, &mut connection, "/get/job", &body).await;
                match job {
                    Some(Ok(job)) if job.job_status == "DONE" => field.tally.answered("job DONE"),
                    Some(Ok(job)) => field
                        .tally
                        .violation(format!("a job is {}", job.job_status)),
                    _ => field.tally.violation("an acknowledged job is lost"),
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// The record, or `Err` where it was refused; nothing where there is no valid answer.
async fn call<R: Record>(
    field: &Field,
    connection: &mut Connection,
    path: &str,
    body: &[u8],
) -> Option<Result<R, ()>> {
    let binary = Encoding::Binary;
    field
        .tally
        .sent(1, http1::post(path, binary.content_type(), body).len());
    let reply = match connection.post(path, binary.content_type(), body).await {
        Ok(reply) => reply,
        Err(error) => {
            field.tally.violation(error.to_string());
            return None;
        }
    };
    if let Err(why) = owed::check(&reply, binary) {
        field.tally.violation(why);
        return None;
    }
    match reply.status {
        200 => {}
        429 => {
            field.tally.answered("429 with Retry-After");
            // It is a flood, but one of answers too: a while of an honest client's.
            tokio::time::sleep(Duration::from_millis(1)).await;
            return Some(Err(()));
        }
        status => {
            field.tally.violation(format!("{path} answered {status}"));
            return Some(Err(()));
        }
    }
    let reply = Reply::<R>::decode(binary, reply.body, &Limits::default());
    match reply {
        Ok(Ok(record)) => Some(Ok(record)),
        _ => {
            field.tally.violation("an answer that cannot be read");
            None
        }
    }
}
