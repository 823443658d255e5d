//! Clients that are slow, silent or gone do not hold a connection.

use std::time::Duration;

use kjob_proto::Encoding;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::{in_time, post_head};
use crate::server::TestServer;

const JSON: &str = "application/json";
const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_head_that_does_not_come_closes_the_connection() {
    let server = TestServer::with_options(|options| options.header_timeout = SHORT).await;
    for begin in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /get/job HTTP/1.1\r\nHost: ",
    ] {
        let mut raw = server.connect().await;
        raw.send(begin).await;
        if begin.starts_with("PRI") {
            // HTTP/2 says hello, and goodbye.
            let mut rest = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut raw.stream, &mut rest);
            let _ = in_time("the close", read).await;
        } else {
            raw.assert_closed().await;
        }
    }
}

/// What it speaks is seen once it has said enough, however slowly that comes.
#[tokio::test]
async fn the_first_bytes_may_come_one_by_one() {
    let server = TestServer::start().await;
    let http1 = post_head("/show/system/status", JSON, "Content-Length: 2") + "{}";
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let http2 = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), settings].concat();
    for (said, answer) in [
        (http1.as_bytes(), b"HTTP/1.1 200".as_slice()),
        // Settings, of whatever length.
        (&http2, b"\0\0"),
    ] {
        let mut raw = server.connect().await;
        raw.stream.set_nodelay(true).unwrap();
        let (slow, rest) = said.split_at(6);
        for byte in slow {
            raw.stream.write_all(&[*byte]).await.unwrap();
            // Nothing is waited for: the answer is the same to bytes that come together.
            tokio::time::sleep(SHORT / 20).await;
        }
        raw.stream.write_all(rest).await.unwrap();
        let mut found = vec![0; answer.len()];
        let read = raw.stream.read_exact(&mut found);
        in_time("the answer", read).await.unwrap();
        assert_eq!(found, answer);
    }
}

/// A client that sends a byte now and then is as slow as one that sends none.
#[tokio::test]
async fn a_head_that_drips_is_cut_too() {
    let server = TestServer::with_options(|options| options.header_timeout = SHORT).await;
    let mut raw = server.connect().await;
    raw.assert_usable().await;
    let drip = async {
        loop {
            if tokio::io::AsyncWriteExt::write_all(&mut raw.stream, b"P")
                .await
                .is_err()
            {
                return;
            }
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    in_time("the cut", drip).await;
}

#[tokio::test]
async fn between_requests_the_keep_alive_time_counts_and_not_the_heads() {
    let server = TestServer::with_options(|options| {
        options.header_timeout = SHORT;
        options.keep_alive_timeout = 3 * SHORT;
    })
    .await;
    let mut raw = server.connect().await;
    raw.assert_usable().await;
    let idle = tokio::time::Instant::now();
    raw.assert_closed().await;
    // The server counts in milliseconds, from a moment before this.
    let idle = idle.elapsed() + Duration::from_millis(20);
    assert!(idle >= 3 * SHORT, "closed after {idle:?}");
}

#[tokio::test]
async fn a_long_poll_outlasts_all_of_them() {
    let server = TestServer::with_options(|options| {
        options.header_timeout = SHORT;
        options.keep_alive_timeout = SHORT;
        options.write_timeout = SHORT;
        options.body_idle_timeout = SHORT;
        options.body_timeout = SHORT;
    })
    .await;
    let mut raw = server.connect().await;
    let job = raw.submit("/gate", b"x", &[]).await.unwrap();
    let waited = tokio::time::Instant::now();
    let poll = raw.get(job.job_id, &[("wait_ms", "600")]).await.unwrap();
    assert!(poll.running);
    assert!(waited.elapsed() >= 5 * SHORT);
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_408() {
    let server = TestServer::with_options(|options| options.body_idle_timeout = SHORT).await;
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut raw = server.connect().await;
        raw.send(post_head("/get/job", JSON, framing)).await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, 408);
        assert_eq!(reply.header("connection"), Some("close"));
        let message = reply.plain_error(Encoding::Json);
        assert!(message.contains("0 bytes came"), "{message}");
        raw.assert_closed().await;
    }
}

#[tokio::test]
async fn a_body_that_drips_is_answered_408_when_its_whole_time_is_up() {
    let server = TestServer::with_options(|options| {
        options.body_idle_timeout = 20 * SHORT;
        options.body_timeout = 2 * SHORT;
    })
    .await;
    let mut raw = server.connect().await;
    let len = 1 << 20;
    raw.send(post_head(
        "/get/job",
        JSON,
        &format!("Content-Length: {len}"),
    ))
    .await;
    let drip = async {
        loop {
            raw.send(" ").await;
            tokio::select! {
                reply = raw.stream.readable() => return reply.unwrap(),
                () = tokio::time::sleep(SHORT / 10) => {}
            }
        }
    };
    in_time("an answer", drip).await;
    let reply = raw.reply().await;
    assert_eq!(reply.status, 408);
    reply.plain_error(Encoding::Json);
}

/// The answer is larger than what the sockets buffer, and its reader does not read.
#[tokio::test]
async fn a_client_that_takes_no_bytes_is_cut() {
    let server = TestServer::with_options(|options| options.write_timeout = SHORT).await;
    let mut raw = server.connect().await;
    let big: &'static [u8] = vec![7; 32 << 20].leak();
    let job = raw.submit("/raw", big, &[]).await.unwrap();
    raw.end_of_unread(job.job_id).await;
    server.handle.stop();
    // Were it not cut, the stop would take its own timeout and be noticed as such.
    let stopped = tokio::time::Instant::now();
    in_time("the end", server.serving).await.unwrap();
    assert!(
        stopped.elapsed() < Duration::from_secs(4),
        "{:?}",
        stopped.elapsed()
    );
}

/// A client that goes away while its poll waits frees what it held.
#[tokio::test]
async fn a_poll_ends_with_its_client() {
    let server = TestServer::with_options(|options| options.max_connections = 1).await;
    let mut raw = server.connect().await;
    let job = raw.submit("/gate", b"x", &[]).await.unwrap();
    let request = format!(
        r#"{{"job_id":{},"options":{{"wait_ms":"300000"}}}}"#,
        job.job_id
    );
    raw.post("/get/job", JSON, request.as_bytes()).await;
    drop(raw);
    // There is one place only.
    server.connect().await.assert_usable().await;
}
