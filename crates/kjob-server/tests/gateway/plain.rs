//! `wire = "plain"`: what is posted, and what becomes of the answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use kjob_core::{Payload, TraceParent};
use kjob_proto::Encoding;
use kjob_server::gateway::{HttpRoute, Route, RouteKind, Wire};

use crate::support::{Bed, json};
use crate::upstream::{Answer, Upstream, answer};

fn route(endpoint: &str, url: &str, change: impl FnOnce(&mut HttpRoute)) -> Route {
    let mut http = HttpRoute::new(url.parse().unwrap(), Wire::Plain);
    http.unavailable_timeout = Duration::ZERO;
    change(&mut http);
    Route::new(endpoint, RouteKind::Http(http))
}

#[tokio::test]
async fn the_payload_is_posted_below_the_upstream_with_what_it_is() {
    let mut upstream = Upstream::start(|_| answer("200 OK", "application/json", b"{}")).await;
    let routes = [route(
        "/report/*",
        &format!("{}/api", upstream.url),
        |http| {
            http.content_type = HeaderValue::from_static("application/avro");
            let name = HeaderName::from_static("x-key");
            http.headers.insert(name, HeaderValue::from_static("hush"));
        },
    )];
    let bed = Bed::with(&routes).await;
    let id = bed.submit("/report/for me", json("{\"a\": 1}")).await;
    bed.ended(id).await;
    let asked = upstream.asked().await;
    assert_eq!(asked.line, "POST /api/report/for%20me HTTP/1.1");
    assert_eq!(asked.body, b"{\"a\": 1}");
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.header("x-key"), Some("hush"));
    let query_id = bed.ended(id).await.header.query_id;
    let key = format!("{id}-{query_id}");
    assert_eq!(asked.header("idempotency-key"), Some(&*key));
    let trace = asked.header("traceparent").and_then(TraceParent::parse);
    assert_eq!(trace.unwrap().query_id, query_id);

    bed.done("/report/x", Payload::binary(vec![0, 159, 146]))
        .await;
    let asked = upstream.asked().await;
    assert_eq!(asked.body, [0, 159, 146]);
    assert_eq!(asked.header("content-type"), Some("application/avro"));
    assert_eq!(asked.connection, 0, "the connection is used again");
}

#[tokio::test]
async fn an_answer_is_json_or_bytes_as_it_says() {
    let upstream = Upstream::start(|asked| match asked.line.as_str() {
        "POST /json HTTP/1.1" => answer("200 OK", "application/json", b" [1] "),
        "POST /odd HTTP/1.1" => answer("200 OK", "application/json", b"[1"),
        "POST /empty HTTP/1.1" => Answer::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        _ => Answer::Close(
            b"HTTP/1.1 201 Created\r\nContent-Type: image/png\r\n\r\n\xffPNG".to_vec(),
        ),
    })
    .await;
    let bed = Bed::with(&[route("/*", &upstream.url, |_| {})]).await;
    let id = bed.submit("/png", json("{}")).await;
    let ending = bed.ended(id).await.ending;
    let Some(kjob_core::Ending::Done(result)) = ending else {
        panic!("{ending:?}");
    };
    let told: Vec<_> = result.info.iter().cloned().collect();
    let expected = [("upstream_status", "201"), ("content_type", "image/png")];
    assert_eq!(
        told,
        expected.map(|(name, value)| (name.into(), value.into()))
    );
    for (endpoint, encoding, data) in [
        ("/json", Encoding::Json, &b" [1] "[..]),
        ("/odd", Encoding::Binary, b"[1"),
        ("/empty", Encoding::Binary, b""),
        ("/png", Encoding::Binary, b"\xffPNG"),
    ] {
        for payload in [json("{}"), Payload::binary("x")] {
            let result = bed.done(endpoint, payload).await;
            assert_eq!(
                (result.encoding, &result.data[..]),
                (encoding, data),
                "{endpoint}"
            );
        }
    }
}

