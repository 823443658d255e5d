//! What is needed of a request's head, and where its path leads.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, IF_NONE_MATCH, ORIGIN, USER_AGENT,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use kjob_core::TraceParent;
use kjob_core::engine::Engine;
use kjob_proto::Encoding;

use crate::console::assets::Asset;
use crate::gateway::Forwardable;
use crate::health::Page;
use crate::ordinary::{Extras, Resource};
use crate::outbound::AGENT;
use crate::passthrough::Passing;
use crate::prefer::PREFER;
use crate::problem;
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};
use crate::traces::{RequestSpan, Traces};
use crate::wire::Endpoint;

/// How the official clients begin to say what they are (docs/protocol.md section 2).
const OFFICIAL_CLIENT: &str = "kinetica-api";

/// The types of a request of the wire protocol.
pub(crate) const WIRE_TYPES: &str =
    "application/octet-stream, application/json, application/x-snappy";

/// How paths are labelled where they are counted: by the places that there are, and never by what a client
/// sent.
pub(crate) const ENDPOINT_LABELS: [&str; 25] = [
    "/create/job",
    "/get/job",
    "/admin/show/jobs",
    "/admin/alter/jobs",
    "/show/system/status",
    "/show/system/properties",
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/jobs",
    "/jobs/{job}",
    "/jobs/{job}/result",
    "/jobs/{job}/events",
    "/jobs/{job}/progress",
    "/jobs/{job}/payload",
    "/jobs/{job}/log",
    "/jobs/events",
    "/console/me",
    "/console/history",
    "/console/{file}",
    "/openapi.json",
    "routed",
    "passed",
    "unknown",
];

/// What is needed of a request's head. The head itself is a slice of the connection's buffer, which
/// would stay in memory for as long as a long poll waits.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) media: Media,
    /// What was done to the body on top, if anything was.
    pub(crate) coding: Option<String>,
    pub(crate) trace: Option<TraceParent>,
    /// What traces will tell of it, if they are wanted.
    pub(crate) span: Option<Arc<RequestSpan>>,
    pub(crate) is_http2: bool,
    /// Whether the body comes only after "100 Continue".
    pub(crate) expects: bool,
    /// Headers that routes pass on.
    pub(crate) forwardable: Forwardable,
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Target {
    Wire(Endpoint),
    Page(Page),
    /// A file of the console, and what the browser has of it.
    Asset(&'static Asset, Option<String>),
    Resource(Resource, Box<Extras>),
    /// An endpoint that is called, and its result waited for.
    Routed(Box<Routed>),
    /// Something that the upstream is to answer.
    Passed(Box<Passing>),
    /// What the upstream says of itself, and where it is, which this server knows better.
    Properties(Box<Passing>),
    Unknown(String),
}

/// What goes through to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// Nothing: there is no upstream.
    Nothing,
    /// All that is no job endpoint, but for the status: this server is about to end, and says so.
    AllButStatus,
    /// All that is no job endpoint.
    All,
}

/// A call of an endpoint that a route takes.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) endpoint: String,
    /// Whether the caller is a client of the wire protocol.
    pub(crate) in_envelope: bool,
    pub(crate) extras: Extras,
}

/// What the head says of the body's encoding.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Named(Encoding),
    /// Nothing, and the body may show it.
    Missing,
    /// Something that the protocol does not have.
    Other(String),
}

impl Head {
    pub(crate) fn new(
        parts: Parts,
        engine: &Engine,
        forwardable: Forwardable,
        through: Through,
        has_console: bool,
    ) -> Self {
        let headers = &parts.headers;
        let media = Media::of(headers);
        let target = match asset(&parts).filter(|_| has_console) {
            Some(target) => target,
            None => Target::of(&parts, &media, engine, through, has_console),
        };
        let trace = headers.get("traceparent");
        Self {
            target,
            media,
            coding: coding(headers),
            trace: trace.and_then(|value| TraceParent::parse(value.to_str().ok()?)),
            span: None,
            is_http2: parts.version == Version::HTTP_2,
            expects: headers.contains_key(EXPECT),
            method: parts.method,
            forwardable,
        }
    }

