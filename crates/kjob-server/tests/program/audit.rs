//! What is written of who did what, and that no secret is written anywhere.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tempfile::tempdir;

use crate::accounts::{PASSWORD, basic, call, done, start, status_of};
use crate::support::{Running, has, program, read_all};

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

/// The status of a GET by this caller.
fn look(server: &Running, credentials: &str, path: &str) -> u16 {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nAuthorization: {credentials}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Users without the role for it, and reports without the token for it.
#[test]
fn who_may_not_is_written() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let (server, _) = start(&dir, &["--audit-log", path.to_str().unwrap()]);
    let (ann, root) = (basic("ann", PASSWORD), basic("root", PASSWORD));
    for path in ["/metrics", "/console/history"] {
        assert_eq!(look(&server, &ann, path), 403, "{path}");
        assert_eq!(look(&server, &root, path), 200, "{path}");
    }
    for (query, status) in [("?token=wrong", 404), ("?token=guess", 404), ("", 422)] {
        let path = format!("/jobs/1/progress{query}");
        assert_eq!(call(&server, &ann, &path, "40").0, status, "{path}");
    }
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");

    let events = events(&path);
    for why in ["forbidden", "progress token"] {
        let lines = events.iter().filter(|event| event["why"] == why);
        let counts = lines.map(|event| {
            assert_eq!(told(event, &["event", "peer"]), ["refused", "127.0.0.1"]);
            event["count"].as_u64().unwrap_or(1)
        });
        assert_eq!(counts.sum::<u64>(), 2, "{why}: {events:?}");
    }
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

/// The bytes of the secret that callbacks are signed with.
const CALLBACK_SECRET: &str = "known to the receivers alone";

/// Where callbacks may go, and what the first of them is, once it has come.
fn receiver() -> (String, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut callback, mut piece) = (Vec::new(), [0_u8; 4096]);
        // Its body is an object in an object.
        while !callback.ends_with(b"}}") {
            let read = stream.read(&mut piece).unwrap();
            assert_ne!(read, 0, "a callback in part");
            callback.extend(&piece[..read]);
        }
        let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        stream.write_all(answer).unwrap();
        tell.send(callback).unwrap();
    });
    (host, told)
}

/// All that the server writes, at the most talkative level, and all that its commands print.
#[test]
fn no_secret_is_written_anywhere() {
    use base64ct::{Base64, Base64Unpadded, Encoding as _};
    let (dir, elsewhere) = (tempdir().unwrap(), tempdir().unwrap());
    let audit = dir.path().join("audit.log");
    let (host, callback) = receiver();
    let secret_file = elsewhere.path().join("callback.secret");
    let secret = Base64::encode_string(CALLBACK_SECRET.as_bytes());
    fs::write(&secret_file, format!("whsec_{secret}\n")).unwrap();
    let callbacks = [
        "--callback-hosts",
        host.as_str(),
        "--callback-secret-file",
        secret_file.to_str().unwrap(),
    ];
    let logs = ["--log", "trace", "--audit-log", audit.to_str().unwrap()];
    let arguments = [logs, callbacks].concat();
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
    let told_of = format!(
        r#"{{"endpoint":"/demo/echo","request_encoding":"json","data":"","data_str":"{{\"message\":\"m\"}}","options":{{"callback_url":"http://{host}/hook"}}}}"#
    );
    let (found, body) = call(&server, &pairs[0], "/create/job", &told_of);
    assert_eq!(found, 200, "{body}");
    answers += &body;
    let callback = callback.recv_timeout(Duration::from_secs(60)).unwrap();
    let head = String::from_utf8_lossy(&callback).to_ascii_lowercase();
    assert!(head.contains("webhook-signature: v1,"), "{head}");
    // HTTP/2 has a library of its own, with log lines of its own.
    http2(&server.address, &pairs);
    let list = done(&users, &["list"], "");
    let check = program()
        .args(["check", "--users-file"])
        .arg(&users)
        .args(callbacks)
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
        ("callback".to_owned(), callback),
    ];
    // The log, the audit log, the users file and the store.
    read_all(dir.path(), &mut written);
    let segments = dir.path().join("data/segments").display().to_string();
    let mut stored = written
        .iter()
        .filter(|(name, _)| name.starts_with(&segments));
    assert!(
        stored.any(|(_, bytes)| has(bytes, "/demo/sleep")),
        "the store is among them, with its jobs"
    );
    let mut secrets = [PASSWORD, wrong, &token, CALLBACK_SECRET]
        .map(str::to_owned)
        .to_vec();
    for pair in &pairs {
        let (_, secret) = pair.split_once(' ').unwrap();
        secrets.push(secret.to_owned());
    }
    for secret in [PASSWORD, wrong, &token, CALLBACK_SECRET] {
        secrets.push(Base64Unpadded::encode_string(secret.as_bytes()));
    }
    for (name, bytes) in &written {
        for secret in &secrets {
            assert!(!has(bytes, secret), "{secret} is in {name}");
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
