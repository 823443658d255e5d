//! `kjob get`, `kjob result` and `kjob cancel`.

use std::fs;

use crate::support::{Server, end_with_input};

fn hello(server: &Server) {
    let data = r#"{"message":"hello"}"#;
    server.done([
        "submit",
        "/demo/echo",
        "--tag",
        "hello",
        "--data",
        data,
        "--wait",
    ]);
}

#[test]
fn a_job_is_shown_by_id_and_by_tag() {
    let server = Server::start();
    hello(&server);
    let shown = server.done(["get", "hello"]);
    assert_eq!(server.done(["get", "1"]), shown);
    for (name, value) in [
        ("id", "1"),
        ("tag", "hello"),
        ("endpoint", "/demo/echo"),
        ("status", "DONE"),
        ("progress", "100 %"),
        ("result", "29 bytes, json"),
    ] {
        assert!(
            shown.contains(&format!("{name:10}{value}\n")),
            "{name} in {shown}"
        );
    }
    for job in ["hello", "tag:hello", "1", "id:1"] {
        let document = server.run(["get", job, "--json"]).json();
        assert_eq!(document["id"], 1);
        assert_eq!(document["tag"], "hello");
        assert_eq!(document["status"], "DONE");
        assert_eq!(
            (&document["running"], &document["progress"]),
            (&false.into(), &100.into())
        );
        assert_eq!(document["result_encoding"], "json");
        assert_eq!(
            document["result"],
            serde_json::json!({"message": "hello", "info": {}})
        );
        assert_eq!(document["error"], serde_json::Value::Null);
        for at in ["received_at", "started_at", "ended_at", "expires_at"] {
            let time = document[at].as_str().unwrap();
            assert!(
                time.starts_with("20") && time.ends_with('Z'),
                "{at}: {time}"
            );
        }
    }
}

#[test]
fn a_job_that_is_not_there_has_an_exit_code_of_its_own() {
    let server = Server::start();
    for command in ["get", "wait", "result", "cancel"] {
        for job in ["99", "no-such-tag"] {
            let ended = server.run([command, job]);
            assert_eq!(ended.code, 6, "{ended:?}");
        }
    }
    let ended = server.run(["get", "99"]);
    assert_eq!(
        ended.error,
        "kjob: the server refused (400): job 99 not found\n"
    );
    assert_eq!(server.run(["get", "not/a/tag"]).code, 2);
}

#[test]
fn a_result_is_written_whole_and_binary_as_it_is() {
    let server = Server::start();
    hello(&server);
    let path = server.dir.path().join("result");
    let file = path.to_str().unwrap();
    assert_eq!(server.done(["result", "hello", "-o", file]), "");
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        r#"{"message":"hello","info":{}}"#
    );
    assert_eq!(
        server.done(["result", "hello", "--result-encoding", "binary"]),
        "\x0ahello\x00"
    );
    let document = server
        .run(["result", "hello", "--json", "--result-encoding", "binary"])
        .json();
    assert_eq!(document["result_encoding"], "binary");
    assert_eq!(document["result"], "CmhlbGxvAA==");

    let nowhere = server.run(["result", "hello", "-o", "/no/such/dir/file"]);
    assert_eq!(nowhere.code, 1);
    assert_eq!(
        nowhere.error,
        "kjob: \"/no/such/dir/file\": No such file or directory (os error 2)\n"
    );
}

#[test]
fn exit_codes_tell_how_a_job_ended() {
    let server = Server::start();
    let data = r#"{"message":"out of \u001b[31mpaper"}"#;
    server.done(["submit", "/demo/fail", "--tag", "failed", "--data", data]);
    let failed = server.run(["result", "--wait", "failed"]);
    assert_eq!((failed.code, failed.out.as_str()), (3, ""));
    assert!(
        failed
            .error
            .ends_with("kjob: the job failed: out of \\u{1b}[31mpaper\n"),
        "and the terminal is told nothing: {failed:?}"
    );

    server.sleeper("slow", 3_600_000);
    let running = server.run(["result", "slow"]);
    assert_eq!((running.code, running.out.as_str()), (5, ""));
    assert_eq!(server.run(["cancel", "slow"]).code, 0);
    let cancelled = server.run(["result", "--wait", "slow"]);
    assert_eq!((cancelled.code, cancelled.out.as_str()), (4, ""));
    assert!(cancelled.error.contains("cancelled"));
    // A look is not about how the job ended.
    for job in ["failed", "slow"] {
        assert_eq!(server.run(["get", job]).code, 0);
    }
}

#[test]
fn cancels_tell_what_they_did_to_each() {
    let server = Server::start();
    hello(&server);
    server.sleeper("slow", 3_600_000);
    let ended = server.run(["cancel", "slow", "99", "hello"]);
    assert_eq!(ended.code, 6);
    assert_eq!(
        ended.out,
        "slow\tcancelling\n99\tnot found\nhello\talready DONE\n"
    );
    server.run(["wait", "slow"]);
    let ended = server.run(["cancel", "slow", "--json"]);
    assert_eq!(ended.code, 0);
    let expected = serde_json::json!({"job": "slow", "outcome": "already CANCELLED"});
    assert_eq!(ended.json(), expected);
}

#[test]
fn a_big_result_goes_through_a_pipe() {
    let server = Server::start();
    let text = "0123456789".repeat(100_000);
    let payload = format!(r#"{{"message":"{text}"}}"#);
    let submit = server.kjob(["submit", "/demo/echo", "--json", "-", "--wait"]);
    let ended = end_with_input(submit, payload.as_bytes());
    assert_eq!(ended.code, 0);
    assert!(ended.out == format!(r#"{{"message":"{text}","info":{{}}}}"#));
}
