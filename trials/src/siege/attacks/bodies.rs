//! Bodies that announce more than they are, and ones that are as much as they may be.

use kjob_proto::Encoding;
use tokio::time::sleep;

use super::Field;
use crate::siege::http1::{self, Connection, NoReply};
use crate::siege::owed;

/// How many attack at once.
const ATTACKERS: usize = 200;

/// Bytes that are announced.
const ANNOUNCED: u64 = 1 << 30;

/// The largest body that the server takes.
const LARGEST: usize = 64 << 20;

/// How many of them hold bodies of the largest size but for the last byte: four times the memory
/// that there is for bodies.
const HOLDING: usize = 64;

/// Bytes of a piece of a body.
const PIECE: usize = 256 << 10;

/// Some announce 1 GiB, and some send all but the last byte of as much as they may, and hold it.
pub(super) async fn declared(field: Field) {
    let attacker = |field: Field, number: usize| async move {
        if number < HOLDING {
            hold(&field).await;
        } else {
            announce(&field, number).await;
        }
    };
    field.again_and_again(ATTACKERS, attacker).await;
}

async fn announce(field: &Field, number: usize) {
    let encoding = [Encoding::Json, Encoding::Binary, Encoding::Snappy][number % 3];
    let Ok(mut connection) = Connection::open(field.server).await else {
        return field.tally.answered("not connected");
    };
    field.tally.connected();
    let len = format!("Content-Length: {ANNOUNCED}\r\n");
    let head = http1::head("/create/job", encoding.content_type(), &len);
    let _ = connection.send(head.as_bytes()).await;
    let sent = connection.send(&[0xff; 1024]).await;
    field.tally.sent(1, head.len() + 1024);
    answer(field, &mut connection, encoding, sent.is_ok()).await;
}

async fn hold(field: &Field) {
    let binary = Encoding::Binary;
    let Ok(mut connection) = Connection::open(field.server).await else {
        return field.tally.answered("not connected");
    };
    field.tally.connected();
    let len = format!("Content-Length: {LARGEST}\r\n");
    let head = http1::head("/create/job", binary.content_type(), &len);
    let _ = connection.send(head.as_bytes()).await;
    field.tally.sent(1, head.len());
    let piece = vec![1; PIECE];
    let mut left = LARGEST - 1;
    while left > 0 && !field.is_over() {
        let len = left.min(PIECE);
        if connection.send(&piece[..len]).await.is_err() {
            return answer(field, &mut connection, binary, false).await;
        }
        field.tally.sent(0, len);
        left -= len;
    }
    if left == 0 {
        field
            .tally
            .answered("held in memory, or read and thrown away");
        while !field.is_over() {
            sleep(std::time::Duration::from_millis(100)).await;
        }
        // Ends it, so that what it was answered shows: refused when there was no room for it.
        let _ = connection.send(&[1]).await;
        answer(field, &mut connection, binary, true).await;
    }
}

async fn answer(field: &Field, connection: &mut Connection, encoding: Encoding, was_sent: bool) {
    match connection.reply().await {
        Ok(reply) => match owed::check(&reply, encoding) {
            Ok(()) => field.tally.answered(reply.status.to_string()),
            Err(why) => field.tally.violation(why),
        },
        Err(NoReply::Closed | NoReply::Reset) if !was_sent => field.tally.answered("cut"),
        Err(error) => field.tally.violation(error.to_string()),
    }
}
