//! HTTP/2 frames that cost their receiver more than their sender.

use kjob_proto::{GetJobRequest, Record};

use super::Field;
use super::slow::job_with_result;
use crate::siege::http2::{
    DATA, END_HEADERS, Frames, HEADERS, INITIAL_WINDOW_SIZE, PING, PRIORITY, SETTINGS,
    WINDOW_UPDATE, head_block,
};

/// Connections that attack at once.
const ATTACKERS: usize = 10;

/// Bytes of a batch.
const BATCH: usize = 64 << 10;

/// Streams whose windows change together.
const STREAMS: u32 = 100;

/// Settings, pings, priorities and empty pieces of a body. Nobody reads what the server says of them.
pub(super) async fn floods(field: Field) {
    let attacker = |field: Field, number: usize| async move {
        let Ok(mut frames) = Frames::open(field.server, &[], &field.tally).await else {
            return field.tally.answered("not connected");
        };
        if number % 5 == 4 {
            let block = head_block("/create/job", "application/json");
            frames.put(HEADERS, END_HEADERS, 1, &block);
        }
        while !field.is_over() {
            let mut count = 0;
            while frames.batched() < BATCH {
                match number % 5 {
                    0 => frames.settings(&[(INITIAL_WINDOW_SIZE, 65_535)]),
                    1 => frames.put(SETTINGS, 0, 0, &[]),
                    2 => frames.put(PING, 0, 0, &[7; 8]),
                    3 => frames.put(PRIORITY, 0, 3, &[0, 0, 0, 5, 16]),
                    _ => frames.put(DATA, 0, 1, &[]),
                }
                count += 1;
            }
            if frames.flush().await.is_err() {
                return field.tally.answered("closed by the server");
            }
            field.tally.sent(count, 0);
        }
    };
    field.again_and_again(ATTACKERS, attacker).await;
}

/// Answers wait on many streams while their windows change, all together and one by one.
pub(super) async fn windows(field: Field) {
    let Some(job_id) = job_with_result(&field, &"x".repeat(1 << 20)).await else {
        return field.tally.violation("no job to ask for");
    };
    let request = GetJobRequest {
        job_id,
        ..Default::default()
    };
    let body = request.encode_to_bytes();
    let attacker = move |field: Field, number: usize| {
        let body = body.clone();
        async move {
            let none = [(INITIAL_WINDOW_SIZE, 0)];
            let Ok(mut frames) = Frames::open(field.server, &none, &field.tally).await else {
                return field.tally.answered("not connected");
            };
            let _reading = frames.read_on();
            for number in 0..STREAMS {
                frames.request(1 + 2 * number, "/get/job", &body);
            }
            let mut turn = 0_u32;
            while !field.is_over() {
                let mut count = 0;
                while frames.batched() < BATCH {
                    let stream = 1 + 2 * (turn % STREAMS);
                    match number % 4 {
                        // All windows at once, up and down.
                        0 => frames.settings(&[(INITIAL_WINDOW_SIZE, turn % 2)]),
                        // A byte at a time.
                        1 => frames.put(WINDOW_UPDATE, 0, stream, &1_u32.to_be_bytes()),
                        // Over the top.
                        2 => frames.put(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes()),
                        // By nothing, which is an error.
                        _ => frames.put(WINDOW_UPDATE, 0, stream, &[0; 4]),
                    }
                    turn = turn.wrapping_add(1);
                    count += 1;
                }
                if frames.flush().await.is_err() {
                    return field.tally.answered("closed by the server");
                }
                field.tally.sent(count, 0);
            }
        }
    };
    field.again_and_again(ATTACKERS, attacker).await;
}
