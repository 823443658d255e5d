//! What plain sockets meet, as curl and the like would; the details are in the tests of `protocol`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use tempfile::{TempDir, tempdir};

use crate::support::{Running, program};

/// A bound for reads that would hang; no test waits for it to pass.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

const STATUS: &str = "/show/system/status";

fn start(arguments: &[&str]) -> (TempDir, Running) {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, arguments);
    (dir, server)
}

fn connect(server: &Running) -> TcpStream {
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    stream
}

/// A request with a length; `headers` end in a line break each.
fn post(path: &str, headers: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len}\r\n\r\n{body}"
    )
}

fn json(path: &str, body: &str) -> String {
    post(path, "Content-Type: application/json\r\n", body)
}

/// Sends, and receives a reply: its status, and the rest of it.
fn ask(stream: &mut TcpStream, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    receive(stream)
}

fn receive(stream: &mut TcpStream) -> (u16, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {head}")).trim()
    };
    header("x-request-time-secs:").parse::<f64>().unwrap();
    let mut body = vec![0; header("content-length:").parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.clone() + &String::from_utf8(body).unwrap())
}

fn assert_closed(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let (_dir, server) = start(&[]);
    let mut stream = connect(&server);
    let request = json(STATUS, "{}").replace("HTTP/1.1", "HTTP/1.0");
    let (status, reply) = ask(&mut stream, &request);
    assert!(status == 200 && reply.starts_with("http/1.0"), "{reply}");
    assert_closed(&mut stream);
}

#[test]
fn chunked_and_pipelined_requests_share_a_connection() {
    let (_dir, server) = start(&[]);
    let mut stream = connect(&server);
    let chunked = format!(
        "POST {STATUS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n1\r\n}}\r\n0\r\n\r\n"
    );
    let all = chunked.clone() + &json("/get/job", r#"{"job_id":7}"#) + &chunked;
    let (first, _) = ask(&mut stream, &all);
    let (second, unknown) = receive(&mut stream);
    let (third, _) = receive(&mut stream);
    assert_eq!((first, second, third), (200, 400, 200));
    assert!(unknown.contains("job 7 not found"), "{unknown}");
}

#[test]
fn slow_heads_and_bodies_are_not_waited_for() {
    let (_dir, server) = start(&["--header-timeout", "50ms", "--body-idle-timeout", "50ms"]);
    let mut stream = connect(&server);
    stream.write_all(b"POST /get/job HTTP/1.1\r\nHo").unwrap();
    assert_closed(&mut stream);

    let mut stream = connect(&server);
    let request = json("/get/job", "{}").replace("Length: 2", "Length: 20");
    let (status, reply) = ask(&mut stream, &request);
    assert!(status == 408 && reply.contains("2 bytes came"), "{reply}");
    assert_closed(&mut stream);
}

#[test]
fn what_is_too_large_cut_short_or_of_another_type_is_refused() {
    let (_dir, server) = start(&["--max-body", "1KiB"]);
    let mut stream = connect(&server);
    let (status, reply) = ask(&mut stream, &json("/get/job", &" ".repeat(1025)));
    assert!(status == 413 && reply.contains("limit 1024"), "{reply}");
    let form = post(
        "/get/job",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "a=b",
    );
    let (status, reply) = ask(&mut stream, &form);
    assert!(status == 415 && reply.contains("ERROR"), "{reply}");
    assert_eq!(ask(&mut stream, &json(STATUS, "{}")).0, 200);

    let mut cut = connect(&server);
    cut.write_all(
        json("/create/job", "{}")
            .replace("Length: 2", "Length: 20")
            .as_bytes(),
    )
    .unwrap();
    cut.shutdown(Shutdown::Write).unwrap();
    // Told or not, it is closed; nobody else is harmed.
    let _ = cut.read_to_end(&mut Vec::new());
    assert_eq!(ask(&mut stream, &json(STATUS, "{}")).0, 200);
}

#[test]
fn connections_that_rest_do_not_hold_up_the_end() {
    let (_dir, server) = start(&[]);
    let mut rested = connect(&server);
    assert_eq!(ask(&mut rested, &json(STATUS, "{}")).0, 200);
    let _silent = connect(&server);
    let mut begun = connect(&server);
    begun.write_all(b"POST /get/job HTTP/1.1\r\nHo").unwrap();
    let told = Instant::now();
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        told.elapsed() < Duration::from_secs(1),
        "{:?}",
        told.elapsed()
    );
    assert_closed(&mut rested);
}

/// The server, started after `ulimit` commands.
fn start_limited(dir: &TempDir, limits: &str, arguments: &[&str]) -> Running {
    let server = program();
    let mut limited = std::process::Command::new("sh");
    limited
        .args(["-c", &format!("{limits}; exec \"$0\" \"$@\"")])
        .arg(server.get_program())
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .args(arguments);
    for (name, _) in server.get_envs() {
        limited.env_remove(name);
    }
    Running::spawn(limited, &dir.path().join("log"))
}

/// Waits until the log has these words.
fn wait_for_log(dir: &TempDir, words: &str) {
    let log = dir.path().join("log");
    let end = Instant::now() + READ_TIMEOUT;
    while !std::fs::read_to_string(&log).unwrap().contains(words) {
        assert!(Instant::now() < end, "{words:?} is never logged");
        std::thread::yield_now();
    }
}

