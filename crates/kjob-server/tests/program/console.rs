//! The console as a browser meets it: its files, who may see what, and the stream of changes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use kjob_client::{Payload, Submit};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::accounts::{self, PASSWORD, basic};
use crate::support::Running;

const SOON: Duration = Duration::from_secs(60);

const PAGES: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn send(server: &Running, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let len = body.len();
    let host = &server.address;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    stream
}

fn ask(server: &Running, method: &str, path: &str, headers: &str) -> Answer {
    let mut reply = String::new();
    let mut stream = send(server, method, path, headers, "");
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn get(server: &Running, path: &str) -> Answer {
    ask(server, "GET", path, "")
}

fn submit(server: &Running, headers: &str, job: &Value) -> i64 {
    let headers = format!("{headers}Content-Type: application/json\r\n");
    let mut reply = String::new();
    let mut stream = send(server, "POST", "/jobs", &headers, &job.to_string());
    stream.read_to_string(&mut reply).unwrap();
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    serde_json::from_str::<Value>(body).unwrap()["job_id"]
        .as_i64()
        .unwrap()
}

/// Credentials as a header.
fn shown(name: &str) -> String {
    format!("Authorization: {}\r\n", basic(name, PASSWORD))
}

#[test]
fn a_browser_gets_the_console_and_others_what_they_got() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &[]);
    let text = get(&server, "/");
    assert!(text.body.starts_with("kjob-server "), "{}", text.body);
    assert_eq!(
        text.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    for path in ["/", "/console", "/console/"] {
        let page = ask(&server, "GET", path, PAGES);
        assert_eq!(page.status, 200, "{path}");
        assert_eq!(
            page.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        let policy = page.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        // What it names is there, from where it is.
        for part in page
            .body
            .split('"')
            .filter(|part| part.ends_with(".js") || part.ends_with(".css"))
        {
            let name = part.trim_start_matches("./").trim_start_matches("console/");
            let base = if path == "/console/" {
                "./"
            } else {
                "console/"
            };
            assert_eq!(part, format!("{base}{name}"), "{path}");
            assert_eq!(
                get(&server, &format!("/console/{name}")).status,
                200,
                "{part}"
            );
        }
        let head = ask(&server, "HEAD", path, PAGES);
        assert_eq!((head.status, head.body.as_str()), (200, ""));
    }
    assert_eq!(ask(&server, "POST", "/", PAGES).status, 405);
}

#[test]
fn its_files_have_their_types_and_are_sent_once() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &[]);
    for (name, content_type) in [
        ("console.js", "text/javascript; charset=utf-8"),
        ("vendor/preact.js", "text/javascript; charset=utf-8"),
        ("console.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("vendor/LICENSE-preact", "text/plain; charset=utf-8"),
    ] {
        let path = format!("/console/{name}");
        let file = get(&server, &path);
        assert_eq!(
            (file.status, file.header("content-type")),
            (200, Some(content_type))
        );
        assert_eq!(file.header("cache-control"), Some("no-cache"));
        let etag = file.header("etag").unwrap();
        let again = ask(&server, "GET", &path, &format!("If-None-Match: {etag}\r\n"));
        assert_eq!((again.status, again.body.as_str()), (304, ""));
        let other = ask(&server, "GET", &path, "If-None-Match: \"other\"\r\n");
        assert_eq!(other.status, 200);
        assert_eq!(ask(&server, "DELETE", &path, "").status, 405);
    }
    for path in [
        "/console/none.js",
        "/console/../openapi.json",
        "/console/vendor/",
        "/consoles",
    ] {
        assert_eq!(get(&server, path).status, 404, "{path}");
    }
}

#[test]
fn there_is_no_console_where_none_is_wanted() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--console=false"]);
    let page = ask(&server, "GET", "/", PAGES);
    assert!(page.body.starts_with("kjob-server "), "{}", page.body);
    for path in [
        "/console",
        "/console/",
        "/console/console.js",
        "/console/me",
        "/console/history",
    ] {
        assert_eq!(ask(&server, "GET", path, PAGES).status, 404, "{path}");
    }
    // In front of another server it is that one's place.
    let upstream_dir = tempdir().unwrap();
    let upstream = Running::start(&upstream_dir, &[]);
    let through_dir = tempdir().unwrap();
    let through = Running::start(
        &through_dir,
        &["--upstream", &upstream.url, "--console=false"],
    );
    let file = ask(&through, "GET", "/console/console.css", "");
    assert_eq!(
        (file.status, file.header("content-type")),
        (200, Some("text/css; charset=utf-8"))
    );
}

