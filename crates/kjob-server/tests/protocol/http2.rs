//! HTTP/2 without TLS, by prior knowledge.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kjob_proto::{
    CreateJobRequest, CreateJobResponse, Encoding, GetJobRequest, GetJobResponse, Limits, Record,
    Reply,
};
use tokio::net::TcpStream;

use crate::raw::{in_time, map};
use crate::server::TestServer;

async fn connect(server: &TestServer) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn post(
    mut sender: SendRequest<Full<Bytes>>,
    path: &str,
    body: Bytes,
) -> (StatusCode, Bytes) {
    let request = Request::post(format!("http://test{path}"))
        .header("content-type", "application/octet-stream")
        .body(Full::new(body))
        .unwrap();
    let reply = in_time("a reply", sender.send_request(request)).await;
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
