//! A job that is to stop drops its request at once.

use std::time::Duration;

use kjob_server::gateway::{HttpRoute, Route, RouteKind, Wire};
use tokio::time::Instant;

use crate::support::{Bed, json};
use crate::upstream::{Answer, Upstream, answer};

fn route(url: &str, change: impl FnOnce(&mut HttpRoute)) -> Route {
    let mut http = HttpRoute::new(url.parse().unwrap(), Wire::Plain);
    change(&mut http);
    Route::new("/slow", RouteKind::Http(http))
}

/// Silent from the start, or in the middle of its answer.
fn silences() -> [&'static [u8]; 2] {
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"]
}

#[tokio::test]
async fn a_cancel_closes_the_connection() {
    for said in silences() {
        let mut upstream = Upstream::start(|_| Answer::Silence(said.to_vec())).await;
        let bed = Bed::with(&[route(&upstream.url, |_| {})]).await;
        let id = bed.submit("/slow", json("{}")).await;
        upstream.asked().await;
        bed.cancel(id).await;
        upstream.left().await;
        let job = bed.ended(id).await;
        assert_eq!(job.ending, Some(kjob_core::Ending::Cancelled));
    }
}

#[tokio::test]
async fn a_deadline_closes_the_connection() {
    for said in silences() {
        let mut upstream = Upstream::start(|_| Answer::Silence(said.to_vec())).await;
        let mut route = route(&upstream.url, |_| {});
        route.options = route.options.timeout(Duration::from_millis(50));
        let bed = Bed::with(&[route]).await;
        let message = bed.failed("/slow", json("{}")).await;
        assert_eq!(message, "deadline: not done within 50 ms");
        upstream.asked().await;
        upstream.left().await;
    }
}

#[tokio::test]
async fn a_shutdown_closes_the_connection() {
    let mut upstream = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let bed = Bed::with(&[route(&upstream.url, |_| {})]).await;
    bed.submit("/slow", json("{}")).await;
    upstream.asked().await;
    bed.engine.shut_down(Duration::ZERO).await.unwrap();
    upstream.left().await;
}

#[tokio::test]
async fn the_cancel_url_is_called_once_the_connection_is_closed() {
    let mut told = Upstream::start(|_| answer("200 OK", "text/plain", b"")).await;
    let mut upstream = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let cancel_url = format!("{}/cancel/{{job_id}}?why=stopped", told.url);
    let bed = Bed::with(&[route(&upstream.url, |http| {
        http.cancel_url = Some(cancel_url)
    })])
    .await;
    let id = bed.submit("/slow", json("{}")).await;
    upstream.asked().await;
    assert!(told.is_unasked());
    bed.cancel(id).await;
    upstream.left().await;
    let asked = told.asked().await;
    assert_eq!(
        asked.line,
        format!("POST /cancel/{id}?why=stopped HTTP/1.1")
    );
    let key = format!("{id}-{}", bed.ended(id).await.header.query_id);
    assert_eq!(asked.header("idempotency-key"), Some(&*key));
}

#[tokio::test]
async fn the_cancel_url_is_called_at_a_deadline_too() {
    let mut told = Upstream::start(|_| answer("200 OK", "text/plain", b"")).await;
    let mut upstream = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let cancel_url = format!("{}/cancel/{{job_id}}", told.url);
    let mut route = route(&upstream.url, |http| http.cancel_url = Some(cancel_url));
    route.options = route.options.timeout(Duration::from_millis(50));
    let bed = Bed::with(&[route]).await;
    let id = bed.submit("/slow", json("{}")).await;
    upstream.left().await;
    let asked = told.asked().await;
    assert_eq!(asked.line, format!("POST /cancel/{id} HTTP/1.1"));
    assert!(bed.failure(id).await.starts_with("deadline: "));
}

#[tokio::test]
async fn a_cancel_url_that_is_silent_holds_up_the_end_but_for_its_time() {
    let told = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let mut upstream = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let cancel_url = format!("{}/{{job_id}}", told.url);
    let bed = Bed::with(&[route(&upstream.url, |http| {
        http.cancel_url = Some(cancel_url)
    })])
    .await;
    let id = bed.submit("/slow", json("{}")).await;
    upstream.asked().await;
    bed.cancel(id).await;
    let job = bed.ended(id).await;
    assert_eq!(job.ending, Some(kjob_core::Ending::Cancelled));
}

/// How long it takes from a cancel until the upstream sees the connection closed. No test of anything:
/// `cargo test -p kjob-server --all-features --test gateway -- --ignored --nocapture cancel_to_disconnect`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn cancel_to_disconnect() {
    const TRIES: usize = 501;
    let mut upstream = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let bed = Bed::with(&[route(&upstream.url, |_| {})]).await;
    let mut took = Vec::with_capacity(TRIES);
    for _ in 0..TRIES {
        let id = bed.submit("/slow", json("{}")).await;
        upstream.asked().await;
        let began = Instant::now();
        bed.cancel(id).await;
        took.push(upstream.left().await - began);
        bed.ended(id).await;
    }
    took.sort();
    let (median, most) = (took[TRIES / 2], took[TRIES * 99 / 100]);
    #[allow(clippy::print_stdout, reason = "it is asked for")]
    {
        println!(
            "cancel to disconnect: median {median:?}, 99 of 100 within {most:?}, {TRIES} tries"
        );
    }
}
