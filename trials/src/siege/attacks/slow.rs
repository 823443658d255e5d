//! Clients that are slow on purpose.

use std::time::Duration;

use bytes::Bytes;
use kjob_proto::{CreateJobRequest, CreateJobResponse, Encoding, GetJobRequest, Limits, Record};
use tokio::time::sleep;

use super::Field;
use crate::siege::http1::{self, Connection};
use crate::siege::owed;

/// How many drip.
const DRIPPING: usize = 2_000;

/// How many do not read.
const NOT_READING: usize = 500;

/// The pause between two drops.
const DRIP_EVERY: Duration = Duration::from_millis(500);

/// Bytes of the answer that nobody reads.
const ANSWER_LEN: usize = 4 << 20;

/// Heads that come a byte at a time.
pub(super) async fn heads(field: Field) {
    let drip = |field: Field, _| async move {
        let Ok(mut connection) = Connection::open(field.server).await else {
            return field.tally.answered("not connected");
        };
        field.tally.connected();
        let begin = http1::head("/create/job", "application/json", "");
        drips(&field, &mut connection, begin.as_bytes(), b"X-Drop: ").await;
    };
    field.again_and_again(field.holders(DRIPPING), drip).await;
}

/// Bodies that come a byte at a time.
pub(super) async fn bodies(field: Field) {
    let drip = |field: Field, number: usize| async move {
        let Ok(mut connection) = Connection::open(field.server).await else {
            return field.tally.answered("not connected");
        };
        field.tally.connected();
        let (more, drop) = if number.is_multiple_of(2) {
            ("Content-Length: 100000\r\n", &b" "[..])
        } else {
            ("Transfer-Encoding: chunked\r\n", &b"1\r\n \r\n"[..])
        };
        let head = http1::head("/create/job", "application/json", more);
        // Sent whole: it is the body that is slow.
        let _ = connection.send(head.as_bytes()).await;
        drips(&field, &mut connection, b"", drop).await;
    };
    field.again_and_again(field.holders(DRIPPING), drip).await;
}

/// Sends all but the last line's end of `begin`, then `drop` again and again.
async fn drips(field: &Field, connection: &mut Connection, begin: &[u8], drop: &[u8]) {
    let begin = begin.strip_suffix(b"\r\n").unwrap_or(begin);
    let _ = connection.send(begin).await;
    let mut bytes = begin.len();
    for byte in drop.iter().cycle() {
        if field.is_over() || connection.send(&[*byte]).await.is_err() {
            break;
        }
        bytes += 1;
        if connection.is_closed_within(DRIP_EVERY).await {
            field.tally.answered("cut by the server");
            break;
        }
    }
    field.tally.sent(1, bytes);
}

/// Clients that ask for a big answer again and again, and read nothing.
pub(super) async fn readers(field: Field) {
    let Some(id) = big_job(&field).await else {
        return field.tally.violation("no job to ask for");
    };
    let asking = move |field: Field, _| async move {
        let Ok(mut connection) = Connection::open(field.server).await else {
            return field.tally.answered("not connected");
        };
        field.tally.connected();
        let request = GetJobRequest {
            job_id: id,
            ..Default::default()
        };
        let body = request.encode_to_bytes();
        let bytes = http1::post("/get/job", Encoding::Binary.content_type(), &body);
        for _ in 0..4 {
            let _ = connection.send(&bytes).await;
            field.tally.sent(1, bytes.len());
        }
        while !field.is_over() {
            sleep(DRIP_EVERY).await;
        }
        // The first answer is there in part, or is a refusal that must be whole.
        match connection.reply().await {
            Ok(reply) => match owed::check(&reply, Encoding::Binary) {
                Ok(()) => field.tally.answered(reply.status.to_string()),
                Err(why) => field.tally.violation(why),
            },
            Err(error) => field.tally.answered(error.to_string()),
        }
    };
    // They look at the time themselves, and then read.
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..field.holders(NOT_READING) {
        tasks.spawn(asking(field.clone(), number));
    }
    while tasks.join_next().await.is_some() {}
}

/// A finished job with a big result.
async fn big_job(field: &Field) -> Option<i64> {
    let message = "x".repeat(ANSWER_LEN);
    job_with_result(field, &message).await
}

/// A finished job whose result holds this text.
pub(super) async fn job_with_result(field: &Field, message: &str) -> Option<i64> {
    let mut connection = Connection::open(field.server).await.ok()?;
    let request = CreateJobRequest {
        endpoint: "/demo/echo".into(),
        request_encoding: "json".into(),
        data_str: format!("{{\"message\":\"{message}\"}}").into(),
        ..Default::default()
    };
    let binary = Encoding::Binary;
    let body = request.encode_to_bytes();
    let reply = connection
        .post("/create/job", binary.content_type(), &body)
        .await
        .ok()?;
    let limits = Limits::default();
    let created = open::<CreateJobResponse>(reply.body, &limits)?;
    let request = GetJobRequest {
        job_id: created.job_id,
        options: [("wait_ms", "30000")].into_iter().collect(),
    };
    let body = request.encode_to_bytes();
    let reply = connection
        .post("/get/job", binary.content_type(), &body)
        .await
        .ok()?;
    (reply.status == 200).then_some(created.job_id)
}

fn open<R: Record>(body: Bytes, limits: &Limits) -> Option<R> {
    kjob_proto::Reply::<R>::decode(Encoding::Binary, body, limits)
        .ok()?
        .ok()
}
