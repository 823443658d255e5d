//! The one service: limits, authentication, decode, dispatch, encode.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use kjob_core::TraceParent;
use kjob_core::engine::Engine;
use kjob_proto::{Encoding, Limits, Text};

use crate::activity::{Activity, InFlight};
use crate::auth::Auth;
use crate::body::{BodyBounds, Budget, collect, discard};
use crate::health::{NotReady, Page};
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};
use crate::wire::{Call, Endpoint};
use crate::{ServerOptions, SystemInfo};

/// Answers requests, of all connections.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Engine,
    system: SystemInfo,
    auth: Auth,
    limits: Limits,
    bounds: BodyBounds,
    budget: Budget,
    wait_max: std::time::Duration,
    is_stopping: AtomicBool,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    pub(crate) activity: Activity,
}

impl Service {
    pub(crate) fn new(engine: Engine, system: SystemInfo, options: &ServerOptions) -> Self {
        Self {
            engine,
            system,
            auth: Auth,
            limits: options.limits,
            bounds: BodyBounds {
                len_max: options.limits.max_body,
                time_max: options.body_timeout,
                idle_max: options.body_idle_timeout,
            },
            budget: Budget::new(options.max_body_memory),
            wait_max: options.max_wait,
            is_stopping: AtomicBool::new(false),
        }
    }

    /// From now on wire endpoints answer that the server ends.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Answers one request.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Response<ReplyBody> {
        let began = Instant::now();
        let is_http2 = request.version() == Version::HTTP_2;
        let in_flight = peer.activity.begin_request(is_http2);
        let (head, body) = request.into_parts();
        let mut response = self.route(&head, body, &peer).await;

