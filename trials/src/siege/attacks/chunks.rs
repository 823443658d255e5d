//! Chunked bodies, abused.

use kjob_proto::Encoding;

use super::Field;
use crate::siege::http1::{self, Connection, NoReply};
use crate::siege::owed;

/// How many attack at once.
const ATTACKERS: usize = 20;

/// One-byte chunks of one body.
const SMALL_CHUNKS: usize = 200_000;

/// Bytes that an attacker sends of something that has no end.
const ENDLESS: usize = 8 << 20;

/// What is sent, and whether it is a request that is to be answered.
enum Kind {
    /// A body in one-byte chunks: legal.
    Small,
    /// A chunk whose extension is long.
    Extension,
    /// Trailers, again and again.
    Trailers,
    /// A size of more digits than there are.
    Size,
    /// A size that is no number.
    NoSize,
}

/// All kinds in turn.
pub(super) async fn abuse(field: Field) {
    let attacker = |field: Field, number: usize| async move {
        let kind = match number % 5 {
            0 => Kind::Small,
            1 => Kind::Extension,
            2 => Kind::Trailers,
            3 => Kind::Size,
            _ => Kind::NoSize,
        };
        one(&field, &kind).await;
    };
    field.again_and_again(ATTACKERS, attacker).await;
}

async fn one(field: &Field, kind: &Kind) {
    let Ok(mut connection) = Connection::open(field.server).await else {
        return field.tally.answered("not connected");
    };
    field.tally.connected();
    let json = Encoding::Json;
    let head = http1::head(
        "/get/job",
        json.content_type(),
        "Transfer-Encoding: chunked\r\n",
    );
    let body = match kind {
        Kind::Small => {
            let mut body = b"1\r\n{\r\n".to_vec();
            body.extend(b"1\r\n \r\n".repeat(SMALL_CHUNKS));
            body.extend(b"1\r\n}\r\n0\r\n\r\n");
            body
        }
        Kind::Extension => [&b"1;"[..], &b"x=y;".repeat(ENDLESS / 4)].concat(),
        Kind::Trailers => {
            let mut body = b"2\r\n{}\r\n0\r\n".to_vec();
            body.extend(b"X-Trailer: and another one\r\n".repeat(ENDLESS / 28));
            body
        }
        Kind::Size => b"fffffffffffffffffffff\r\n{}\r\n".to_vec(),
        Kind::NoSize => b"-1\r\n{}\r\n0\r\n\r\n".to_vec(),
    };
    field.tally.sent(1, head.len() + body.len());
    let _ = connection.send(head.as_bytes()).await;
    let sent = connection.send(&body).await;
    match connection.reply().await {
        Ok(reply) => match owed::check(&reply, json) {
            Ok(()) => field.tally.answered(reply.status.to_string()),
            Err(why) => field.tally.violation(why),
        },
        // Cut while it still sent: the answer may be lost to the reset.
        Err(NoReply::Closed | NoReply::Reset) if sent.is_err() => {
            field.tally.answered("cut while sending");
        }
        Err(NoReply::Closed | NoReply::Reset) if !matches!(kind, Kind::Small) => {
            field.tally.answered("closed");
        }
        Err(error) => field.tally.violation(error.to_string()),
    }
}
