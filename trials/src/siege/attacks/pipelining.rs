//! Requests that do not wait for answers.

use kjob_proto::Encoding;
use tokio::time::{Duration, timeout};

use super::Field;
use crate::siege::http1::{self, Connection};
use crate::siege::owed;

/// Requests on a connection.
const REQUESTS: usize = 10_000;

/// How many attack at once.
const ATTACKERS: usize = 20;

/// How long the server may keep a request from being taken before the attacker gives in and reads.
const STUCK: Duration = Duration::from_millis(500);

/// Sends as much as is taken, reads nothing until then, and reads all after it: each answer is owed.
pub(super) async fn unread(field: Field) {
    let attacker = |field: Field, _| async move {
        let Ok(mut connection) = Connection::open(field.server).await else {
            return field.tally.answered("not connected");
        };
        field.tally.connected();
        let json = Encoding::Json;
        let request = http1::post("/show/system/properties", json.content_type(), b"{}");
        let batch = request.repeat(100);
        let mut taken = 0;
        while taken < REQUESTS && !field.is_over() {
            let sent = timeout(STUCK, connection.send(&batch)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
            taken += 100;
        }
        field.tally.sent(taken as u64, taken * request.len());
        for _ in 0..taken {
            match connection.reply().await {
                Ok(reply) => match owed::check(&reply, json) {
                    Ok(()) => field.tally.answered(reply.status.to_string()),
                    Err(why) => field.tally.violation(why),
                },
                Err(error) => {
                    field
                        .tally
                        .violation(format!("an answer is missing: {error}"));
                    return;
                }
            }
        }
    };
    field.again_and_again(ATTACKERS, attacker).await;
}
