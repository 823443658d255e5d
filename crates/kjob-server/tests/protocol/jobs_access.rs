//! Jobs of others over ordinary HTTP: they are not there.

use kjob_server::{Access, Accounts};
use serde_json::json;

use crate::access::{all_of, users_of};
use crate::accounts::{ANN, BOB, ROOT, start, users};
use crate::ordinary::{Ask, Stream, ask, problem};
use crate::raw::{Reply, in_time};
use crate::server::TestServer;

fn of(user: &str, method: &str, path: &str, body: &[u8]) -> Ask {
    let more = format!("Authorization: {user}\r\nContent-Type: application/json");
    Ask::new(method, path, &more, body)
}

const GATE: &[u8] = br#"{"endpoint":"/gate","payload":1,"job_tag":"mine"}"#;

const RAW: &[u8] = br#"{"endpoint":"/raw","payload":1,"job_tag":"done"}"#;

/// All of a reply but the times in it, and the name of the job that was asked for.
fn unnamed(reply: &Reply, name: &str) -> (String, Vec<(String, String)>, String) {
    let (line, headers, body) = all_of(reply);
    let body = String::from_utf8(body).unwrap();
    let body = body.replace(name.trim_start_matches("tag:"), "N");
    (line, headers, body)
}

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
    server.wait_begun().await;
    ask(&mut raw, of(ANN, "POST", "/jobs", RAW)).await;
    let done = ask(&mut raw, of(ANN, "GET", "/jobs/2?wait=30", b"")).await;
    assert_eq!(done.json()["status"], "DONE");
    for path in [
        "/jobs/1/payload",
        "/jobs/1/log",
        "/jobs/tag:done/payload",
        "/jobs/tag:done/log",
        "/jobs/tag:done/result",
    ] {
        let own = ask(&mut raw, of(ANN, "GET", path, b"")).await;
        assert_eq!(own.status, 200, "{path}");
    }
    // What there is none of has a name of the same length.
    for (there, none) in [
        ("1", "9"),
        ("tag:mine", "tag:none"),
        ("2", "9"),
        ("tag:done", "tag:none"),
    ] {
        for (method, path) in [
            ("GET", "/jobs/N"),
            ("GET", "/jobs/N?wait=30"),
            ("GET", "/jobs/N/payload"),
            ("GET", "/jobs/N/log"),
            ("GET", "/jobs/N/result"),
            ("GET", "/jobs/N/events"),
            ("DELETE", "/jobs/N"),
        ] {
            let mut answers = Vec::new();
            for name in [there, none] {
                let reply = ask(&mut raw, of(BOB, method, &path.replace('N', name), b"")).await;
                answers.push(unnamed(&reply, name));
                problem(reply, 404, "job-not-found");
            }
            assert_eq!(answers[0], answers[1], "{method} {path} of {there}");
        }
    }
    let job = ask(&mut raw, of(ANN, "GET", "/jobs/1", b"")).await.json();
    assert_eq!(job["status"], "RUNNING", "nobody cancelled it");
    let list = ask(&mut raw, of(BOB, "GET", "/jobs", b"")).await.json();
    assert_eq!(list, json!({"jobs": []}));
    let list = ask(&mut raw, of(ROOT, "GET", "/jobs", b"")).await.json();
    assert_eq!(list["jobs"][0]["owner"], "ann");
    // Tags are each user's own, also over ordinary HTTP.
    let reply = ask(&mut raw, of(BOB, "POST", "/jobs", GATE)).await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (202, Some("/jobs/3"))
    );
}

#[tokio::test]
async fn who_is_removed_is_cut_off_from_waits_and_streams() {
    let accounts = Accounts::new(users());
    let access = Access::default().accounts(accounts.clone());
    let server = TestServer::with_metrics(access).await;
    let mut waiting = server.connect().await;
    ask(&mut waiting, of(ANN, "POST", "/jobs", GATE)).await;
    server.wait_begun().await;
    let credentials = format!("Authorization: {ANN}");
    let (mut stream, status) = Stream::open(server.addr, "/jobs/1/events", &credentials).await;
    assert_eq!(status, 200);
    stream.event().await.unwrap();
    let (mut changes, status) = Stream::open(server.addr, "/jobs/events", &credentials).await;
    assert_eq!(status, 200);
    assert_eq!(changes.event().await.unwrap().name, "begin");
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
    for stream in [&mut stream, &mut changes] {
        in_time("the end of the stream", async {
            while stream.line().await.unwrap() != "0" {}
        })
        .await;
    }
    // The call was its caller's alone.
    let mut root = server.connect().await;
    let job = ask(&mut root, of(ROOT, "GET", "/jobs/2?wait=30", b""))
        .await
        .json();
    assert_eq!(job["status"], "CANCELLED");
    let job = ask(&mut root, of(ROOT, "GET", "/jobs/1", b"")).await.json();
    assert_eq!(job["status"], "RUNNING");
}
