//! A server that answers as a test tells it, over bare sockets, and notes who leaves.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::in_time;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The first line.
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Which connection it came on.
    pub(crate) connection: usize,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What is answered: these bytes, and then perhaps silence.
pub(crate) enum Answer {
    Bytes(Vec<u8>),
    /// The connection stays open, and it is noted when the client closes it.
    Silence(Vec<u8>),
    /// The connection is closed after these bytes.
    Close(Vec<u8>),
}

pub(crate) struct Upstream {
    pub(crate) url: String,
    asked: mpsc::UnboundedReceiver<Asked>,
    left: mpsc::UnboundedReceiver<Instant>,
}

impl Upstream {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (note_asked, asked) = mpsc::unbounded_channel();
        let (note_left, left) = mpsc::unbounded_channel();
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (answer, note_asked, note_left) =
                    (answer.clone(), note_asked.clone(), note_left.clone());
                tokio::spawn(async move {
                    serve(stream, connection, &*answer, &note_asked, &note_left).await;
                });
            }
        });
        Self { url, asked, left }
    }

    /// The next request.
    pub(crate) async fn asked(&mut self) -> Asked {
        in_time("a request", self.asked.recv()).await.unwrap()
    }

    pub(crate) fn is_unasked(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }

    /// When the next client left that was given silence.
    pub(crate) async fn left(&mut self) -> Instant {
        in_time("a client that leaves", self.left.recv())
            .await
            .unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    answer: &(dyn Fn(&Asked) -> Answer + Send + Sync),
    note_asked: &mpsc::UnboundedSender<Asked>,
    note_left: &mpsc::UnboundedSender<Instant>,
) {
    let mut received = Vec::new();
    while let Some(asked) = request(&mut stream, &mut received, connection).await {
        let answer = answer(&asked);
        let _ = note_asked.send(asked);
        match answer {
            Answer::Bytes(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Answer::Close(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Answer::Silence(bytes) => {
                let _ = stream.write_all(&bytes).await;
                // Nothing more is to come but the end, or a reset.
                let _ = stream.read(&mut [0; 1]).await;
                let _ = note_left.send(Instant::now());
                return;
            }
        }
    }
}

async fn request(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
    connection: usize,
) -> Option<Asked> {
    let head_end = loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(received).await.ok()? == 0 {
            return None;
        }
    };
    let head: Vec<u8> = received.drain(..head_end).collect();
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().lines();
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut asked = Asked {
        line,
        headers,
        body: Vec::new(),
        connection,
    };
    let len: usize = asked
        .header("content-length")
        .unwrap_or("0")
        .parse()
        .unwrap();
    while received.len() < len {
        if stream.read_buf(received).await.ok()? == 0 {
            return None;
        }
    }
    asked.body = received.drain(..len).collect();
    Some(asked)
}

/// An answer with a length.
pub(crate) fn answer(status: &str, content_type: &str, body: &[u8]) -> Answer {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    Answer::Bytes(bytes)
}