/// Connections that do nothing must not take the files that jobs need.
#[test]
fn idle_connections_leave_files_for_the_store() {
    let dir = tempdir().unwrap();
    let server = start_limited(&dir, "ulimit -n 128", &[]);
    let mut stream = connect(&server);
    assert_eq!(ask(&mut stream, &json(STATUS, "{}")).0, 200);
    let idle: Vec<TcpStream> = (0..128).map(|_| connect(&server)).collect();
    wait_for_log(&dir, "all connections are in use");

    let submit = r#"{"endpoint":"/demo/echo","request_encoding":"json",
        "data_str":"{\"message\":\"there\"}","options":{"job_tag":"echo"}}"#;
    let (status, reply) = ask(&mut stream, &json("/create/job", submit));
    assert_eq!(status, 200, "{reply}");
    let wait = r#"{"options":{"job_tag":"echo","wait_ms":"30000"}}"#;
    let (status, reply) = ask(&mut stream, &json("/get/job", wait));
    assert!(status == 200 && reply.contains("there"), "{reply}");
    drop(idle);
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let warning = log.lines().find(|line| line.contains("is lowered"));
    let warning = warning.unwrap_or_else(|| panic!("no warning in {log}"));
    for number in [
        "\"max_connections\":10000",
        "\"open_files_max\":128",
        "\"connections\":64",
    ] {
        assert!(warning.contains(number), "{warning}");
    }
    assert!(!log.contains("cannot be accepted"), "{log}");
}

#[test]
fn the_soft_limit_of_files_is_raised() {
    let dir = tempdir().unwrap();
    let arguments = ["--store", "memory", "--max-connections", "300"];
    let server = start_limited(&dir, "ulimit -Sn 64; ulimit -Hn 600", &arguments);
    let mut many: Vec<TcpStream> = (0..100).map(|_| connect(&server)).collect();
    for stream in &mut many {
        assert_eq!(ask(stream, &json(STATUS, "{}")).0, 200);
    }
    server.signal("TERM");
    let (_, _, log) = server.end();
    assert!(!log.contains("is lowered"), "{log}");
}

/// Accepts that fail for want of files are tried again, without burning time, until one can be had.
/// The limit is lowered while the server runs: it makes do with one that it finds.
#[cfg(target_os = "linux")]
#[test]
fn running_out_of_files_is_survived() {
    let (dir, server) = start(&["--store", "memory"]);
    let pid = server.pid().try_into().unwrap();
    rlimit::prlimit(pid, rlimit::Resource::NOFILE, Some((32, 32)), None).unwrap();
    let many: Vec<TcpStream> = (0..64).map(|_| connect(&server)).collect();
    wait_for_log(&dir, "cannot be accepted");
    drop(many);
    let mut stream = connect(&server);
    assert_eq!(ask(&mut stream, &json(STATUS, "{}")).0, 200);
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let tries = log.matches("cannot be accepted").count();
    assert!(tries < 100, "{tries} tries");
}

/// A connection from before the drain sees all of it: who is told, who is refused, who is answered.
#[test]
fn a_kept_connection_sees_the_drain() {
    let (_dir, server) = start(&["--drain-timeout", "1h"]);
    let mut stream = connect(&server);
    let submit = |endpoint: &str, payload: &str| {
        let call = r#"{"endpoint":"ENDPOINT","request_encoding":"json","data_str":"PAYLOAD",
            "options":{"job_tag":"TAG"}}"#;
        let call = call
            .replace("ENDPOINT", endpoint)
            .replace("PAYLOAD", payload);
        json(
            "/create/job",
            &call.replace("TAG", &endpoint.replace('/', "-")),
        )
    };
    let sleep = submit("/demo/sleep", r#"{\"millis\":3600000}"#);
    assert_eq!(ask(&mut stream, &sleep).0, 200);
    let mut poll = connect(&server);
    let wait = r#"{"options":{"job_tag":"-demo-sleep","wait_ms":"300000"}}"#;
    poll.write_all(json("/get/job", wait).as_bytes()).unwrap();

    server.signal("TERM");
    let end = Instant::now() + READ_TIMEOUT;
    while !ask(&mut stream, &json(STATUS, "{}"))
        .1
        .contains(r#"\"draining"#)
    {
        assert!(Instant::now() < end, "ha_status never says draining");
    }
    let echo = submit("/demo/echo", r#"{\"message\":\"x\"}"#);
    let refusal = loop {
        let (status, reply) = ask(&mut stream, &echo);
        if status != 200 {
            break reply;
        }
        assert!(Instant::now() < end, "submits are never refused");
    };
    assert!(
        refusal.contains("Unavailable: Draining HA queue"),
        "{refusal}"
    );

    let cancel = r#"{"action":"cancel","options":{"job_tag":"-demo-sleep"}}"#;
    let (status, reply) = ask(&mut stream, &json("/admin/alter/jobs", cancel));
    assert!(status == 200 && reply.contains("cancelling"), "{reply}");
    let (status, reply) = receive(&mut poll);
    assert!(status == 200 && reply.contains("CANCELLED"), "{reply}");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_closed(&mut stream);
}
