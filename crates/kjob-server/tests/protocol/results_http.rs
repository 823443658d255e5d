//! Results over ordinary HTTP: whole, in part, and not again.

use serde_json::json;

use crate::ordinary::{Ask, ask, problem, submitted};
use crate::raw::Raw;
use crate::server::TestServer;

/// A done job of `/raw` with this base64 as its result; gives the result's path.
async fn done(raw: &mut Raw, base64: &str) -> String {
    let id = submitted(raw, &json!({"endpoint": "/raw", "payload_base64": base64})).await;
    ask(raw, Ask::get(&format!("/jobs/{id}?wait=30"))).await;
    format!("/jobs/{id}/result")
}

#[tokio::test]
async fn a_result_comes_whole_or_in_part() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    // "0123456789"
    let path = done(&mut raw, "MDEyMzQ1Njc4OQ==").await;
    let whole = ask(&mut raw, Ask::get(&path)).await;
    assert_eq!((whole.status, &whole.body[..]), (200, &b"0123456789"[..]));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("cache-control"), Some("private, no-cache"));
    // A browser that shows it is not to run it.
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(
        whole.header("content-security-policy"),
        Some("sandbox; default-src 'none'")
    );
    let etag = whole.header("etag").unwrap().to_owned();

    for (range, more, part) in [
        ("bytes=2-4", String::new(), Some("2-4")),
        ("bytes=-1", String::new(), Some("9-9")),
        ("bytes=4-", format!("\r\nIf-Range: {etag}"), Some("4-9")),
        // All of it: another's tag, several ranges, no range.
        ("bytes=4-", "\r\nIf-Range: \"other\"".to_owned(), None),
        (
            "bytes=4-",
            "\r\nIf-Range: Tue, 01 Jan 2030 00:00:00 GMT".to_owned(),
            None,
        ),
        ("bytes=0-1,3-4", String::new(), None),
        ("lines=0-1", String::new(), None),
    ] {
        let reply = ask(
            &mut raw,
            Ask::new("GET", &path, &format!("Range: {range}{more}"), b""),
        )
        .await;
        assert_eq!(reply.header("etag"), Some(etag.as_str()));
        let Some(part) = part else {
            assert_eq!((reply.status, reply.body.len()), (200, 10), "{range}{more}");
            continue;
        };
        let (start, end) = part.split_once('-').unwrap();
        let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
        assert_eq!(
            (reply.status, &reply.body[..]),
            (206, &whole.body[start..=end]),
            "{range}"
        );
        let content_range = format!("bytes {part}/10");
        assert_eq!(reply.header("content-range"), Some(content_range.as_str()));
    }
    let refused = ask(&mut raw, Ask::new("GET", &path, "Range: bytes=10-", b"")).await;
    assert_eq!(refused.header("content-range"), Some("bytes */10"));
    problem(refused, 416, "range");
}

#[tokio::test]
async fn a_head_is_the_get_without_its_body() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let path = done(&mut raw, "MDEyMzQ1Njc4OQ==").await;
    for path in [path.as_str(), "/jobs", "/jobs/1", "/openapi.json"] {
        let whole = ask(&mut raw, Ask::get(path)).await;
        let head = ask(&mut raw, Ask::new("HEAD", path, "Range: bytes=1-2", b"")).await;
        assert_eq!((head.status, head.header("content-range")), (200, None));
        for name in ["content-length", "content-type", "etag"] {
            assert_eq!(head.header(name), whole.header(name), "{path} {name}");
        }
    }
    raw.assert_usable().await;
}

