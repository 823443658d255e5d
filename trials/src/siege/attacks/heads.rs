//! Floods of headers.

use std::fmt::Write;

use kjob_proto::Encoding;

use super::Field;
use crate::siege::http1::{self, Connection, NoReply};
use crate::siege::owed;

/// How many attack at once.
const ATTACKERS: usize = 50;

/// Heads of all bad kinds in turn.
pub(super) async fn floods(field: Field) {
    let kinds = kinds();
    let attacker = move |field: Field, number: usize| {
        let kinds = kinds.clone();
        async move {
            for (what, more, is_ok) in kinds.iter().cycle().skip(number).take(kinds.len()) {
                if field.is_over() {
                    return;
                }
                one(&field, what, more, *is_ok).await;
            }
        }
    };
    field.again_and_again(ATTACKERS, attacker).await;
}

/// A name, the lines, and whether the request is to be done all the same.
fn kinds() -> Vec<(&'static str, String, bool)> {
    let lines = |count: usize, len: usize| {
        (0..count).fold(String::new(), |mut lines, n| {
            let _ = write!(lines, "X-{n}: {}\r\n", "v".repeat(len));
            lines
        })
    };
    let same = |count: usize, line: &str| line.repeat(count);
    vec![
        ("90 small", lines(90, 10), true),
        ("90 of 500 bytes", lines(90, 500), true),
        ("1,000 small", lines(1000, 1), false),
        ("one of 60 KiB", lines(1, 60 << 10), true),
        ("one of 100 KiB", lines(1, 100 << 10), false),
        ("10 MiB", lines(10_000, 1 << 10), false),
        (
            "a name of 100 KiB",
            format!("{}: v\r\n", "n".repeat(100 << 10)),
            false,
        ),
        ("90 of one name", same(90, "X-Same: v\r\n"), true),
        ("90 Hosts", same(90, "Host: localhost\r\n"), true),
        (
            "90 Authorizations",
            same(90, "Authorization: Basic eDp4\r\n"),
            true,
        ),
        ("a control byte", "X: a\x01b\r\n".to_owned(), false),
        ("no colon", "what is this\r\n".to_owned(), false),
    ]
}

async fn one(field: &Field, what: &str, more: &str, is_ok: bool) {
    let Ok(mut connection) = Connection::open(field.server).await else {
        return field.tally.answered("not connected");
    };
    field.tally.connected();
    let json = Encoding::Json;
    let more = format!("{more}Content-Length: 2\r\n");
    let request = http1::head("/show/system/status", json.content_type(), &more) + "{}";
    field.tally.sent(1, request.len());
    // The server may answer and close before it has all.
    let _ = connection.send(request.as_bytes()).await;
    match connection.reply().await {
        // What is no request is refused without a body: there is no encoding to refuse it in.
        Ok(reply) if matches!(reply.status, 400 | 431) && reply.body.is_empty() && !is_ok => {
            field.tally.answered(reply.status.to_string());
        }
        Ok(reply) => match owed::check(&reply, json) {
            Ok(()) => field.tally.answered(reply.status.to_string()),
            Err(why) => field.tally.violation(format!("{what}: {why}")),
        },
        Err(NoReply::Closed | NoReply::Reset) if !is_ok => field.tally.answered("closed"),
        Err(error) => field.tally.violation(format!("{what}: {error}")),
    }
}