#[tokio::test]
async fn no_success_is_an_error_with_its_status_and_the_start_of_its_body() {
    let upstream = Upstream::start(|asked| match asked.line.as_str() {
        "POST /moved HTTP/1.1" => Answer::Bytes(
            b"HTTP/1.1 302 Found\r\nLocation: /json\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        "POST /long HTTP/1.1" => answer("500 Internal Server Error", "text/plain", &[b'x'; 5000]),
        _ => answer("404 Not Found", "text/plain", b"no\x1b[2J\nsuch\n"),
    })
    .await;
    let bed = Bed::with(&[route("/*", &upstream.url, |_| {})]).await;
    let message = bed.failed("/x", json("{}")).await;
    assert_eq!(
        message,
        "upstream answered 404 Not Found: no\\u{1b}[2J\\nsuch"
    );
    let message = bed.failed("/moved", json("{}")).await;
    assert_eq!(message, "upstream answered 302 Found");
    let message = bed.failed("/long", json("{}")).await;
    let told = format!(
        "upstream answered 500 Internal Server Error: {}…",
        "x".repeat(1024)
    );
    assert_eq!(message, told);
}

#[tokio::test]
async fn what_might_lead_out_of_the_upstream_is_not_asked() {
    let mut upstream = Upstream::start(|_| answer("200 OK", "text/plain", b"")).await;
    let bed = Bed::with(&[route("/report/*", &upstream.url, |_| {})]).await;
    for endpoint in [
        "/report/../admin",
        "/report//x",
        "/report/%2e%2e/x",
        "/report/x?y",
        "/report/x\r\ny",
    ] {
        let message = bed.failed(endpoint, json("{}")).await;
        assert!(message.contains("cannot be passed on: "), "{message}");
    }
    assert!(upstream.is_unasked());
}

#[tokio::test]
async fn a_result_ends_at_the_limit_announced_or_not() {
    let upstream = Upstream::start(|asked| {
        let len: usize = asked
            .line
            .split(['/', ' '])
            .nth(2)
            .unwrap()
            .parse()
            .unwrap();
        let body = vec![b'x'; len];
        match asked.body.as_slice() {
            b"announced" => answer("200 OK", "text/plain", &body),
            _ => Answer::Close([&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body].concat()),
        }
    })
    .await;
    let mut route = route("/*", &upstream.url, |_| {});
    route.max_result = Some(1_000_000);
    let bed = Bed::with(&[route]).await;
    for payload in ["announced", "not"] {
        let result = bed.done("/1000000", Payload::binary(payload)).await;
        assert_eq!(result.data.len(), 1_000_000);
        let message = bed.failed("/1000001", Payload::binary(payload)).await;
        let told = "upstream: result too large: more than the limit of 1000000 bytes";
        assert_eq!(message, told);
    }
    // One that never ends is left at the limit, too.
    let endless = Upstream::start(|_| {
        Answer::Silence([&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'x'; 2000]].concat())
    });
    let mut endless = endless.await;
    let mut route = self::route("/*", &endless.url, |_| {});
    route.max_result = Some(1000);
    let bed = Bed::with(&[route]).await;
    let message = bed.failed("/x", json("{}")).await;
    assert!(message.contains("limit of 1000 bytes"), "{message}");
    endless.left().await;
}

#[tokio::test]
async fn only_retry_routes_try_again() {
    let count = AtomicUsize::new(0);
    let mut upstream = Upstream::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => answer("503 Service Unavailable", "text/plain", b"soon"),
        1 => answer("429 Too Many Requests", "text/plain", b""),
        2 => Answer::Close(Vec::new()),
        3 => answer("200 OK", "application/json", b"7"),
        _ => answer("503 Service Unavailable", "text/plain", b"soon"),
    })
    .await;
    let mut again = route("/again", &upstream.url, |_| {});
    again.options = again.options.retry(9);
    let bed = Bed::with(&[again, route("/once", &upstream.url, |_| {})]).await;
    let id = bed.submit("/again", json("{}")).await;
    let job = bed.ended(id).await;
    assert_eq!(job.state.attempt, 4);
    assert!(matches!(job.ending, Some(kjob_core::Ending::Done(_))));
    let key = format!("{id}-{}", job.header.query_id);
    let mut traces = Vec::new();
    for attempt in 0..4 {
        let asked = upstream.asked().await;
        assert_eq!(asked.header("idempotency-key"), Some(&*key));
        let trace = TraceParent::parse(asked.header("traceparent").unwrap()).unwrap();
        assert_eq!(trace.query_id == job.header.query_id, attempt == 0);
        assert!(!traces.contains(&trace.query_id));
        traces.push(trace.query_id);
    }
    let message = bed.failed("/once", json("{}")).await;
    assert_eq!(message, "upstream answered 503 Service Unavailable: soon");
}

