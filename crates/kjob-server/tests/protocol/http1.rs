//! HTTP/1.0 and HTTP/1.1 (docs/protocol.md section 2).

use kjob_proto::{Encoding, ShowSystemStatusResponse};
use tokio::io::AsyncReadExt;

use crate::raw::{encode, in_time, map, post_head};
use crate::server::TestServer;

const STATUS: &str = "/show/system/status";
const JSON: &str = "application/json";

fn ok(reply: &crate::raw::Reply) {
    let response = reply.open::<ShowSystemStatusResponse>(Encoding::Json);
    assert!(response.unwrap().status_map.contains_key("system"));
}

/// As the C++ client does: no keep-alive, and the body is read to the end of the stream.
#[tokio::test]
async fn http_1_0_gets_a_length_and_a_close() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send("POST /show/system/status HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    let reply = raw.reply().await;
    assert!(reply.line.starts_with("HTTP/1.0 200"), "{}", reply.line);
    ok(&reply);
    raw.assert_closed().await;
}

#[tokio::test]
async fn http_1_0_may_ask_to_be_kept() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let request = "POST /show/system/status HTTP/1.0\r\nConnection: keep-alive\r\n\
                   Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    for _ in 0..2 {
        raw.send(request).await;
        ok(&raw.reply().await);
    }
}

#[tokio::test]
async fn http_1_1_is_kept_until_it_asks_for_a_close() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for _ in 0..3 {
        raw.post(STATUS, JSON, b"{}").await;
        ok(&raw.reply().await);
    }
    let more = "Connection: close\r\nContent-Length: 2";
    raw.send(post_head(STATUS, JSON, more) + "{}").await;
    ok(&raw.reply().await);
    raw.assert_closed().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let mut all = Vec::new();
    for path in [STATUS, "/get/job", STATUS, "/nowhere", STATUS] {
        let head = post_head(path, JSON, "Content-Length: 2");
        all.extend_from_slice(head.as_bytes());
        all.extend_from_slice(b"{}");
    }
    raw.send(all).await;
    for expected in [None, Some("job 0 not found"), None, Some("/nowhere"), None] {
        let reply = raw.reply().await;
        match expected {
            None => ok(&reply),
            Some(words) => {
                let message = reply.plain_error(Encoding::Json);
                assert!(message.contains(words), "{message}");
            }
        }
    }
}

/// The first of two pipelined requests waits for a job; the second is not answered before it.
#[tokio::test]
async fn a_pipelined_request_waits_for_a_long_poll() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let job = raw.submit("/gate", b"x", &[]).await.unwrap();
    server.wait_begun().await;
    let poll = kjob_proto::GetJobRequest {
        job_id: job.job_id,
        options: map(&[("wait_ms", "30000")]),
    };
    raw.post("/get/job", JSON, &encode(Encoding::Json, &poll))
        .await;
    raw.post(STATUS, JSON, b"{}").await;
    server.gate.add_permits(1);
    let first = raw.reply().await;
    let job = first.open::<kjob_proto::GetJobResponse>(Encoding::Json);
    assert_eq!(job.unwrap().job_status, "DONE");
    ok(&raw.reply().await);
}

/// As the JavaScript client on Node sends; cut at every place, so that no cut goes wrong.
#[tokio::test]
async fn chunked_requests_are_accepted_however_they_are_cut() {
    let server = TestServer::start().await;
    let request = post_head("/get/job", JSON, "Transfer-Encoding: chunked")
        + "1\r\n{\r\n9;ext=1\r\n\"job_id\":\r\n2\r\n77\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n";
    let mut raw = server.connect().await;
    for cut in 0..request.len() {
        let (before, after) = request.split_at(cut);
        raw.send(before).await;
        tokio::task::yield_now().await;
        raw.send(after).await;
        let message = raw.reply().await.plain_error(Encoding::Json);
        assert_eq!(message, "job 77 not found", "cut at {cut}");
    }
}

#[tokio::test]
async fn byte_by_byte_is_as_good_as_at_once() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for byte in (post_head(STATUS, JSON, "Content-Length: 2") + "{}").bytes() {
        raw.send([byte]).await;
        tokio::task::yield_now().await;
    }
    ok(&raw.reply().await);
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let more = "Expect: 100-continue\r\nContent-Length: 2";
    raw.send(post_head(STATUS, JSON, more)).await;
    assert_eq!(raw.bare_reply(false).await.status, 100);
    raw.send("{}").await;
    ok(&raw.reply().await);
    raw.assert_usable().await;
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody_else() {
    let server = TestServer::start().await;
    let mut other = server.connect().await;
    for garbage in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "POST / HTTP/9.9\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n".to_owned(),
        post_head(STATUS, JSON, "Content-Length: 2\r\nContent-Length: 3"),
        post_head(STATUS, JSON, "Content-Length: x"),
        post_head(STATUS, JSON, "Transfer-Encoding: gzip"),
        "PRI * HTTP/2.0\r\n\r\nno\r\n\r\n".to_owned(),
    ] {
        let mut raw = server.connect().await;
        raw.send(&garbage).await;
        let mut answer = Vec::new();
        // It may be told why, and it is cut off.
        let read = in_time("the close", raw.stream.read_to_end(&mut answer)).await;
        if read.is_ok() && answer.starts_with(b"HTTP/1") {
            assert!(
                answer.starts_with(b"HTTP/1.1 400"),
                "{garbage:?}: {answer:?}"
            );
        }
        other.assert_usable().await;
    }
}

/// A head is bounded at 64 KiB by default; hyper answers it itself.
#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let server = TestServer::with_options(|options| options.max_header_bytes = 16 << 10).await;
    let mut raw = server.connect().await;
    let fill = |len: usize| format!("X-Fill: {}\r\nContent-Length: 2", "x".repeat(len));
    raw.send(post_head(STATUS, JSON, &fill(15 << 10)) + "{}")
        .await;
    ok(&raw.reply().await);
    raw.send(post_head(STATUS, JSON, &fill(17 << 10)) + "{}")
        .await;
    assert_eq!(raw.bare_reply(true).await.status, 431);
}

#[tokio::test]
async fn a_query_string_changes_nothing() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.post("/show/system/status?x=1", JSON, b"{}").await;
    ok(&raw.reply().await);
}

#[tokio::test]
async fn unknown_headers_disturb_nothing() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let more = "Authorization: Bearer undefined\r\nX-Kinetica-Group: REPL_SYNC\r\n\
                X-Kinetica-Session: 7\r\nAccept: application/x-snappy\r\n\
                Accept-Encoding: gzip, deflate\r\nContent-Length: 2";
    raw.send(post_head(STATUS, JSON, more) + "{}").await;
    let reply = raw.reply().await;
    ok(&reply);
    assert_eq!(reply.header("content-encoding"), None);
}

#[tokio::test]
async fn past_the_number_of_connections_new_ones_wait_for_an_old_one_to_end() {
    let server = TestServer::with_options(|options| options.max_connections = 2).await;
    let mut first = server.connect().await;
    first.assert_usable().await;
    let mut second = server.connect().await;
    second.assert_usable().await;
    let mut third = server.connect().await;
    third.post(STATUS, JSON, b"{}").await;
    // Those that are in go on, while the third is not even read.
    for _ in 0..20 {
        first.assert_usable().await;
        second.assert_usable().await;
    }
    assert_eq!(
        third.stream.try_read(&mut [0]).map_err(|e| e.kind()),
        Err(std::io::ErrorKind::WouldBlock)
    );
    drop(first);
    ok(&third.reply().await);
}
