//! Jobs as resources of ordinary HTTP.

use kjob_proto::Encoding;
use serde_json::{Value, json};

use crate::ordinary::{Ask, ask, problem, submitted};
use crate::server::TestServer;

#[tokio::test]
async fn a_job_goes_from_submit_to_result() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let body = json!({"endpoint": "/echo", "payload": {"message": "häi"}, "job_tag": "one", "priority": 7});
    let reply = ask(&mut raw, Ask::post("/jobs", &body)).await;
    assert_eq!(reply.status, 202);
    assert_eq!(reply.header("location"), Some("/jobs/1"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let job = reply.json();
    assert_eq!(
        (&job["job_id"], &job["job_tag"], &job["priority"]),
        (&json!(1), &json!("one"), &json!(7))
    );

    for path in [
        "/jobs/1?wait=30",
        "/jobs/tag:one?wait=30",
        "/jobs/tag%3Aone?wait=30",
    ] {
        let reply = ask(&mut raw, Ask::get(path)).await;
        assert_eq!(reply.status, 200, "{path}");
        let job = reply.json();
        assert_eq!(
            (&job["status"], &job["progress"]),
            (&json!("DONE"), &json!(100))
        );
        assert_eq!(job["links"]["result"], "/jobs/1/result");
        assert_eq!(job["result_encoding"], "json");
    }
    let reply = ask(&mut raw, Ask::get("/jobs/1/result")).await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.json(), json!({"message": "häi"}));
    // The endpoint has records, so its result can be turned.
    let reply = ask(&mut raw, Ask::get("/jobs/1/result?encoding=binary")).await;
    assert_eq!(
        reply.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(&reply.body[..], "\u{8}häi".as_bytes());
}

#[tokio::test]
async fn the_same_tag_is_the_same_job_and_another_call_a_conflict() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let body = json!({"endpoint": "/raw", "payload_base64": "AP8=", "job_tag": "t"});
    assert_eq!(ask(&mut raw, Ask::post("/jobs", &body)).await.status, 202);
    let again = ask(&mut raw, Ask::post("/jobs", &body)).await;
    assert_eq!(
        (again.status, again.header("location")),
        (200, Some("/jobs/1"))
    );
    // Also over the wire: it is one submit in two forms.
    let wire = raw
        .submit("/raw", b"\x00\xff", &[("job_tag", "t")])
        .await
        .unwrap();
    assert_eq!(wire.job_id, 1);

    let other = json!({"endpoint": "/raw", "payload_base64": "AA==", "job_tag": "t"});
    let refused = problem(
        ask(&mut raw, Ask::post("/jobs", &other)).await,
        409,
        "tag-conflict",
    );
    assert_eq!(refused["job_id"], 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_submit_is_told_by_name() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for (body, status, name, parameter) in [
        (json!([]), 400, "invalid-body", Value::Null),
        (json!({}), 422, "invalid-parameter", json!("endpoint")),
        (
            json!({"endpoint": "/raw"}),
            422,
            "invalid-parameter",
            json!("payload"),
        ),
        (
            json!({"endpoint": "/no", "payload": 1}),
            422,
            "unknown-endpoint",
            Value::Null,
        ),
        (
            json!({"endpoint": "/echo", "payload": {"message": 1}}),
            422,
            "invalid-payload",
            Value::Null,
        ),
        (
            json!({"endpoint": "/raw", "payload": 1, "job_tga": "x"}),
            422,
            "invalid-parameter",
            json!("job_tga"),
        ),
        (
            json!({"endpoint": "/raw", "payload": 1, "colour": 7}),
            422,
            "invalid-parameter",
            json!("colour"),
        ),
        (
            json!({"endpoint": "/raw", "payload": 1, "priority": 10}),
            422,
            "invalid-parameter",
            json!("priority"),
        ),
        (
            json!({"endpoint": "/raw", "payload": 1, "job_tag": "ä"}),
            422,
            "invalid-parameter",
            json!("job_tag"),
        ),
    ] {
        let reply = ask(&mut raw, Ask::post("/jobs", &body)).await;
        let refused = problem(reply, status, name);
        assert_eq!(refused["parameter"], parameter, "{body}");
    }
    let reply = ask(
        &mut raw,
        Ask::new("POST", "/jobs", "Content-Type: application/json", b"{\"a\""),
    )
    .await;
    problem(reply, 400, "invalid-body");
    for more in [
        "Content-Type: text/plain",
        "Content-Type: application/json\r\nContent-Encoding: gzip",
    ] {
        let reply = ask(&mut raw, Ask::new("POST", "/jobs", more, b"{}")).await;
        problem(reply, 415, "media-type");
    }
    assert_eq!(server.engine.stats().live, 0);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_with_the_limit() {
    let server = TestServer::with_options(|options| options.limits.max_body = 100).await;
    let mut raw = server.connect().await;
    let body = json!({"endpoint": "/raw", "payload": "x".repeat(100)});
    let refused = problem(
        ask(&mut raw, Ask::post("/jobs", &body)).await,
        413,
        "too-large",
    );
    assert_eq!(
        (&refused["limit"], &refused["found"]),
        (&json!(100), &json!(body.to_string().len()))
    );
}

#[tokio::test]
async fn other_methods_are_405_and_other_paths_404() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for (method, path, allowed) in [
        ("PUT", "/jobs", "GET, HEAD, POST"),
        ("POST", "/jobs/1", "GET, HEAD, DELETE"),
        ("DELETE", "/jobs/1/result", "GET, HEAD"),
        ("PATCH", "/jobs/1/events", "GET"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ] {
        let reply = ask(&mut raw, Ask::new(method, path, "X-Y: z", b"")).await;
        assert_eq!(reply.header("allow"), Some(allowed), "{method} {path}");
        problem(reply, 405, "method-not-allowed");
    }
    for path in [
        "/jobs/1",
        "/jobs/tag:no",
        "/jobs/x",
        "/jobs/1/result",
        "/jobs/1/events",
        "/jobs/01",
    ] {
        problem(ask(&mut raw, Ask::get(path)).await, 404, "job-not-found");
    }
    problem(
        ask(&mut raw, Ask::new("DELETE", "/jobs/1", "X-Y: z", b"")).await,
        404,
        "job-not-found",
    );
    for path in ["/jobs/1/x", "/jobs/1/", "/nothing"] {
        problem(ask(&mut raw, Ask::get(path)).await, 404, "not-found");
    }
}

#[tokio::test]
async fn lists_are_pages_that_lead_on() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for n in 0..5 {
        let endpoint = if n == 3 { "/fail" } else { "/raw" };
        let body =
            json!({"endpoint": endpoint, "payload_base64": "AA==", "job_tag": format!("t{n}")});
        let id = submitted(&mut raw, &body).await;
        ask(&mut raw, Ask::get(&format!("/jobs/{id}?wait=30"))).await;
    }
    let ids = |page: &Value| -> Vec<i64> {
        let jobs = page["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["job_id"].as_i64().unwrap()).collect()
    };
    let (mut path, mut pages) = ("/jobs?limit=2&status=DONE".to_owned(), Vec::new());
    loop {
        let reply = ask(&mut raw, Ask::get(&path)).await;
        let link = reply.header("link").map(str::to_owned);
        let page = reply.json();
        pages.push(ids(&page));
        match page["next"].as_str() {
            Some(next) => {
                assert_eq!(link, Some(format!("<{next}>; rel=\"next\"")));
                path = next.to_owned();
            }
            None => break assert_eq!(link, None),
        }
    }
    assert_eq!(pages.concat(), [1, 2, 3, 5]);
    assert!(pages.iter().all(|page| page.len() <= 2));
    for (query, expected) in [
        ("", &[1, 2, 3, 4, 5][..]),
        ("?status=ERROR,CANCELLED", &[4]),
        ("?endpoint=/fail", &[4]),
        ("?endpoint=%2Fraw&after=3", &[5]),
        ("?order=desc", &[5, 4, 3, 2, 1]),
        ("?order=desc&after=3", &[2, 1]),
        ("?owner=nobody", &[]),
        ("?job_tag=t1", &[2]),
        ("?job_tag=t1&order=desc&after=2", &[]),
        ("?job_tag=t1&status=ERROR", &[]),
        ("?job_tag=none", &[]),
    ] {
        let page = ask(&mut raw, Ask::get(&format!("/jobs{query}")))
            .await
            .json();
        assert_eq!(ids(&page), expected, "{query}");
    }
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("after=-1", "after"),
        ("status=DOING", "status"),
        ("limti=3", "limti"),
        ("order=up", "order"),
        ("since=now", "since"),
        ("limit=1&limit=2", "limit"),
    ] {
        let refused = ask(&mut raw, Ask::get(&format!("/jobs?{query}"))).await;
        let refused = problem(refused, 422, "invalid-parameter");
        assert_eq!(refused["parameter"], parameter, "{query}");
    }
}

#[tokio::test]
async fn a_cancel_says_how_far_it_came() {
    let server = TestServer::with_engine(|engine| engine.workers = 1).await;
    let mut raw = server.connect().await;
    let body = json!({"endpoint": "/gate", "payload_base64": ""});
    let running = submitted(&mut raw, &body).await;
    server.wait_begun().await;
    let waiting = submitted(&mut raw, &body).await;
    let delete = |id: i64| Ask::new("DELETE", &format!("/jobs/{id}"), "X-Y: z", b"");

    let reply = ask(&mut raw, delete(waiting)).await;
    assert_eq!(
        (reply.status, &reply.json()["status"]),
        (200, &json!("CANCELLED"))
    );
    let reply = ask(&mut raw, delete(running)).await;
    assert_eq!(reply.status, 202);
    let ended = ask(&mut raw, Ask::get(&format!("/jobs/{running}?wait=30")))
        .await
        .json();
    assert_eq!(ended["status"], "CANCELLED");
    for id in [running, waiting] {
        let refused = problem(ask(&mut raw, delete(id)).await, 409, "job-ended");
        assert_eq!(refused["job_id"], id);
    }
}

#[tokio::test]
async fn a_job_is_waited_for_by_parameter_or_preference() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let id = submitted(
        &mut raw,
        &json!({"endpoint": "/gate", "payload_base64": ""}),
    )
    .await;
    server.wait_begun().await;
    let path = format!("/jobs/{id}");
    let reply = ask(&mut raw, Ask::get(&path)).await;
    assert_eq!(
        (reply.status, &reply.json()["phase"]),
        (200, &json!("running"))
    );
    let refused = ask(&mut raw, Ask::get(&format!("{path}/result"))).await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    problem(refused, 409, "job-not-ended");

    let mut other = server.connect().await;
    other
        .send(Ask::new("GET", &path, "Prefer: wait=30", b"").bytes())
        .await;
    other.assert_open().await;
    server.gate.add_permits(1);
    let reply = other.reply().await;
    assert_eq!(reply.header("preference-applied"), Some("wait=30"));
    assert_eq!(reply.json()["status"], "DONE");
}

