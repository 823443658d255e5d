//! Spans of requests: the whole, how the body came, how it was decoded, and the submit in it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::{Method, StatusCode};
use kjob_core::engine::{Accepted, SubmitError};
use kjob_core::{QueryId, TraceParent};

use super::{Kind, Span, Traces, Value, ids};
use crate::head::Target;

/// A request that is being answered, as its trace will tell. It ends with an answer: of one whose client
/// goes away before there is nothing to tell.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    traces: Traces,
    trace: QueryId,
    id: u64,
    /// The caller's span; 0 for none.
    parent: u64,
    /// The span of the submit in it, which the job's are parts of.
    submit: u64,
    began: SystemTime,
    received: OnceLock<SystemTime>,
}

impl RequestSpan {
    /// Begins one in the trace of the caller, if that tells one.
    pub(crate) fn begin(traces: &Traces, caller: Option<TraceParent>) -> Arc<Self> {
        Arc::new(Self {
            traces: traces.clone(),
            trace: match caller {
                Some(caller) => caller.query_id,
                None => QueryId::random(&mut rand::rng()),
            },
            id: ids::random(),
            parent: caller.map_or(0, |caller| caller.span_id),
            submit: ids::random(),
            began: SystemTime::now(),
            received: OnceLock::new(),
        })
    }

    /// The body is there.
    pub(crate) fn received(&self) {
        // It fails if it was said before.
        let _ = self.received.set(SystemTime::now());
    }

    /// What the job of its submit is a part of.
    pub(crate) fn parent_of_job(&self) -> TraceParent {
        TraceParent {
            query_id: self.trace,
            span_id: self.submit,
            sampled: true,
        }
    }

    /// A submit was answered.
    pub(crate) fn submitted(
        &self,
        began: SystemTime,
        endpoint: &str,
        outcome: &Result<Accepted, SubmitError>,
    ) {
        if let Some(received) = self.received.get() {
            self.record(self.part("decode", *received, began));
        }
        let mut span = self.part("submit", began, SystemTime::now());
        span.id = self.submit;
        span.kind = Kind::Producer;
        let endpoint = || Value::from(endpoint.to_owned());
        span.attributes.extend([
            ("messaging.system", "kjob".into()),
            ("messaging.operation.type", "send".into()),
            ("messaging.operation.name", "submit".into()),
            ("messaging.destination.name", endpoint()),
            ("kjob.endpoint", endpoint()),
        ]);
        match outcome {
            Ok(accepted) => span.attributes.extend([
                ("messaging.message.id", accepted.id.to_string().into()),
                ("kjob.job.id", Value::Number(accepted.id.get())),
                ("kjob.job.existing", Value::Yes(accepted.existing)),
            ]),
            Err(_) => span.error = Some("refused"),
        }
        self.record(span);
    }

    /// The request was answered.
    pub(crate) fn answered(
        &self,
        method: &Method,
        target: &Target,
        is_http2: bool,
        status: StatusCode,
    ) {
        if let Some(received) = self.received.get() {
            self.record(self.part("receive", self.began, *received));
        }
        let (verb, is_known) = verb(method);
        let route = target.http_route();
        let mut span = self.part("", self.began, SystemTime::now());
        span.name = match route {
            Some(route) => Cow::Owned(format!("{verb} {route}")),
            None => verb.into(),
        };
        span.id = self.id;
        span.parent = self.parent;
        span.is_parent_remote = self.parent != 0;
        span.kind = Kind::Server;
        let method = if is_known { verb } else { "_OTHER" };
        span.attributes.extend([
            ("http.request.method", method.into()),
            (
                "http.response.status_code",
                Value::Number(status.as_u16().into()),
            ),
            (
                "network.protocol.version",
                if is_http2 { "2" } else { "1.1" }.into(),
            ),
        ]);
        if let Some(route) = route {
            span.attributes.push(("http.route", route.into()));
        }
        span.error = status.is_server_error().then_some("failed");
        self.record(span);
    }

    fn part(&self, name: &'static str, start: SystemTime, end: SystemTime) -> Span {
        Span {
            trace: self.trace,
            id: ids::random(),
            parent: self.id,
            is_parent_remote: false,
            kind: Kind::Internal,
            name: name.into(),
            start,
            // The clock may have been set.
            end: end.max(start),
            attributes: Vec::new(),
            link: None,
            error: None,
        }
    }

    fn record(&self, span: Span) {
        self.traces.record(span);
    }
}

/// A method as it may stand in a name, and whether it is one that is known: clients may send any word.
fn verb(method: &Method) -> (&'static str, bool) {
    match method.as_str() {
        "GET" => ("GET", true),
        "HEAD" => ("HEAD", true),
        "POST" => ("POST", true),
        "PUT" => ("PUT", true),
        "DELETE" => ("DELETE", true),
        "PATCH" => ("PATCH", true),
        "OPTIONS" => ("OPTIONS", true),
        _ => ("HTTP", false),
    }
}
