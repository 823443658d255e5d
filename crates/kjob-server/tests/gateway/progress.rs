//! Upstreams that tell how far they are.

use std::net::SocketAddr;

use http::HeaderName;
use kjob_server::gateway::{HttpRoute, Route, RouteKind, Wire};
use kjob_server::users::Users;
use kjob_server::{Access, Accounts, Server, ServerOptions, SystemInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Bed, in_time, json};
use crate::upstream::{Answer, Upstream};

fn route(url: &str, wire: Wire, change: impl FnOnce(&mut HttpRoute)) -> Route {
    let mut http = HttpRoute::new(url.parse().unwrap(), wire);
    change(&mut http);
    Route::new("/slow", RouteKind::Http(http))
}

#[tokio::test]
async fn interim_answers_have_it_in_the_header_that_the_route_names() {
    for wire in [Wire::Plain, Wire::Kinetica] {
        let upstream = Upstream::start(|_| {
            Answer::Silence(
                b"HTTP/1.1 102 Processing\r\nX-Progress: 20\r\n\r\n\
                  HTTP/1.1 102 Processing\r\nX-Other: 50\r\n\r\n\
                  HTTP/1.1 103 Early Hints\r\nx-progress: 40%\r\n\r\n\
                  HTTP/1.1 102 Processing\r\nX-Progress: much\r\n\r\n"
                    .to_vec(),
            )
        })
        .await;
        let name = HeaderName::from_static("x-progress");
        let bed = Bed::with(&[route(&upstream.url, wire, |http| {
            http.progress_header = Some(name)
        })])
        .await;
        let id = bed.submit("/slow", json("{}")).await;
        bed.progress(id, 40).await;
        bed.cancel(id).await;
    }
}

#[tokio::test]
async fn an_interim_answer_is_no_answer() {
    let upstream = Upstream::start(|_| {
        Answer::Bytes(
            b"HTTP/1.1 102 Processing\r\nX-Progress: 20\r\n\r\n\
              HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"
                .to_vec(),
        )
    })
    .await;
    let bed = Bed::with(&[route(&upstream.url, Wire::Plain, |_| {})]).await;
    for _ in 0..2 {
        assert_eq!(bed.done("/slow", json("{}")).await.data, "done");
    }
}

/// The parts of a URL that an upstream was given: an address, and what is posted to there.
fn parts(url: &str) -> (SocketAddr, String) {
    let rest = url.strip_prefix("http://").unwrap();
    let slash = rest.find('/').unwrap();
    (rest[..slash].parse().unwrap(), rest[slash..].to_owned())
}

/// Posts a report as a program would that knows nothing but the URL; gives the status.
async fn report(url: &str, body: &str) -> u16 {
    let (addr, path) = parts(url);
    let len = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: kjob.internal\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len}\r\n\r\n{body}"
    );
    let mut answer = String::new();
    let posting = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    };
    in_time("an answer", posting).await;
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// A server whose callers need an account, an upstream that says nothing, and a route between them.
async fn reported_to() -> (Bed, Upstream) {
    let upstream = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    let bed = Bed::with(&[route(&upstream.url, Wire::Plain, |http| {
        http.progress_url = Some(base)
    })])
    .await;
    let (engine, system) = (bed.engine.clone(), SystemInfo::new(None));
    let server = Server::from_listener(listener, engine, system, ServerOptions::default());
    let access = Access::default().accounts(Accounts::new(Users::default()));
    let server = server
        .unwrap()
        .with_access(access)
        .with_gateway(&bed.gateway);
    tokio::spawn(server.serve());
    (bed, upstream)
}

async fn url_of(upstream: &mut Upstream) -> String {
    let asked = upstream.asked().await;
    asked.header("progress-url").unwrap().to_owned()
}

#[tokio::test]
async fn a_report_to_the_url_of_the_request_needs_no_more_than_it() {
    let (bed, mut upstream) = reported_to().await;
    let id = bed.submit("/slow", json("{}")).await;
    let url = url_of(&mut upstream).await;
    assert!(
        url.contains(&format!("/jobs/{id}/progress?token=")),
        "{url}"
    );
    assert_eq!(report(&url, "40").await, 204);
    bed.progress(id, 40).await;
    // Less than before is taken, and changes nothing.
    assert_eq!(report(&url, "30").await, 204);
    assert_eq!(
        report(&url, "{\"progress\": 70.5, \"stage\": \"x\"}").await,
        204
    );
    bed.progress(id, 70).await;
    for bad in ["101", "", "{\"progress\": \"80\"}", "eighty"] {
        assert_eq!(report(&url, bad).await, 422, "{bad}");
    }
    assert_eq!(report(&url, &" ".repeat(1025)).await, 413);
    bed.progress(id, 70).await;
}

#[tokio::test]
async fn a_token_serves_for_its_own_attempt_while_it_runs() {
    let (bed, mut upstream) = reported_to().await;
    let id = bed.submit("/slow", json("{}")).await;
    let url = url_of(&mut upstream).await;
    let other = bed.submit("/slow", json("{}")).await;
    let others = url_of(&mut upstream).await;
    let token = |url: &str| url.split_once("token=").unwrap().1.to_owned();
    let stolen = url.replace(&token(&url), &token(&others));
    let unknown = url.replace(&format!("/{id}/"), "/999/");
    let (bare, _) = url.split_once('?').unwrap();
    for (url, status) in [
        (stolen.as_str(), 404),
        (&unknown, 404),
        (&format!("{bare}?token="), 404),
        (&format!("{bare}?token=%00!"), 404),
        (&bare.replace(&format!("/{id}/"), "/tag:x/"), 404),
        (bare, 422),
        (&format!("{url}&x=y"), 422),
    ] {
        assert_eq!(report(url, "40").await, status, "{url}");
    }
    assert_eq!(report(&others, "10").await, 204);
    bed.progress(other, 10).await;
    bed.progress(id, 0).await;
    bed.cancel(id).await;
    bed.ended(id).await;
    assert_eq!(report(&url, "40").await, 404, "nobody waits any more");
    assert_eq!(report(&others, "20").await, 204);
}

#[tokio::test]
async fn a_server_without_a_gateway_takes_no_reports() {
    let bed = Bed::with(&[]).await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (system, options) = (SystemInfo::new(None), ServerOptions::default());
    let server = Server::bind(any, bed.engine.clone(), system, options)
        .await
        .unwrap();
    let url = format!("http://{}/jobs/1/progress?token=x", server.local_addr());
    tokio::spawn(server.serve());
    assert_eq!(report(&url, "40").await, 404);
}
