//! The one service: limits, access, decode, dispatch, encode.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use kjob_core::TraceParent;
use kjob_core::engine::Engine;
use kjob_proto::{Encoding, Limits};
use tokio::sync::Semaphore;

use crate::access::{Access, Admitted};
use crate::activity::{Activity, InFlight};
use crate::auth::{Credentials, Denied};
use crate::body::{BodyBounds, Budget, Held, collect, discard};
use crate::health::{NotReady, Page};
use crate::load::{Load, Overrun};
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};
use crate::web::Visit;
use crate::wire::{self, Call, Endpoint};
use crate::{ServerOptions, SystemInfo};

/// How much of a body that nobody wants is read over HTTP/2 however small bodies are to be.
const HTTP2_DISCARD_MIN: usize = 1 << 20;

/// Answers requests, of all connections.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Engine,
    system: SystemInfo,
    /// Set once, before the first request.
    access: OnceLock<Access>,
    limits: Limits,
    bounds: BodyBounds,
    budget: Budget,
    load: Load,
    heavy: Arc<Semaphore>,
    wait_max: Duration,
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
            access: OnceLock::new(),
            limits: options.limits,
            bounds: BodyBounds {
                len_max: options.limits.max_body,
                time_max: options.body_timeout,
                idle_max: options.body_idle_timeout,
            },
            budget: Budget::new(options.max_body_memory),
            load: Load::new(options.max_streams),
            heavy: Arc::new(Semaphore::new(wire::heavy_max())),
            wait_max: options.max_wait,
            is_stopping: AtomicBool::new(false),
        }
    }

    /// Says who may use the server; only the first word counts.
    pub(crate) fn set_access(&self, access: Access) {
        // It fails if it was said before.
        let _ = self.access.set(access);
    }

    fn access(&self) -> &Access {
        self.access.get_or_init(Access::default)
    }

    /// From now on wire endpoints answer that the server ends.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Answers one request.
    ///
    /// # Errors
    /// There are far too many: the stream, or the connection, ends without an answer.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Result<Response<ReplyBody>, Overrun> {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let visit = Visit::of(&parts);
        let credentials = Credentials::of(&parts.headers);
        let head = Head::new(parts);
        let mut in_flight = peer.activity.begin_request(head.is_http2);
        let mut is_over = false;
        if head.is_http2 && !in_flight.is_first() {
            let counted = self.load.count()?;
            is_over = counted.is_over();
            in_flight.set_counted(counted);
        }
        let web = &self.access().web;
        let is_preflight = web.is_preflight(&visit, &head.method);
        let mut response = if is_over && matches!(head.target, Target::Wire(_)) {
            self.put_aside(&head, body, &peer);
            let limit = self.load.max();
            let refusal = Refusal::TooManyStreams { limit };
            head.refuse(&refusal, refusal.status())
        } else if is_preflight {
            self.put_aside(&head, body, &peer);
            reply::preflight()
        } else {
            self.respond(&head, &visit, credentials, body, &peer, &mut in_flight)
                .await
        };
        web.allow(&visit, is_preflight, response.headers_mut());

        let took = began.elapsed();
        let headers = response.headers_mut();
        headers.insert(reply::REQUEST_TIME, reply::request_time(took));
        response.body_mut().set_in_flight(in_flight);
        tracing::debug!(
            method = %head.method,
            path = head.target.path(),
            status = response.status().as_u16(),
            took_us = took.as_micros() as u64,
            peer = %peer.ip,
            "request"
        );
        Ok(response)
    }

    /// Answers what is no browser's question.
    async fn respond(
        &self,
        head: &Head,
        visit: &Visit,
        credentials: Credentials,
        body: Incoming,
        peer: &Peer,
        in_flight: &mut InFlight,
    ) -> Response<ReplyBody> {
        let access = self.access();
        let to_strangers = access.accounts.is_some();
        if let Target::Page(page) = &head.target
            && page.is_open()
        {
            self.put_aside(head, body, peer);
            return page.answer(&head.method, self.not_ready(), to_strangers);
        }
        let admitted = match access.admit(visit, &credentials, peer.ip).await {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.put_aside(head, body, peer);
                return head.refuse(&refusal, refusal.status());
            }
        };
        // What waits is to be small, and is to know no secrets.
        drop(credentials);
        match &head.target {
            Target::Wire(endpoint) => {
                self.wire(*endpoint, head, body, &admitted, peer, in_flight)
                    .await
            }
            Target::Page(page) => {
                self.put_aside(head, body, peer);
                page.answer(&head.method, self.not_ready(), false)
            }
            Target::Unknown(path) => {
                self.put_aside(head, body, peer);
                let path = path.clone();
                head.refuse(&Refusal::UnknownPath { path }, StatusCode::NOT_FOUND)
            }
        }
    }

    /// Answers for a wire endpoint: always an envelope in the request's encoding.
    async fn wire(
        &self,
        endpoint: Endpoint,
        head: &Head,
        mut body: Incoming,
        admitted: &Admitted,
        peer: &Peer,
        in_flight: &mut InFlight,
    ) -> Response<ReplyBody> {
        // Known from the first byte of the body at the latest.
        let mut encoding = head.media.encoding().unwrap_or(Encoding::Json);
        let outcome = match self.read(head, &mut body, &mut encoding).await {
            Ok(request) => {
                in_flight.begin_working();
                let call = self.call(endpoint, head, request, encoding, admitted, peer);
                self.while_admitted(endpoint, admitted, call).await
            }
            Err(refusal) => Err(refusal),
        };
        let refusal = match outcome {
            Ok(response) => return response,
            Err(refusal) => refusal,
        };
        if refusal.status().is_server_error() {
            tracing::error!(endpoint = endpoint.path(), error = %refusal, "request failed");
        }
        let mut response = reply::refusal(&refusal, encoding);
        if !refusal.ends_connection() {
            self.put_aside(head, body, peer);
        } else if !head.is_http2 {
            // HTTP/2 ends the stream instead.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    /// Reads the body, once the head shows nothing wrong. Sets the encoding where only the body
    /// shows it.
    async fn read(
        &self,
        head: &Head,
        body: &mut Incoming,
        encoding: &mut Encoding,
    ) -> Result<(Bytes, Held), Refusal> {
        if head.method != Method::POST {
            return Err(Refusal::Method {
                found: head.method.clone(),
                allowed: "POST",
            });
        }
        if let Media::Other(found) = &head.media {
            return Err(Refusal::MediaType {
                found: found.clone(),
            });
        }
        if let Some(found) = &head.coding {
            return Err(Refusal::ContentEncoding {
                found: found.clone(),
            });
        }
        let (request, held) = collect(body, &self.bounds, &self.budget).await?;
        if head.media == Media::Missing {
            *encoding = guessed_encoding(&request);
        }
        Ok((request, held))
    }

    /// A get may wait for minutes: it ends when its caller is to be let in no more. Other calls are done
    /// at once, and to the end.
    async fn while_admitted<T>(
        &self,
        endpoint: Endpoint,
        admitted: &Admitted,
        call: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        if endpoint != Endpoint::GetJob {
            return call.await;
        }
        tokio::select! {
            biased;
            outcome = call => outcome,
            () = self.access().revoked(admitted) => Err(Refusal::Login(Denied::Wrong)),
        }
    }

    async fn call(
        &self,
        endpoint: Endpoint,
        head: &Head,
        (request, mut held): (Bytes, Held),
        encoding: Encoding,
        admitted: &Admitted,
        peer: &Peer,
    ) -> Result<Response<ReplyBody>, Refusal> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Err(Refusal::Stopping);
        }
        let call = Call {
            engine: &self.engine,
            system: &self.system,
            limits: &self.limits,
            heavy: &self.heavy,
            wait_max: self.wait_max,
            encoding,
            caller: &admitted.caller,
            audit: self.access().audit.as_ref(),
            trace: head.trace,
            ip: peer.ip,
        };
        let answer = endpoint.answer(&call, request, &mut held).await?;
        let mut response = reply::envelope(StatusCode::OK, encoding, answer.segments);
        response.body_mut().set_delivery(answer.delivery);
        if matches!(endpoint, Endpoint::GetJob | Endpoint::ShowJobs) {
            response.body_mut().set_held(held);
        }
        Ok(response)
    }

    /// Reads the rest of a body that nobody wants. A client that is still sending would otherwise meet a
    /// reset connection before it reads its answer, and the connection could not be used again. In HTTP/2
    /// it would meet a reset stream, which some clients (curl 7.88) take for a failure of the whole call.
    fn put_aside(&self, head: &Head, body: Incoming, peer: &Peer) {
        // One that waits for "100 Continue" does not send.
        if body.is_end_stream() || head.expects {
            return;
        }
        let mut in_flight = peer.activity.hold();
        let bytes_max = if head.is_http2 {
            // A client may leave many streams like this, so beyond a fair number they are reset.
            match self.load.count() {
                Ok(counted) if !counted.is_over() => in_flight.set_counted(counted),
                _ => return,
            }
            // A reset ends the stream alone, so beyond a fair measure it does.
            let fair = self.bounds.len_max.saturating_mul(2);
            fair.max(HTTP2_DISCARD_MIN)
        } else {
            usize::MAX
        };
        tokio::spawn(drain(body, self.bounds, bytes_max, in_flight));
    }

    fn not_ready(&self) -> Option<NotReady> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Some(NotReady::Stopping);
        }
        if let Some(error) = self.engine.store_failure() {
            return Some(NotReady::StoreFailed(error));
        }
        let is_draining = self.system.is_draining() || self.engine.stats().draining;
        is_draining.then_some(NotReady::Draining)
    }
}

