//! What is for people and their tools.

use crate::server::TestServer;

#[tokio::test]
async fn health_and_home_answer_get_and_head() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for (path, words) in [
        ("/", "kjob-server"),
        ("/healthz", "ok"),
        ("/readyz", "ready"),
    ] {
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
            .await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, 200);
        assert!(String::from_utf8_lossy(&reply.body).contains(words));

        raw.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
            .await;
        let head = raw.bare_reply(false).await;
        let len = reply.body.len().to_string();
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-length"), Some(len.as_str()));

        raw.post(path, "application/json", b"{}").await;
        let refused = raw.reply().await;
        assert_eq!(refused.status, 405);
        assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    }
}

#[tokio::test]
async fn readiness_goes_first_and_health_stays() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    server.system.drain();
    for (path, status, text) in [("/readyz", 503, "draining\n"), ("/healthz", 200, "ok\n")] {
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
            .await;
        let reply = raw.reply().await;
        assert_eq!((reply.status, &reply.body[..]), (status, text.as_bytes()));
    }
}

/// As in a program of one's own that has no use for them.
#[tokio::test]
async fn a_server_that_counts_nothing_has_no_metrics() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    assert_eq!(raw.reply().await.status, 404);
}

#[tokio::test]
async fn an_unknown_path_is_404_as_a_problem() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send("GET /no/such HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    let reply = raw.reply().await;
    assert_eq!(reply.status, 404);
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("application/problem+json")
    );
    assert!(String::from_utf8_lossy(&reply.body).contains("/no/such"));
    raw.assert_usable().await;
}