#[tokio::test]
async fn a_failed_job_has_its_error_and_no_result() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let body = json!({"endpoint": "/fail", "payload_base64": "bm8="});
    let id = submitted(&mut raw, &body).await;
    let job = ask(&mut raw, Ask::get(&format!("/jobs/{id}?wait=30")))
        .await
        .json();
    assert_eq!(
        (&job["status"], &job["error"]),
        (&json!("ERROR"), &json!("no"))
    );
    assert_eq!(job["links"]["result"], Value::Null);
    let refused = ask(&mut raw, Ask::get(&format!("/jobs/{id}/result"))).await;
    let refused = problem(refused, 404, "no-result");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .ends_with("ended as ERROR: no")
    );
}

#[tokio::test]
async fn a_server_that_ends_says_503_and_when_to_come_back() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let body = json!({"endpoint": "/raw", "payload_base64": ""});
    let id = submitted(&mut raw, &body).await;
    server.engine.drain();
    let refused = ask(&mut raw, Ask::post("/jobs", &body)).await;
    assert_eq!(refused.header("retry-after"), Some("5"));
    problem(refused, 503, "draining");
    // What is there can still be fetched.
    let reply = ask(&mut raw, Ask::get(&format!("/jobs/{id}?wait=30"))).await;
    assert_eq!(reply.status, 200);
    // On the wire it is what it was.
    let error = raw.submit("/raw", b"", &[]).await.unwrap_err();
    assert_eq!(error, "Unavailable: Draining HA queue");
}

#[tokio::test]
async fn a_used_up_budget_is_429() {
    let server = TestServer::with_engine(|engine| engine.max_queued = 0).await;
    let mut raw = server.connect().await;
    let body = json!({"endpoint": "/raw", "payload_base64": ""});
    let refused = ask(&mut raw, Ask::post("/jobs", &body)).await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    let refused = problem(refused, 429, "busy");
    assert_eq!(
        (&refused["limit"], &refused["found"]),
        (&json!(0), &json!(1))
    );
}

#[tokio::test]
async fn the_description_is_served() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let reply = ask(&mut raw, Ask::get("/openapi.json")).await;
    assert_eq!(reply.json()["openapi"], "3.1.0");
    // The wire's own paths are described in docs/protocol.md.
    assert_eq!(reply.json()["paths"]["/create/job"], Value::Null);
    raw.post("/jobs/1", "application/json", b"{}").await;
    assert_eq!(
        raw.reply().await.header("content-type"),
        Some("application/problem+json")
    );
    raw.post("/no/such", "application/json", b"{}").await;
    raw.reply().await.plain_error(Encoding::Json);
}
