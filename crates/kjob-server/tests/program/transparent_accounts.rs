//! A server in front of one that has accounts: it undoes none of that one's access control.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::accounts::{PASSWORD, add, basic, done, hang_up};
use crate::support::Running;

/// A server with the users ann and bob, and what is needed to put others in front of it.
struct Behind {
    server: Running,
    users: PathBuf,
    dir: TempDir,
    front_dir: TempDir,
}

impl Behind {
    fn start() -> Self {
        let (dir, front_dir) = (tempdir().unwrap(), tempdir().unwrap());
        let users = dir.path().join("users.toml");
        add(&users, "ann", "user");
        add(&users, "bob", "user");
        let path = users.to_str().unwrap();
        let arguments = ["--demo", "--log-format", "json", "--users-file", path];
        let server = Running::start(&dir, &arguments);
        Self {
            server,
            users,
            dir,
            front_dir,
        }
    }

    fn front(&self, arguments: &[&str]) -> Running {
        let mut all = vec!["--demo=false", "--upstream", &self.server.url];
        all.extend(arguments);
        Running::start(&self.front_dir, &all)
    }

    fn data(&self) -> PathBuf {
        self.front_dir.path().join("data")
    }
}

/// Status and body of a request, over a connection of its own.
fn request(
    server: &Running,
    method: &str,
    path: &str,
    credentials: Option<&str>,
    body: &str,
) -> (u16, String) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let authorization = credentials.map(|value| format!("Authorization: {value}\r\n"));
    let authorization = authorization.unwrap_or_default();
    let content = match body {
        "" => String::new(),
        body => format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ),
    };
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\n{authorization}{content}\r\n{body}"
    )
    .unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let reply = String::from_utf8_lossy(&reply);
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn post(server: &Running, path: &str, credentials: Option<&str>, body: &Value) -> (u16, String) {
    request(server, "POST", path, credentials, &body.to_string())
}

/// What an envelope says: the record in it, or the error.
fn opened(body: &str) -> Result<Value, String> {
    let envelope: Value = serde_json::from_str(body).unwrap();
    match envelope["status"].as_str().unwrap() {
        "OK" => Ok(serde_json::from_str(envelope["data_str"].as_str().unwrap()).unwrap()),
        _ => Err(envelope["message"].as_str().unwrap().to_owned()),
    }
}

fn echo(message: &str, tag: &str) -> Value {
    let payload = json!({ "message": message }).to_string();
    json!({
        "endpoint": "/demo/echo", "request_encoding": "json", "data": "", "data_str": payload,
        "options": { "job_tag": tag },
    })
}

/// Submits a job, and waits for its end.
fn submit(server: &Running, credentials: &str, job: &Value) -> i64 {
    let (status, body) = post(server, "/create/job", Some(credentials), job);
    assert_eq!(status, 200, "{body}");
    let id = opened(&body).unwrap()["job_id"].as_i64().unwrap();
    let reply = get(server, Some(credentials), id).1;
    assert_eq!(opened(&reply).unwrap()["job_status"], "DONE", "{reply}");
    id
}

fn get(server: &Running, credentials: Option<&str>, id: i64) -> (u16, String) {
    let body = json!({ "job_id": id, "options": { "wait_ms": "60000" } });
    post(server, "/get/job", credentials, &body)
}

/// The ids of the jobs that somebody is shown.
fn listed(server: &Running, credentials: &str) -> Vec<i64> {
    let body = json!({ "options": { "show_async_jobs": "true" } });
    let (status, body) = post(server, "/admin/show/jobs", Some(credentials), &body);
    assert_eq!(status, 200, "{body}");
    let ids = opened(&body).unwrap()["job_id"].clone();
    serde_json::from_value(ids).unwrap()
}