/// What is needed of a request's head. The head itself is a slice of the connection's buffer, which
/// would stay in memory for as long as a long poll waits.
#[derive(Debug)]
struct Head {
    method: Method,
    target: Target,
    media: Media,
    /// What was done to the body on top, if anything was.
    coding: Option<String>,
    trace: Option<TraceParent>,
    is_http2: bool,
    /// Whether the body comes only after "100 Continue".
    expects: bool,
}

/// What a path leads to.
#[derive(Debug)]
enum Target {
    Wire(Endpoint),
    Page(Page),
    Unknown(String),
}

/// What the head says of the body's encoding.
#[derive(Debug, PartialEq, Eq)]
enum Media {
    Named(Encoding),
    /// Nothing, and the body may show it.
    Missing,
    /// Something that the protocol does not have.
    Other(String),
}

impl Head {
    fn new(parts: Parts) -> Self {
        let path = parts.uri.path();
        let target = match (Endpoint::at(path), Page::at(path)) {
            (Some(endpoint), _) => Target::Wire(endpoint),
            (None, Some(page)) => Target::Page(page),
            (None, None) => Target::Unknown(path.to_owned()),
        };
        let headers = &parts.headers;
        let trace = headers.get("traceparent");
        Self {
            target,
            media: Media::of(headers),
            coding: coding(headers),
            trace: trace.and_then(|value| TraceParent::parse(value.to_str().ok()?)),
            is_http2: parts.version == Version::HTTP_2,
            expects: headers.contains_key(EXPECT),
            method: parts.method,
        }
    }

