//! Server-sent events: a job is followed to its end, also by who was away for a while.

use std::time::Duration;

use serde_json::json;

use crate::ordinary::{Ask, Stream, ask, submitted};
use crate::raw::in_time;
use crate::server::TestServer;

#[tokio::test]
async fn a_job_is_followed_to_its_end() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let id = submitted(
        &mut raw,
        &json!({"endpoint": "/steps", "payload_base64": ""}),
    )
    .await;
    server.wait_begun().await;
    let path = format!("/jobs/{id}/events");
    let (mut stream, status) = Stream::open(server.addr, &path, "Accept: text/event-stream").await;
    assert_eq!(status, 200);
    let first = stream.event().await.unwrap();
    assert_eq!(
        (first.name.as_str(), &first.job["job_id"]),
        ("progress", &json!(id))
    );

    let mut seen = vec![first];
    for _ in 0..3 {
        server.gate.add_permits(1);
        let next = stream.event().await.unwrap();
        seen.push(next);
    }
    let progress: Vec<u64> = seen
        .iter()
        .map(|event| event.job["progress"].as_u64().unwrap())
        .collect();
    assert!(progress.is_sorted_by(|a, b| a < b), "{progress:?}");
    server.gate.add_permits(1);
    let mut end = stream.event().await.unwrap();
    while end.name == "progress" {
        end = stream.event().await.unwrap();
    }
    assert_eq!(
        (end.name.as_str(), &end.job["status"]),
        ("end", &json!("DONE"))
    );
    assert_eq!(end.job["links"]["result"], format!("/jobs/{id}/result"));
    assert!(
        stream.event().await.is_none(),
        "nothing comes after the end"
    );

    // Who has seen a step is told what came later, once; who has seen the end, not to come back.
    let resumed = format!("Last-Event-ID: {}", seen[1].id);
    let (mut stream, _) = Stream::open(server.addr, &path, &resumed).await;
    assert_eq!(stream.event().await.unwrap().name, "end");
    assert!(stream.event().await.is_none());
    let resumed = format!("Last-Event-ID: {}", end.id);
    let (_, status) = Stream::open(server.addr, &path, &resumed).await;
    assert_eq!(status, 204);
}

#[tokio::test]
async fn what_was_seen_is_not_told_again() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let id = submitted(
        &mut raw,
        &json!({"endpoint": "/steps", "payload_base64": ""}),
    )
    .await;
    let path = format!("/jobs/{id}/events");
    server.wait_begun().await;
    let (mut stream, _) = Stream::open(server.addr, &path, "Accept: */*").await;
    let first = stream.event().await.unwrap();
    drop(stream);
    // What is no id of this job's counts as nothing seen.
    for odd in ["", "x", "281474976710656", "-1"] {
        let more = format!("Last-Event-ID: {odd}");
        let (mut stream, status) = Stream::open(server.addr, &path, &more).await;
        assert_eq!(status, 200, "{odd}");
        assert_eq!(stream.event().await.unwrap().id, first.id);
    }
    let (mut stream, _) =
        Stream::open(server.addr, &path, &format!("Last-Event-ID: {}", first.id)).await;
    server.gate.add_permits(1);
    let next = stream.event().await.unwrap();
    assert!(next.job["progress"].as_u64() > first.job["progress"].as_u64());
    let cancel = Ask::new("DELETE", &format!("/jobs/{id}"), "X-Y: z", b"");
    assert_eq!(ask(&mut raw, cancel).await.status, 202);
}

/// Proxies end what is silent, and a client that takes nothing is cut: so there is always something.
#[tokio::test]
async fn silence_is_broken_by_comments() {
    let server =
        TestServer::with_options(|options| options.write_timeout = Duration::from_millis(200))
            .await;
    let mut raw = server.connect().await;
    let id = submitted(
        &mut raw,
        &json!({"endpoint": "/gate", "payload_base64": ""}),
    )
    .await;
    server.wait_begun().await;
    let (mut stream, _) =
        Stream::open(server.addr, &format!("/jobs/{id}/events"), "Accept: */*").await;
    stream.event().await.unwrap();
    let mut comments = 0;
    while comments < 5 {
        comments += usize::from(stream.line().await.unwrap() == ":");
    }
    // The stream has outlived the time for a client that takes nothing.
    server.gate.add_permits(1);
    assert_eq!(stream.event().await.unwrap().name, "end");
}

#[tokio::test]
async fn a_stream_ends_with_the_server() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let id = submitted(
        &mut raw,
        &json!({"endpoint": "/gate", "payload_base64": ""}),
    )
    .await;
    server.wait_begun().await;
    let (mut stream, _) =
        Stream::open(server.addr, &format!("/jobs/{id}/events"), "Accept: */*").await;
    stream.event().await.unwrap();
    server.handle.stop();
    // It is ended, and not cut.
    while stream.line().await.expect("the last chunk") != "0" {}
    in_time("the end of the server", server.serving)
        .await
        .unwrap();
}
