//! What is written of who did what, and that no secret is written anywhere.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::accounts::{PASSWORD, basic, call, done, start, status_of};
use crate::support::program;

const SUBMIT: &str = r#"{"endpoint":"/demo/sleep","request_encoding":"json","data":"","data_str":"{\"millis\":3600000}","options":{"job_tag":"mine"}}"#;

fn cancel(id: i64) -> String {
    format!(r#"{{"job_ids":[{id}],"action":"cancel","options":{{}}}}"#)
}

fn events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Event and what is told of it, without the time.
fn told(event: &Value, keys: &[&str]) -> Vec<String> {
    keys.iter()
        .map(|key| event[key].to_string().replace('"', ""))
        .collect()
}

#[test]
fn who_did_what_is_written_and_the_file_can_be_renamed() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let (server, _) = start(&dir, &["--audit-log", path.to_str().unwrap()]);
    let (ann, root) = (basic("ann", PASSWORD), basic("root", PASSWORD));
    assert_eq!(call(&server, &ann, "/create/job", SUBMIT).0, 200);
    assert_eq!(call(&server, &ann, "/create/job", SUBMIT).0, 200);
    for _ in 0..3 {
        assert_eq!(status_of(&server, &basic("ann", "wrong \"guess\"")), 401);
    }
    for _ in 0..3 {
        assert_eq!(status_of(&server, "Negotiate x"), 401);
    }
    assert_eq!(call(&server, &ann, "/admin/alter/jobs", &cancel(7)).0, 200);

    let old = dir.path().join("audit.log.1");
    fs::rename(&path, &old).unwrap();
    server.signal("HUP");
    server.wait_logged("SIGHUP: reading anew", 1);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !path.exists() {
        assert!(std::time::Instant::now() < deadline, "no new file");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(call(&server, &root, "/admin/alter/jobs", &cancel(1)).0, 200);
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");

    let before = events(&old);
    let names: Vec<_> = before
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "start",
            "login",
            "submit",
            "submit",
            "login_failed",
            "refused",
            "cancel_unknown"
        ],
        "each once, however often it was tried"
    );
    let keys = ["user", "role", "by", "peer"];
    assert_eq!(
        told(&before[1], &keys),
        ["ann", "user", "password", "127.0.0.1"]
    );
    let keys = ["user", "peer", "job_id", "job_tag", "endpoint", "existing"];
    let submitted = ["ann", "127.0.0.1", "1", "mine", "/demo/sleep", "false"];
    assert_eq!(told(&before[2], &keys), submitted);
    assert_eq!(before[2]["query_id"], before[3]["query_id"]);
    assert_eq!(told(&before[3], &["existing"]), ["true"]);
    assert_eq!(told(&before[4], &["claimed", "peer"]), ["ann", "127.0.0.1"]);
    assert_eq!(told(&before[5], &["why"]), ["malformed credentials"]);
    assert_eq!(told(&before[6], &["user", "count"]), ["ann", "1"]);

    let after = events(&path);
    let names: Vec<_> = after
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    // The same refusals as before, for which there was no line yet.
    assert_eq!(names, ["users", "login", "cancel", "refused", "stop"]);
    assert_eq!(
        told(&after[3], &["why", "count"]),
        ["malformed credentials", "2"]
    );
    let keys = ["user", "job_id", "outcome"];
    assert_eq!(told(&after[2], &keys), ["root", "1", "cancelling"]);
}

#[test]
fn the_audit_log_may_be_the_standard_output() {
    let dir = tempdir().unwrap();
    let (server, _) = start(&dir, &["--audit-log", "-"]);
    assert_eq!(status_of(&server, &basic("ann", PASSWORD)), 200);
    server.signal("TERM");
    let (_, rest, _) = server.end();
    assert!(rest.contains(r#""event":"login""#), "{rest}");
    assert!(rest.contains(r#""event":"stop""#), "{rest}");
}

/// All that the server writes, at the most talkative level, and all that its commands print.
#[test]
fn no_secret_is_written_anywhere() {
    let dir = tempdir().unwrap();
    let audit = dir.path().join("audit.log");
    let arguments = ["--log", "trace", "--audit-log", audit.to_str().unwrap()];
    let (server, users) = start(&dir, &arguments);
    let token = done(&users, &["token", "ann", "ci"], "");
    let token = token.trim_end().to_owned();
    server.signal("HUP");
    server.wait_logged("read anew", 2);
    let wrong = "a wrong password";
    let pairs = [
        basic("ann", PASSWORD),
        basic("ann", wrong),
        format!("Bearer {token}"),
    ];
    let mut answers = String::new();
    for (credentials, status) in pairs.iter().zip([200, 401, 200]) {
        let (found, body) = call(&server, credentials, "/create/job", SUBMIT);
        assert_eq!(found, status, "{body}");
        answers += &body;
    }
    // HTTP/2 has a library of its own, with log lines of its own.
    http2(&server.address, &pairs);
    let list = done(&users, &["list"], "");
    let check = program()
        .args(["check", "--users-file"])
        .arg(&users)
        .output()
        .unwrap();
    server.signal("TERM");
    let (_, rest, log) = server.end();
    assert!(
        log.contains("TRACE"),
        "the log is as talkative as it can be"
    );

    let mut written = vec![
        ("answers".to_owned(), answers.into_bytes()),
        ("list".to_owned(), list.into_bytes()),
        ("check".to_owned(), check.stdout),
        ("stdout".to_owned(), rest.into_bytes()),
    ];
    // The log, the audit log, the users file and the store.
    read_all(dir.path(), &mut written);
    assert!(written.len() > 6, "the store is among them");
    let mut secrets = vec![PASSWORD.to_owned(), wrong.to_owned(), token.clone()];
    for pair in &pairs {
        let (_, secret) = pair.split_once(' ').unwrap();
        secrets.push(secret.to_owned());
    }
    for secret in [PASSWORD, wrong, &token] {
        use base64ct::{Base64Unpadded, Encoding as _};
        secrets.push(Base64Unpadded::encode_string(secret.as_bytes()));
    }
    for (name, bytes) in &written {
        for secret in &secrets {
            let is_there = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!is_there, "{secret} is in {name}");
        }
    }
}

fn read_all(dir: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => read_all(&path, into),
            false => into.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
}

fn http2(address: &str, credentials: &[String]) {
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        for credentials in credentials {
            let request = http::Request::post(format!("http://{address}/show/system/status"))
                .header("content-type", "application/json")
                .header("authorization", credentials)
                .body(Full::new(Bytes::from_static(b"{}")))
                .unwrap();
            let reply = sender.send_request(request).await.unwrap();
            assert!([200, 401].contains(&reply.status().as_u16()));
        }
    });
}