#[test]
fn a_job_is_only_its_users_also_after_a_restart() {
    let behind = Behind::start();
    let front = behind.front(&[]);
    let (ann, bob) = (basic("ann", PASSWORD), basic("bob", PASSWORD));
    let id = submit(&front, &ann, &echo("for ann only", "mine"));

    front.signal("TERM");
    assert!(front.end().0.success());
    let front = behind.front(&[]);
    assert_eq!(listed(&front, &ann), [id]);
    assert!(get(&front, Some(&ann), id).1.contains("for ann only"));
    let path = format!("/jobs/{id}/result");
    let (status, body) = request(&front, "GET", &path, Some(&ann), "");
    assert!(status == 200 && body.contains("for ann only"), "{body}");

    assert_eq!(listed(&front, &bob), [0; 0]);
    let by_tag = json!({ "job_id": 0, "options": { "job_tag": "mine" } });
    for (status, body) in [
        get(&front, Some(&bob), id),
        post(&front, "/get/job", Some(&bob), &by_tag),
    ] {
        assert_eq!(status, 400);
        assert!(body.contains("not found") && !body.contains("for ann only"));
    }
    let cancel = json!({ "job_ids": [id], "action": "cancel", "options": {} });
    let (_, body) = post(&front, "/admin/alter/jobs", Some(&bob), &cancel);
    assert_eq!(opened(&body).unwrap()["status"], json!(["not found"]));
    for (method, end) in [
        ("GET", ""),
        ("GET", "/result"),
        ("GET", "/events"),
        ("DELETE", ""),
    ] {
        let path = format!("/jobs/{id}{end}");
        let (status, body) = request(&front, method, &path, Some(&bob), "");
        assert_eq!(status, 404, "{method} {path}: {body}");
    }
    // The same tag is another job of his.
    let his = submit(&front, &bob, &echo("for bob", "mine"));
    assert_eq!(listed(&front, &bob), [his]);
    assert_eq!(listed(&front, &ann), [id]);
}

/// In the upstream's words and in the form that each reads, wherever there are jobs.
#[test]
fn who_is_nobody_behind_is_nobody_in_front() {
    let behind = Behind::start();
    let config = behind.dir.path().join("front.toml");
    let route = "[[route]]\nendpoint = '/tools/wc'\nkind = 'command'\ncommand = ['wc', '-c']\n";
    fs::write(&config, route).unwrap();
    let audit = behind.dir.path().join("audit.log");
    let front = behind.front(&[
        "--config",
        config.to_str().unwrap(),
        "--audit-log",
        audit.to_str().unwrap(),
    ]);
    let ann = basic("ann", PASSWORD);
    let id = submit(&front, &ann, &echo("for ann only", "mine"));
    let wrong = basic("ann", "wrong");
    let get = json!({ "job_id": id, "options": {} });
    for credentials in [None, Some(wrong.as_str()), Some("Bearer undefined")] {
        let status = json!({ "options": {} });
        let (_, said) = post(&behind.server, "/show/system/status", credentials, &status);
        let said = opened(&said).unwrap_err();
        for (path, body) in [
            ("/get/job", &get),
            ("/create/job", &echo("x", "x")),
            ("/admin/show/jobs", &status),
            (
                "/admin/alter/jobs",
                &json!({ "job_ids": [id], "action": "cancel" }),
            ),
        ] {
            let (status, body) = post(&front, path, credentials, body);
            assert_eq!((status, opened(&body)), (401, Err(said.clone())), "{path}");
        }
        for (method, path, body) in [
            ("GET", "/jobs", ""),
            ("GET", &*format!("/jobs/{id}"), ""),
            ("GET", &*format!("/jobs/{id}/result"), ""),
            ("GET", &*format!("/jobs/{id}/events"), ""),
            ("DELETE", &*format!("/jobs/{id}"), ""),
            ("POST", "/jobs", r#"{"endpoint": "/demo/echo"}"#),
            ("POST", "/tools/wc", "{}"),
        ] {
            let (status, body) = request(&front, method, path, credentials, body);
            assert_eq!(status, 401, "{method} {path}: {body}");
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(problem["detail"], *said, "{method} {path}");
            assert!(problem["type"].as_str().unwrap().ends_with("#unauthorized"));
        }
    }
    // What tells nothing of jobs is as open as it was.
    for path in ["/readyz", "/", "/openapi.json"] {
        assert_eq!(front.get(path).0, 200, "{path}");
    }

    front.signal("TERM");
    assert!(front.end().0.success());
    let audit = fs::read_to_string(&audit).unwrap();
    // What is done again within a minute is counted, on lines of its own.
    let is_first = |line: &&str| !line.contains(r#""count":"#);
    let audit: Vec<&str> = audit.lines().filter(is_first).collect();
    let audit = audit.join("\n");
    for line in [
        r#""event":"login","user":"ann","role":"user","by":"upstream","#,
        r#""event":"submit","user":"ann","#,
        r#""event":"login_failed","claimed":"ann","#,
        r#""event":"refused","why":"no credentials","#,
    ] {
        assert_eq!(audit.matches(line).count(), 1, "{line} in {audit}");
    }
}

#[test]
fn a_token_has_jobs_of_its_own_and_is_not_stored() {
    let behind = Behind::start();
    let users = &behind.users;
    let tokens = ["one", "two"].map(|name| done(users, &["token", "ann", name], ""));
    hang_up(&behind.server, 1);
    let [one, two] = tokens
        .each_ref()
        .map(|token| format!("Bearer {}", token.trim_end()));
    let front = behind.front(&[]);
    let id = submit(&front, &one, &echo("by token", "mine"));
    front.signal("TERM");
    assert!(front.end().0.success());
    let front = behind.front(&[]);
    assert_eq!(listed(&front, &one), [id]);
    assert_eq!(listed(&front, &two), [0; 0]);
    drop(front);
    for token in &tokens {
        assert_nowhere(&behind.data(), token.trim_end().as_bytes());
    }
}

fn assert_nowhere(dir: &Path, secret: &[u8]) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            assert_nowhere(&entry.path(), secret);
        } else if entry.file_type().unwrap().is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            let is_in = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!is_in, "{}", entry.path().display());
        }
    }
}