#[test]
fn everybody_gets_the_page_and_only_who_may_what_it_shows() {
    let dir = tempdir().unwrap();
    let (server, _) = accounts::start(&dir, &[]);
    assert_eq!(ask(&server, "GET", "/", PAGES).status, 200);
    assert_eq!(get(&server, "/console/console.js").status, 200);
    assert_eq!(
        get(&server, "/").status,
        401,
        "the text is for users, as it was"
    );
    for path in ["/console/me", "/console/history", "/jobs/events"] {
        let refused = get(&server, path);
        assert_eq!(refused.status, 401, "{path}");
        assert_eq!(
            refused.header("content-type"),
            Some("application/problem+json")
        );
    }
    let me = |name: &str| ask(&server, "GET", "/console/me", &shown(name)).json();
    let ann = me("ann");
    assert_eq!(
        (&ann["user"], &ann["role"]),
        (&json!("ann"), &json!("user"))
    );
    assert_eq!(ann["may_see_history"], false);
    let root = me("root");
    assert_eq!(
        (&root["user"], &root["role"]),
        (&json!("root"), &json!("admin"))
    );
    assert_eq!(
        (&root["accounts"], &root["may_see_history"]),
        (&json!("own"), &json!(true))
    );
    let endpoints = root["endpoints"].as_array().unwrap();
    assert!(endpoints.contains(&json!("/demo/echo")), "{endpoints:?}");
    let history = |name: &str| ask(&server, "GET", "/console/history", &shown(name));
    assert_eq!(history("ann").status, 403);
    assert_eq!(history("root").status, 200);
}

#[test]
fn lists_are_by_order_owner_and_time() {
    let dir = tempdir().unwrap();
    let (server, _) = accounts::start(&dir, &[]);
    let echo = json!({"endpoint": "/demo/echo", "payload": {"message": "m"}});
    for name in ["ann", "root", "ann", "ann"] {
        submit(&server, &shown(name), &echo);
    }
    let listed = |name: &str, query: &str| -> Vec<i64> {
        let (mut path, mut ids) = (format!("/jobs?limit=2&{query}"), Vec::new());
        loop {
            let page = ask(&server, "GET", &path, &shown(name)).json();
            let jobs = page["jobs"].as_array().unwrap_or_else(|| panic!("{page}"));
            ids.extend(jobs.iter().map(|job| job["job_id"].as_i64().unwrap()));
            match page["next"].as_str() {
                Some(next) => path = next.to_owned(),
                None => return ids,
            }
        }
    };
    assert_eq!(listed("root", "order=asc"), [1, 2, 3, 4]);
    assert_eq!(listed("root", "order=desc"), [4, 3, 2, 1]);
    assert_eq!(listed("root", "order=desc&owner=ann"), [4, 3, 1]);
    assert_eq!(listed("ann", "order=desc"), [4, 3, 1]);
    assert!(listed("ann", "owner=root").is_empty());
    assert_eq!(
        listed("root", "since=2000-01-01T00:00:00Z&order=desc"),
        [4, 3, 2, 1]
    );
    assert!(listed("root", "until=2000-01-01T00:00:00Z").is_empty());
    assert!(listed("root", "since=2200-01-01T00:00:00.5Z&order=desc").is_empty());
    let job = ask(&server, "GET", "/jobs/3", &shown("root")).json();
    let since = format!("since={}&order=asc", job["time_received"].as_str().unwrap());
    assert!(listed("root", &since).ends_with(&[3, 4]));
    for bad in [
        "since=yesterday",
        "until=2026-01-01",
        "order=up",
        "since=1960-01-01T00:00:00Z",
    ] {
        let refused = ask(&server, "GET", &format!("/jobs?{bad}"), &shown("root"));
        assert_eq!(refused.status, 422, "{bad}");
    }
}

