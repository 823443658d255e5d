//! A client of ordinary HTTP, for the tests of it.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::raw::{Raw, Reply, in_time};

/// A request.
pub(crate) struct Ask {
    is_head: bool,
    bytes: Vec<u8>,
}

impl Ask {
    /// `more` is one or more lines of headers.
    pub(crate) fn new(method: &str, path: &str, more: &str, body: &[u8]) -> Self {
        let len = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\n{more}\r\nContent-Length: {len}\r\n\r\n"
        );
        Self {
            is_head: method == "HEAD",
            bytes: [head.as_bytes(), body].concat(),
        }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path, "Accept: */*", b"")
    }

    pub(crate) fn post(path: &str, body: &Value) -> Self {
        let body = body.to_string();
        Self::new(
            "POST",
            path,
            "Content-Type: application/json",
            body.as_bytes(),
        )
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

pub(crate) async fn ask(raw: &mut Raw, ask: Ask) -> Reply {
    raw.send(ask.bytes()).await;
    if ask.is_head {
        return raw.bare_reply(false).await;
    }
    raw.reply().await
}

/// Submits a job that is new.
pub(crate) async fn submitted(raw: &mut Raw, body: &Value) -> i64 {
    let reply = ask(raw, Ask::post("/jobs", body)).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    reply.json()["job_id"].as_i64().unwrap()
}

/// Asserts that a reply is a problem of this kind, and gives it.
pub(crate) fn problem(reply: Reply, status: u16, name: &str) -> Value {
    assert_eq!(
        reply.header("content-type"),
        Some("application/problem+json"),
        "{reply:?}"
    );
    let problem = reply.json();
    assert_eq!(
        (reply.status, &problem["status"]),
        (status, &status.into()),
        "{problem}"
    );
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.ends_with(&format!("/http.md#{name}")), "{problem}");
    problem
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A reader of a stream of events.
pub(crate) struct Stream {
    lines: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) job: Value,
}

impl Stream {
    /// Asks for a stream; gives the status of the answer.
    pub(crate) async fn open(addr: SocketAddr, path: &str, more: &str) -> (Self, u16) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream
            .write_all(Ask::new("GET", path, more, b"").bytes())
            .await
            .unwrap();
        let mut stream = Self {
            lines: BufReader::new(stream),
        };
        let status = stream.line().await.unwrap();
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        while !stream.line().await.unwrap().is_empty() {}
        (stream, status)
    }

    /// The next line, if there is one.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = in_time("a line", self.lines.read_line(&mut line))
            .await
            .unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        let mut event = Event {
            id: String::new(),
            name: String::new(),
            job: Value::Null,
        };
        loop {
            let line = self.line().await?;
            if line == "0" {
                // The last chunk has no bytes.
                return None;
            }
            match line.split_once(": ") {
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("data", data)) => {
                    event.job = serde_json::from_str(data).unwrap();
                    return Some(event);
                }
                // Sizes of chunks, comments, and the time to come back.
                _ => {}
            }
        }
    }
}
