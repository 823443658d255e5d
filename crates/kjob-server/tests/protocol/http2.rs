//! HTTP/2 without TLS, by prior knowledge.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kjob_proto::{
    CreateJobRequest, CreateJobResponse, Encoding, GetJobRequest, GetJobResponse, Limits, Record,
    Reply,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{in_time, map};
use crate::server::TestServer;

pub(crate) async fn connect(server: &TestServer) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn request(path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::post(format!("http://test{path}"))
        .header("content-type", "application/octet-stream")
        .body(Full::new(body))
        .unwrap()
}

async fn post(
    mut sender: SendRequest<Full<Bytes>>,
    path: &str,
    body: Bytes,
) -> (StatusCode, Bytes) {
    let reply = in_time("a reply", sender.send_request(request(path, body))).await;
    let reply = reply.unwrap();
    assert!(reply.headers().contains_key("x-request-time-secs"));
    let len: usize = reply.headers()["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let status = reply.status();
    let body = in_time("a body", reply.into_body().collect()).await;
    let body = body.unwrap().to_bytes();
    assert_eq!(body.len(), len);
    (status, body)
}

async fn call<Q: Record, R: Record>(
    sender: &SendRequest<Full<Bytes>>,
    path: &str,
    request: Q,
) -> Result<R, String> {
    let (_, body) = post(sender.clone(), path, request.encode_to_bytes()).await;
    let reply = Reply::<R>::decode(Encoding::Binary, body, &Limits::default()).unwrap();
    reply.map_err(|error| error.message.to_string())
}

#[tokio::test]
async fn a_long_poll_and_a_big_job_share_one_connection() {
    let server = TestServer::start().await;
    let sender = connect(&server).await;
    let submit = |endpoint: &'static str, data: Bytes| CreateJobRequest {
        endpoint: endpoint.into(),
        request_encoding: "binary".into(),
        data,
        ..Default::default()
    };
    let wait = |job_id| GetJobRequest {
        job_id,
        options: map(&[("wait_ms", "30000")]),
    };
    let gate: CreateJobResponse = call(&sender, "/create/job", submit("/gate", Bytes::new()))
        .await
        .unwrap();
    let poll = {
        let (sender, request) = (sender.clone(), wait(gate.job_id));
        tokio::spawn(async move { call::<_, GetJobResponse>(&sender, "/get/job", request).await })
    };
    // More than the windows of stream and connection, in both directions.
    let big = Bytes::from(vec![7; 9 << 20]);
    let job: CreateJobResponse = call(&sender, "/create/job", submit("/raw", big.clone()))
        .await
        .unwrap();
    let done: GetJobResponse = call(&sender, "/get/job", wait(job.job_id)).await.unwrap();
    assert_eq!(done.job_response, big);

    assert!(!poll.is_finished());
    server.gate.add_permits(1);
    let done = in_time("the poll", poll).await.unwrap().unwrap();
    assert_eq!(done.job_status, "DONE");
}

#[tokio::test]
async fn errors_are_envelopes_and_the_connection_goes_on() {
    let server = TestServer::with_options(|options| {
        options.limits = options.limits.with_max_body(1000);
    })
    .await;
    let sender = connect(&server).await;
    for (path, body, expected) in [
        ("/get/job", Bytes::from_static(b"\x0e\0"), 400),
        ("/get/job", Bytes::from_static(b"\xff"), 400),
        ("/get/job", Bytes::from(vec![0; 1001]), 413),
        ("/no/such", Bytes::new(), 400),
    ] {
        let (status, body) = post(sender.clone(), path, body).await;
        assert_eq!(status, expected, "{path}");
        let reply = Reply::<GetJobResponse>::decode(Encoding::Binary, body, &Limits::default());
        reply.unwrap().unwrap_err();
    }
    let unknown = GetJobRequest {
        job_id: 7,
        ..Default::default()
    };
    let outcome = call::<_, GetJobResponse>(&sender, "/get/job", unknown).await;
    assert_eq!(outcome, Err("job 7 not found".into()));
}

