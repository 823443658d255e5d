//! What every answer owes to who asked.

use kjob_proto::failover::PHRASES;
use kjob_proto::{Encoding, Envelope, Limits, Record};

use super::http1::Reply;

/// Statuses that a wire endpoint may answer with while the server is well.
const STATUSES: [u16; 9] = [200, 400, 401, 403, 405, 408, 413, 415, 429];

/// Checks the answer of a wire endpoint to a request in `encoding`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(reply: &Reply, encoding: Encoding) -> Result<(), String> {
    let status = reply.status;
    if !STATUSES.contains(&status) {
        return Err(format!("status {status}"));
    }
    if status == 429 && !says_when_to_come_back(reply) {
        return Err("429 without Retry-After".to_owned());
    }
    let seconds = reply.header("x-request-time-secs").unwrap_or_default();
    if seconds.parse::<f64>().is_err() {
        return Err(format!("x-request-time-secs is {seconds:?}"));
    }
    let content_type = reply.header("content-type").unwrap_or_default();
    if content_type != encoding.reply_content_type() {
        return Err(format!("{status} in {content_type:?} to {encoding}"));
    }
    let limits = Limits::default().with_max_body(usize::MAX);
    let envelope = Envelope::decode(encoding.reply(), reply.body.clone(), &limits)
        .map_err(|error| format!("{status} without an envelope in {encoding}: {error}"))?;
    let is_ok = envelope.status == "OK";
    if is_ok != (status == 200) || !(is_ok || envelope.status == "ERROR") {
        return Err(format!("{status} with envelope status {}", envelope.status));
    }
    if is_ok {
        return Ok(());
    }
    if envelope.data_type != "none" || envelope.message.is_empty() {
        return Err(format!("{status} with a message that tells nothing"));
    }
    match PHRASES
        .iter()
        .find(|phrase| envelope.message.contains(*phrase))
    {
        Some(phrase) => Err(format!("{status} with the failover phrase {phrase:?}")),
        None => Ok(()),
    }
}

/// Whether there is a `Retry-After` of at least a second.
pub(crate) fn says_when_to_come_back(reply: &Reply) -> bool {
    let after = reply.header("retry-after").map(str::parse::<u32>);
    matches!(after, Some(Ok(1..)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kjob_proto::{reply_error, reply_ok};

    use super::*;

    fn reply(status: u16, headers: &[(&str, &str)], body: Bytes) -> Reply {
        Reply::made_up(status, headers, body)
    }

    fn error(encoding: Encoding) -> Bytes {
        reply_error("no", encoding).into_iter().flatten().collect()
    }

    #[test]
    fn an_answer_without_anything_that_is_owed_is_found() {
        let json = ("content-type", "application/json");
        let good = error(Encoding::Json);
        assert_eq!(
            check(&reply(400, &[json], good.clone()), Encoding::Json),
            Ok(())
        );
        let ok = kjob_proto::CreateJobResponse::default();
        let ok: Bytes = reply_ok(&ok, Encoding::Json)
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(
            check(&reply(200, &[json], ok.clone()), Encoding::Json),
            Ok(())
        );

        let forged = String::from_utf8_lossy(&good).replace("\"no\"", "\"Connection reset\"");
        for (reply, why) in [
            (reply(400, &[json], Bytes::new()), "without an envelope"),
            (reply(400, &[json], ok), "envelope status OK"),
            (reply(200, &[json], good.clone()), "envelope status ERROR"),
            (reply(500, &[json], good.clone()), "status 500"),
            (reply(429, &[json], good.clone()), "Retry-After"),
            (
                reply(429, &[json, ("retry-after", "0")], good.clone()),
                "Retry-After",
            ),
            (reply(400, &[], good.clone()), "in \"\""),
            (reply(400, &[json], forged.into()), "failover phrase"),
        ] {
            let found = check(&reply, Encoding::Json).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
        let binary = reply(400, &[json], error(Encoding::Binary));
        assert!(
            check(&binary, Encoding::Binary).is_err(),
            "the type is another"
        );
        let mut mute = reply(400, &[json], good);
        mute.headers.remove(0);
        assert!(check(&mute, Encoding::Json).is_err());
    }
}
