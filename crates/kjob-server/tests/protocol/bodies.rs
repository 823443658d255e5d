//! Bodies that are too large, cut short, or not wanted.

use kjob_proto::{Encoding, GetJobResponse, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::{Raw, Reply, in_time, post_head};
use crate::server::TestServer;

const SNAPPY: &str = "application/x-snappy";
const BINARY: &str = "application/octet-stream";
const JSON: &str = "application/json";
const LIMIT: usize = 1 << 20;

async fn limited() -> TestServer {
    TestServer::with_options(|options| {
        options.limits = options
            .limits
            .with_max_body(LIMIT)
            .with_max_decompressed(LIMIT);
    })
    .await
}

async fn refused(raw: &mut Raw, encoding: Encoding, status: u16) -> String {
    let reply = raw.reply().await;
    assert_eq!(reply.status, status);
    reply.plain_error(encoding)
}

#[tokio::test]
async fn the_limit_is_exact_and_the_connection_goes_on() {
    let server = limited().await;
    let mut raw = server.connect().await;
    let fits = [b"{\"job_id\":7}".as_slice(), &vec![b' '; LIMIT - 12]].concat();
    raw.post("/get/job", JSON, &fits).await;
    assert_eq!(
        refused(&mut raw, Encoding::Json, 400).await,
        "job 7 not found"
    );

    raw.post("/get/job", JSON, &[fits.as_slice(), b" "].concat())
        .await;
    let message = refused(&mut raw, Encoding::Json, 413).await;
    assert_eq!(message, "body: 1048577 bytes, limit 1048576");
    raw.assert_usable().await;
}

/// The answer comes before the body does; a client that sends all of it first reads it nevertheless.
#[tokio::test]
async fn an_announced_excess_is_refused_before_it_comes() {
    let server = limited().await;
    let mut raw = server.connect().await;
    let len = 8 * LIMIT;
    raw.send(post_head(
        "/create/job",
        BINARY,
        &format!("Content-Length: {len}"),
    ))
    .await;
    let message = refused(&mut raw, Encoding::Binary, 413).await;
    assert!(
        message.contains("8388608 bytes, limit 1048576"),
        "{message}"
    );
    raw.send(vec![0; len]).await;
    raw.assert_usable().await;
}

#[tokio::test]
async fn one_who_waits_for_100_continue_is_refused_without_sending() {
    let server = limited().await;
    let mut raw = server.connect().await;
    let more = format!("Expect: 100-continue\r\nContent-Length: {}", 2 * LIMIT);
    raw.send(post_head("/create/job", BINARY, &more)).await;
    refused(&mut raw, Encoding::Binary, 413).await;
}

#[tokio::test]
async fn a_chunked_excess_is_refused_when_it_is_one() {
    let server = limited().await;
    let mut raw = server.connect().await;
    raw.send(post_head(
        "/create/job",
        BINARY,
        "Transfer-Encoding: chunked",
    ))
    .await;
    let chunk = [b"10000\r\n".as_slice(), &[0; 0x10000], b"\r\n"].concat();
    // Twice the limit.
    for _ in 0..2 * LIMIT / 0x10000 {
        raw.send(&chunk).await;
    }
    raw.send("0\r\n\r\n").await;
    let message = refused(&mut raw, Encoding::Binary, 413).await;
    assert_eq!(message, "body: more than 1048576 bytes, limit 1048576");
    raw.assert_usable().await;
}

#[tokio::test]
async fn what_unfolds_too_far_is_refused_too() {
    let server = limited().await;
    let mut raw = server.connect().await;
    let bomb = kjob_proto::snappy::compress(&vec![0; 2 * LIMIT]);
    assert!(bomb.len() < LIMIT);
    raw.post("/get/job", "application/x-snappy", &bomb).await;
    let message = refused(&mut raw, Encoding::Snappy, 413).await;
    assert!(message.contains("limit 1048576"), "{message}");
    raw.assert_usable().await;
}

#[tokio::test]
async fn bodies_that_are_too_much_together_are_asked_to_come_again() {
    let server = TestServer::with_options(|options| options.max_body_memory = 100_000).await;
    let mut first = server.connect().await;
    let more = "Expect: 100-continue\r\nContent-Length: 60000";
    first.send(post_head("/get/job", JSON, more)).await;
    // The server begins to read it.
    assert_eq!(first.bare_reply(false).await.status, 100);

    let mut second = server.connect().await;
    second.post("/get/job", JSON, &[b' '; 40_001]).await;
    assert_busy(&second.reply().await);
    second.post("/get/job", JSON, &[b' '; 40_000]).await;
    assert_eq!(second.reply().await.status, 400);

    // Whoever asks for little is not in the way.
    second.assert_usable().await;
    // What is unpacked counts beside what was packed.
    let packed = kjob_proto::snappy::compress(&[0; 60_000]);
    assert!(packed.len() < 10_000);
    second.post("/get/job", SNAPPY, &packed).await;
    assert_busy(&second.reply().await);

    first.send([b' '; 60_000]).await;
    assert_eq!(first.reply().await.status, 400);
    // This one could come again for ever.
    second.post("/get/job", JSON, &[b' '; 100_001]).await;
    let message = refused(&mut second, Encoding::Json, 413).await;
    assert_eq!(message, "body: 100001 bytes, limit 100000");
    second.assert_usable().await;
}

fn assert_busy(reply: &Reply) {
    let retry_after = reply.header("retry-after");
    assert_eq!((reply.status, retry_after), (429, Some("1")));
    let encoding = match reply.header("content-type") {
        Some(JSON) => Encoding::Json,
        _ => Encoding::Binary,
    };
    assert!(reply.plain_error(encoding).starts_with("busy: "));
}

/// Answers that their clients do not take stay in memory, of which there is only so much.
#[tokio::test]
async fn answers_that_are_not_taken_count_as_well() {
    let server = TestServer::with_options(|options| options.max_body_memory = 24 << 20).await;
    let mut raw = server.connect().await;
    let small = raw.submit("/raw", b"small", &[]).await.unwrap();
    // Far more than the system keeps of what one socket sends to another.
    let payload = vec![7; 16 << 20].leak();
    let big = raw.submit("/raw", payload, &[]).await.unwrap();
    raw.end_of(big.job_id).await;
    // Once this is answered, the answer before counts no more.
    raw.end_of(small.job_id).await;

    let mut unread = server.connect().await;
    unread.end_of_unread(big.job_id).await;
    in_time("the first of it", unread.stream.readable())
        .await
        .unwrap();
    let get = |job_id| kjob_proto::GetJobRequest {
        job_id,
        ..Default::default()
    };
    let get_big = get(big.job_id).encode_to_bytes();
    // It has all of its memory before the first byte of it leaves.
    let busy = async {
        loop {
            raw.post("/get/job", BINARY, &get_big).await;
            let reply = raw.reply().await;
            if reply.status != 200 {
                break reply;
            }
        }
    };
    assert_busy(&in_time("a refusal", busy).await);
    // So is a request of that size, and small results are not counted.
    raw.post("/get/job", BINARY, payload).await;
    assert_busy(&raw.reply().await);
    let got = raw.get(small.job_id, &[]).await.unwrap();
    assert_eq!(got.job_response, b"small".as_slice());

    drop(unread);
    let room = async {
        loop {
            raw.post("/get/job", BINARY, &get_big).await;
            let reply = raw.reply().await;
            if reply.status == 200 {
                break reply;
            }
        }
    };
    let reply = in_time("an answer", room).await;
    let got: GetJobResponse = reply.open(Encoding::Binary).unwrap();
    assert!(got.job_response == *payload);
}

/// JSON makes an answer longer than its result: here longer than all answers may be together.
#[tokio::test]
async fn an_answer_that_has_all_the_budget_to_itself_is_given() {
    let server = TestServer::with_options(|options| options.max_body_memory = 200 << 10).await;
    let mut raw = server.connect().await;
    let payload = vec![0; 150 << 10].leak();
    let job = raw.submit("/raw", payload, &[]).await.unwrap();
    raw.end_of(job.job_id).await;
    for _ in 0..3 {
        let request = kjob_proto::GetJobRequest {
            job_id: job.job_id,
            ..Default::default()
        };
        let outcome = raw.call_in(Encoding::Json, "/get/job", &request).await;
        let got: GetJobResponse = outcome.unwrap();
        assert!(got.job_response == *payload);
    }
}

#[tokio::test]
async fn a_truncated_body_runs_nothing() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send(post_head("/create/job", JSON, "Content-Length: 1000") + r#"{"endpoint":"/raw","#)
        .await;
    in_time("shutdown", raw.stream.shutdown()).await.unwrap();
    let mut rest = Vec::new();
    // Told or not, the connection is closed.
    let _ = in_time("the close", raw.stream.read_to_end(&mut rest)).await;
    let mut other = server.connect().await;
    other.assert_usable().await;
    assert_eq!(server.engine.stats().queued, 0);
    assert_eq!(other.get(1, &[]).await.unwrap_err(), "job 1 not found");
}

#[tokio::test]
async fn bad_chunks_are_a_plain_error() {
    let server = TestServer::start().await;
    for (chunks, words) in [
        ("zz\r\n", "chunk size"),
        ("2\r\n{}", "chunk body"),
        ("2\r\n{}xx", "chunk body"),
        ("ffffffffffffffffff\r\n", "chunk size"),
    ] {
        let mut raw = server.connect().await;
        let head = post_head("/get/job", JSON, "Transfer-Encoding: chunked");
        raw.send(head + chunks + "no chunk at all\r\n\r\n").await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, 400, "{chunks:?}");
        let message = reply.plain_error(Encoding::Json);
        assert!(message.contains(words), "{chunks:?}: {message}");
        raw.assert_closed().await;
    }
}

