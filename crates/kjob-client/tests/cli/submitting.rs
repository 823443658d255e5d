//! `kjob submit`.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use crate::support::{Running, Server, end_with_input, kjob};

const HELLO: &str = r#"{"message":"hello"}"#;
const ANSWER: &str = r#"{"message":"hello","info":{}}"#;

#[test]
fn a_submit_prints_its_tag_and_the_same_again_is_the_same_job() {
    let server = Server::start();
    let submit = ["submit", "/demo/echo", "--tag", "t-1", "--data", HELLO];
    let first = server.run(submit);
    assert_eq!((first.code, first.out.as_str()), (0, "t-1\n"));
    assert_eq!(first.error, "kjob: job 1 submitted\n");
    let second = server.run(submit);
    assert_eq!((second.code, second.out.as_str()), (0, "t-1\n"));
    assert_eq!(second.error, "kjob: job 1 was there already\n");

    let other = server.run([
        "submit",
        "/demo/echo",
        "--tag",
        "t-1",
        "--data",
        "{\"message\":\"x\"}",
    ]);
    assert_eq!((other.code, other.out.as_str()), (1, ""));
    assert!(other.error.contains("t-1"), "{other:?}");
}

#[test]
fn without_a_tag_each_submit_is_a_job_of_its_own() {
    let server = Server::start();
    let submit = ["-q", "--json", "submit", "/demo/echo", "--data", HELLO];
    let (first, second) = (server.run(submit), server.run(submit));
    assert_eq!((first.code, first.error.as_str()), (0, ""));
    let (first, second) = (first.json(), second.json());
    assert_eq!((&first["id"], &second["id"]), (&1.into(), &2.into()));
    assert_ne!(first["tag"], second["tag"]);
    assert_eq!(first["existing"], false);
    assert_eq!(first["query_id"].as_str().unwrap().len(), 32);
}

#[test]
fn a_result_comes_to_stdout_byte_for_byte_or_to_a_file() {
    let server = Server::start();
    let done = server.run(["submit", "/demo/echo", "--wait", "--data", HELLO]);
    assert_eq!((done.code, done.out.as_str()), (0, ANSWER));

    let file = server.dir.path().join("result");
    let path = file.to_str().unwrap();
    let done = server.run([
        "submit",
        "/demo/echo",
        "--wait",
        "-o",
        path,
        "--data",
        HELLO,
    ]);
    assert_eq!((done.code, done.out.as_str()), (0, ""));
    assert_eq!(fs::read_to_string(&file).unwrap(), ANSWER);

    // Without --wait there will be none.
    let misused = server.run(["submit", "/demo/echo", "-o", path, "--data", HELLO]);
    assert_eq!(misused.code, 2, "{misused:?}");
}

#[test]
fn payloads_come_from_files_and_from_stdin() {
    let server = Server::start();
    let json = server.dir.path().join("payload.json");
    fs::write(&json, HELLO).unwrap();
    let json = json.to_str().unwrap();
    assert_eq!(
        server.done(["submit", "/demo/echo", "--wait", "--json", json]),
        ANSWER
    );

    let piped = server.kjob(["submit", "/demo/echo", "--wait", "--json", "-"]);
    assert_eq!(end_with_input(piped, HELLO.as_bytes()).out, ANSWER);

    // Avro: a text of five bytes and an empty map, both ways.
    let binary = ["submit", "/demo/echo", "--wait", "--binary", "-"];
    let ended = end_with_input(server.kjob(binary), b"\x0ahello\x00");
    assert_eq!((ended.code, ended.out.as_str()), (0, "\x0ahello\x00"));
    let turned = binary.into_iter().chain(["--result-encoding", "json"]);
    assert_eq!(
        end_with_input(server.kjob(turned), b"\x0ahello\x00").out,
        ANSWER
    );

    let missing = server.run(["submit", "/demo/echo", "--json", "/no/such/file"]);
    assert_eq!(missing.code, 1);
    assert!(missing.error.contains("/no/such/file"), "{missing:?}");
    let no_text = end_with_input(
        server.kjob(["submit", "/demo/echo", "--json", "-"]),
        b"\xff",
    );
    assert_eq!(no_text.code, 1);
}

/// Whether Ctrl-C was heard while a payload was read was up to chance.
#[test]
fn an_interrupt_ends_a_payload_that_is_not_whole() {
    for _ in 0..8 {
        let submit = kjob(["submit", "/demo/echo", "--json", "-"]);
        // What is started in the background of a script has SIGINT ignored, and leaves it so.
        let mut heeding = Command::new("env");
        heeding
            .arg("--default-signal=INT")
            .arg(submit.get_program())
            .args(submit.get_args())
            .stdin(Stdio::piped());
        let mut running = Running::start(&mut heeding);
        let mut input = running.child.stdin.take().unwrap();
        // More than pipes hold: once it is written, it is being read.
        input.write_all(&vec![b' '; 4 << 20]).unwrap();
        running.interrupt();
        let status = running.child.wait().unwrap();
        assert_eq!(status.signal(), Some(2), "{status}");
    }
}

#[test]
fn options_reach_the_server() {
    let server = Server::start();
    server.done([
        "submit",
        "/demo/sleep",
        "--tag",
        "late",
        "--data",
        r#"{"millis":1}"#,
        "--delay",
        "1h",
        "--priority",
        "9",
        "--retention",
        "2h",
        "--user-data",
        "for ann",
        "--option",
        "timeout_ms=5000",
    ]);
    let job = &server.run(["list", "--json"]).json()["jobs"][0];
    assert_eq!(
        (&job["tag"], &job["phase"]),
        (&"late".into(), &"queued".into())
    );
    assert_eq!(job["user_data"], "for ann");
    // Each of them is checked by the server, which so has to have got it.
    for (option, word) in [
        ("priority=10", "priority"),
        ("retention_seconds=x", "retention_seconds"),
        ("delay_ms=x", "delay_ms"),
    ] {
        let refused = server.run(["submit", "/demo/echo", "--data", HELLO, "--option", option]);
        assert_eq!(refused.code, 1);
        assert!(refused.error.contains(word), "{refused:?}");
    }
    let impatient = [
        "submit",
        "/demo/sleep",
        "--wait",
        "--data",
        r#"{"millis":3600000}"#,
        "--job-timeout",
        "20ms",
    ];
    let failed = server.run(impatient);
    assert_eq!(failed.code, 3, "{failed:?}");
}

#[test]
fn the_tag_of_a_failed_job_starts_a_new_one_if_told() {
    let server = Server::start();
    let submit = [
        "--json",
        "submit",
        "/demo/fail",
        "--tag",
        "again",
        "--data",
        r#"{"message":"no"}"#,
    ];
    assert_eq!(server.run(submit).json()["id"], 1);
    assert_eq!(server.run(["wait", "again"]).code, 3);
    assert_eq!(server.run(submit).json()["id"], 1);
    let again = server.run(submit.into_iter().chain(["--reuse-tag-if-failed"]));
    assert_eq!(again.json()["existing"], false, "{again:?}");
    assert_ne!(again.json()["id"], 1, "{again:?}");
}

#[test]
fn a_refused_payload_is_told_and_no_job() {
    let server = Server::start();
    let refused = server.run(["submit", "/demo/echo"]);
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    assert!(
        refused.error.contains("message"),
        "the field that is missing: {refused:?}"
    );
    assert_eq!(
        server.run(["list", "-a", "--json"]).json()["jobs"],
        serde_json::json!([])
    );
}