    /// Begins its span. Pages, which watchdogs look at all the time, have none.
    pub(crate) fn begin_span(&mut self, traces: &Traces) {
        if !matches!(self.target, Target::Page(_) | Target::Asset(..)) {
            self.span = Some(RequestSpan::begin(traces, self.trace));
        }
    }

    /// The body is there.
    pub(crate) fn received(&self) {
        if let Some(span) = &self.span {
            span.received();
        }
    }

    /// Refuses another method than POST, and what was done to the body on top.
    pub(crate) fn check_post(&self) -> Result<(), Refusal> {
        if self.method != Method::POST {
            return Err(Refusal::Method {
                found: self.method.clone(),
                allowed: "POST",
            });
        }
        match &self.coding {
            Some(found) => Err(Refusal::ContentEncoding {
                found: found.clone(),
            }),
            None => Ok(()),
        }
    }

    /// As [`check_post`](Self::check_post), and refuses a body that says it is no JSON.
    pub(crate) fn check_json(&self) -> Result<(), Refusal> {
        self.check_post()?;
        let found = match &self.media {
            Media::Named(Encoding::Json) | Media::Missing => return Ok(()),
            Media::Named(encoding) => encoding.content_type().to_owned(),
            Media::Other(found) => found.clone(),
        };
        let allowed = Encoding::Json.content_type();
        Err(Refusal::MediaType { found, allowed })
    }

    /// Refuses a request in the form that its sender reads. Clients send the protocol's calls as POSTs
    /// in one of its encodings, and are answered an envelope, wherever they send them: with 404 they
    /// would leave the cluster (docs/protocol.md section 1, rule 3), which `text_status` may be, the
    /// status for everybody else.
    pub(crate) fn refuse(&self, refusal: &Refusal, text_status: StatusCode) -> Response<ReplyBody> {
        let encoding = self.media.encoding();
        match &self.target {
            Target::Wire(_) | Target::Properties(_) => {
                reply::refusal(refusal, encoding.unwrap_or(Encoding::Json))
            }
            Target::Routed(call) if call.in_envelope => {
                reply::refusal(refusal, encoding.unwrap_or(Encoding::Json))
            }
            Target::Resource(..) | Target::Routed(_) => problem::answer(refusal),
            Target::Passed(_) | Target::Unknown(_) | Target::Page(_) | Target::Asset(..) => {
                match encoding {
                    Some(encoding) if self.method == Method::POST => {
                        reply::refusal(refusal, encoding)
                    }
                    _ if matches!(self.target, Target::Unknown(_)) => problem::answer(refusal),
                    _ => reply::text_refusal(text_status, refusal),
                }
            }
        }
    }
}

/// The file of the console that a request asks for. `/` is the console to who takes pages, as browsers do;
/// everybody else is told in a text what this is.
fn asset(parts: &Parts) -> Option<Target> {
    let headers = &parts.headers;
    let path = parts.uri.path();
    let asset = match path {
        "/console" => Asset::home(),
        "/" if parts.method == Method::POST || !takes_pages(headers) => return None,
        "/" => Asset::home(),
        path => Asset::at(path)?,
    };
    let seen = headers
        .get(IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok());
    Some(Target::Asset(asset, seen.map(str::to_owned)))
}

fn takes_pages(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(ACCEPT).iter();
    kinds.any(|kinds| {
        kinds
            .to_str()
            .is_ok_and(|kinds| kinds.contains("text/html"))
    })
}