/// Whatever a request was refused for, what is left of it is not taken for the next one.
#[tokio::test]
async fn a_body_that_nobody_wants_is_read_over() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let body = vec![b'x'; 300 << 10];
    for (method, path, content_type, status) in [
        ("PUT", "/get/job", JSON, 405),
        ("POST", "/get/job", "text/plain", 415),
        ("POST", "/no/such", JSON, 400),
        ("POST", "/no/such", "text/plain", 404),
        ("POST", "/", "text/plain", 405),
    ] {
        let len = format!("Content-Length: {}", body.len());
        let head = post_head(path, content_type, &len).replacen("POST", method, 1);
        raw.send([head.as_bytes(), &body].concat()).await;
        assert_eq!(raw.reply().await.status, status, "{method} {path}");
        raw.assert_usable().await;
    }
}

#[tokio::test]
async fn a_big_payload_comes_back_whole() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let payload: &'static [u8] = (0..5 << 20)
        .map(|i: u32| (i.wrapping_mul(31).wrapping_add(i >> 8)) as u8)
        .collect::<Vec<_>>()
        .leak();
    let job = raw.submit("/raw", payload, &[]).await.unwrap();
    assert!(raw.end_of(job.job_id).await.job_response == payload);
    // And as JSON, where each byte is a character.
    let request = kjob_proto::GetJobRequest {
        job_id: job.job_id,
        ..Default::default()
    };
    raw.post("/get/job", JSON, &request.encode_json()).await;
    let reply: GetJobResponse = raw.reply().await.open(Encoding::Json).unwrap();
    assert!(reply.job_response == payload);
}