/// A stream of server-sent events over a bare socket, without the chunks that it comes in.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(server: &Running, headers: &str) -> Self {
        Self(BufReader::new(send(
            server,
            "GET",
            "/jobs/events",
            headers,
            "",
        )))
    }

    /// The next event's name and data.
    fn event(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            assert!(
                self.0.read_line(&mut line).unwrap() > 0,
                "the stream has ended"
            );
            if let Some(found) = line.strip_prefix("event: ") {
                found.trim_end().clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
    }

    /// Reads until a job is told of that is as wanted.
    fn until(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (name, data) = self.event();
            assert_eq!(name, "jobs");
            let mut jobs = data["jobs"].as_array().unwrap().iter();
            if let Some(job) = jobs.find(|job| is_wanted(job)) {
                return job.clone();
            }
        }
    }
}

#[test]
fn a_stream_tells_each_caller_of_their_jobs_as_they_change() {
    let dir = tempdir().unwrap();
    let (server, _) = accounts::start(&dir, &[]);
    let mut all = Stream::open(&server, &shown("root"));
    let mut own = Stream::open(&server, &shown("ann"));
    assert_eq!(all.event(), ("begin".to_owned(), json!({})));
    assert_eq!(own.event().0, "begin");
    let echo = json!({"endpoint": "/demo/echo", "payload": {"message": "m"}});
    let others = submit(&server, &shown("root"), &echo);
    let sleep = json!({"endpoint": "/demo/sleep", "payload": {"millis": 600_000}});
    let anns = submit(&server, &shown("ann"), &sleep);
    all.until(|job| job["job_id"] == others && job["status"] == "DONE");
    let running = own.until(|job| {
        assert_eq!(job["owner"], "ann", "{job}");
        job["phase"] == "running"
    });
    assert_eq!(running["job_id"], anns);
    // Progress alone is a change, too.
    own.until(|job| job["progress"].as_u64() > Some(0) && job["phase"] == "running");
    assert_eq!(
        ask(&server, "DELETE", &format!("/jobs/{anns}"), &shown("ann")).status,
        202
    );
    for stream in [&mut all, &mut own] {
        stream.until(|job| job["job_id"] == anns && job["status"] == "CANCELLED");
    }
}

