//! `wire = "kinetica"`: envelopes, rings, and a second server of ours as the upstream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kjob_core::engine::{Engine, EngineConfig, Registry, SystemClock};
use kjob_core::{MemoryStore, Payload};
use kjob_proto::{
    AdminShowJobsRequest, AdminShowJobsResponse, CreateJobResponse, Encoding, Limits, Record,
    Signal, reply_error, reply_failover, reply_ok,
};
use kjob_server::gateway::{HttpRoute, Route, RouteKind, Upstream as Address, Wire};
use kjob_server::{Server, ServerOptions, SystemInfo};

use crate::support::{Bed, json};
use crate::upstream::{Answer, Asked, Upstream, answer};

fn route(urls: &[&str]) -> Route {
    let ring: Vec<Address> = urls.iter().map(|url| url.parse().unwrap()).collect();
    let mut http = HttpRoute::new(ring[0].clone(), Wire::Kinetica);
    http.upstreams = ring;
    http.unavailable_timeout = Duration::ZERO;
    // Any endpoint may be passed on here, also one that the server has itself.
    Route::new("/admin/*", RouteKind::Http(http))
}

/// The encoding of a request, as its head says.
fn encoding(asked: &Asked) -> Encoding {
    let content_type = asked.header("content-type").unwrap();
    Encoding::from_content_type(content_type).unwrap()
}

fn ok(asked: &Asked) -> Answer {
    let record = CreateJobResponse {
        job_id: 7,
        ..Default::default()
    };
    let body = reply_ok(&record, encoding(asked)).into_bytes();
    answer("200 OK", "application/octet-stream", &body)
}

fn refuse(asked: &Asked, status: &str, message: &str) -> Answer {
    let body = reply_error(message, encoding(asked)).into_bytes();
    answer(status, "application/octet-stream", &body)
}

fn json_of(record: &impl Record) -> Payload {
    Payload::json(String::from_utf8(record.encode_json()).unwrap())
}

/// The list of jobs of a second server, whose answer has been through an envelope.
#[tokio::test]
async fn a_second_server_is_an_upstream_in_every_encoding() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Arc::new(SystemClock));
    let config = EngineConfig::default();
    let engine = Engine::open(store, Registry::default(), config, clock, 7);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = ServerOptions::default();
    let server = Server::bind(any, engine.await.unwrap(), SystemInfo::new(None), options);
    let server = server.await.unwrap();
    let url = format!("http://{}", server.local_addr());
    tokio::spawn(server.serve());

    let bed = Bed::with(&[route(&[&url])]).await;
    let request = AdminShowJobsRequest::default();
    let avro = request.encode_to_bytes();
    let snappy = Payload {
        encoding: Encoding::Snappy,
        data: kjob_proto::snappy::compress(&avro).into(),
    };
    let payloads = [
        (Payload::binary(avro), Encoding::Binary),
        (json_of(&request), Encoding::Json),
        (snappy, Encoding::Binary),
    ];
    for (payload, encoding) in payloads {
        let result = bed.done("/admin/show/jobs", payload).await;
        assert_eq!(result.encoding, encoding);
        let limits = Limits::default();
        let jobs = AdminShowJobsResponse::decode(encoding, result.data, &limits).unwrap();
        assert!(jobs.job_id.is_empty());
    }
    // Its errors are the job's, word for word.
    let message = bed.failed("/admin/show/jobs", Payload::binary("?")).await;
    assert!(
        message.starts_with("admin_show_jobs_request: "),
        "{message}"
    );
    let message = bed.failed("/admin/nothing", json("{}")).await;
    assert!(
        message.contains("\"/admin/nothing\" is not served here"),
        "{message}"
    );
}

#[tokio::test]
async fn a_ring_is_followed_past_clusters_that_have_not_run_the_job() {
    let mut draining = Upstream::start(|asked| {
        let body = reply_failover(Signal::Draining, encoding(asked)).into_bytes();
        answer("400 Bad Request", "application/octet-stream", &body)
    })
    .await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone_url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let mut good = Upstream::start(ok).await;
    let bed = Bed::with(&[route(&[&draining.url, &gone_url, &good.url])]).await;
    for _ in 0..2 {
        let result = bed.done("/admin/x", json("{}")).await;
        assert_eq!(result, json("{\"job_id\":7,\"info\":{}}"));
        assert_eq!(good.asked().await.line, "POST /admin/x HTTP/1.1");
    }
    draining.asked().await;
    assert!(
        draining.is_unasked(),
        "the one that answered last is asked first"
    );
}

#[tokio::test]
async fn only_retry_routes_go_on_where_the_outcome_is_unknown() {
    for (broken, told) in [
        (0, "upstream: the connection broke: "),
        (1, "upstream answered 500 Internal Server Error: oh"),
        (2, "upstream answered 200 OK, and no envelope: <html>"),
    ] {
        let broken = Upstream::start(move |asked| match broken {
            0 => Answer::Close(Vec::new()),
            1 => refuse(asked, "500 Internal Server Error", "oh"),
            _ => answer("200 OK", "text/html", b"<html>"),
        })
        .await;
        let mut good = Upstream::start(ok).await;
        let once = route(&[&broken.url, &good.url]);
        let bed = Bed::with(std::slice::from_ref(&once)).await;
        let message = bed.failed("/admin/x", json("{}")).await;
        assert!(message.starts_with(told), "{message}");
        assert!(message.ends_with("; outcome unknown"), "{message}");
        assert!(good.is_unasked());
        let mut again = once;
        again.options = again.options.retry(2);
        let bed = Bed::with(&[again]).await;
        bed.done("/admin/x", Payload::binary("")).await;
        good.asked().await;
    }
}