#[tokio::test]
async fn nobody_there_and_nothing_said_are_told() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let mut silent = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let mut stalled = Upstream::start(|_| {
        Answer::Silence(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_vec())
    })
    .await;
    let soon = |http: &mut HttpRoute| http.response_timeout = Some(Duration::from_millis(50));
    let routes = [
        route("/closed", &url, |_| {}),
        route("/silent", &silent.url, soon),
        route("/stalled", &stalled.url, soon),
    ];
    let bed = Bed::with(&routes).await;
    let message = bed.failed("/closed", json("{}")).await;
    assert!(
        message.starts_with("upstream: no connection: "),
        "{message}"
    );
    for endpoint in ["/silent", "/stalled"] {
        let message = bed.failed(endpoint, json("{}")).await;
        assert_eq!(message, "upstream: nothing came within 50ms");
    }
    silent.left().await;
    stalled.left().await;
}

/// A job that was not taken has not run: it is asked again, on every route.
#[tokio::test]
async fn a_job_that_is_not_taken_is_offered_again() {
    let count = AtomicUsize::new(0);
    let mut upstream = Upstream::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => answer("429 Too Many Requests", "text/plain", b"later"),
        _ => answer("200 OK", "text/plain", b"done"),
    })
    .await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let a_while = |http: &mut HttpRoute| http.unavailable_timeout = Duration::from_secs(60);
    let routes = [
        route("/busy", &upstream.url, a_while),
        route("/absent", &format!("http://{address}"), a_while),
    ];
    let bed = Bed::with(&routes).await;
    let id = bed.submit("/busy", json("{}")).await;
    let job = bed.ended(id).await;
    assert!(matches!(job.ending, Some(kjob_core::Ending::Done(_))));
    assert_eq!(job.state.attempt, 1);
    for _ in 0..3 {
        assert_eq!(upstream.asked().await.body, b"{}");
    }
    // One that comes up only when the job waits for it.
    let id = bed.submit("/absent", json("{}")).await;
    let taken = async {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer)
            .await
            .unwrap();
        stream
    };
    let _stream = crate::support::in_time("a connection", taken).await;
    assert!(matches!(
        bed.ended(id).await.ending,
        Some(kjob_core::Ending::Done(_))
    ));
    // One that is waited for can be cancelled.
    let nobody = Upstream::start(|_| answer("429 Too Many Requests", "text/plain", b"")).await;
    let bed = Bed::with(&[route("/busy", &nobody.url, a_while)]).await;
    let id = bed.submit("/busy", json("{}")).await;
    bed.cancel(id).await;
    assert_eq!(
        bed.ended(id).await.ending,
        Some(kjob_core::Ending::Cancelled)
    );
}

#[tokio::test]
async fn a_packed_answer_is_bytes_and_says_what_it_is_packed_with() {
    let mut upstream = Upstream::start(|_| {
        Answer::Bytes(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\
              Content-Length: 2\r\n\r\n{}"
                .to_vec(),
        )
    })
    .await;
    let bed = Bed::with(&[route("/*", &upstream.url, |_| {})]).await;
    let id = bed.submit("/x", json("{}")).await;
    let ending = bed.ended(id).await.ending;
    let Some(kjob_core::Ending::Done(result)) = ending else {
        panic!("{ending:?}");
    };
    assert_eq!(result.payload, Payload::binary("{}"));
    let coding = result.info.get("content_encoding");
    assert_eq!(coding.map(|coding| coding.as_str()), Some("gzip"));
    let asked = upstream.asked().await;
    assert_eq!(asked.header("accept-encoding"), Some("identity"));
}
