//! Transparent mode: a server in front of another.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use kjob_client::{Client, Encoding, Job, Payload, Submit};
use kjob_proto::{
    Limits, Record, Reply, ShowSystemPropertiesRequest, ShowSystemPropertiesResponse,
    ShowSystemStatusResponse,
};
use tempfile::{TempDir, tempdir};

use crate::support::Running;

const SOON: Duration = Duration::from_secs(60);

/// A server with the demo endpoints, and one in front of it.
fn pair() -> (TempDir, Running, Running) {
    let dir = tempdir().unwrap();
    let behind = Running::start(&dir, &["--store", "memory", "--demo"]);
    let front = in_front(&dir, &behind.url);
    (dir, behind, front)
}

fn in_front(dir: &TempDir, url: &str) -> Running {
    let arguments = ["--store", "memory", "--demo=false", "--upstream", url];
    Running::start(dir, &arguments)
}

async fn call(client: &Client, endpoint: &'static str, payload: Payload) -> Job {
    let submit = Submit::new(endpoint, payload);
    let submitted = client.submit(&submit).await.unwrap();
    client.wait(&submitted, SOON).await.unwrap()
}

/// Sends a POST, and gives status and body.
fn post(address: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.0\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let end = reply
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(reply[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, reply[end + 4..].to_vec())
}

#[tokio::test]
async fn any_endpoint_of_the_upstream_is_a_job_in_every_encoding() {
    let (_dir, behind, front) = pair();
    let client = front.client();
    let json = call(
        &client,
        "/demo/echo",
        Payload::json(r#"{"message": "hello"}"#),
    )
    .await;
    let text = json.result.expect("a result");
    assert!(
        text.as_text().unwrap().contains(r#""message":"hello""#),
        "{text:?}"
    );
    // A text of five bytes, and an empty map.
    let avro = b"\x0ahello\x00";
    for payload in [Payload::binary(&avro[..]), Payload::snappy(avro)] {
        let job = call(&client, "/demo/echo", payload).await;
        assert_eq!(&job.result.unwrap().data[..], avro);
    }
    let submit = Submit::new("/demo/echo", Payload::binary(&avro[..]));
    let mine = client.submit(&submit).await.unwrap();
    let failed = call(&client, "/demo/fail", Payload::json(r#"{"message": "oh"}"#)).await;
    let message = failed.error_message.unwrap();
    assert!(message.contains("oh"), "{message}");
    // The jobs are this server's own: the other has run calls, and keeps none under these tags.
    let body = format!(r#"{{"options": {{"job_tag": "{}"}}}}"#, mine.tag);
    let (status, reply) = post(
        &behind.address,
        "/get/job",
        "application/json",
        body.as_bytes(),
    );
    assert_eq!(status, 400);
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.contains("not found"), "{reply}");
}

#[test]
fn what_is_no_job_endpoint_goes_straight_through() {
    let (_dir, behind, front) = pair();
    let body = br#"{"message": "hello"}"#;
    for path in ["/demo/echo", "/no/such/endpoint"] {
        let through = post(&front.address, path, "application/json", body);
        let direct = post(&behind.address, path, "application/json", body);
        assert_eq!(through, direct, "{path}");
    }
    assert_eq!(front.get("/readyz").0, 200);
}

#[test]
fn the_handshake_is_the_upstreams_with_our_own_addresses() {
    let (_dir, behind, front) = pair();
    for encoding in [Encoding::Binary, Encoding::Json] {
        let request = ShowSystemPropertiesRequest::default();
        let body = match encoding {
            Encoding::Json => request.encode_json(),
            _ => request.encode_to_bytes().to_vec(),
        };
        let path = "/show/system/properties";
        let (status, reply) = post(&front.address, path, encoding.content_type(), &body);
        assert_eq!(status, 200);
        let limits = Limits::default();
        let reply = Reply::<ShowSystemPropertiesResponse>::decode(encoding, reply.into(), &limits);
        let map = reply.unwrap().unwrap().property_map;
        let value = |name: &str| map.get(name).map(|text| text.to_string());
        assert_eq!(value("conf.host0_public_urls"), Some(front.url.clone()));
        assert!(!map.iter().any(|(_, text)| text.contains(&behind.address)));
        assert!(value("version.gpudb_core_version").is_some());

        let (_, reply) = post(
            &front.address,
            "/show/system/status",
            encoding.content_type(),
            &body,
        );
        let reply = Reply::<ShowSystemStatusResponse>::decode(encoding, reply.into(), &limits);
        let map = reply.unwrap().unwrap().status_map;
        let system = map.get("system").map(|text| text.to_string());
        assert_eq!(system.as_deref(), Some(r#"{"status":"running"}"#));
    }
}

#[tokio::test]
async fn three_in_a_row() {
    let (dir, _behind, middle) = pair();
    let front = in_front(&dir, &middle.url);
    let client = front.client();
    let payload = Payload::json(r#"{"limit": 1000}"#);
    let job = call(&client, "/demo/primes", payload).await;
    let result = job.result.unwrap();
    assert!(
        result.as_text().unwrap().contains(r#""count":168"#),
        "{result:?}"
    );
}

#[test]
fn an_upstream_that_is_not_there_is_told_in_an_envelope() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let dir = tempdir().unwrap();
    let front = in_front(&dir, &url);
    for path in ["/show/system/properties", "/show/system/status", "/x"] {
        let (status, reply) = post(&front.address, path, "application/json", b"{}");
        assert_eq!(status, 502, "{path}");
        let text = String::from_utf8(reply).unwrap();
        assert!(
            text.contains(r#""status":"ERROR","message":"upstream: no connection"#),
            "{text}"
        );
        assert!(!text.contains("Connection refused"), "{text}");
    }
}

/// Neither side is gathered: each half arrives before the other half is sent.
#[test]
fn bodies_are_streamed_both_ways() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", upstream.local_addr().unwrap());
    let dir = tempdir().unwrap();
    let front = in_front(&dir, &url);
    let mut client = TcpStream::connect(&front.address).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let head = "POST /x?y=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 8\r\nX-Own: 1\r\nAuthorization: Bearer t\r\n\r\nhalf";
    client.write_all(head.as_bytes()).unwrap();
    let (mut server, _) = upstream.accept().unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let request = read_until(&mut server, "half");
    assert!(request.starts_with("POST /x?y=1 HTTP/1.1\r\n"), "{request}");
    for line in [
        "x-own: 1\r\n",
        "authorization: Bearer t\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
    ] {
        assert!(request.contains(line), "{request}");
    }
    client.write_all(b"more").unwrap();
    read_until(&mut server, "more");
    let head = "HTTP/1.1 201 Created\r\nContent-Length: 8\r\nX-Theirs: 2\r\n\r\nhalf";
    server.write_all(head.as_bytes()).unwrap();
    let reply = read_until(&mut client, "half");
    assert!(reply.starts_with("HTTP/1.1 201 Created\r\n"), "{reply}");
    assert!(reply.contains("x-theirs: 2\r\n"), "{reply}");
    // An answer that breaks off does so here, too.
    drop(server);
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

/// Who leaves is known to the upstream.
#[test]
fn a_caller_who_leaves_leaves_the_upstream() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", upstream.local_addr().unwrap());
    let dir = tempdir().unwrap();
    let front = in_front(&dir, &url);
    let mut client = TcpStream::connect(&front.address).unwrap();
    client
        .write_all(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        .unwrap();
    let (mut server, _) = upstream.accept().unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    read_until(&mut server, "\r\n\r\n");
    drop(client);
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).unwrap();
}

fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
    }
    text
}
