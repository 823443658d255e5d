//! The program itself, from its first line to its exit, as plain sockets and signals see it.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A bound for tests that would hang; no test waits for it to pass.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A running server; killed if the test fails.
struct Program {
    child: Child,
    address: String,
    _data_dir: TempDir,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let data_dir = TempDir::new().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_kjob-server"))
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir.path().join("data"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim_end()
            .strip_prefix("kjob-server listening on http://");
        let address = address.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self {
            child,
            address,
            _data_dir: data_dir,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success());
    }

    /// The exit code.
    fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request and its reply: status and body.
fn ask(stream: &mut TcpStream, method: &str, path: &str, json: &str) -> (u16, String) {
    send(stream, method, path, json);
    receive(stream)
}

fn send(stream: &mut TcpStream, method: &str, path: &str, json: &str) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{json}",
        json.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
}

fn receive(stream: &mut TcpStream) -> (u16, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, len) = head.split_once("content-length: ").unwrap();
    let mut body = vec![0; len.lines().next().unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

/// Asks again until the answer is yes.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + TEST_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < end, "not within {TEST_TIMEOUT:?}: {what}");
    }
}

/// Submits a long sleep and waits until it has begun.
fn begin_sleep(stream: &mut TcpStream, tag: &str) {
    let call = format!(
        r#"{{"endpoint":"/demo/sleep","request_encoding":"json","options":{{"job_tag":"{tag}"}},
            "data_str":"{{\"millis\":60000,\"options\":{{}}}}"}}"#
    );
    let (status, reply) = ask(stream, "POST", "/create/job", &call);
    assert_eq!(status, 200, "{reply}");
    until("the start", || {
        get(stream, tag).1.contains(r#"\"phase\":\"running\""#)
    });
}

fn get(stream: &mut TcpStream, tag: &str) -> (u16, String) {
    let call = format!(r#"{{"job_id":0,"options":{{"job_tag":"{tag}"}}}}"#);
    ask(stream, "POST", "/get/job", &call)
}

#[test]
fn an_idle_server_ends_in_well_under_a_second() {
    let mut program = Program::start(&[]);
    // A connection that rests, and one that never asked, do not hold it up.
    let mut rested = program.connect();
    assert_eq!(ask(&mut rested, "GET", "/readyz", "").0, 200);
    let _silent = program.connect();
    let told = Instant::now();
    program.terminate();
    assert_eq!(program.wait(), Some(0));
    assert!(
        told.elapsed() < Duration::from_secs(1),
        "{:?}",
        told.elapsed()
    );
    assert_eq!(rested.read(&mut [0]).unwrap(), 0, "closed");
}

#[test]
fn a_drain_is_announced_and_ends_with_the_last_job() {
    let mut program = Program::start(&[]);
    let mut stream = program.connect();
    begin_sleep(&mut stream, "last");
    let mut poll = program.connect();
    let wait = r#"{"job_id":0,"options":{"job_tag":"last","wait_ms":"60000"}}"#;
    send(&mut poll, "POST", "/get/job", wait);
    program.terminate();
    until("not ready", || {
        ask(&mut stream, "GET", "/readyz", "") == (503, "draining\n".to_owned())
    });
    assert_eq!(ask(&mut stream, "GET", "/healthz", "").0, 200);
    let (_, status) = ask(&mut stream, "POST", "/show/system/status", "{}");
    assert!(status.contains("draining"), "{status}");

    let create = r#"{"endpoint":"/demo/echo","request_encoding":"json","data_str":"{\"message\":\"x\",\"options\":{}}"}"#;
    // The signal's task tells the engine right after it has told the others.
    let mut refused = (200, String::new());
    until("a refusal", || {
        refused = ask(&mut stream, "POST", "/create/job", create);
        refused.0 != 200
    });
    assert_eq!(refused.0, 400);
    assert!(
        refused.1.contains("Unavailable: Draining HA queue"),
        "{}",
        refused.1
    );

    // What is there goes on, can be seen and can be cancelled; then the server ends.
    assert!(get(&mut stream, "last").1.contains("RUNNING"));
    let cancel = r#"{"job_ids":[],"action":"cancel","options":{"job_tag":"last"}}"#;
    let (status, reply) = ask(&mut stream, "POST", "/admin/alter/jobs", cancel);
    assert!(status == 200 && reply.contains("cancelling"), "{reply}");
    let (status, reply) = receive(&mut poll);
    assert!(status == 200 && reply.contains("CANCELLED"), "{reply}");
    assert_eq!(program.wait(), Some(0));
}

#[test]
fn a_drain_that_takes_too_long_interrupts_its_jobs() {
    let mut program = Program::start(&["--drain-timeout", "50ms"]);
    let mut stream = program.connect();
    begin_sleep(&mut stream, "long");
    let mut poll = program.connect();
    let wait = r#"{"job_id":0,"options":{"job_tag":"long","wait_ms":"60000"}}"#;
    send(&mut poll, "POST", "/get/job", wait);
    // One request after the other on a server that answers each: the poll is being waited in.
    assert!(get(&mut stream, "long").1.contains("RUNNING"));
    program.terminate();
    let (status, reply) = receive(&mut poll);
    assert!(status == 200 && reply.contains("interrupted"), "{reply}");
    assert_eq!(program.wait(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut program = Program::start(&[]);
    let mut stream = program.connect();
    begin_sleep(&mut stream, "long");
    program.terminate();
    until("not ready", || {
        ask(&mut stream, "GET", "/readyz", "").0 == 503
    });
    let told = Instant::now();
    program.terminate();
    assert_eq!(program.wait(), Some(143));
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );
}

/// As the C++ client and curl do, against the program as it is shipped.
#[test]
fn http_1_0_is_answered_and_closed() {
    let program = Program::start(&["--store", "memory"]);
    let mut stream = program.connect();
    let body = "{}";
    let head = "POST /show/system/status HTTP/1.0\r\nContent-Type: application/json\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.0 200 OK\r\n"), "{reply}");
    assert!(reply.contains("running"), "{reply}");
}