#[test]
fn a_removed_user_is_out_once_the_word_of_the_upstream_is_too_old() {
    let behind = Behind::start();
    let front = behind.front(&["--upstream-accounts-hold", "0s"]);
    let ann = basic("ann", PASSWORD);
    let id = submit(&front, &ann, &echo("for ann only", "mine"));
    done(&behind.users, &["remove", "ann"], "");
    hang_up(&behind.server, 1);
    assert_eq!(get(&front, Some(&ann), id).0, 401);
    assert_eq!(request(&front, "GET", "/jobs", Some(&ann), "").0, 401);
}

#[test]
fn while_the_upstream_is_away_only_who_it_let_in_lately_is_served() {
    let behind = Behind::start();
    let front = behind.front(&["--upstream-accounts-hold", "1d"]);
    let (ann, bob) = (basic("ann", PASSWORD), basic("bob", PASSWORD));
    let id = submit(&front, &ann, &echo("for ann only", "mine"));
    behind.server.signal("KILL");
    behind.server.end();
    assert!(get(&front, Some(&ann), id).1.contains("for ann only"));
    for credentials in [None, Some(bob.as_str())] {
        let (status, body) = get(&front, credentials, id);
        assert_eq!(status, 502);
        let said = opened(&body).unwrap_err();
        assert!(said.starts_with("upstream: no connection"), "{said}");
        let (status, body) = request(&front, "GET", "/jobs", credentials, "");
        assert_eq!(status, 502);
        assert!(body.contains("#upstream"), "{body}");
    }
}

/// Its own status, which it gives as it drains, is what servers in front of it go by.
#[test]
fn a_server_that_drains_lets_nobody_in_either() {
    let behind = Behind::start();
    let front = behind.front(&[]);
    let outer_dir = tempdir().unwrap();
    let outer = Running::start(&outer_dir, &["--store", "memory", "--upstream", &front.url]);
    let ann = basic("ann", PASSWORD);
    let payload = json!({ "millis": 3_600_000 }).to_string();
    let sleep = json!({
        "endpoint": "/demo/sleep", "request_encoding": "json", "data": "", "data_str": payload,
        "options": {},
    });
    assert_eq!(post(&front, "/create/job", Some(&ann), &sleep).0, 200);
    front.signal("TERM");
    front.wait_logged("draining", 1);
    let status = json!({ "options": {} });
    let (code, body) = post(&front, "/show/system/status", Some(&ann), &status);
    assert_eq!(code, 200);
    let map = opened(&body).unwrap()["status_map"].clone();
    assert!(
        map["ha_status"].as_str().unwrap().contains("draining"),
        "{map}"
    );
    assert_eq!(post(&front, "/show/system/status", None, &status).0, 401);
    assert_eq!(listed(&outer, &ann), [0; 0]);
    assert_eq!(request(&outer, "GET", "/jobs", None, "").0, 401);
}

#[test]
fn where_the_accounts_behind_are_ignored_all_see_all_and_the_log_warns() {
    let behind = Behind::start();
    let front = behind.front(&["--upstream-accounts", "ignore"]);
    let id = submit(&front, &basic("ann", PASSWORD), &echo("for all", "mine"));
    assert!(get(&front, None, id).1.contains("for all"));
    front.wait_logged("whoever reaches the server sees all jobs", 1);
}

/// Accounts of one's own win: they say who calls, and the upstream who may run a job.
#[test]
fn accounts_of_ones_own_are_asked_instead() {
    let behind = Behind::start();
    let users = behind.dir.path().join("own.toml");
    add(&users, "root", "admin");
    let front = behind.front(&["--users-file", users.to_str().unwrap()]);
    let list = |name| {
        let credentials = basic(name, PASSWORD);
        request(&front, "GET", "/jobs", Some(&credentials), "").0
    };
    assert_eq!((list("root"), list("ann")), (200, 401));
}
