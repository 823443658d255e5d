//! Spans on their way to a collector: OTLP over HTTP, in protobuf.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc::Receiver;

use super::{Kind, Span, TracesError, Value};
use crate::gateway::Upstream;
use crate::metrics::Metrics;
use crate::outbound::{Outbound, Reach, whole};

/// The spans of one request.
const BATCH_MAX: usize = 512;

/// How long a span waits for others to be sent with.
const GATHER: Duration = Duration::from_secs(1);

/// How long a collector may take for a batch, tries anew included.
const TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer of a collector that is read.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// Where collectors take traces, below their URL.
const PATH: &str = "/v1/traces";

/// Sends spans.
pub(super) struct Exporter {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    metrics: Metrics,
    is_failing: bool,
}

impl Exporter {
    pub(super) fn new(collector: &Upstream, metrics: Metrics) -> Result<Self, TracesError> {
        let failed = |why: &dyn ToString| TracesError::Exporter(why.to_string());
        let reach = Reach {
            connect_timeout: CONNECT_TIMEOUT,
            is_https: collector.is_https(),
            ca_file: None,
        };
        let outbound = Outbound::new(&reach).map_err(|error| failed(&error))?;
        let endpoint = collector.at(PATH).map_err(|error| failed(&error))?;
        let builder = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(outbound))
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIMEOUT)
            .with_endpoint(endpoint.to_string());
        let mut exporter = builder.build().map_err(|error| failed(&error))?;
        exporter.set_resource(&resource());
        Ok(Self {
            exporter,
            scope: InstrumentationScope::builder("kjob-server")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            metrics,
            is_failing: false,
        })
    }

    /// Sends spans as they come, until it is told to stop, and then those that are there.
    pub(super) async fn run(mut self, mut spans: Receiver<Span>, mut stop: Receiver<()>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut is_over = false;
        while !is_over {
            tokio::select! {
                biased;
                taken = spans.recv_many(&mut batch, BATCH_MAX) => is_over = taken == 0,
                // Also if whoever could tell is gone.
                _ = stop.recv() => {
                    spans.close();
                    continue;
                }
            }
            let gathered = async {
                loop {
                    let room = BATCH_MAX - batch.len();
                    if room == 0 || spans.recv_many(&mut batch, room).await == 0 {
                        break;
                    }
                }
            };
            tokio::select! {
                () = gathered => {}
                () = tokio::time::sleep(GATHER) => {}
                _ = stop.recv() => spans.close(),
            }
            if !batch.is_empty() {
                self.send(std::mem::take(&mut batch)).await;
            }
        }
    }

    async fn send(&mut self, batch: Vec<Span>) {
        let count = batch.len() as u64;
        let batch = batch.into_iter().map(|span| data(span, &self.scope));
        match self.exporter.export(batch.collect()).await {
            Ok(()) => {
                self.metrics.spans_exported(count);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("the collector takes traces again");
                }
            }
            Err(error) => {
                self.metrics.spans_failed(count);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "the collector does not take traces; they are lost until it does");
                }
            }
        }
    }
}

/// Who sends: as the standard variables say, and else by what the program is.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource.build(),
        None => resource.with_service_name("kjob-server").build(),
    }
}

/// The client that all other requests to other servers are made by.
#[derive(Debug)]
struct Client(Outbound);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let response = self.0.send(request.map(whole)).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_LEN_MAX).collect().await?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(TIMEOUT, exchange).await?
    }
}

fn data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let context = |trace: kjob_core::QueryId, span: u64| {
        SpanContext::new(
            TraceId::from_bytes(trace.to_bytes()),
            SpanId::from_bytes(span.to_be_bytes()),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        )
    };
    let mut links = SpanLinks::default();
    if let Some((trace, span)) = span.link {
        links.links.push(Link::with_context(context(trace, span)));
    }
    let mut attributes: Vec<_> = span.attributes.into_iter().map(key_value).collect();
    if let Some(error) = span.error {
        attributes.push(KeyValue::new("error.type", error));
    }
    SpanData {
        span_context: context(span.trace, span.id),
        parent_span_id: SpanId::from_bytes(span.parent.to_be_bytes()),
        parent_span_is_remote: span.is_parent_remote,
        span_kind: match span.kind {
            Kind::Server => SpanKind::Server,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
            Kind::Internal => SpanKind::Internal,
        },
        name: span.name,
        start_time: span.start,
        end_time: span.end,
        attributes,
        dropped_attributes_count: 0,
        events: Default::default(),
        links,
        status: match span.error {
            Some(error) => Status::error(error),
            None => Status::Unset,
        },
        instrumentation_scope: scope.clone(),
    }
}

fn key_value((key, value): (&'static str, Value)) -> KeyValue {
    match value {
        Value::Text(text) => KeyValue::new(key, text),
        Value::Number(number) => KeyValue::new(key, number),
        Value::Yes(yes) => KeyValue::new(key, yes),
    }
}
