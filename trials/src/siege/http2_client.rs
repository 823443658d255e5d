//! HTTP/2 as it is to be spoken: whole requests, and their answers.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::http1::{ANSWER_TIMEOUT, Connection, Reply, is_told};
use super::requests::Asked;

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Client {
    /// Connects.
    pub(crate) async fn open(server: SocketAddr) -> Result<Self> {
        let stream = Connection::open(server).await?.stream;
        let (sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // What it ends by shows at the requests.
            let _ = driver.await;
        });
        Ok(Self {
            sender,
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    /// Whether no more can be asked.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Asks, and reads the answer; of a stream of events its beginning.
    pub(crate) async fn ask(&mut self, request: http::Request<Full<Bytes>>) -> Result<Reply> {
        let answer = timeout(ANSWER_TIMEOUT, async {
            let response = self.sender.send_request(request).await?;
            let (parts, body) = response.into_parts();
            let mut reply = Reply {
                status: parts.status.as_u16(),
                headers: Vec::new(),
                body: Bytes::new(),
            };
            for (name, value) in &parts.headers {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                reply.headers.push((name.as_str().to_owned(), value));
            }
            reply.body = read(&reply, body).await?;
            Ok(reply)
        });
        answer
            .await
            .with_context(|| format!("no answer within {ANSWER_TIMEOUT:?}"))?
    }
}

async fn read(reply: &Reply, mut body: Incoming) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    while !is_told(reply, &bytes)
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

/// The request, if it can be said over HTTP/2 at all.
pub(crate) fn request(asked: &Asked, server: SocketAddr) -> Option<http::Request<Full<Bytes>>> {
    let target = std::str::from_utf8(&asked.target).ok()?;
    if !target.starts_with('/') {
        return None;
    }
    let mut request = http::Request::builder()
        .method(&asked.method[..])
        .uri(format!("http://{server}{target}"));
    // Of the connection, which HTTP/2 has other means for.
    let headers = asked.headers.iter().filter(|(name, _)| *name != "host");
    for (name, value) in headers {
        request = request.header(*name, &value[..]);
    }
    request.body(Full::new(asked.body.clone().into())).ok()
}