/// Any JSON object counted as an envelope with an error that says nothing, and so as an answer.
#[tokio::test]
async fn objects_of_a_proxy_are_no_envelopes() {
    for (status, body) in [
        ("200 OK", "{}"),
        ("403 Forbidden", "{\"detail\":\"Forbidden\"}"),
        ("404 Not Found", "{\"error\":\"x\"}"),
    ] {
        let proxy =
            Upstream::start(move |_| answer(status, "application/json", body.as_bytes())).await;
        let mut good = Upstream::start(ok).await;
        let bed = Bed::with(&[route(&[&proxy.url])]).await;
        let message = bed.failed("/admin/x", json("{}")).await;
        let told = format!("upstream answered {status}, and no envelope: {body}");
        assert!(message.starts_with(&told), "{message}");
        let mut ring = route(&[&proxy.url, &good.url]);
        ring.options = ring.options.retry(2);
        let bed = Bed::with(&[ring]).await;
        bed.done("/admin/x", json("{}")).await;
        good.asked().await;
    }
}

#[tokio::test]
async fn plain_errors_are_not_asked_elsewhere() {
    let upstream = Upstream::start(|asked| refuse(asked, "400 Bad Request", "no such table")).await;
    let mut other = Upstream::start(ok).await;
    let mut route = route(&[&upstream.url, &other.url]);
    route.options = route.options.retry(5);
    let bed = Bed::with(&[route]).await;
    for payload in [json("{}"), Payload::binary("")] {
        assert_eq!(bed.failed("/admin/x", payload).await, "no such table");
    }
    assert!(other.is_unasked());
}

#[tokio::test]
async fn results_are_bounded_whatever_is_around_them() {
    let text = |len: usize| {
        format!(
            "{{\"status\":\"OK\",\"data_str\":\"{}\"}}",
            "\\\"".repeat(len)
        )
    };
    let upstream = Upstream::start(move |asked| match asked.line.as_str() {
        "POST /admin/fits HTTP/1.1" => {
            answer("200 OK", "application/json", text(200_000).as_bytes())
        }
        "POST /admin/over HTTP/1.1" => {
            answer("200 OK", "application/json", text(200_001).as_bytes())
        }
        _ => answer("200 OK", "application/json", &[b' '; 600_000]),
    })
    .await;
    let mut route = route(&[&upstream.url]);
    route.max_result = Some(200_000);
    let bed = Bed::with(&[route]).await;
    assert_eq!(
        bed.done("/admin/fits", json("{}")).await.data.len(),
        200_000
    );
    let told = "upstream: result too large: more than the limit of 200000 bytes";
    assert_eq!(bed.failed("/admin/over", json("{}")).await, told);
    let message = bed.failed("/admin/far", json("{}")).await;
    assert!(message.contains("result too large"), "{message}");
}

/// A busy, a draining and an ending server have not run the job: it waits for them, on every route.
#[tokio::test]
async fn a_job_waits_for_a_ring_that_is_busy_or_drains() {
    let count = AtomicUsize::new(0);
    let mut upstream = Upstream::start(move |asked| match count.fetch_add(1, Ordering::Relaxed) {
        0 => refuse(asked, "429 Too Many Requests", "busy: 1 queued jobs"),
        1 => {
            let body = reply_failover(Signal::Draining, encoding(asked)).into_bytes();
            answer("400 Bad Request", "application/octet-stream", &body)
        }
        2 => answer("503 Service Unavailable", "text/html", b"<html>"),
        _ => ok(asked),
    })
    .await;
    let mut patient = route(&[&upstream.url]);
    if let RouteKind::Http(http) = &mut patient.kind {
        http.unavailable_timeout = Duration::from_secs(60);
    }
    let bed = Bed::with(&[patient]).await;
    let id = bed.submit("/admin/x", json("{}")).await;
    let job = bed.ended(id).await;
    assert!(
        matches!(job.ending, Some(kjob_core::Ending::Done(_))),
        "{job:?}"
    );
    assert_eq!(job.state.attempt, 1);
    for _ in 0..4 {
        upstream.asked().await;
    }
    // What is not there at all is not waited for.
    let mut absent = Upstream::start(|_| answer("404 Not Found", "text/html", b"<html>")).await;
    let mut patient = route(&[&absent.url]);
    if let RouteKind::Http(http) = &mut patient.kind {
        http.unavailable_timeout = Duration::from_secs(3600);
    }
    let bed = Bed::with(&[patient]).await;
    let message = bed.failed("/admin/x", json("{}")).await;
    assert!(message.contains("404 Not Found"), "{message}");
    absent.asked().await;
    assert!(absent.is_unasked());
}

#[tokio::test]
async fn a_cancel_closes_the_connection_and_is_told() {
    let mut told = Upstream::start(|_| answer("200 OK", "text/plain", b"")).await;
    let mut upstream = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let mut route = route(&[&upstream.url]);
    if let RouteKind::Http(http) = &mut route.kind {
        http.cancel_url = Some(format!("{}/cancel/{{job_id}}", told.url));
    }
    let bed = Bed::with(&[route]).await;
    let id = bed.submit("/admin/x", json("{}")).await;
    upstream.asked().await;
    bed.cancel(id).await;
    upstream.left().await;
    assert_eq!(
        told.asked().await.line,
        format!("POST /cancel/{id} HTTP/1.1")
    );
}
