//! Endpoints called at their own paths: the answer is the result, or where it will be.

use kjob_proto::{Encoding, Envelope, Limits, Record};
use serde_json::json;

use crate::ordinary::{Ask, ask, problem, submitted};
use crate::raw::{Raw, in_time};
use crate::server::TestServer;

const JSON: &str = "Content-Type: application/json";

/// A call of an endpoint with JSON.
fn call(path: &str, more: &str, body: &str) -> Ask {
    let more = format!("{JSON}{}{more}", if more.is_empty() { "" } else { "\r\n" });
    Ask::new("POST", path, &more, body.as_bytes())
}

/// The statuses of all jobs, by rising id.
async fn statuses(raw: &mut Raw) -> Vec<String> {
    let page = ask(raw, Ask::get("/jobs")).await.json();
    let jobs = page["jobs"].as_array().unwrap().iter();
    jobs.map(|job| job["status"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_call_is_answered_with_the_result_as_it_is() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let reply = ask(&mut raw, call("/echo", "", r#"{"message":"hi"}"#)).await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(reply.json(), json!({"message": "hi"}));
    for (content_type, answered) in [
        ("text/csv", "application/octet-stream"),
        ("application/octet-stream", "application/octet-stream"),
        (
            "application/vnd.some+json; charset=utf-8",
            "application/json",
        ),
    ] {
        let more = format!("Content-Type: {content_type}");
        let reply = ask(&mut raw, Ask::new("POST", "/raw", &more, b"[1]")).await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some(answered))
        );
        assert_eq!(&reply.body[..], b"[1]");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
}

#[tokio::test]
async fn a_call_that_fails_is_a_bad_gateway() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let reply = ask(
        &mut raw,
        Ask::new("POST", "/fail", "Content-Type: x/y", b"no such table"),
    )
    .await;
    assert_eq!(problem(reply, 502, "job-failed")["detail"], "no such table");
    let reply = ask(&mut raw, call("/echo", "", r#"{"message":7}"#)).await;
    problem(reply, 422, "invalid-payload");
    // What curl says unless it is told otherwise.
    let form = "Content-Type: application/x-www-form-urlencoded";
    let body = br#"{"message":"hi"}"#;
    let reply = ask(&mut raw, Ask::new("POST", "/echo", form, body)).await;
    let told = problem(reply, 415, "media-type")["detail"].to_string();
    assert!(told.contains("application/json"), "{told}");
    assert_eq!(
        ask(&mut raw, Ask::new("POST", "/raw", form, body))
            .await
            .status,
        200
    );
    let reply = ask(&mut raw, Ask::get("/echo")).await;
    assert_eq!(reply.header("allow"), Some("POST"));
    problem(reply, 405, "method-not-allowed");
    // Nobody would see it.
    let reply = ask(&mut raw, call("/echo?x=1", "", r#"{"message":""}"#)).await;
    problem(reply, 422, "invalid-parameter");
}

#[tokio::test]
async fn a_call_that_was_cancelled_by_somebody_says_so() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send(call("/gate", "", "1").bytes()).await;
    server.wait_begun().await;
    let mut other = server.connect().await;
    let cancelled = ask(&mut other, Ask::new("DELETE", "/jobs/1", "X-Y: z", b"")).await;
    assert_eq!(cancelled.status, 202);
    assert_eq!(
        problem(raw.reply().await, 409, "job-cancelled")["job_id"],
        1
    );
}

#[tokio::test]
async fn a_caller_who_goes_away_ends_the_call() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send(call("/gate", "", "1").bytes()).await;
    server.wait_begun().await;
    drop(raw);
    let mut other = server.connect().await;
    let job = ask(&mut other, Ask::get("/jobs/1?wait=30")).await.json();
    assert_eq!(job["status"], "CANCELLED");
}

/// Whoever gave a key comes back with it, so the call goes on, and its result is there for the next.
#[tokio::test]
async fn a_call_with_a_key_is_made_once() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send(call("/gate", "Idempotency-Key: \"k-1\"", "1").bytes())
        .await;
    server.wait_begun().await;
    drop(raw);
    let mut raw = server.connect().await;
    raw.send(call("/gate", "Idempotency-Key: k-1", "1").bytes())
        .await;
    raw.assert_open().await;
    server.gate.add_permits(1);
    let reply = raw.reply().await;
    assert_eq!((reply.status, &reply.body[..]), (200, &b"1"[..]));
    let again = ask(&mut raw, call("/gate", "Idempotency-Key: k-1", "1")).await;
    assert_eq!((again.status, &again.body[..]), (200, &b"1"[..]));
    assert_eq!(statuses(&mut raw).await, ["DONE"]);

    let other = ask(&mut raw, call("/gate", "Idempotency-Key: k-1", "2")).await;
    assert_eq!(problem(other, 409, "tag-conflict")["job_id"], 1);
    let bad = ask(&mut raw, call("/gate", "Idempotency-Key: a b", "2")).await;
    assert_eq!(
        problem(bad, 422, "invalid-parameter")["parameter"],
        "Idempotency-Key"
    );
}

#[tokio::test]
async fn a_call_alone_is_dropped_once_it_was_answered() {
    let server =
        TestServer::with_engine(|engine| engine.remove_grace = std::time::Duration::ZERO).await;
    let mut raw = server.connect().await;
    ask(&mut raw, call("/echo", "", r#"{"message":"hi"}"#)).await;
    in_time("the removal", async {
        while !statuses(&mut raw).await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_caller_may_prefer_not_to_wait() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let reply = ask(&mut raw, call("/gate", "Prefer: respond-async", "1")).await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (202, Some("/jobs/1"))
    );
    assert_eq!(reply.header("preference-applied"), Some("respond-async"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.json()["endpoint"], "/gate");
    // It goes on without its caller.
    server.wait_begun().await;
    drop(raw);
    let mut raw = server.connect().await;
    server.gate.add_permits(1);
    let job = ask(&mut raw, Ask::get("/jobs/1?wait=30")).await.json();
    assert_eq!(job["status"], "DONE");

    // A wait that is long enough gives the result, and one that is not the job.
    server.gate.add_permits(1);
    let reply = ask(
        &mut raw,
        call("/gate", "Prefer: respond-async, wait=30", "2"),
    )
    .await;
    assert_eq!((reply.status, &reply.body[..]), (200, &b"2"[..]));
    assert_eq!(reply.header("preference-applied"), Some("wait=30"));
    let reply = ask(
        &mut raw,
        call("/gate", "Prefer: wait=0, respond-async", "3"),
    )
    .await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (202, Some("/jobs/3"))
    );
    assert_eq!(
        reply.header("preference-applied"),
        Some("respond-async, wait=0")
    );
}

/// A page of any site may send these without asking. What says where it is from is answered, but not
/// for these.
#[tokio::test]
async fn what_a_page_sends_unasked_calls_nothing() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded; charset=utf-8",
        "MULTIPART/form-data",
        "",
    ] {
        let more = match content_type {
            "" => "Origin: http://test".to_owned(),
            _ => format!("Origin: http://test\r\nContent-Type: {content_type}"),
        };
        let reply = ask(&mut raw, Ask::new("POST", "/raw", &more, b"x")).await;
        problem(reply, 415, "media-type");
    }
    let more = "Origin: http://evil.example\r\nContent-Type: application/json";
    problem(
        ask(&mut raw, Ask::new("POST", "/raw", more, b"1")).await,
        403,
        "foreign-origin",
    );
    assert_eq!(statuses(&mut raw).await, [] as [&str; 0]);
    let more = "Origin: http://test\r\nContent-Type: application/json";
    assert_eq!(
        ask(&mut raw, Ask::new("POST", "/raw", more, b"1"))
            .await
            .status,
        200
    );
}

/// The client of the wire protocol sends Avro, or says what it is.
#[tokio::test]
async fn a_client_of_the_wire_is_answered_in_an_envelope() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let avro = b"\x04hi";
    let packed = kjob_proto::snappy::compress(avro);
    let official = "User-Agent: kinetica-api-python/7.2.3.13";
    for (encoding, body, more) in [
        (Encoding::Binary, &avro[..], "X-Y: z"),
        (Encoding::Snappy, &packed[..], "X-Y: z"),
        (Encoding::Json, br#"{"message":"hi"}"#, official),
    ] {
        let more = format!("Content-Type: {}\r\n{more}", encoding.content_type());
        let reply = ask(&mut raw, Ask::new("POST", "/echo", &more, body)).await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some(encoding.reply_content_type()))
        );
        let envelope = Envelope::decode(encoding.reply(), reply.body, &Limits::default()).unwrap();
        assert_eq!(
            (&*envelope.status, &*envelope.data_type),
            ("OK", "echo_response")
        );
        match encoding {
            Encoding::Json => assert_eq!(envelope.data_str, r#"{"message":"hi"}"#),
            _ => assert_eq!(&envelope.data[..], avro),
        }
        // Its refusals are plain to it, too.
        let reply = ask(&mut raw, Ask::new("POST", "/echo", &more, b"\xff")).await;
        assert_eq!(reply.status, 400);
        reply.plain_error(encoding);
    }
    // Who prefers something is no such client.
    let more = "Content-Type: application/octet-stream\r\nPrefer: respond-async";
    let reply = ask(&mut raw, Ask::new("POST", "/echo", more, avro)).await;
    assert_eq!(reply.status, 202);
}

#[tokio::test]
async fn a_routed_path_does_not_hide_ours() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let id = submitted(&mut raw, &json!({"endpoint": "/raw", "payload": 1})).await;
    assert_eq!(
        ask(&mut raw, Ask::get(&format!("/jobs/{id}"))).await.status,
        200
    );
    problem(
        ask(&mut raw, call("/jobs", "", "1")).await,
        400,
        "invalid-body",
    );
}
