//! Connections: held, silent, opened and closed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Barrier;
use tokio::time::{Instant, sleep, sleep_until};

use super::Field;
use crate::siege::http1::Connection;
use crate::siege::owed;

/// How many rest.
const IDLE: usize = 10_000;

/// How long all of them rest at least, however long it took to open them.
const REST_MIN: Duration = Duration::from_secs(3);

/// How many say nothing; the server has 10,000 places.
const SILENT: usize = 12_000;

/// How many open connections at a time.
const OPENERS: usize = 50;

/// Each asks once, and rests until the end.
pub(super) async fn idle(field: Field) {
    let open = Arc::new(AtomicU64::new(0));
    let all_open = Arc::new(Barrier::new(OPENERS));
    let opener = move |field: Field, _| {
        let (open, all_open) = (open.clone(), all_open.clone());
        async move {
            let mut kept = Vec::new();
            for _ in 0..field.holders(IDLE) / OPENERS {
                let Ok(mut connection) = Connection::open(field.server).await else {
                    field.tally.answered("not connected");
                    continue;
                };
                field.tally.connected();
                ask(&field, &mut connection).await;
                field.tally.holds(open.fetch_add(1, Ordering::Relaxed) + 1);
                kept.push(connection);
            }
            all_open.wait().await;
            let rest = if field.terms.is_short {
                Duration::ZERO
            } else {
                REST_MIN
            };
            sleep_until(field.until.max(Instant::now() + rest)).await;
            for mut connection in kept {
                if connection.is_closed_within(Duration::from_millis(1)).await {
                    field.tally.answered("closed by the server");
                }
            }
        }
    };
    // It is the connections that count, however long it takes to make them.
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..OPENERS {
        tasks.spawn(opener(field.clone(), number));
    }
    while tasks.join_next().await.is_some() {}
}

async fn ask(field: &Field, connection: &mut Connection) {
    let json = kjob_proto::Encoding::Json;
    let path = "/show/system/status";
    match connection.post(path, json.content_type(), b"{}").await {
        Ok(reply) => match owed::check(&reply, json) {
            Ok(()) => field.tally.answered(reply.status.to_string()),
            Err(why) => field.tally.violation(why),
        },
        Err(error) => field.tally.answered(error.to_string()),
    }
}

/// Each says nothing, or the beginning of something, and comes back when it is shown the door.
pub(super) async fn silent(field: Field) {
    let open = Arc::new(AtomicU64::new(0));
    let holder = move |field: Field, number: usize| {
        let open = open.clone();
        async move {
            // Some come from elsewhere, so that no one address has most.
            let source = if number.is_multiple_of(2) {
                stranger(0)
            } else {
                stranger(number)
            };
            let Ok(mut connection) = Connection::open_from(source, field.server).await else {
                field.tally.answered("not connected");
                return sleep(Duration::from_millis(100)).await;
            };
            field.tally.connected();
            field.tally.holds(open.fetch_add(1, Ordering::Relaxed) + 1);
            if number.is_multiple_of(3) {
                let _ = connection
                    .send(b"POST /create/job HTTP/1.1\r\nHost: ")
                    .await;
            }
            if connection.is_closed_within(Duration::from_secs(3600)).await {
                field.tally.answered("closed by the server");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        }
    };
    field.again_and_again(SILENT, holder).await;
}

/// Each is closed in one of the ways there are.
pub(super) async fn flood(field: Field) {
    let visitor = |field: Field, number: usize| async move {
        for turn in 0..100 {
            if field.is_over() {
                return;
            }
            let source = stranger(1 + number * 100 + turn);
            let Ok(mut connection) = Connection::open_from(source, field.server).await else {
                field.tally.answered("not connected");
                continue;
            };
            field.tally.connected();
            let _ = match turn % 4 {
                0 => Ok(()),
                1 => connection.stream.shutdown().await,
                2 => {
                    connection
                        .send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                        .await
                }
                _ => connection.send(b"GET / HTTP/1.1\r\n").await,
            };
            if turn % 5 == 0 {
                // Closed by a reset, with nothing left behind on either side.
                let _ = connection.stream.set_zero_linger();
            }
        }
    };
    field.again_and_again(OPENERS, visitor).await;
}

/// One of many addresses, since each has only so many ports.
fn stranger(number: usize) -> IpAddr {
    let number = number % 1000;
    let (high, low) = (number / 250, number % 250);
    let byte = |n: usize| u8::try_from(n).unwrap_or(0);
    IpAddr::V4(Ipv4Addr::new(127, 1, byte(high), byte(low + 1)))
}