impl Target {
    fn of(
        parts: &Parts,
        media: &Media,
        engine: &Engine,
        through: Through,
        has_console: bool,
    ) -> Self {
        let path = parts.uri.path();
        match Endpoint::at(path) {
            Some(Endpoint::SystemStatus) if through == Through::All => {
                return Self::passed(parts);
            }
            Some(Endpoint::SystemProperties) if through != Through::Nothing => {
                let Some(mut passing) = Passing::of(parts) else {
                    return Self::Unknown(path.to_owned());
                };
                passing.uncompressed();
                return Self::Properties(Box::new(passing));
            }
            Some(endpoint) => return Self::Wire(endpoint),
            None => {}
        }
        if let Some(page) = Page::at(path) {
            return Self::Page(page);
        }
        let resource = Resource::at(path);
        if let Some(resource) = resource.filter(|it| has_console || !it.is_of_console()) {
            return Self::Resource(resource, Box::new(Extras::of(parts)));
        }
        if !engine.takes_calls(path) {
            return match through {
                Through::Nothing => Self::Unknown(path.to_owned()),
                _ => Self::passed(parts),
            };
        }
        Self::Routed(Box::new(Routed {
            endpoint: path.to_owned(),
            in_envelope: !parts.headers.contains_key(PREFER)
                && engine.declares_records(path)
                && media.is_of_a_client(&parts.headers),
            extras: Extras::of(parts),
        }))
    }

    fn passed(parts: &Parts) -> Self {
        match Passing::of(parts) {
            Some(passing) => Self::Passed(Box::new(passing)),
            None => Self::Unknown(parts.uri.path().to_owned()),
        }
    }

    /// Whether jobs can be made, seen or stopped there. The status is asked for by servers in front of
    /// this one, to know whom it lets in.
    pub(crate) fn is_of_jobs(&self) -> bool {
        match self {
            Self::Resource(resource, _) => *resource != Resource::OpenApi,
            Self::Wire(_) | Self::Routed(_) => true,
            Self::Page(_)
            | Self::Asset(..)
            | Self::Passed(_)
            | Self::Properties(_)
            | Self::Unknown(_) => false,
        }
    }

    /// Whether it is more work than to say that there is too much.
    pub(crate) fn is_bounded(&self) -> bool {
        !matches!(self, Self::Page(_) | Self::Asset(..) | Self::Unknown(_))
    }

    /// One of [`ENDPOINT_LABELS`].
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Wire(endpoint) => endpoint.path(),
            Self::Page(page) => page.path(),
            Self::Asset(..) => "/console/{file}",
            Self::Resource(resource, _) => resource.template(),
            Self::Properties(_) => Endpoint::SystemProperties.path(),
            Self::Routed(_) => "routed",
            Self::Passed(_) => "passed",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The path as far as it is one of few, for names in traces.
    pub(crate) fn http_route(&self) -> Option<&'static str> {
        match self {
            Self::Routed(_) | Self::Passed(_) | Self::Unknown(_) => None,
            _ => Some(self.label()),
        }
    }

    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Wire(endpoint) => endpoint.path(),
            Self::Page(page) => page.path(),
            Self::Asset(..) => self.label(),
            Self::Resource(resource, _) => resource.template(),
            Self::Routed(call) => &call.endpoint,
            Self::Passed(passing) | Self::Properties(passing) => passing.path(),
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

    /// Whether a call of an endpoint that has records, with a body of this type, is a client's of the
    /// wire protocol. Avro is sent by nobody else; JSON may be anybody's.
    fn is_of_a_client(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Named(Encoding::Binary | Encoding::Snappy) => true,
            Self::Named(Encoding::Json) => headers.get(USER_AGENT).is_some_and(|agent| {
                let agent = agent.as_bytes();
                agent.starts_with(OFFICIAL_CLIENT.as_bytes()) || agent == AGENT.as_bytes()
            }),
            Self::Missing | Self::Other(_) => false,
        }
    }

    pub(crate) fn encoding(&self) -> Option<Encoding> {
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
pub(crate) fn guessed_encoding(body: &Bytes) -> Encoding {
    if body.trim_ascii_start().first() == Some(&b'{') {
        Encoding::Json
    } else {
        Encoding::Binary
    }
}