#[tokio::test]
async fn the_last_hours_are_told_in_slots() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--demo", "--workers", "1"]);
    let client = server.client();
    for (endpoint, payload) in [
        ("/demo/echo", r#"{"message":"m"}"#),
        ("/demo/echo", r#"{"message":"n"}"#),
        ("/demo/fail", r#"{"message":"m"}"#),
    ] {
        let job = client
            .submit(&Submit::new(endpoint, Payload::json(payload)))
            .await
            .unwrap();
        client.wait(&job, SOON).await.unwrap();
    }
    assert!(
        client
            .submit(&Submit::new("/no/where", Payload::json("{}")))
            .await
            .is_err()
    );
    for _ in 0..2 {
        let sleep = Submit::new("/demo/sleep", Payload::json(r#"{"millis":600000}"#));
        client.submit(&sleep).await.unwrap();
    }
    for (query, slots, seconds) in [
        ("", 360, 10),
        ("?span=hour", 360, 10),
        ("?span=day", 1440, 60),
    ] {
        let told = get(&server, &format!("/console/history{query}")).json();
        assert_eq!(told["slot_seconds"], seconds);
        let of = |name: &str| told[name].as_array().unwrap().clone();
        let sum = |name: &str| of(name).iter().filter_map(Value::as_u64).sum::<u64>();
        assert_eq!(of("submitted").len(), slots);
        let counts = ["submitted", "refused", "done", "failed", "cancelled"].map(sum);
        assert_eq!(counts, [5, 1, 2, 1, 0], "{query}");
        assert_eq!(
            (of("queued").last(), of("running").last()),
            (Some(&json!(1)), Some(&json!(1)))
        );
        for name in ["wait_p50_ms", "wait_p99_ms", "run_p50_ms", "run_p99_ms"] {
            assert!(of(name).iter().any(Value::is_number), "{name}");
        }
    }
    assert_eq!(get(&server, "/console/history?span=year").status, 422);
}

#[test]
fn a_payload_is_given_back_as_it_was_to_whose_it_is() {
    let dir = tempdir().unwrap();
    let (server, _) = accounts::start(&dir, &[]);
    let text = r#"{"message":  "as it was", "n": 1.10}"#;
    let mut job = format!("{{\"endpoint\": \"/demo/sleep\", \"payload\": {text}}}");
    let headers = format!("{}Content-Type: application/json\r\n", shown("ann"));
    job = job.replace("\"message\"", "\"millis\": 600000, \"message\"");
    let text = text.replace("\"message\"", "\"millis\": 600000, \"message\"");
    let mut reply = String::new();
    send(&server, "POST", "/jobs", &headers, &job)
        .read_to_string(&mut reply)
        .unwrap();
    assert!(reply.starts_with("HTTP/1.1 202"), "{reply}");
    for name in ["ann", "root"] {
        let payload = ask(&server, "GET", "/jobs/1/payload", &shown(name));
        assert_eq!(
            (payload.status, payload.body.as_str()),
            (200, text.as_str())
        );
        assert_eq!(payload.header("content-type"), Some("application/json"));
        assert!(
            payload
                .header("content-security-policy")
                .unwrap()
                .contains("sandbox")
        );
    }
    let part = ask(
        &server,
        "GET",
        "/jobs/1/payload",
        &format!("{}Range: bytes=0-4\r\n", shown("ann")),
    );
    assert_eq!((part.status, part.body.as_str()), (206, &text[..5]));
    let other = submit(
        &server,
        &shown("root"),
        &json!({"endpoint": "/demo/echo", "payload": {"message": "m"}}),
    );
    for part in ["payload", "log"] {
        let refused = ask(
            &server,
            "GET",
            &format!("/jobs/{other}/{part}"),
            &shown("ann"),
        );
        assert_eq!(refused.status, 404, "{part}");
    }
    let by_tag = format!("/jobs/tag:{}/payload", get_tag(&server, 1));
    assert_eq!(ask(&server, "GET", &by_tag, &shown("ann")).body, text);
}

fn get_tag(server: &Running, id: i64) -> String {
    let job = ask(server, "GET", &format!("/jobs/{id}"), &shown("root")).json();
    job["job_tag"].as_str().unwrap().to_owned()
}

/// What a command says on its error output is told with its job, and lines of the log are.
#[cfg(unix)]
#[test]
fn lines_about_a_job_are_told_with_it() {
    let dir = tempdir().unwrap();
    let config = dir.path().join("kjob.toml");
    let script =
        "echo begun >&2; echo progress: 40 >&2; echo '<b>half</b>' >&2; cat >/dev/null; echo done";
    std::fs::write(
        &config,
        format!("[[route]]\nendpoint = \"/say\"\nkind = \"command\"\ncommand = [\"sh\", \"-c\", {script:?}]\n"),
    )
    .unwrap();
    let log = "info,kjob_core=debug";
    let server = Running::start(&dir, &["--config", config.to_str().unwrap(), "--log", log]);
    let id = submit(&server, "", &json!({"endpoint": "/say", "payload": {}}));
    let ended = get(&server, &format!("/jobs/{id}?wait=60")).json();
    assert_eq!(ended["status"], "DONE", "{ended}");
    let told = get(&server, &format!("/jobs/{id}/log")).json();
    let lines: Vec<(&str, &str)> = told["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            (
                line["level"].as_str().unwrap(),
                line["text"].as_str().unwrap(),
            )
        })
        .collect();
    assert!(lines.contains(&("stderr", "begun")), "{lines:?}");
    assert!(lines.contains(&("stderr", "<b>half</b>")), "{lines:?}");
    assert!(
        lines
            .iter()
            .any(|(level, text)| *level == "debug" && text.starts_with("job accepted")),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .all(|(_, text)| !text.contains("progress:") && !text.contains("query_id")),
        "{lines:?}"
    );
}
