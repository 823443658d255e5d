//! HTTP/1 over a bare socket: sends what it is told, and reads answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::accounts;

/// How long an answer may take before it counts as not given. No attack waits for it to pass.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// Where attackers come from unless they say otherwise: one address, not that of honest clients. Each attack,
/// which is a process of its own, has another: the system would look for long for a port that none of those
/// before it had in the last minute.
fn stranger() -> IpAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 66, high, low).into()
}

/// The longest head of an answer.
const HEAD_LEN_MAX: usize = 64 << 10;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    received: BytesMut,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

#[cfg(test)]
impl Reply {
    /// One with the header that the server adds to all.
    pub(crate) fn made_up(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        let always = [("x-request-time-secs", "0.1")];
        let headers = always.iter().chain(headers);
        Self {
            status,
            headers: headers
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: body.into(),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoReply {
    #[error("closed")]
    Closed,
    #[error("reset")]
    Reset,
    #[error("no answer within {ANSWER_TIMEOUT:?}")]
    Late,
    #[error("not HTTP: {0}")]
    NotHttp(String),
}

impl Connection {
    /// Connects from the address of this attack.
    pub(crate) async fn open(server: SocketAddr) -> io::Result<Self> {
        Self::open_from(stranger(), server).await
    }

    pub(crate) async fn open_from(source: IpAddr, server: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source, 0))?;
        let stream = socket.connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: BytesMut::new(),
        })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match timeout(ANSWER_TIMEOUT, self.stream.write_all(bytes)).await {
            Ok(sent) => sent,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends a POST and reads its answer.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Reply, NoReply> {
        let bytes = post(path, content_type, body);
        if let Err(error) = self.send(&bytes).await {
            // It may have been answered before it was sent whole.
            return self.reply().await.map_err(|_| NoReply::of(&error));
        }
        self.reply().await
    }

    /// Reads the next answer that is not "100 Continue".
    pub(crate) async fn reply(&mut self) -> Result<Reply, NoReply> {
        loop {
            let reply = match timeout(ANSWER_TIMEOUT, self.any_reply()).await {
                Ok(reply) => reply?,
                Err(_) => return Err(NoReply::Late),
            };
            if reply.status != 100 {
                return Ok(reply);
            }
        }
    }

    /// Sends a request and reads its answer; of a stream of events its beginning. Says whether that was
    /// all, so that another can be asked here.
    pub(crate) async fn ask(
        &mut self,
        request: &[u8],
        is_head: bool,
    ) -> Result<(Reply, bool), NoReply> {
        // It may be answered before it was sent whole.
        let _ = self.send(request).await;
        match timeout(ANSWER_TIMEOUT, self.answer(is_head)).await {
            Ok(answer) => answer,
            Err(_) => Err(NoReply::Late),
        }
    }

    async fn answer(&mut self, is_head: bool) -> Result<(Reply, bool), NoReply> {
        loop {
            let mut reply = self.read_head().await?;
            if reply.status == 100 {
                continue;
            }
            let is_whole = if is_head || matches!(reply.status, 204 | 304) {
                true
            } else if reply.header("transfer-encoding") == Some("chunked") {
                self.read_chunks(&mut reply).await?
            } else {
                self.read_counted(&mut reply).await?;
                true
            };
            return Ok((reply, is_whole));
        }
    }

    /// Reads chunks up to the last one, or until enough was told; says whether that was the last.
    async fn read_chunks(&mut self, reply: &mut Reply) -> Result<bool, NoReply> {
        let mut body = BytesMut::new();
        loop {
            let line = self.read_line().await?;
            let len = std::str::from_utf8(&line).ok();
            let len = len.and_then(|line| usize::from_str_radix(line.trim(), 16).ok());
            let len = len.ok_or_else(|| NoReply::NotHttp(format!("a chunk of {line:?}")))?;
            while self.received.len() < len + 2 {
                self.read().await?;
            }
            body.extend_from_slice(&self.received.split_to(len));
            self.received.advance(2);
            if len == 0 || is_told(reply, &body) {
                reply.body = body.freeze();
                return Ok(len == 0);
            }
        }
    }

    async fn read_line(&mut self) -> Result<BytesMut, NoReply> {
        loop {
            if let Some(end) = self.received.windows(2).position(|w| w == b"\r\n") {
                let line = self.received.split_to(end);
                self.received.advance(2);
                return Ok(line);
            }
            self.read().await?;
        }
    }

    async fn any_reply(&mut self) -> Result<Reply, NoReply> {
        let mut reply = self.read_head().await?;
        self.read_counted(&mut reply).await?;
        Ok(reply)
    }

    async fn read_head(&mut self) -> Result<Reply, NoReply> {
        let head = loop {
            if let Some(end) = self.received.windows(4).position(|w| w == b"\r\n\r\n") {
                break self.received.split_to(end + 4);
            }
            if self.received.len() > HEAD_LEN_MAX {
                return Err(NoReply::NotHttp("a head without an end".to_owned()));
            }
            self.read().await?;
        };
        parse_head(&head)
    }

    async fn read_counted(&mut self, reply: &mut Reply) -> Result<(), NoReply> {
        let len = match reply.header("content-length") {
            Some(len) => len
                .parse()
                .map_err(|_| NoReply::NotHttp(format!("Content-Length {len:?}")))?,
            None => 0_usize,
        };
        while self.received.len() < len {
            self.read().await?;
        }
        reply.body = self.received.split_to(len).freeze();
        Ok(())
    }

    /// Whether the server has sent something that was not read, or has closed.
    pub(crate) async fn is_closed_within(&mut self, patience: Duration) -> bool {
        !matches!(
            timeout(patience, self.stream.read_buf(&mut self.received)).await,
            Err(_) | Ok(Ok(1..))
        )
    }

    async fn read(&mut self) -> Result<(), NoReply> {
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) if self.received.has_remaining() => {
                Err(NoReply::NotHttp("cut off in an answer".to_owned()))
            }
            Ok(0) => Err(NoReply::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(NoReply::of(&error)),
        }
    }
}

