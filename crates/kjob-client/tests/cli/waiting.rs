//! `kjob wait`: progress, patience, Ctrl-C, and servers that are away for a while.

use serde_json::Value;

use crate::support::{Running, Server};

#[test]
fn a_wait_prints_the_status_and_tells_how_it_goes() {
    let server = Server::start();
    server.sleeper("slow", 3_600_000);
    let mut waiting = Running::start(&mut server.kjob(["wait", "slow"]));
    waiting.wait_said("kjob: job slow running 0 %");
    server.done(["cancel", "slow"]);
    let ended = waiting.end();
    assert_eq!((ended.code, ended.out.as_str()), (4, "CANCELLED\n"));
    assert!(ended.error.ends_with("kjob: the job was cancelled\n"));
    assert!(!ended.error.contains('\u{1b}'), "no terminal, no drawing");

    server.sleeper("nap", 1);
    let quiet = server.run(["-q", "wait", "nap"]);
    assert_eq!((quiet.code, quiet.out.as_str()), (0, "DONE\n"));
    assert_eq!(quiet.error, "");
}

#[test]
fn for_machines_each_change_is_a_document() {
    let server = Server::start();
    // The first look follows the submit, so that it finds the job running also on a busy machine.
    let data = r#"{"millis":1500}"#;
    let ended = server.run(["--json", "submit", "/demo/sleep", "--data", data, "--wait"]);
    assert_eq!((ended.code, ended.error.as_str()), (0, ""));
    let lines = ended.json_lines();
    let (last, before) = lines.split_last().unwrap();
    assert!(!before.is_empty());
    for job in before {
        assert_eq!(
            (&job["status"], &job["result"]),
            (&"RUNNING".into(), &Value::Null)
        );
    }
    assert_eq!(
        (&last["status"], &last["progress"]),
        (&"DONE".into(), &100.into())
    );
    assert_eq!(last["result"]["slept_millis"], 1_500);
}

#[test]
fn patience_ends_with_the_job_running() {
    let server = Server::start();
    server.sleeper("slow", 3_600_000);
    for timeout in ["0", "50ms"] {
        let ended = server.run(["wait", "slow", "--timeout", timeout]);
        assert_eq!((ended.code, ended.out.as_str()), (5, "RUNNING\n"));
    }
    // As long as a duration can be written, and longer than clocks go.
    let mut patient = server.kjob(["wait", "slow", "--timeout", "18446744073709551615"]);
    let mut patient = Running::start(&mut patient);
    patient.wait_said("running");
    drop(patient);
    let ended = server.run(["wait", "slow", "--timeout", "0", "--json"]);
    assert_eq!(ended.code, 5);
    assert_eq!(ended.json_lines().last().unwrap()["status"], "RUNNING");
}

#[test]
fn an_interrupt_leaves_the_job_alone_and_says_so() {
    let server = Server::start();
    server.sleeper("slow", 3_600_000);
    let mut waiting = Running::start(&mut server.kjob(["wait", "slow"]));
    waiting.wait_said("running");
    waiting.interrupt();
    let ended = waiting.end();
    assert_eq!((ended.code, ended.out.as_str()), (130, ""));
    assert!(
        ended.error.contains("the job goes on; kjob wait slow"),
        "{ended:?}"
    );
    let job = server.run(["get", "slow", "--json"]).json();
    assert_eq!(job["phase"], "running");
}

#[test]
fn an_interrupt_cancels_the_job_if_told() {
    let server = Server::start();
    let submit = [
        "submit",
        "/demo/sleep",
        "--tag",
        "slow",
        "--data",
        r#"{"millis":3600000}"#,
        "--wait",
        "--cancel-on-interrupt",
    ];
    let mut waiting = Running::start(&mut server.kjob(submit));
    waiting.wait_said("running");
    waiting.interrupt();
    let ended = waiting.end();
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.error.contains("cancelling the job"), "{ended:?}");
    let job = server.run(["get", "slow", "--json"]).json();
    assert_eq!(job["status"], "CANCELLED");
}

/// The cancel was waited for with Ctrl-C dead and nothing said.
#[test]
fn a_second_interrupt_ends_the_program_whatever_the_server_does() {
    let server = Server::start();
    server.sleeper("slow", 3_600_000);
    let wait = ["wait", "slow", "--cancel-on-interrupt"];
    let mut waiting = Running::start(&mut server.kjob(wait));
    waiting.wait_said("running");
    server.halt();
    waiting.interrupt();
    waiting.wait_said("cancelling the job; Ctrl-C again ends kjob at once");
    waiting.interrupt();
    let ended = waiting.end();
    assert_eq!((ended.code, ended.out.as_str()), (130, ""), "{ended:?}");
    assert!(ended.error.contains("the job may go on"), "{ended:?}");
}

#[test]
fn a_wait_outlives_a_restart_of_the_server() {
    let mut server = Server::start();
    server.done([
        "submit",
        "/demo/sleep",
        "--tag",
        "later",
        "--delay",
        "1h",
        "--data",
        r#"{"millis":1}"#,
    ]);
    let mut waiting = Running::start(&mut server.kjob(["wait", "later", "--tries", "1"]));
    waiting.wait_said("queued");
    server.kill();
    waiting.wait_said("trying again");
    server.revive();
    server.done(["cancel", "later"]);
    let ended = waiting.end();
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (4, "CANCELLED\n"),
        "{ended:?}"
    );
}

#[test]
fn a_server_that_never_was_there_is_told_at_once() {
    let mut server = Server::start();
    server.kill();
    let ended = server.run(["wait", "1", "--tries", "2"]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert!(ended.error.contains("cannot be reached"), "{ended:?}");
    assert!(ended.error.contains(&server.url), "{ended:?}");
    assert_eq!(ended.error.lines().count(), 1);
}