#[tokio::test]
async fn a_stop_ends_the_connection_after_its_requests() {
    let server = TestServer::start().await;
    let sender = connect(&server).await;
    let request = GetJobRequest::default();
    let outcome = call::<_, GetJobResponse>(&sender, "/get/job", request).await;
    assert!(outcome.is_err());
    server.handle.stop();
    in_time("the end", server.serving).await.unwrap();
    let mut sender = sender;
    assert!(in_time("the close", sender.ready()).await.is_err());
}

/// The windows of HTTP/2 let a client hold back an answer without blocking the connection.
#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_is_cut() {
    let server = TestServer::with_options(|options| {
        options.write_timeout = std::time::Duration::from_millis(100);
        options.header_timeout = std::time::Duration::from_millis(100);
    })
    .await;
    let mut sender = connect(&server).await;
    let submit = CreateJobRequest {
        endpoint: "/raw".into(),
        request_encoding: "binary".into(),
        data: Bytes::from(vec![7; 16 << 20]),
        ..Default::default()
    };
    let job: CreateJobResponse = call(&sender, "/create/job", submit).await.unwrap();
    let get = GetJobRequest {
        job_id: job.job_id,
        options: map(&[("wait_ms", "30000")]),
    };
    let request = Request::post("http://test/get/job")
        .header("content-type", "application/octet-stream")
        .body(Full::new(get.encode_to_bytes()))
        .unwrap();
    let reply = in_time("a reply", sender.send_request(request)).await;
    let unread = reply.unwrap().into_body();
    let cut = async {
        while !sender.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    in_time("the cut", cut).await;
    assert!(in_time("the rest", unread.collect()).await.is_err());
}

async fn connect_with_window(server: &TestServer, window: u32) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// A job that ends with a mebibyte, and one that does not end.
async fn big_job_and_gate(server: &TestServer) -> (i64, i64) {
    let sender = connect(server).await;
    let submit = |endpoint: &'static str, data: Bytes| CreateJobRequest {
        endpoint: endpoint.into(),
        request_encoding: "binary".into(),
        data,
        ..Default::default()
    };
    let mut ids = Vec::new();
    for (endpoint, len) in [("/raw", 1 << 20), ("/gate", 1)] {
        let submit = submit(endpoint, Bytes::from(vec![7; len]));
        let job: CreateJobResponse = call(&sender, "/create/job", submit).await.unwrap();
        ids.push(job.job_id);
    }
    (ids[0], ids[1])
}

fn get(job_id: i64) -> Request<Full<Bytes>> {
    let get = GetJobRequest {
        job_id,
        options: map(&[("wait_ms", "300000")]),
    };
    request("/get/job", get.encode_to_bytes())
}

/// The bug: with a poll in progress beside it, an answer that was never taken was kept for ever, and its
/// memory was nobody else's. A window of a byte has it handed over, so that it is in progress no more.
#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_is_cut_though_it_polls() {
    let server = TestServer::with_options(|options| {
        options.write_timeout = std::time::Duration::from_millis(100);
        options.header_timeout = std::time::Duration::from_millis(100);
    })
    .await;
    let (big, gate) = big_job_and_gate(&server).await;
    for window in [0, 1, 1000, 65_535] {
        let mut sender = connect_with_window(&server, window).await;
        let poll = tokio::spawn(sender.send_request(get(gate)));
        let unread = in_time("a reply", sender.send_request(get(big))).await;
        let cut = async {
            while !sender.is_closed() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        in_time("the cut", cut).await;
        assert!(in_time("the poll", poll).await.unwrap().is_err());
        drop(unread);
    }
}

