//! What web pages may do.

use kjob_proto::Encoding;
use kjob_server::{Access, WebRules};

use crate::raw::{Raw, Reply};
use crate::server::TestServer;

const APP: &str = "https://app.example.org";

async fn start(web: WebRules) -> (TestServer, Raw) {
    let server = TestServer::with_access(Access::default().web(web)).await;
    let raw = server.connect().await;
    (server, raw)
}

async fn ask(raw: &mut Raw, method: &str, host: &str, more: &str) -> Reply {
    let body = if method == "POST" { "{}" } else { "" };
    let len = body.len();
    raw.send(format!(
        "{method} /show/system/status HTTP/1.1\r\nHost: {host}\r\n\
         Content-Type: application/json\r\n{more}Content-Length: {len}\r\n\r\n{body}"
    ))
    .await;
    raw.reply().await
}

#[tokio::test]
async fn a_page_that_was_made_to_lead_here_is_not_answered() {
    let (_server, mut raw) = start(WebRules::default().loopback_hosts_only()).await;
    for good in ["localhost", "127.0.0.1:9191", "[::1]:9191"] {
        assert_eq!(ask(&mut raw, "POST", good, "").await.status, 200, "{good}");
    }
    for bad in [
        "evil.example",
        "evil.example:9191",
        "127.0.0.1.evil.example",
    ] {
        let reply = ask(&mut raw, "POST", bad, "").await;
        assert_eq!(reply.status, 403, "{bad}");
        let message = reply.plain_error(Encoding::Json);
        assert!(message.contains("allowed_hosts"), "{message}");
    }
    // A client older than the header, and no browser.
    raw.send("POST /show/system/status HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    assert_eq!(raw.reply().await.status, 200);
}

#[tokio::test]
async fn without_origins_pages_of_others_may_nothing() {
    let (_server, mut raw) = start(WebRules::default()).await;
    for method in ["POST", "OPTIONS"] {
        let more = format!("Origin: {APP}\r\nAccess-Control-Request-Method: POST\r\n");
        let reply = ask(&mut raw, method, "here", &more).await;
        assert_eq!(reply.status, 403, "{method}");
        reply.plain_error(Encoding::Json);
        let allowed = reply
            .headers
            .iter()
            .find(|(name, _)| name.starts_with("access-control"));
        assert_eq!(allowed, None);
    }
    // Our own may.
    let reply = ask(&mut raw, "POST", "here", "Origin: http://here\r\n").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("vary"), None);
}

/// A form of another site sends these without asking the server (Fetch standard: "simple requests").
#[tokio::test]
async fn what_a_page_sends_unasked_submits_nothing() {
    for web in [WebRules::default(), WebRules::default().origin(APP)] {
        let (server, mut raw) = start(web).await;
        let body = r#"{"endpoint":"/raw","request_encoding":"json","data_str":"x","options":{}}"#;
        for (origin, content_type) in [
            ("https://evil.example", "text/plain"),
            ("https://evil.example", "application/x-www-form-urlencoded"),
            ("https://evil.example", "application/json"),
            ("null", "text/plain"),
            (APP, "text/plain"),
            ("http://test", "text/plain"),
        ] {
            let len = body.len();
            raw.send(format!(
                "POST /create/job HTTP/1.1\r\nHost: test\r\nOrigin: {origin}\r\n\
                 Content-Type: {content_type}\r\nContent-Length: {len}\r\n\r\n{body}"
            ))
            .await;
            let status = raw.reply().await.status;
            assert!(
                [403, 415].contains(&status),
                "{origin} {content_type} {status}"
            );
        }
        assert_eq!(
            server.engine.stats().queued + server.engine.stats().running,
            0
        );
        let options = [("show_async_jobs", "true")];
        let options = crate::raw::map(&options);
        let list: kjob_proto::AdminShowJobsResponse = raw
            .call(
                "/admin/show/jobs",
                &kjob_proto::AdminShowJobsRequest { options },
            )
            .await
            .unwrap();
        assert!(list.job_id.is_empty());
    }
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_ask_send_and_read() {
    let (_server, mut raw) = start(WebRules::default().origin(APP)).await;
    let asks = format!(
        "Origin: {APP}\r\nAccess-Control-Request-Method: POST\r\n\
         Access-Control-Request-Headers: authorization,content-type\r\n"
    );
    let reply = {
        raw.send(format!(
            "OPTIONS /create/job HTTP/1.1\r\nHost: here\r\n{asks}\r\n"
        ))
        .await;
        raw.bare_reply(false).await
    };
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
    assert_eq!(
        reply.header("access-control-allow-methods"),
        Some("GET, POST, DELETE")
    );
    let headers = reply.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("authorization") && headers.contains("content-type"));
    // The page sends its credentials itself; what the browser keeps is not asked for.
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    let varies = |reply: &Reply| {
        let vary = reply.headers.iter().filter(|(name, _)| name == "vary");
        vary.map(|(_, value)| value.clone())
            .collect::<Vec<_>>()
            .join(", ")
    };
    assert!(varies(&reply).contains("access-control-request-headers"));

    let reply = ask(&mut raw, "POST", "here", &format!("Origin: {APP}\r\n")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
    let exposed = reply.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("x-request-time-secs"));
    assert_eq!(varies(&reply), "origin");
    // Errors can be read as well.
    raw.send(format!(
        "GET /create/job HTTP/1.1\r\nHost: here\r\nOrigin: {APP}\r\n\r\n"
    ))
    .await;
    let reply = raw.reply().await;
    assert_eq!(reply.status, 405);
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));

    let reply = ask(&mut raw, "POST", "here", "Origin: https://evil.example\r\n").await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.header("access-control-allow-origin"), None);
    assert_eq!(varies(&reply), "origin");
    // Whoever is no page is answered, and told that pages are answered otherwise.
    let reply = ask(&mut raw, "POST", "here", "").await;
    assert_eq!((reply.status, varies(&reply).as_str()), (200, "origin"));
}