#[tokio::test]
async fn who_has_a_result_is_not_sent_it_again() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let path = done(&mut raw, "MDEyMzQ1Njc4OQ==").await;
    let etag = ask(&mut raw, Ask::get(&path))
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    for tags in [
        etag.clone(),
        format!("\"x\", W/{etag}"),
        format!("\"x\"\r\nIf-None-Match: {etag}"),
        "*".to_owned(),
    ] {
        raw.send(Ask::new("GET", &path, &format!("If-None-Match: {tags}"), b"").bytes())
            .await;
        let reply = raw.bare_reply(false).await;
        assert_eq!(
            (reply.status, reply.header("etag")),
            (304, Some(etag.as_str())),
            "{tags}"
        );
    }
    let reply = ask(
        &mut raw,
        Ask::new("GET", &path, "If-None-Match: \"x\"", b""),
    )
    .await;
    assert_eq!(reply.status, 200);
    // Another job has another tag, though it has the same bytes.
    let other = done(&mut raw, "MDEyMzQ1Njc4OQ==").await;
    let reply = ask(
        &mut raw,
        Ask::new("GET", &other, &format!("If-None-Match: {etag}"), b""),
    )
    .await;
    assert_eq!(reply.status, 200);
}

/// Only a whole result counts as delivered: part of one may be the beginning of a broken download.
#[tokio::test]
async fn a_job_is_removed_once_its_result_was_delivered_whole() {
    let server =
        TestServer::with_engine(|engine| engine.remove_grace = std::time::Duration::ZERO).await;
    let mut raw = server.connect().await;
    let body =
        json!({"endpoint": "/raw", "payload_base64": "MDEy", "remove_job_on_complete": true});
    let id = submitted(&mut raw, &body).await;
    let job = format!("/jobs/{id}");
    ask(&mut raw, Ask::get(&format!("{job}?wait=30"))).await;
    let path = format!("{job}/result");
    for more in ["Range: bytes=0-1", "Accept: */*"] {
        let reply = ask(&mut raw, Ask::new("GET", &path, more, b"")).await;
        assert!(matches!(reply.status, 200 | 206), "{more}");
        if reply.status == 206 {
            assert_eq!(ask(&mut raw, Ask::get(&job)).await.status, 200);
        }
    }
    crate::raw::in_time("the removal", async {
        while ask(&mut raw, Ask::get(&job)).await.status != 404 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_result_is_of_the_type_that_its_handler_said() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let id = submitted(
        &mut raw,
        &json!({"endpoint": "/page", "payload_base64": "PGI+"}),
    )
    .await;
    let job = ask(&mut raw, Ask::get(&format!("/jobs/{id}?wait=30"))).await;
    let html = "text/html; charset=utf-8";
    assert_eq!(job.json()["result_info"], json!({"content_type": html}));
    for more in ["Accept: */*", "Range: bytes=0-1"] {
        let reply = ask(
            &mut raw,
            Ask::new("GET", &format!("/jobs/{id}/result"), more, b""),
        )
        .await;
        assert_eq!(reply.header("content-type"), Some(html), "{more}");
        assert!(reply.header("content-security-policy").is_some());
    }
    let called = ask(
        &mut raw,
        Ask::new("POST", "/page", "Content-Type: x/y", b"<b>"),
    )
    .await;
    assert_eq!(called.header("content-type"), Some(html));
    assert!(called.header("content-security-policy").is_some());
}

#[tokio::test]
async fn a_packed_result_says_what_it_is_packed_with() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let call = json!({"endpoint": "/packed", "payload_base64": "PGI+"});
    let id = submitted(&mut raw, &call).await;
    let path = format!("/jobs/{id}/result?wait=30");
    for more in ["Accept: */*", "Range: bytes=0-1"] {
        let reply = ask(&mut raw, Ask::new("GET", &path, more, b"")).await;
        assert_eq!(reply.header("content-encoding"), Some("gzip"), "{more}");
    }
    let called = Ask::new("POST", "/packed", "Content-Type: x/y", b"<b>");
    let called = ask(&mut raw, called).await;
    assert_eq!(called.header("content-encoding"), Some("gzip"));
}

#[tokio::test]
async fn a_result_without_a_record_stays_in_its_encoding() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let path = done(&mut raw, "MDEyMzQ1Njc4OQ==").await;
    let refused = ask(&mut raw, Ask::get(&format!("{path}?encoding=json"))).await;
    problem(refused, 422, "result-encoding");
    let refused = ask(&mut raw, Ask::get(&format!("{path}?encoding=xml"))).await;
    assert_eq!(
        problem(refused, 422, "invalid-parameter")["parameter"],
        "encoding"
    );
}