        let took = began.elapsed();
        let headers = response.headers_mut();
        headers.insert(reply::REQUEST_TIME, reply::request_time(took));
        response.body_mut().set_in_flight(in_flight);
        tracing::debug!(
            method = %head.method,
            path = head.uri.path(),
            status = response.status().as_u16(),
            took_us = took.as_micros() as u64,
            peer = %peer.ip,
            "request"
        );
        response
    }

    async fn route(&self, head: &Parts, body: Incoming, peer: &Peer) -> Response<ReplyBody> {
        let path = head.uri.path();
        if let Some(endpoint) = Endpoint::at(path) {
            return self.wire(endpoint, head, body, peer).await;
        }
        let response = match Page::at(path) {
            Some(page) => page.answer(&head.method, self.not_ready()),
            None => unknown_path(head),
        };
        self.put_aside(head, body, peer);
        response
    }

    /// Answers for a wire endpoint: always an envelope in the request's encoding.
    async fn wire(
        &self,
        endpoint: Endpoint,
        head: &Parts,
        mut body: Incoming,
        peer: &Peer,
    ) -> Response<ReplyBody> {
        let mut encoding = named_encoding(&head.headers).unwrap_or(Encoding::Json);
        let outcome = match self.read(head, &mut body, &mut encoding).await {
            Ok(request) => self.call(endpoint, head, request, encoding, peer).await,
            Err(refusal) => Err(refusal),
        };
        let refusal = match outcome {
            Ok(response) => return response,
            Err(refusal) => refusal,
        };
        if refusal.status().is_server_error() {
            tracing::error!(endpoint = head.uri.path(), error = %refusal, "request failed");
        }
        let mut response = reply::refusal(&refusal, encoding);
        if refusal.ends_connection() {
            // HTTP/2 ends the stream instead.
            if head.version != Version::HTTP_2 {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
        } else {
            self.put_aside(head, body, peer);
        }
        response
    }

    /// Reads the body, once the head shows nothing wrong. Sets the encoding where only the body
    /// shows it.
    async fn read(
        &self,
        head: &Parts,
        body: &mut Incoming,
        encoding: &mut Encoding,
    ) -> Result<(Bytes, crate::body::Held), Refusal> {
        if head.method != Method::POST {
            return Err(Refusal::Method {
                found: head.method.clone(),
                allowed: "POST",
            });
        }
        let is_named = head.headers.contains_key(CONTENT_TYPE);
        if is_named && named_encoding(&head.headers).is_none()
            || !is_named && head.headers.contains_key(ORIGIN)
        {
            return Err(Refusal::MediaType {
                found: content_type(&head.headers),
            });
        }
        let (request, held) = collect(body, &self.bounds, &self.budget).await?;
        if !is_named {
            *encoding = guessed_encoding(&request);
        }
        Ok((request, held))
    }

    async fn call(
        &self,
        endpoint: Endpoint,
        head: &Parts,
        (request, _held): (Bytes, crate::body::Held),
        encoding: Encoding,
        peer: &Peer,
    ) -> Result<Response<ReplyBody>, Refusal> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Err(Refusal::Stopping);
        }
        let trace = head.headers.get("traceparent");
        let call = Call {
            engine: &self.engine,
            system: &self.system,
            limits: &self.limits,
            wait_max: self.wait_max,
            encoding,
            caller: self.auth.caller(&head.headers),
            trace: trace.and_then(|value| TraceParent::parse(value.to_str().ok()?)),
            source_ip: Text::from(peer.ip.to_canonical().to_string()),
        };
        let answer = endpoint.answer(&call, request).await?;
        let mut response = reply::envelope(StatusCode::OK, encoding, answer.segments);
        response.body_mut().set_delivery(answer.delivery);
        Ok(response)
    }

    fn not_ready(&self) -> Option<NotReady> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Some(NotReady::Stopping);
        }
        let is_draining = self.system.is_draining() || self.engine.stats().draining;
        is_draining.then_some(NotReady::Draining)
    }

    /// Reads the rest of a body that nobody wants. A client that is still sending would otherwise meet
    /// a reset connection before it reads its answer, and the connection could not be used again.
    fn put_aside(&self, head: &Parts, body: Incoming, peer: &Peer) {
        // One that waits for "100 Continue" does not send, and HTTP/2 resets the stream alone.
        let is_coming = !body.is_end_stream() && !head.headers.contains_key(EXPECT);
        if is_coming && head.version != Version::HTTP_2 {
            let (bounds, in_flight) = (self.bounds, peer.activity.hold());
            tokio::spawn(drain(body, bounds, in_flight));
        }
    }
}

async fn drain(body: Incoming, bounds: BodyBounds, _in_flight: InFlight) {
    discard(pin!(body), &bounds).await;
}

/// Clients send the protocol's calls as POSTs in one of its encodings: to those an unknown endpoint is
/// a plain error. 404 would make them leave the cluster (docs/protocol.md section 1, rule 3), and is
/// for everybody else.
fn unknown_path(head: &Parts) -> Response<ReplyBody> {
    let refusal = Refusal::UnknownPath {
        path: head.uri.path().to_owned(),
    };
    match named_encoding(&head.headers) {
        Some(encoding) if head.method == Method::POST => reply::refusal(&refusal, encoding),
        _ => reply::text_refusal(StatusCode::NOT_FOUND, &refusal),
    }
}

fn named_encoding(headers: &HeaderMap) -> Option<Encoding> {
    let value = headers.get(CONTENT_TYPE)?;
    Encoding::from_content_type(value.to_str().ok()?)
}

/// The encoding of a body without a `Content-Type`: an object is JSON, and no binary request begins
/// with a brace, since that byte is a negative length or id.
///
/// Requests from web pages (those with an `Origin`) are not guessed at: a page of any origin may send
/// bodies without a type, or with some others, unasked, and JSON and binary only after a preflight.
fn guessed_encoding(body: &Bytes) -> Encoding {
    if body.trim_ascii_start().first() == Some(&b'{') {
        Encoding::Json
    } else {
        Encoding::Binary
    }
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}