impl NoReply {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Late,
            _ => Self::Reset,
        }
    }
}

impl Reply {
    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Whether nobody is to wait for more: of a stream of events, which may never end, one is enough.
pub(crate) fn is_told(reply: &Reply, body: &[u8]) -> bool {
    reply.header("content-type") == Some("text/event-stream")
        && body.windows(2).any(|pair| pair == b"\n\n")
}

/// The bytes of a POST.
pub(crate) fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head = head(path, content_type, &format!("Content-Length: {len}\r\n"));
    [head.as_bytes(), body].concat()
}

/// The head of a POST; `more` are lines, each with its end. It says who the attackers are, which only
/// a server with accounts looks at.
pub(crate) fn head(path: &str, content_type: &str, more: &str) -> String {
    let login = accounts::ATTACKER.authorization();
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{login}Content-Type: {content_type}\r\n{more}\r\n"
    )
}

fn parse_head(head: &[u8]) -> Result<Reply, NoReply> {
    let not_http = || NoReply::NotHttp(String::from_utf8_lossy(head).into_owned());
    let text = std::str::from_utf8(head).map_err(|_| not_http())?;
    let mut lines = text.trim_end().split("\r\n");
    let line = lines.next().unwrap_or_default();
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Ok(Reply {
        status: status.ok_or_else(not_http)?,
        headers: headers.collect::<Option<_>>().ok_or_else(not_http)?,
        body: Bytes::new(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn heads_are_read_and_others_refused() {
        let reply = parse_head(b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\n\r\n").unwrap();
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (429, Some("1"))
        );
        for head in [
            "SMTP ready\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200\r\nx\r\n\r\n",
        ] {
            assert!(parse_head(head.as_bytes()).is_err(), "{head}");
        }
    }
}
