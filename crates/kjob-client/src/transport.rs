//! Requests out, replies in.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kjob_proto::{Encoding, Record, Segments};

use crate::answer::{Failed, open};
use crate::error::Kind;

/// How long a connection is kept that is not used: less than servers keep it.
const IDLE_MAX: Duration = Duration::from_secs(30);

const AGENT: &str = concat!("kjob-client/", env!("CARGO_PKG_VERSION"));

/// What makes connections.
#[cfg(feature = "tls")]
pub(crate) type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls"))]
pub(crate) type Connector = HttpConnector;

/// Kept-alive connections to servers.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    encoding: Encoding,
    max_reply: usize,
    authorization: Option<HeaderValue>,
    http: HttpClient<Connector, Pieces>,
}

impl Transport {
    pub(crate) fn new(
        encoding: Encoding,
        max_reply: usize,
        authorization: Option<HeaderValue>,
        connector: Connector,
    ) -> Self {
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector);
        Self {
            encoding,
            max_reply,
            authorization,
            http,
        }
    }

    /// A request as bytes, which may be sent any number of times.
    pub(crate) fn encode(&self, request: &impl Record) -> Segments {
        match self.encoding {
            Encoding::Binary => request.encode_segments(),
            Encoding::Json => Segments::from(request.encode_json()),
            Encoding::Snappy => {
                Segments::from(kjob_proto::snappy::compress(&request.encode_to_bytes()))
            }
        }
    }

    /// One try: sends a request to the server at `base`, and opens its reply.
    pub(crate) async fn post<Response: Record>(
        &self,
        base: &str,
        endpoint: &str,
        body: Segments,
        timeout: Duration,
    ) -> Result<Response, Failed> {
        let exchange = tokio::time::timeout(timeout, self.exchange(base, endpoint, body));
        let (status, headers, reply) = exchange.await.map_err(|_| Kind::Timeout(timeout))??;
        open(status, &headers, self.encoding, reply)
    }

    async fn exchange(
        &self,
        base: &str,
        endpoint: &str,
        body: Segments,
    ) -> Result<(StatusCode, HeaderMap, Bytes), Kind> {
        let content_type = HeaderValue::from_static(self.encoding.content_type());
        let mut request = Request::post(format!("{base}{endpoint}"))
            .header(CONTENT_TYPE, &content_type)
            .header(ACCEPT, content_type)
            .header(USER_AGENT, AGENT)
            .body(Pieces::from(body))
            .map_err(|error| Kind::Broken(error.into()))?;
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        let response = self.http.request(request).await.map_err(|error| {
            #[cfg(feature = "tls")]
            if crate::tls::is_cause(&error) {
                return Kind::Tls(error.into());
            }
            if error.is_connect() {
                Kind::Connect(error.into())
            } else {
                Kind::Broken(error.into())
            }
        })?;
        let (head, body) = response.into_parts();
        let collected = Limited::new(body, self.max_reply).collect().await;
        let body = collected.map_err(|error| match error.is::<LengthLimitError>() {
            true => Kind::TooLong {
                limit: self.max_reply,
            },
            false => Kind::Broken(error),
        })?;
        Ok((head.status, head.headers, body.to_bytes()))
    }
}

/// A request body in pieces, so that a big payload is not copied.
#[derive(Debug)]
struct Pieces(VecDeque<Bytes>);

impl From<Segments> for Pieces {
    fn from(segments: Segments) -> Self {
        Self(segments.into_iter().collect())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// Connections as they are below TLS.
pub(crate) fn tcp(timeout: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(timeout));
    // Requests are written whole, so there is nothing to wait for and join.
    connector.set_nodelay(true);
    connector
}
