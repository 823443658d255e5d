//! What goes straight through to an upstream, and what does not.

use std::net::SocketAddr;

use kjob_server::{Server, ServerOptions, SystemInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Bed, in_time};
use crate::upstream::{Answer, Upstream, answer};

async fn before(upstream: &Upstream) -> SocketAddr {
    let bed = Bed::with(&[]).await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (system, options) = (SystemInfo::new(None), ServerOptions::default());
    let server = Server::bind(any, bed.engine.clone(), system, options).await;
    let server = server.unwrap().with_upstream(upstream.url.parse().unwrap());
    let server = server.unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve());
    addr
}

/// Sends the start of a request, and gives the answer to its end.
async fn ask(addr: SocketAddr, head: &str) -> String {
    let mut answer = String::new();
    let asking = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("{head}\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    };
    in_time("an answer", asking).await;
    answer
}

/// Put behind an address without a slash between them, `*` becomes a part of it: then the request, with
/// the caller's credentials, went to another port of the upstream's host.
#[tokio::test]
async fn what_is_no_path_goes_nowhere() {
    let mut upstream = Upstream::start(|_| answer("200 OK", "text/plain", b"")).await;
    let addr = before(&upstream).await;
    for method in ["GET", "POST", "OPTIONS"] {
        let answer = ask(addr, &format!("{method} * HTTP/1.1")).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(upstream.is_unasked());
    ask(addr, "GET /@elsewhere:80/x?y=//z HTTP/1.1").await;
    let asked = upstream.asked().await;
    assert_eq!(asked.line, "GET /@elsewhere:80/x?y=//z HTTP/1.1");
}

#[tokio::test]
async fn the_caller_is_the_last_of_those_that_it_was_forwarded_for() {
    let mut upstream = Upstream::start(|_| answer("200 OK", "text/plain", b"")).await;
    let addr = before(&upstream).await;
    let head =
        "GET /x HTTP/1.1\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\nX-Forwarded-For: 10.0.0.3";
    ask(addr, head).await;
    let asked = upstream.asked().await;
    let all = asked.header("x-forwarded-for");
    assert_eq!(all, Some("10.0.0.1, 10.0.0.2, 10.0.0.3, 127.0.0.1"));
}

#[tokio::test]
async fn nobody_switches_protocols_unasked() {
    let upstream = Upstream::start(|_| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
        Answer::Silence(head.into())
    })
    .await;
    let addr = before(&upstream).await;
    let answer = ask(addr, "GET /x HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}
