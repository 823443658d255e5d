//! Requests whose length can be read in two ways.
//!
//! Behind a proxy that reads them the other way, the rest of one would be the beginning of somebody
//! else's request. So each is refused, or is read in one way only: the smuggled request, which asks
//! for a page that shows, is never answered.

use std::time::Duration;

use super::Field;
use crate::siege::http1::{Connection, NoReply, Reply};

/// What is smuggled: only a request that was read as one is answered with this path in it.
const SMUGGLED: &str = "GET /smuggled-request HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// How long to look for an answer too many.
const LOOK: Duration = Duration::from_millis(50);

/// All forms in turn, again and again.
pub(super) async fn smuggling(field: Field) {
    let forms = forms();
    let attacker = move |field: Field, number: usize| {
        let forms = forms.clone();
        async move {
            for (what, request) in forms.iter().cycle().skip(number).take(forms.len()) {
                if field.is_over() {
                    return;
                }
                one(&field, what, request).await;
            }
        }
    };
    field.again_and_again(10, attacker).await;
}

fn forms() -> Vec<(&'static str, String)> {
    let len = SMUGGLED.len();
    let head = "POST /show/system/status HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let chunked_then = |headers: &str| format!("{head}{headers}\r\n0\r\n\r\n{SMUGGLED}");
    let counted = |headers: &str| format!("{head}{headers}\r\n{SMUGGLED}");
    vec![
        (
            "CL and TE",
            chunked_then(&format!(
                "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n",
                len + 5
            )),
        ),
        (
            "TE and CL",
            chunked_then(&format!(
                "Transfer-Encoding: chunked\r\nContent-Length: {}\r\n",
                len + 5
            )),
        ),
        (
            "two lengths",
            counted(&format!("Content-Length: 0\r\nContent-Length: {len}\r\n")),
        ),
        (
            "a list of lengths",
            counted(&format!("Content-Length: 0, {len}\r\n")),
        ),
        ("a signed length", counted("Content-Length: +0\r\n")),
        ("a length with a blank", counted("Content-Length : 0\r\n")),
        ("a hexadecimal length", counted("Content-Length: 0x0\r\n")),
        ("a negative length", counted("Content-Length: -1\r\n")),
        ("an obsolete fold", counted("Content-Length:\r\n 0\r\n")),
        (
            "a coding before a name",
            chunked_then("Transfer-Encoding: identity, chunked, x\r\n"),
        ),
        (
            "chunked twice",
            chunked_then("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"),
        ),
        (
            "a folded coding",
            chunked_then("Transfer-Encoding:\r\n chunked\r\n"),
        ),
        (
            "a tabbed coding",
            chunked_then("Transfer-Encoding: \x0bchunked\r\n"),
        ),
        (
            "a name with a blank",
            chunked_then("Transfer-Encoding : chunked\r\n"),
        ),
        ("chunked in HTTP/1.0", {
            let head = head.replace("HTTP/1.1", "HTTP/1.0");
            format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}")
        }),
        (
            "a bare CR",
            counted("X: y\rContent-Length: 0\r\nContent-Length: 9\r\n"),
        ),
        ("a NUL", counted("X: \0\r\nContent-Length: 0\r\n")),
        ("no version", format!("GET /\r\n\r\n{SMUGGLED}")),
        (
            "two requests' lines",
            format!("GET / HTTP/1.1 \r\nHost: localhost\r\n\r\n{SMUGGLED}"),
        ),
    ]
}

/// Each form has to close the connection, refuse it, or be followed by nothing: forms that leave the
/// rest to be read as a request of its own are for the checks below to allow by name.
async fn one(field: &Field, what: &str, request: &str) {
    let Ok(mut connection) = Connection::open(field.server).await else {
        return field.tally.answered("not connected");
    };
    field.tally.connected();
    field.tally.sent(1, request.len());
    let _ = connection.send(request.as_bytes()).await;
    let first = match connection.reply().await {
        Ok(reply) => reply,
        Err(NoReply::Closed | NoReply::Reset) => return field.tally.answered("closed"),
        Err(error) => return field.tally.violation(format!("{what}: {error}")),
    };
    field.tally.answered(first.status.to_string());
    if is_smuggled(&first) {
        return field
            .tally
            .violation(format!("{what}: the first answer is to the second"));
    }
    let second = tokio::time::timeout(LOOK, connection.reply()).await;
    if let Ok(Ok(second)) = second
        && is_smuggled(&second)
        && first.status == 200
    {
        field
            .tally
            .violation(format!("{what}: what was smuggled was answered"));
    }
}

fn is_smuggled(reply: &Reply) -> bool {
    String::from_utf8_lossy(&reply.body).contains("/smuggled-request")
}
