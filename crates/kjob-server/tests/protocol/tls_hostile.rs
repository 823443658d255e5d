//! Those who do not speak TLS, or not to an end, harm nobody.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::in_time;
use crate::secure::{SecureClient, Setup};
use crate::server::TestServer;

const SHORT: Duration = Duration::from_millis(100);

/// The first bytes of a handshake that is never ended.
const BEGINNING: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

/// All that comes until the server closes.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is a close as well.
    let _ = in_time("the close", stream.read_to_end(&mut all)).await;
    all
}

/// Tries until it succeeds: where all are cut after a short time, a busy machine may be too slow for
/// an honest handshake as well.
async fn until_ok<T>(mut attempt: impl AsyncFnMut() -> std::io::Result<T>) -> T {
    let tries = async {
        loop {
            if let Ok(done) = attempt().await {
                return done;
            }
        }
    };
    in_time("a success", tries).await
}

async fn send(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn a_handshake_that_does_not_come_to_its_end_is_cut() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |options| options.header_timeout = SHORT).await;
    for begin in [&b""[..], &BEGINNING[..1], BEGINNING] {
        let mut stream = send(server.addr, begin).await;
        assert_eq!(until_closed(&mut stream).await, b"", "{begin:?}");
    }
    let mut stream = send(server.addr, BEGINNING).await;
    let drip = async {
        while stream.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    in_time("the cut", drip).await;
}

/// The time for the handshake is the time for the first head, not one more.
#[tokio::test]
async fn a_client_that_shakes_hands_and_says_nothing_is_cut() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |options| options.header_timeout = SHORT).await;
    for begin in ["", "POST /get/job HTTP/1.1\r\nHost: "] {
        let mut secure = until_ok(async || setup.client().connect(server.addr).await).await;
        let _ = secure.stream.write_all(begin.as_bytes()).await;
        let mut all = Vec::new();
        let _ = in_time("the close", secure.stream.read_to_end(&mut all)).await;
        assert_eq!(all, b"");
    }
}

#[tokio::test]
async fn handshakes_that_stall_hold_up_nobody() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    let mut stalled = Vec::new();
    for _ in 0..100 {
        stalled.push(send(server.addr, BEGINNING).await);
    }
    setup.client().call(server.addr).await.unwrap();
}

#[tokio::test]
async fn a_handshake_is_a_connection_and_gives_its_place_back() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |options| {
        options.max_connections = 1;
        options.header_timeout = 5 * SHORT;
    })
    .await;
    let mut stalled = send(server.addr, BEGINNING).await;
    // Waits for the place.
    until_ok(async || setup.client().call(server.addr).await).await;
    // It has the place because the other one lost it: there is nothing to wait for.
    let read = stalled.try_read(&mut [0]);
    assert!(
        matches!(read, Ok(0))
            || read.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    );
    until_closed(&mut stalled).await;
}

#[tokio::test]
async fn plain_http_is_told_to_come_back_with_tls() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    let big = format!(
        "POST /create/job HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n{}",
        "x".repeat(300_000)
    );
    for request in [
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        "G",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &big,
    ] {
        let mut stream = send(server.addr, request.as_bytes()).await;
        stream.shutdown().await.unwrap();
        let mut reply = String::new();
        // Here a reset is none: the answer could be lost with it.
        in_time("an answer", stream.read_to_string(&mut reply))
            .await
            .unwrap();
        assert!(reply.starts_with("HTTP/1.1 400 "), "{reply:?}");
        assert!(reply.contains("connection: close"), "{reply:?}");
        assert!(reply.contains("https://"), "{reply:?}");
    }
    setup.client().call(server.addr).await.unwrap();
}

/// Were its connection closed on it, its next bytes would meet a reset, and many never read after one.
#[tokio::test]
async fn a_client_that_is_told_so_early_may_send_the_rest_of_its_body() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    let head = b"POST /create/job HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n";
    let mut stream = send(server.addr, head).await;
    in_time("an answer", stream.readable()).await.unwrap();
    for _ in 0..300 {
        stream.write_all(&[b'x'; 1000]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    let mut reply = String::new();
    in_time("the answer", stream.read_to_string(&mut reply))
        .await
        .unwrap();
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply:?}");
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    let mut open = setup.client().call(server.addr).await.unwrap();
    for garbage in [
        &[0; 64][..],
        &[0xff; 70_000],
        // An alert, application data before the handshake, a record that is too long, a hello of nothing.
        &[21, 3, 3, 0, 2, 2, 0],
        &[23, 3, 3, 0, 1, 0],
        &[22, 3, 1, 0xff, 0xff, 1, 0, 0, 0],
        &[22, 3, 1, 0, 4, 1, 0, 0, 0],
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        // It may be refused before all of it is sent.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        until_closed(&mut stream).await;
    }
    open.call().await.unwrap();
    setup.client().call(server.addr).await.unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_handshakes() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    let mut stalled = send(server.addr, BEGINNING).await;
    setup.client().call(server.addr).await.unwrap();
    server.handle.stop();
    let stopped = tokio::time::Instant::now();
    in_time("the end", server.serving).await.unwrap();
    assert!(
        stopped.elapsed() < Duration::from_secs(4),
        "it was waited for"
    );
    until_closed(&mut stalled).await;
}

/// The answer is larger than what TLS and the sockets buffer, and its reader does not read.
#[tokio::test]
async fn a_client_that_takes_no_bytes_is_cut() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |options| {
        options.max_connections = 1;
        options.write_timeout = SHORT;
        options.header_timeout = SHORT;
    })
    .await;
    let client = SecureClient::with(&setup.authority, &[&TLS13], None);
    let mut secure = until_ok(async || client.call(server.addr).await).await;
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let flood = async { while secure.stream.write_all(&request).await.is_ok() {} };
    in_time("the cut", flood).await;
    drop(secure);
    until_ok(async || client.call(server.addr).await).await;
}
