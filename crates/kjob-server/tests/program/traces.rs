//! Traces of the real program, as a collector gets them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use kjob_client::{Client, Payload, Submit};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use tempfile::{TempDir, tempdir};

use crate::support::{Running, program};

const SOON: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A request's first line and headers in one text, and its body.
type Asked = (String, Vec<u8>);

fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; len.map_or(0, |len| len.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// A server on this machine that answers every request alike, and passes on what it was asked.
fn listen(answer: &'static str) -> (String, Receiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, all) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, asked): (_, Sender<Asked>) = (stream.unwrap(), asked.clone());
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                while let Some(request) = read(&mut stream) {
                    let told = asked.send(request).is_ok();
                    let answered = stream.get_mut().write_all(answer.as_bytes());
                    if !told || answered.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, all)
}

const TAKEN: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";

/// What a collector has got.
struct Collected {
    asked: Receiver<Asked>,
    spans: Vec<Span>,
}

impl Collected {
    /// Waits until there is a span that is wanted.
    fn until(&mut self, mut is_wanted: impl FnMut(&Span) -> bool) -> Span {
        loop {
            if let Some(span) = self.spans.iter().find(|span| is_wanted(span)) {
                return span.clone();
            }
            let (head, body) = self.asked.recv_timeout(SOON).expect("spans in time");
            assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
            assert!(head.contains("content-type: application/x-protobuf\r\n"));
            let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
            for of_resource in request.resource_spans {
                let resource = of_resource.resource.unwrap();
                let service = resource
                    .attributes
                    .iter()
                    .find(|it| it.key == "service.name");
                assert!(format!("{service:?}").contains("kjob-server"));
                let scopes = of_resource.scope_spans.into_iter();
                self.spans.extend(scopes.flat_map(|scope| scope.spans));
            }
        }
    }

    fn named(&mut self, name: &str) -> Span {
        self.until(|span| span.name == name)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|it| it.key == key);
    match found.and_then(|it| it.value.clone()?.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// A server whose `/r/*` an upstream runs, with what the collector and the upstream are asked.
fn start(dir: &TempDir, upstream_says: &'static str) -> (Running, Collected, Receiver<Asked>) {
    let (collector, asked) = listen(TAKEN);
    let (upstream, upstream_asked) = listen(upstream_says);
    let file = dir.path().join("kjob.toml");
    let config = format!(
        "otlp_endpoint = {collector:?}\n[[route]]\nendpoint = \"/r/*\"\nkind = \"http\"\nwire = \"plain\"\n\
         upstream = {upstream:?}\non_interrupt = \"retry\"\nmax_attempts = 2\n"
    );
    fs::write(&file, config).unwrap();
    let server = Running::start(dir, &["--config", file.to_str().unwrap()]);
    let spans = Vec::new();
    (server, Collected { asked, spans }, upstream_asked)
}

/// Submits a job as a caller does who has a trace.
fn submit(server: &Running, endpoint: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let body = format!(
        "{{\"endpoint\":\"{endpoint}\",\"payload\":{{\"secret\":\"hunter2\"}},\"job_tag\":\"a-tag\"}}"
    );
    write!(
        stream,
        "POST /jobs HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         traceparent: 00-{TRACE}-{CALLER}-01\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
    (status, reply)
}

#[test]
fn a_job_is_one_trace_from_its_caller_to_its_upstream() {
    let dir = tempdir().unwrap();
    let done = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let (server, mut collected, upstream) = start(&dir, done);
    let (status, reply) = submit(&server, "/r/daily");
    assert_eq!(status, 202, "{reply}");
    assert!(reply.contains(TRACE), "the query id is the trace's");

    let finish = collected.named("finish /r/*");
    let process = collected.named("process /r/*");
    let submitted = collected.named("submit");
    let request = collected.named("POST /jobs");
    let receive = collected.named("receive");
    let decode = collected.named("decode");
    for span in [&finish, &process, &submitted, &request, &receive, &decode] {
        assert_eq!(hex(&span.trace_id), TRACE, "{}", span.name);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    assert_eq!(hex(&request.parent_span_id), CALLER);
    for part in [&receive, &decode, &submitted] {
        assert_eq!(part.parent_span_id, request.span_id, "{}", part.name);
    }
    assert_eq!(process.parent_span_id, submitted.span_id);
    assert_eq!(finish.parent_span_id, process.span_id);
    let kinds = [&request, &submitted, &process, &finish].map(Span::kind);
    let expected = [
        SpanKind::Server,
        SpanKind::Producer,
        SpanKind::Consumer,
        SpanKind::Internal,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(text(&request, "http.request.method"), "POST");
    assert_eq!(text(&request, "http.route"), "/jobs");
    assert_eq!(text(&request, "http.response.status_code"), "202");
    for span in [&submitted, &process, &finish] {
        assert_eq!(text(span, "kjob.job.id"), "1");
        assert_eq!(text(span, "kjob.endpoint"), "/r/daily");
        assert_eq!(text(span, "messaging.system"), "kjob");
    }
    assert_eq!(text(&process, "kjob.attempt"), "1");
    assert_eq!(text(&process, "kjob.outcome"), "done");
    assert_eq!(text(&finish, "kjob.status"), "DONE");
    let all = format!("{:?}", collected.spans);
    for secret in ["hunter2", "a-tag", "anonymous"] {
        assert!(!all.contains(secret), "{secret}");
    }

    let (asked, _) = upstream.recv_timeout(SOON).unwrap();
    let told = format!("traceparent: 00-{TRACE}-{}-01\r\n", hex(&process.span_id));
    assert!(asked.contains(&told), "{told}\n{asked}");

    server.signal("TERM");
    assert!(server.end().0.success());
}

#[test]
fn a_second_attempt_is_a_trace_of_its_own_with_a_link() {
    let dir = tempdir().unwrap();
    // Read, and may have been acted on: the route's rule for interrupted runs decides.
    let failing = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
    let (server, mut collected, upstream) = start(&dir, failing);
    let (status, reply) = submit(&server, "/r/daily");
    assert_eq!(status, 202, "{reply}");
    let second =
        collected.until(|span| span.name == "process /r/*" && text(span, "kjob.attempt") == "2");
    assert_ne!(hex(&second.trace_id), TRACE);
    assert!(second.parent_span_id.is_empty());
    let submitted = collected.named("submit");
    let [link] = &second.links[..] else {
        panic!("{:?}", second.links)
    };
    assert_eq!(hex(&link.trace_id), TRACE);
    assert_eq!(link.span_id, submitted.span_id);
    assert_eq!(text(&second, "kjob.outcome"), "interrupted");
    assert_eq!(text(&second, "error.type"), "interrupted");
    let status = second.status.clone().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    let first =
        collected.until(|span| span.name == "process /r/*" && text(span, "kjob.attempt") == "1");
    assert_eq!(hex(&first.trace_id), TRACE);
    let finish = collected.named("finish /r/*");
    assert_eq!(finish.trace_id, second.trace_id);
    assert_eq!(text(&finish, "kjob.status"), "ERROR");
    let asked: Vec<String> = (0..2)
        .map(|_| upstream.recv_timeout(SOON).unwrap().0)
        .collect();
    let told = |span: &Span| format!("{}-{}", hex(&span.trace_id), hex(&span.span_id));
    assert!(asked[0].contains(&told(&first)) && asked[1].contains(&told(&second)));
    let page = server.get("/metrics").1;
    assert!(page.contains("\nkjob_job_retries_total{route=\"/r/*\"} 1\n"));
    assert!(page.contains("\nkjob_job_run_seconds_count{route=\"/r/*\"} 2\n"));
    assert!(page.contains("\nkjob_job_wait_seconds_count{route=\"/r/*\"} 1\n"));
}

/// What spans are drawn for, and what is drawn where nobody is asked.
#[tokio::test]
async fn waits_are_spans_and_pages_are_none() {
    let dir = tempdir().unwrap();
    let (collector, asked) = listen(TAKEN);
    let arguments = ["--demo", "--workers", "1", "--otlp-endpoint", &collector];
    let server = Running::start(&dir, &arguments);
    let mut collected = Collected {
        asked,
        spans: Vec::new(),
    };
    let client = server.client();
    let sleep = || Submit::new("/demo/sleep", Payload::json(r#"{"millis":20}"#));
    let jobs = [sleep(), sleep()];
    let mut ids = BTreeSet::new();
    for job in &jobs {
        ids.insert(client.submit(job).await.unwrap().id);
    }
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(server.get("/metrics").0, 200);
    for id in ids {
        client.wait(id, SOON).await.unwrap();
    }
    let wait = collected.named("wait /demo/sleep");
    let parent = collected.until(|span| span.span_id == wait.parent_span_id);
    assert_eq!(parent.name, "submit");
    collected.named("POST /get/job");
    collected.until(|span| span.name.starts_with("finish") && text(span, "kjob.job.id") == "2");
    let names: BTreeSet<_> = collected.spans.iter().map(|span| &*span.name).collect();
    assert!(
        names.iter().all(|name| !name.starts_with("GET")),
        "{names:?}"
    );
}

async fn spans(server: &Running, outcome: &str) -> f64 {
    let page = server.get("/metrics").1;
    let series = format!("kjob_trace_spans_total{{outcome=\"{outcome}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap().parse().unwrap()
}

async fn echo(client: &Client, times: usize) {
    let echo = || Submit::new("/demo/echo", Payload::json(r#"{"message":"m"}"#));
    for _ in 0..times {
        client.submit(&echo()).await.unwrap();
    }
}

/// Polls until so many spans came to this end.
async fn wait_for(server: &Running, outcome: &str) {
    let deadline = std::time::Instant::now() + SOON;
    while spans(server, outcome).await == 0.0 {
        assert!(std::time::Instant::now() < deadline, "{outcome}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_collector_that_is_down_loses_spans_and_nothing_else() {
    let dir = tempdir().unwrap();
    // Taken once, so that nobody listens there.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{gone}");
    let server = Running::start(&dir, &["--demo", "--otlp-endpoint", &url]);
    let client = server.client();
    echo(&client, 20).await;
    wait_for(&server, "failed").await;
    echo(&client, 20).await;
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert!(status.success());
    let told = log.matches("the collector does not take traces").count();
    assert_eq!(told, 1, "{log}");
}

#[tokio::test]
async fn a_collector_that_hangs_fills_the_queue_and_holds_up_nobody() {
    let dir = tempdir().unwrap();
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let server = Running::start(
        &dir,
        &["--demo", "--store", "memory", "--otlp-endpoint", &url],
    );
    let client = server.client();
    let deadline = std::time::Instant::now() + SOON;
    while spans(&server, "dropped").await == 0.0 {
        assert!(std::time::Instant::now() < deadline, "the queue has no end");
        echo(&client, 200).await;
    }
    assert_eq!(server.get("/readyz").0, 200);
    drop(silent);
}

#[test]
fn the_endpoint_is_checked() {
    let (code, _, error) = crate::support::run(["check", "--otlp-endpoint", "nowhere"]);
    assert_eq!(code, 2, "{error}");
    let mut command = program();
    command
        .args(["check"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let output = command.output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(listed.contains("otlp_endpoint = \"none\""), "{listed}");
}
