//! Jobs of others over ordinary HTTP: they are not there.

use serde_json::json;

use crate::access::{ANN, BOB, ROOT, start, users_of};
use crate::ordinary::{Ask, Stream, ask, problem};
use crate::raw::in_time;

fn of(user: &str, method: &str, path: &str, body: &[u8]) -> Ask {
    let more = format!("Authorization: {user}\r\nContent-Type: application/json");
    Ask::new(method, path, &more, body)
}

const GATE: &[u8] = br#"{"endpoint":"/gate","payload":1,"job_tag":"mine"}"#;

#[tokio::test]
async fn strangers_are_told_to_log_in() {
    let (server, _) = start().await;
    let mut raw = server.connect().await;
    for (method, path) in [
        ("GET", "/jobs"),
        ("POST", "/jobs"),
        ("GET", "/jobs/1/events"),
        ("GET", "/openapi.json"),
        ("POST", "/raw"),
    ] {
        let reply = ask(&mut raw, Ask::new(method, path, "X-Y: z", b"")).await;
        let challenge = reply.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Basic "), "{challenge}");
        problem(reply, 401, "unauthorized");
    }
}

#[tokio::test]
async fn the_jobs_of_others_are_answered_as_none() {
    let (server, _) = start().await;
    let mut raw = server.connect().await;
    let reply = ask(&mut raw, of(ANN, "POST", "/jobs", GATE)).await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (202, Some("/jobs/1"))
    );
    for (method, path) in [
        ("GET", "/jobs/N"),
        ("GET", "/jobs/N?wait=30"),
        ("GET", "/jobs/N/result"),
        ("GET", "/jobs/N/events"),
        ("DELETE", "/jobs/N"),
    ] {
        for (there, none) in [("1", "2"), ("tag:mine", "tag:none")] {
            let mut answers = Vec::new();
            for name in [there, none] {
                let reply = ask(&mut raw, of(BOB, method, &path.replace('N', name), b"")).await;
                let detail = problem(reply, 404, "job-not-found")["detail"].to_string();
                answers.push(detail.replace(name.trim_start_matches("tag:"), "N"));
            }
            assert_eq!(answers[0], answers[1], "{method} {path}");
        }
    }
    let list = ask(&mut raw, of(BOB, "GET", "/jobs", b"")).await.json();
    assert_eq!(list, json!({"jobs": []}));
    let list = ask(&mut raw, of(ROOT, "GET", "/jobs", b"")).await.json();
    assert_eq!(list["jobs"][0]["owner"], "ann");
    // Tags are each user's own, also over ordinary HTTP.
    let reply = ask(&mut raw, of(BOB, "POST", "/jobs", GATE)).await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (202, Some("/jobs/2"))
    );
}

#[tokio::test]
async fn who_is_removed_is_cut_off_from_waits_and_streams() {
    let (server, accounts) = start().await;
    let mut waiting = server.connect().await;
    ask(&mut waiting, of(ANN, "POST", "/jobs", GATE)).await;
    server.wait_begun().await;
    let credentials = format!("Authorization: {ANN}");
    let (mut stream, status) = Stream::open(server.addr, "/jobs/1/events", &credentials).await;
    assert_eq!(status, 200);
    stream.event().await.unwrap();
    waiting
        .send(of(ANN, "GET", "/jobs/1?wait=300", b"").bytes())
        .await;
    let mut calling = server.connect().await;
    calling.send(of(ANN, "POST", "/gate", b"2").bytes()).await;
    server.wait_begun().await;

    let mut users = users_of(&accounts);
    users.remove(&"ann".parse().unwrap()).unwrap();
    accounts.replace(users);
    problem(
        in_time("the wait", waiting.reply()).await,
        401,
        "unauthorized",
    );
    problem(
        in_time("the call", calling.reply()).await,
        401,
        "unauthorized",
    );
    // The last chunk, of no bytes, ends the stream; the connection stays.
    in_time("the end of the stream", async {
        while stream.line().await.unwrap() != "0" {}
    })
    .await;
    // The call was its caller's alone.
    let mut root = server.connect().await;
    let job = ask(&mut root, of(ROOT, "GET", "/jobs/2?wait=30", b""))
        .await
        .json();
    assert_eq!(job["status"], "CANCELLED");
    let job = ask(&mut root, of(ROOT, "GET", "/jobs/1", b"")).await.json();
    assert_eq!(job["status"], "RUNNING");
}
