//! How a server ends, and what it finds when it starts again.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kjob_client::{Job, List, Payload, Status, Submit};
use tempfile::tempdir;

use crate::support::{Running, program};

const SOON: Duration = Duration::from_secs(20);

fn sleep() -> Submit {
    Submit::new("/demo/sleep", Payload::json(r#"{"millis":3600000}"#))
}

fn echo() -> Submit {
    Submit::new("/demo/echo", Payload::json(r#"{"message":"hello"}"#))
}

/// The drain time is far longer than any test waits, so ending at all shows that it is not used.
#[test]
fn a_server_without_jobs_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let dir = tempdir().unwrap();
        let server = Running::start(&dir, &["--drain-timeout", "1h"]);
        server.signal(signal);
        let (status, rest, log) = server.end();
        assert_eq!((status.code(), rest.as_str()), (Some(0), ""), "{log}");
    }
}

#[tokio::test]
async fn a_drain_refuses_new_jobs_and_waits_for_those_that_run() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--drain-timeout", "1h"]);
    assert_eq!(server.get("/readyz").0, 200);
    let client = server.client();
    let running = client.submit(&sleep()).await.unwrap();
    server.signal("TERM");
    // The signal takes effect when it likes; from then on no submit is taken.
    let error = loop {
        match client.submit(&echo()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(error.is_leaving(), "{error}");
    assert_eq!(error.message(), Some("Unavailable: Draining HA queue"));
    assert_eq!(server.get("/readyz").0, 503);
    assert_eq!(server.get("/healthz").0, 200);

    // Looking, listing and cancelling go on.
    assert_eq!(client.get(&running).await.unwrap().status, Status::Running);
    // Some of the others may have been taken before the signal took effect.
    let jobs = client.list(&List::default()).await.unwrap().jobs;
    assert!(jobs.iter().any(|job| job.id == running.id), "{jobs:?}");
    client.cancel(&running).await.unwrap();
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");

    let server = Running::start(&dir, &[]);
    let job = server.client().get(&running).await.unwrap();
    assert_eq!(job.status, Status::Cancelled);
}

#[tokio::test]
async fn a_long_poll_is_answered_when_the_server_ends() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--drain-timeout", "0s"]);
    let client = server.client();
    let running = client.submit(&sleep()).await.unwrap();
    let poll = tokio::spawn(async move { client.wait(&running, SOON).await });
    // The poll may reach the server before or after the signal: it is answered either way.
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    match poll.await.unwrap() {
        Ok(job) => assert_interrupted(&job),
        Err(error) => assert!(error.is_leaving() || error.is_connect(), "{error}"),
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let dir = tempdir().unwrap();
        let server = Running::start(&dir, &["--drain-timeout", "1h"]);
        let client = server.client();
        let running = client.submit(&sleep()).await.unwrap();
        server.signal("TERM");
        // Signals of one kind that come together are one: the second must come when the first was seen.
        while server.get("/readyz").0 == 200 {
            tokio::task::yield_now().await;
        }
        server.signal(signal);
        let (status, _, log) = server.end();
        assert_eq!(status.code(), Some(code), "{log}");

        let server = Running::start(&dir, &[]);
        assert_interrupted(&server.client().get(&running).await.unwrap());
    }
}

#[tokio::test]
async fn when_the_drain_time_is_over_running_jobs_are_interrupted() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--drain-timeout", "0s"]);
    let running = server.client().submit(&sleep()).await.unwrap();
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let server = Running::start(&dir, &[]);
    assert_interrupted(&server.client().get(&running).await.unwrap());
}

#[tokio::test]
async fn a_killed_server_finds_its_jobs_again() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--workers", "1"]);
    let client = server.client();
    let done = client.submit(&echo()).await.unwrap();
    let result = client.wait(&done, SOON).await.unwrap().result;
    let running = client.submit(&sleep()).await.unwrap();
    let queued_submit = echo();
    let queued = client.submit(&queued_submit).await.unwrap();
    server.signal("KILL");
    server.end();

    let server = Running::start(&dir, &["--workers", "1"]);
    let client = server.client();
    // Finished: its bytes are kept. Running: its outcome is unknown. Queued: it runs now.
    assert_eq!(client.get(&done).await.unwrap().result, result);
    assert_interrupted(&client.get(&running).await.unwrap());
    assert_eq!(
        client.wait(&queued, SOON).await.unwrap().status,
        Status::Done
    );
    // A submit whose answer was lost in the crash is the job that is there.
    let again = client.submit(&queued_submit).await.unwrap();
    assert_eq!((again.id, again.existing), (queued.id, true));
    // Ids are never given twice.
    assert!(client.submit(&echo()).await.unwrap().id > queued.id);
}

fn assert_interrupted(job: &Job) {
    assert_eq!(job.status, Status::Error);
    let message = job.error_message.as_ref().unwrap();
    assert!(
        message.contains("interrupted: ") && message.contains("outcome unknown"),
        "{message}"
    );
}

/// The reply to a JSON request without any field, head and all.
fn post(server: &Running, path: &str) -> String {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// Writes fail beyond a size of files, of which the process is told by an error alone.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_store_that_failed_for_good_is_told_and_ends_as_a_failure() {
    let dir = tempdir().unwrap();
    let program = program();
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"));
    for (name, _) in program.get_envs() {
        command.env_remove(name);
    }
    let server = Running::spawn(command, &dir.path().join("log"));
    assert_eq!(server.get("/readyz").0, 200);
    let client = server.client();
    let kept = client.submit(&echo()).await.unwrap();
    client.wait(&kept, SOON).await.unwrap();

    // More than the log has, less than the next job, whose payload goes into a file of many.
    let pid = server.pid().try_into().unwrap();
    let size = Some((96 << 10, 96 << 10));
    rlimit::prlimit(pid, rlimit::Resource::FSIZE, size, None).unwrap();
    let text = "x".repeat(200 << 10);
    let big = Payload::json(format!(r#"{{"message":"{text}"}}"#));
    client
        .submit(&Submit::new("/demo/echo", big))
        .await
        .unwrap_err();
    // That leaves nothing in doubt. What goes into the database does, once its log is as long.
    assert_eq!(server.get("/readyz").0, 200);
    let mut submitted = 0;
    loop {
        let text = "x".repeat(12 << 10);
        let small = Payload::json(format!(r#"{{"message":"{text}"}}"#));
        if client
            .submit(&Submit::new("/demo/echo", small))
            .await
            .is_err()
        {
            break;
        }
        submitted += 1;
        assert!(submitted < 20);
    }
    let (status, reason) = server.get("/readyz");
    assert_eq!(status, 503, "{reason}");
    assert!(reason.starts_with("the store failed: "), "{reason}");
    assert_eq!(server.get("/healthz").0, 200);
    let status = post(&server, "/show/system/status");
    assert!(
        status.contains("failed") && status.contains("draining"),
        "{status}"
    );
    // What is there is given out still.
    assert_eq!(client.get(&kept).await.unwrap().status, Status::Done);

    // The log says it once, whoever asked before that.
    let end = std::time::Instant::now() + SOON;
    while !fs::read_to_string(dir.path().join("log"))
        .unwrap()
        .contains("the store has failed")
    {
        assert!(std::time::Instant::now() < end, "it is never logged");
        tokio::task::yield_now().await;
    }
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert_eq!(log.matches("the store has failed").count(), 1, "{log}");
    assert!(log.contains("kjob-server: the store cannot "), "{log}");
}