    /// Refuses a request in the form that its sender reads. Clients send the protocol's calls as POSTs
    /// in one of its encodings, and are answered an envelope, wherever they send them: with 404 they
    /// would leave the cluster (docs/protocol.md section 1, rule 3), which `text_status` may be, the
    /// status for everybody else.
    fn refuse(&self, refusal: &Refusal, text_status: StatusCode) -> Response<ReplyBody> {
        if let Target::Wire(_) = self.target {
            let encoding = self.media.encoding().unwrap_or(Encoding::Json);
            return reply::refusal(refusal, encoding);
        }
        match self.media.encoding() {
            Some(encoding) if self.method == Method::POST => reply::refusal(refusal, encoding),
            _ => reply::text_refusal(text_status, refusal),
        }
    }
}

impl Target {
    fn path(&self) -> &str {
        match self {
            Self::Wire(endpoint) => endpoint.path(),
            Self::Page(page) => page.path(),
            Self::Unknown(path) => path,
        }
    }
}

impl Media {
    /// A missing type is guessed at, but not in requests from web pages (those with an `Origin`): a
    /// page of any site may send a body without a type, unasked, and JSON and binary only if the server
    /// has said that it may.
    fn of(headers: &HeaderMap) -> Self {
        match headers.get(CONTENT_TYPE) {
            Some(value) => match value.to_str().ok().and_then(Encoding::from_content_type) {
                Some(encoding) => Self::Named(encoding),
                None => Self::Other(String::from_utf8_lossy(value.as_bytes()).into_owned()),
            },
            None if headers.contains_key(ORIGIN) => Self::Other(String::new()),
            None => Self::Missing,
        }
    }

    fn encoding(&self) -> Option<Encoding> {
        match self {
            Self::Named(encoding) => Some(*encoding),
            Self::Missing | Self::Other(_) => None,
        }
    }
}

/// The `Content-Encoding` that is one: `identity` is none.
fn coding(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let is_one = |value: &&HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    };
    let found = values.find(is_one)?;
    Some(String::from_utf8_lossy(found.as_bytes()).into_owned())
}

/// The encoding of a body without a `Content-Type`: an object is JSON, and no binary request begins
/// with a brace, since that byte is a negative length or id.
fn guessed_encoding(body: &Bytes) -> Encoding {
    if body.trim_ascii_start().first() == Some(&b'{') {
        Encoding::Json
    } else {
        Encoding::Binary
    }
}

async fn drain(body: Incoming, bounds: BodyBounds, bytes_max: usize, _in_flight: InFlight) {
    discard(pin!(body), &bounds, bytes_max).await;
}
