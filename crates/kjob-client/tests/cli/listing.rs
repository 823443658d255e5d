//! `kjob list`, and output that nobody reads.

use std::process::Stdio;

use crate::support::{Running, Server, end};

fn done(server: &Server, tag: &str, user_data: &str) {
    let data = r#"{"message":"x"}"#;
    server.done([
        "submit",
        "/demo/echo",
        "--tag",
        tag,
        "--data",
        data,
        "--user-data",
        user_data,
        "--wait",
    ]);
}

#[test]
fn jobs_are_a_table_for_people() {
    let server = Server::start();
    done(&server, "a", "with \u{1b}[2J tricks");
    server.sleeper("slow", 3_600_000);
    let table = server.done(["list"]);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "only what has not ended: {table}");
    let words: Vec<_> = lines[0].split_whitespace().collect();
    assert_eq!(
        words,
        [
            "ID", "TAG", "STATUS", "ENDPOINT", "RECEIVED", "USER", "DATA"
        ]
    );
    let words: Vec<_> = lines[1].split_whitespace().collect();
    assert_eq!(words[..4], ["2", "slow", "RUNNING", "/demo/sleep"]);
    assert_eq!(words[5], "anonymous");

    let all = server.done(["list", "--all"]);
    assert_eq!(all.lines().count(), 3);
    assert!(all.contains(r"with \u{1b}[2J tricks"), "{all}");
}

#[test]
fn jobs_are_filtered_and_come_in_pieces() {
    let server = Server::start();
    for tag in ["a", "b", "c"] {
        done(&server, tag, "");
    }
    server.sleeper("slow", 3_600_000);
    let tags = |arguments: &[&str]| {
        let list = ["list", "--json"]
            .into_iter()
            .chain(arguments.iter().copied());
        let found = server.run(list).json();
        let jobs = found["jobs"].as_array().unwrap().clone();
        let tags = jobs
            .iter()
            .map(|job| job["tag"].as_str().unwrap().to_owned());
        (tags.collect::<Vec<_>>().join(" "), found["next"].clone())
    };
    for (arguments, expected) in [
        (&[][..], "slow"),
        (&["-a"], "a b c slow"),
        (&["--status", "done"], "a b c"),
        (&["--status", "done,RUNNING"], "a b c slow"),
        (&["-a", "--endpoint", "/demo/sleep"], "slow"),
        (&["--tag", "b"], "b"),
        (&["-a", "--after", "2"], "c slow"),
    ] {
        assert_eq!(tags(arguments).0, expected, "{arguments:?}");
    }
    assert_eq!(tags(&["-a", "--limit", "2"]), ("a b".to_owned(), 2.into()));
    assert_eq!(
        tags(&["-a", "--limit", "4"]),
        ("a b c slow".to_owned(), ().into())
    );
    let more = server.run(["list", "-a", "--limit", "2"]);
    assert_eq!(more.error, "kjob: there are more: --after 2\n");
}

#[test]
fn a_watch_tells_what_is_new_what_changes_and_what_ends() {
    let server = Server::start();
    server.sleeper("first", 3_600_000);
    let mut watch = Running::start(&mut server.kjob(["list", "--json", "--watch", "20ms"]));
    let job = watch.json_line();
    assert_eq!(
        (&job["tag"], &job["status"]),
        (&"first".into(), &"RUNNING".into())
    );
    server.sleeper("second", 3_600_000);
    assert_eq!(watch.json_line()["tag"], "second");
    server.done(["cancel", "first"]);
    loop {
        let job = watch.json_line();
        assert_eq!(job["tag"], "first");
        if job["phase"] != "cancelling" {
            assert_eq!(job["status"], "CANCELLED");
            break;
        }
    }
    watch.interrupt();
    let ended = watch.end();
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.error.as_str()),
        (130, "", "")
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_program_without_a_word() {
    let server = Server::start();
    server.sleeper("slow", 3_600_000);
    for arguments in [
        &["list"][..],
        &["get", "slow"],
        &["status", "--json"],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = server.kjob(arguments.iter().copied());
        command.stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{arguments:?}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "",
            "{arguments:?}"
        );
    }
    let mut watch = Running::start(&mut server.kjob(["list", "--watch", "20ms"]));
    drop(watch.out.take());
    server.sleeper("news", 3_600_000);
    assert_eq!(watch.end().code, 141);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let server = Server::start();
    let mut command = server.kjob(["-q", "list"]);
    command.stdout(std::fs::File::create("/dev/full").unwrap());
    let output = command
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    // It told why twice.
    assert_eq!(
        error,
        "kjob: the output cannot be written: No space left on device (os error 28)\n"
    );
    assert_eq!(end(server.kjob(["list"])).code, 0);
}
