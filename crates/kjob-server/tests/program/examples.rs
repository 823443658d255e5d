//! The examples, as whole programs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kjob_client::{Client, Job, Payload, Submit};
use tempfile::{TempDir, tempdir};

use crate::support::{Running, without_settings};

/// An example. `cargo test` builds them too, but with `--test` or `--tests` it does not.
fn example(name: &str, dir: &TempDir) -> Command {
    let test = std::env::current_exe().unwrap();
    let examples: PathBuf = test.parent().unwrap().with_file_name("examples");
    let program = examples.join(name);
    assert!(program.exists(), "not built: cargo build --examples");
    let mut command = without_settings(program);
    command
        .args(["--listen", "127.0.0.1:0", "--store", "memory", "--data-dir"])
        .arg(dir.path().join("data"));
    command
}

async fn call(client: &Client, endpoint: &'static str, payload: Payload) -> Job {
    let submit = Submit::new(endpoint, payload);
    let submitted = client.submit(&submit).await.unwrap();
    let wait = client.wait(&submitted, Duration::from_secs(60));
    wait.await.unwrap()
}

#[tokio::test]
async fn handlers_of_ones_own() {
    let dir = tempdir().unwrap();
    let server = Running::spawn(example("handlers", &dir), &dir.path().join("log"));
    let client = server.client();
    let payload = || Payload::json(r#"{"text": "two\nlines"}"#);
    let upper = call(&client, "/text/upper", payload()).await;
    let upper = upper.result.unwrap();
    assert_eq!(upper.as_text(), Some(r#"{"text":"TWO\nLINES"}"#));
    let count = call(&client, "/text/count", payload()).await;
    let count = count.result.unwrap();
    assert_eq!(count.as_text(), Some(r#"{"letters":8}"#));
    let odd = call(&client, "/text/count", Payload::json("7")).await;
    assert!(odd.error_message.unwrap().contains("invalid type"));
}

#[tokio::test]
async fn a_gateway_of_ones_own() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", upstream.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"{}") {
            let mut buffer = [0; 4096];
            let len = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..len]);
        }
        let reply =
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n42";
        stream.write_all(reply.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    let dir = tempdir().unwrap();
    let mut command = example("gateway", &dir);
    command.env("REPORT_SERVER", url);
    let server = Running::spawn(command, &dir.path().join("log"));
    let client = server.client();
    let report = call(&client, "/report/daily", Payload::json("{}")).await;
    assert_eq!(report.result.unwrap().as_text(), Some("42"));
    let asked = answering.join().unwrap();
    assert!(
        asked.starts_with("POST /report/daily HTTP/1.1\r\n"),
        "{asked}"
    );
    // The example itself is what starts commands.
    let lines = call(&client, "/tools/lines", Payload::binary("a\nb\nc\n")).await;
    assert_eq!(&lines.result.unwrap().data[..], b"3\n");
}
