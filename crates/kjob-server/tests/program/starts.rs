//! How a server starts, and how it says that it cannot.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use kjob_client::{Client, Payload, Status, Submit};
use tempfile::tempdir;

use crate::support::{Running, program, run};

const SOON: Duration = Duration::from_secs(20);

fn echo() -> Submit {
    Submit::new("/demo/echo", Payload::json(r#"{"message":"hello"}"#))
}

#[test]
fn a_taken_port_is_told_in_one_line() {
    let dir = tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let data = dir.path().join("data");
    let (code, output, error) = run([
        "--listen",
        &address,
        "--data-dir",
        data.to_str().unwrap(),
        "--log",
        "error",
    ]);
    assert_eq!((code, output.as_str()), (1, ""));
    assert_eq!(
        error,
        format!(
            "kjob-server: listen: {address}: in use by another program; stop that one, or choose another port\n"
        )
    );
    assert!(
        !data.exists(),
        "nothing is touched by a server that cannot listen"
    );
}

#[test]
fn a_data_directory_in_use_is_told_with_the_process_that_has_it() {
    let dir = tempdir().unwrap();
    let first = Running::start(&dir, &[]);
    let data = dir.path().join("data");
    let arguments = ["--listen", "127.0.0.1:0", "--log", "error", "--data-dir"];
    let (code, output, error) = run(arguments.into_iter().chain([data.to_str().unwrap()]));
    assert_eq!((code, output.as_str()), (1, ""));
    assert!(
        error.contains(&format!("in use by process {}", first.pid())),
        "{error}"
    );
    assert!(error.contains(data.to_str().unwrap()), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_data_directory_that_is_a_file_is_told() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    fs::write(&data, "mine").unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--log", "error", "--data-dir"];
    let (code, _, error) = run(arguments.into_iter().chain([data.to_str().unwrap()]));
    assert_eq!(code, 1);
    assert!(error.contains("is not a directory"), "{error}");
    assert_eq!(fs::read_to_string(&data).unwrap(), "mine");
}

#[tokio::test]
async fn demo_endpoints_are_there_only_without_a_config_file_or_when_told() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("kjob.toml");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, is_there) in [
        (&[][..], true),
        (&["--demo=false"], false),
        (&["--config", file], false),
        (&["--config", file, "--demo"], true),
    ] {
        let server = Running::start(&dir, arguments);
        let outcome = server.client().submit(&echo()).await;
        match outcome {
            Ok(_) => assert!(is_there, "{arguments:?}"),
            Err(error) => assert!(!is_there && error.is_refused(), "{arguments:?}: {error}"),
        }
        server.signal("TERM");
        server.end();
    }
}

#[tokio::test]
async fn a_store_in_memory_needs_no_directory() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--store", "memory"]);
    let client = server.client();
    let submitted = client.submit(&echo()).await.unwrap();
    assert_eq!(
        client.wait(&submitted, SOON).await.unwrap().status,
        Status::Done
    );
    assert!(!dir.path().join("data").exists());
}

#[tokio::test]
async fn logs_are_json_off_a_terminal_and_name_jobs_without_their_payloads() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--log", "debug"]);
    let client = server.client();
    let payload = Payload::json(r#"{"message":"a secret of mine"}"#);
    let submitted = client
        .submit(&Submit::new("/demo/echo", payload))
        .await
        .unwrap();
    client.wait(&submitted, SOON).await.unwrap();
    let payload = Payload::json(r#"{"message":"another secret"}"#);
    let failed = client
        .submit(&Submit::new("/demo/fail", payload))
        .await
        .unwrap();
    client.wait(&failed, SOON).await.unwrap();
    server.signal("TERM");
    let (_, rest, log) = server.end();

    assert_eq!(rest, "", "the line that says it is ready is the only one");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for job in [&submitted, &failed] {
        let id = job.id.to_string();
        let ended = lines
            .iter()
            .find(|line| line["message"] == "job ended" && line["job_id"] == id.as_str());
        let ended = ended.unwrap_or_else(|| panic!("{log}"));
        assert_eq!(ended["job_tag"], job.tag.as_str());
        assert_eq!(ended["query_id"], job.query_id.as_str());
    }
    assert!(!log.contains("a secret of mine"), "{log}");
}

#[test]
fn a_misspelt_variable_is_warned_of() {
    let dir = tempdir().unwrap();
    let mut command = program();
    command
        .args(["--listen", "127.0.0.1:0", "--store", "memory"])
        .env("KJOB_WORKER", "3");
    let server = Running::spawn(command, &dir.path().join("log"));
    server.signal("TERM");
    let (_, _, log) = server.end();
    assert!(
        log.contains("KJOB_WORKER") && log.contains("KJOB_WORKERS"),
        "{log}"
    );
}

#[tokio::test]
async fn clients_are_told_the_url_they_are_to_use() {
    let dir = tempdir().unwrap();
    for (arguments, expected) in [
        (&[][..], None),
        (
            &["--public-url", "http://jobs.example.org:9191/"],
            Some("http://jobs.example.org:9191"),
        ),
    ] {
        let server = Running::start(&dir, arguments);
        let properties = properties(&server.client()).await;
        let own = format!("http://{}", server.address);
        let expected = expected.unwrap_or(&own);
        assert_eq!(
            properties["property_map"]["conf.host0_public_urls"],
            expected
        );
        server.signal("TERM");
        server.end();
    }
}

/// The system's properties, asked for as a job.
async fn properties(client: &Client) -> serde_json::Value {
    let submit = Submit::new("/show/system/properties", Payload::json("{}"));
    let submitted = client.submit(&submit).await.unwrap();
    let job = client.wait(&submitted, SOON).await.unwrap();
    serde_json::from_str(job.result.unwrap().as_text().unwrap()).unwrap()
}
