//! More connections and requests than there is room for.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use kjob_proto::{Encoding, Envelope, GetJobRequest, Limits, Record};
use tokio::io::AsyncReadExt;

use crate::http2::{connect, request};
use crate::raw::{Raw, in_time, map};
use crate::server::TestServer;

/// Strangers that connect and say nothing once held all places until their time was up, and nobody
/// else got in.
#[tokio::test]
async fn silent_strangers_keep_nobody_out() {
    let server = TestServer::with_options(|options| {
        options.max_connections = 2;
        // Their time is not up while this test runs.
        options.header_timeout = Duration::from_secs(600);
    })
    .await;
    let mut silent = [server.connect().await, server.connect().await];
    silent[1].send("POST /create/job HTTP/1.1\r\n").await;
    let mut honest = server.connect().await;
    honest.assert_usable().await;
    let mut also_honest = server.connect().await;
    also_honest.assert_usable().await;
    for stranger in &mut silent {
        stranger.assert_closed().await;
    }
}

#[tokio::test]
async fn a_long_poll_keeps_its_place() {
    let server = TestServer::with_options(|options| options.max_connections = 2).await;
    let mut polling = server.connect().await;
    let job = polling.submit("/gate", b"x", &[]).await.unwrap();
    server.wait_begun().await;
    polling.end_of_unread(job.job_id).await;
    // Each of these needs the one other place, which the one before has not left.
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = server.connect().await;
        other.assert_usable().await;
        others.push(other);
    }
    server.gate.add_permits(1);
    assert_eq!(polling.reply().await.status, 200);
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_no_more() {
    let server = TestServer::with_options(|options| options.max_connections_per_address = 1).await;
    let mut polling = server.connect().await;
    let job = polling.submit("/gate", b"x", &[]).await.unwrap();
    server.wait_begun().await;
    polling.end_of_unread(job.job_id).await;
    // It is not known when the poll is there; until then others take the place that rests.
    in_time("a refusal", async {
        loop {
            let mut other = server.connect().await;
            if is_closed(&mut other).await {
                break;
            }
        }
    })
    .await;
}

/// Whether a request is not answered.
async fn is_closed(raw: &mut Raw) -> bool {
    raw.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    matches!(raw.stream.read(&mut [0]).await, Ok(0) | Err(_))
}

/// Long polls over HTTP/2, a thousand to a connection, once took memory without a bound.
#[tokio::test]
async fn streams_beyond_the_limit_are_asked_to_come_again() {
    let server = TestServer::with_options(|options| options.max_streams = 1).await;
    let mut raw = server.connect().await;
    let job = raw.submit("/gate", b"x", &[]).await.unwrap();
    server.wait_begun().await;
    let poll = GetJobRequest {
        job_id: job.job_id,
        options: map(&[("wait_ms", "30000")]),
    };
    let poll = || request("/get/job", poll.encode_to_bytes());
    let status = || request("/show/system/status", Bytes::from_static(&[0]));
    let sender = connect(&server).await;
    // The connection's first is free, the second takes the one place that there is.
    let first = tokio::spawn(sender.clone().send_request(poll()));
    let second = tokio::spawn(sender.clone().send_request(poll()));
    let ask = |request| in_time("an answer", sender.clone().send_request(request));
    // Until they are there, others are answered.
    let refused = loop {
        let reply = ask(status()).await.unwrap();
        if reply.status() != 200 {
            break reply;
        }
    };
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let envelope = Envelope::decode(Encoding::Binary, body, &Limits::default()).unwrap();
    assert!(
        envelope
            .message
            .starts_with("busy: 1 requests are in progress beside")
    );
    // Whoever has one connection and one request is not in the way.
    raw.assert_usable().await;
    let other = connect(&server).await;
    let reply = in_time("an answer", other.clone().send_request(status())).await;
    assert_eq!(reply.unwrap().status(), 200);

    server.gate.add_permits(1);
    for polling in [first, second] {
        let reply = in_time("the end", polling).await.unwrap().unwrap();
        assert_eq!(reply.status(), 200);
    }
    in_time("room", async {
        while sender
            .clone()
            .send_request(status())
            .await
            .unwrap()
            .status()
            != 200
        {}
    })
    .await;
}