#[tokio::test]
async fn a_client_that_takes_an_answer_slowly_may_poll_beside_it() {
    let server = TestServer::with_options(|options| {
        options.write_timeout = std::time::Duration::from_secs(1);
    })
    .await;
    let (big, gate) = big_job_and_gate(&server).await;
    let mut sender = connect_with_window(&server, 65_535).await;
    let poll = tokio::spawn(sender.send_request(get(gate)));
    let reply = in_time("a reply", sender.send_request(get(big))).await;
    let mut body = reply.unwrap().into_body();
    let (mut len, began) = (0, tokio::time::Instant::now());
    while let Some(frame) = in_time("a frame", body.frame()).await {
        len += frame.unwrap().into_data().unwrap().len();
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
    }
    assert!(len > 1 << 20);
    assert!(began.elapsed() > std::time::Duration::from_secs(2));
    assert!(!poll.is_finished());
    server.gate.add_permits(1);
    assert!(in_time("the poll", poll).await.unwrap().is_ok());
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [len[1], len[2], len[3], kind, flags, 0, 0, 0, stream];
    [head.as_slice(), payload].concat()
}

/// Header fields as literals that are neither indexed nor compressed.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// Reads frames until one is the last of the kind that is wanted: kind and flags of each.
async fn frames_until(stream: &mut TcpStream, kind: u8, flag: u8) -> Vec<(u8, u8)> {
    let mut seen = Vec::new();
    loop {
        let mut head = [0; 9];
        in_time("a frame", stream.read_exact(&mut head))
            .await
            .unwrap();
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        in_time("its payload", stream.read_exact(&mut payload))
            .await
            .unwrap();
        seen.push((head[3], head[4]));
        if head[3] == kind && head[4] & flag != 0 {
            return seen;
        }
    }
}

/// A reset, even one that says that nothing is wrong, makes curl 7.88 forget the answer.
#[tokio::test]
async fn a_client_refused_early_may_send_the_rest_of_its_body() {
    let server = TestServer::start().await;
    for (path, content_type) in [
        ("/create/job", "text/plain"),
        ("/no/such", "application/json"),
        ("/healthz", "text/plain"),
    ] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let head = fields(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "test"),
            ("content-type", content_type),
        ]);
        let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        request.extend(frame(SETTINGS, 0, 0, b""));
        request.extend(frame(HEADERS, END_HEADERS, 1, &head));
        stream.write_all(&request).await.unwrap();
        let mut seen = frames_until(&mut stream, DATA, END_STREAM).await;

        // As much as the first window of the connection lets everybody send.
        for part in 0..4 {
            let flags = if part == 3 { END_STREAM } else { 0 };
            let data = frame(DATA, flags, 1, &[0; 0x3fff]);
            stream.write_all(&data).await.unwrap();
        }
        stream.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
        seen.extend(frames_until(&mut stream, PING, 1).await);
        assert!(
            seen.iter().all(|(kind, _)| *kind != RST_STREAM),
            "{path}: {seen:?}"
        );
    }
}

/// It was sent the body that a GET has, which clients take for a broken stream.
#[tokio::test]
async fn a_head_is_answered_without_a_body() {
    let server = TestServer::start().await;
    let mut sender = connect(&server).await;
    for path in ["/jobs", "/jobs/99", "/openapi.json", "/healthz", "/no/such"] {
        let ask = |method| {
            let request = Request::builder().method(method);
            let request = request.uri(format!("http://test{path}"));
            request.body(Full::new(Bytes::new())).unwrap()
        };
        let head = in_time("a head", sender.send_request(ask("HEAD"))).await;
        let whole = in_time("a reply", sender.send_request(ask("GET"))).await;
        let (head, whole) = (head.unwrap(), whole.unwrap());
        assert_eq!(head.status(), whole.status(), "{path}");
        let len = |reply: &http::Response<_>| reply.headers()["content-length"].clone();
        assert_eq!(len(&head), len(&whole), "{path}");
        let body = in_time("its end", head.into_body().collect()).await;
        assert_eq!(body.expect(path).to_bytes(), "", "{path}");
    }
}
