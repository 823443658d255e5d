//! `kjob-server store …`, in a directory that nobody has open and in one that a server works in.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Output;
use std::time::Duration;

use kjob_client::{Client, JobKey, Payload, Submit};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::support::{Running, program};

/// For a job that takes no time, on a machine that has none.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command in the data directory of a test.
fn store(dir: &TempDir, arguments: &[&str]) -> Output {
    let data = dir.path().join("data");
    let mut command = program();
    command.args(["store", "--data-dir"]).arg(data);
    command.args(arguments).output().unwrap()
}

/// As [`store`], with its JSON.
fn json(dir: &TempDir, arguments: &[&str]) -> Value {
    let output = store(dir, &[arguments, &["--json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert_eq!(error, "");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(dir: &TempDir, arguments: &[&str]) -> (i32, String) {
    let output = store(dir, arguments);
    assert!(output.stdout.is_empty());
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), error)
}

/// Three jobs that are done, two that failed, one that runs.
async fn fill(client: &Client) {
    let mut ended = Vec::new();
    for number in 0..3 {
        let echo = Submit::new("/demo/echo", Payload::json(r#"{"message":"hello"}"#));
        ended.push(echo.with_tag(format!("done-{number}")));
    }
    for number in 0..2 {
        let fail = Submit::new("/demo/fail", Payload::json(r#"{"message":"no"}"#));
        ended.push(fail.with_tag(format!("failed-{number}")));
    }
    for submit in &ended {
        client.submit(submit).await.unwrap();
        client.wait(tag(submit.tag()), PATIENCE).await.unwrap();
    }
    let sleep = Submit::new("/demo/sleep", Payload::json(r#"{"millis":600000}"#));
    client.submit(&sleep.with_tag("sleeps")).await.unwrap();
}

fn tag(tag: &str) -> JobKey {
    JobKey::Tag(tag.to_owned().into())
}

fn is_there(stats: &Value, ended: u64) {
    assert_eq!(stats["jobs"]["ended"], ended, "{stats}");
    assert_eq!(stats["jobs"]["running"], 1, "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_while_a_server_works() {
    let dir = tempdir().unwrap();
    let running = Running::start(&dir, &["--demo", "--drain-timeout", "0s"]);
    let client = running.client();
    fill(&client).await;

    let stats = json(&dir, &["stats"]);
    is_there(&stats, 5);
    assert!(stats["disk"]["total"].as_u64().unwrap() > 0);
    let text = store(&dir, &["stats"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.lines()
            .any(|l| l.starts_with("jobs ended, kept") && l.ends_with('5')),
        "{text}"
    );

    let checked = json(&dir, &["check"]);
    assert_eq!(
        (&checked["jobs"], &checked["in_use"]),
        (&6.into(), &true.into())
    );
    let backup = dir.path().join("backup");
    let report = json(&dir, &["backup", backup.to_str().unwrap()]);
    assert_eq!(
        (&report["jobs"], &report["segments"]),
        (&6.into(), &1.into())
    );

    // A dry run says what would go; then it goes at once, and what runs stays.
    let failed = ["purge", "--status", "ERROR", "--endpoint", "/demo/*"];
    let dry = json(&dir, &[&failed[..], &["--dry-run"]].concat());
    assert_eq!(
        (&dry["total"]["jobs"], &dry["error"]["jobs"]),
        (&2.into(), &2.into())
    );
    is_there(&json(&dir, &["stats"]), 5);
    let done = json(&dir, &failed);
    assert_eq!(done["total"], dry["total"]);
    is_there(&json(&dir, &["stats"]), 3);
    assert!(client.get(tag("failed-0")).await.is_err());
    assert!(client.get(tag("done-0")).await.is_ok());
    let old = json(&dir, &["purge", "--older-than", "1h"]);
    assert_eq!(old["total"]["jobs"], 0);
    let other = json(&dir, &["purge", "--owner", "nobody"]);
    assert_eq!(other["total"]["jobs"], 0);
    let rest = json(&dir, &["purge", "--owner", "anonymous"]);
    assert_eq!(rest["done"]["jobs"], 3);
    is_there(&json(&dir, &["stats"]), 0);
    let compacted = json(&dir, &["compact"]);
    assert!(compacted["disk_after"].as_u64() <= compacted["disk_before"].as_u64());
    is_there(&json(&dir, &["stats"]), 0);

    let again = refusal(&dir, &["backup", backup.to_str().unwrap()]);
    assert_eq!(again.0, 3);
    assert!(again.1.contains("is not an empty directory"), "{}", again.1);
    running.signal("TERM");
    let (_, _, log) = running.end();
    for order in ["stats", "backup", "purge", "compact"] {
        let done = log.lines().any(|line| {
            line.contains("store command done") && line.contains(&format!("\"order\":\"{order}\""))
        });
        assert!(done, "{order}: {log}");
    }

    // The backup is a data directory: the same jobs, and the one that ran was interrupted.
    let restored = tempdir().unwrap();
    fs::rename(&backup, restored.path().join("data")).unwrap();
    is_there(&json(&restored, &["stats"]), 5);
    let running = Running::start(&restored, &["--demo"]);
    let client = running.client();
    assert_eq!(json(&restored, &["stats"])["jobs"]["ended"], 6);
    for name in ["done-0", "done-2", "failed-1"] {
        client.get(tag(name)).await.unwrap();
    }
    let slept = client.get(tag("sleeps")).await.unwrap();
    let slept = format!("{slept:?}");
    assert!(slept.contains("interrupted"), "{slept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_where_no_server_is() {
    let dir = tempdir().unwrap();
    let running = Running::start(&dir, &["--demo"]);
    fill(&running.client()).await;
    running.signal("KILL");
    running.end();

    is_there(&json(&dir, &["stats"]), 5);
    let backup = dir.path().join("backup");
    let report = json(&dir, &["backup", backup.to_str().unwrap()]);
    assert_eq!(report["jobs"], 6);
    let dry = json(&dir, &["purge", "--status", "DONE", "--dry-run"]);
    assert_eq!(dry["done"]["jobs"], 3);
    assert_eq!(
        json(&dir, &["purge", "--status", "DONE"])["done"],
        dry["done"]
    );
    is_there(&json(&dir, &["stats"]), 2);
    json(&dir, &["compact"]);
    let stats = json(&dir, &["stats"]);
    is_there(&stats, 2);
    assert_eq!(stats["jobs"]["expired"], 0);
    assert_eq!(stats["disk"]["logs"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_damage_by_its_exit_code() {
    let dir = tempdir().unwrap();
    let running = Running::start(&dir, &["--demo", "--drain-timeout", "0s"]);
    fill(&running.client()).await;
    running.signal("TERM");
    running.end();
    let checked = json(&dir, &["check"]);
    assert_eq!(
        (&checked["jobs"], &checked["in_use"]),
        (&6.into(), &false.into())
    );

    let segment = dir.path().join("data/segments/00000001-0.sqlite");
    let mut bytes = fs::read(&segment).unwrap();
    let name = b"failed-1";
    let at = bytes.windows(name.len()).rposition(|it| it == name);
    bytes[at.unwrap()] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let output = store(&dir, &["check"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("segments/00000001-0.sqlite"), "{text}");
    let is_counted = text.lines().any(|line| line.starts_with("damage found: "));
    assert!(is_counted, "{text}");
    let output = store(&dir, &["check", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!report["findings"].as_array().unwrap().is_empty());
}

/// Whoever owns the data directory may drop jobs of everybody: that it was done is to be known.
#[tokio::test]
async fn orders_to_a_running_server_are_in_its_audit_log() {
    let dir = tempdir().unwrap();
    let audit = dir.path().join("audit.log");
    let audit_log = ["--audit-log", audit.to_str().unwrap()];
    let server = Running::start(&dir, &[&audit_log[..], &["--drain-timeout", "0s"]].concat());
    fill(&server.client()).await;
    json(&dir, &["purge", "--status", "DONE", "--older-than", "0s"]);
    let there = dir.path().join("data");
    refusal(&dir, &["backup", there.to_str().unwrap()]);
    server.signal("TERM");
    server.end();
    let text = fs::read_to_string(&audit).unwrap();
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let orders: Vec<Value> = events.filter(|it| it["event"] == "store").collect();
    assert_eq!(orders.len(), 2, "{text}");
    let uid = fs::metadata(&audit).unwrap().uid();
    for order in &orders {
        assert_eq!(order["uid"], uid, "{order}");
        assert!(order["pid"].is_number(), "{order}");
    }
    let purge = &orders[0];
    assert_eq!(purge["order"], "purge");
    assert_eq!(purge["statuses"], serde_json::json!(["DONE"]));
    assert_eq!(purge["older_than_ms"], 0);
    let outcome = purge["outcome"].as_str().unwrap();
    assert!(outcome.starts_with("3 jobs of "), "{outcome}");
    assert_eq!(orders[1]["order"], "backup");
    let outcome = orders[1]["outcome"].as_str().unwrap();
    assert!(outcome.starts_with("failed: "), "{outcome}");
}

/// The socket was gone as soon as the server drained, while the directory was still locked: the answer
/// was that nobody can be asked.
#[tokio::test]
async fn a_server_that_drains_takes_orders_until_its_jobs_have_ended() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--drain-timeout", "1h"]);
    fill(&server.client()).await;
    server.signal("TERM");
    while server.get("/readyz").0 == 200 {
        tokio::task::yield_now().await;
    }
    let stats = json(&dir, &["stats"]);
    assert_eq!(stats["jobs"]["running"], 1, "{stats}");
    json(&dir, &["purge"]);
    assert_eq!(json(&dir, &["stats"])["jobs"]["ended"], 0);
    server.client().cancel(tag("sleeps")).await.unwrap();
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(json(&dir, &["stats"])["jobs"]["running"], 0);
}

/// One wrong bit in the middle of a log, as a disk leaves it.
#[tokio::test]
async fn a_damaged_log_is_refused_until_it_is_accepted_by_name() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &[]);
    fill(&server.client()).await;
    server.signal("KILL");
    server.end();
    let log = dir.path().join("data/segments/00000001-0.sqlite-wal");
    let mut bytes = fs::read(&log).unwrap();
    // A header, then frames of a head and a page; one of those in the middle.
    let frame = 24 + 4096;
    let frames = (bytes.len() - 32) / frame;
    assert!(frames > 8, "{frames}");
    bytes[32 + frames / 2 * frame + 24 + 2000] ^= 1;
    fs::write(&log, bytes).unwrap();

    let data = dir.path().join("data");
    let serve = |arguments: &[&str]| {
        let mut command = program();
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(&data).args(arguments).output().unwrap()
    };
    let output = serve(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("00000001-0.sqlite-wal"), "{error}");
    let (code, error) = refusal(&dir, &["stats"]);
    assert_eq!(code, 3);
    assert!(error.contains("00000001-0.sqlite-wal"), "{error}");

    let server = Running::start(&dir, &["--accept-damaged-logs"]);
    let first = server.client().get(tag("done-0")).await.unwrap();
    assert!(!first.running, "what came before the damage is there");
    let lost = server.client().get(tag("sleeps")).await;
    assert!(lost.unwrap_err().is_refused(), "and what came after is not");
    let echo = Submit::new("/demo/echo", Payload::json(r#"{"message":"again"}"#));
    let job = server.client().submit(&echo).await.unwrap();
    let job = server.client().wait(job.id, PATIENCE).await.unwrap();
    assert!(!job.running, "it works on");
    server.signal("TERM");
    server.end();
    json(&dir, &["stats"]);
}

#[test]
fn what_cannot_be_done_is_said_with_its_exit_code() {
    let dir = tempdir().unwrap();
    let (code, error) = refusal(&dir, &["stats"]);
    assert_eq!(code, 3);
    assert!(
        error.starts_with("kjob-server: data_dir: there is no store in "),
        "{error}"
    );
    assert!(!dir.path().join("data").exists(), "looking makes nothing");
    let (code, error) = refusal(&dir, &["stats", "--store", "memory"]);
    assert_eq!(code, 3);
    assert!(error.contains("jobs in memory have no files"), "{error}");
    let (code, error) = refusal(&dir, &["stats", "--store", "postgres://db/jobs"]);
    assert_eq!(code, 3);
    assert!(error.contains("PostgreSQL are looked at with"), "{error}");
    for misuse in [
        &["purge", "--status", "RUNNING"][..],
        &["purge", "--older-than", "a while"],
        &["purge", "--endpoint", "report"],
        &["backup"],
        &["mend"],
        &[],
    ] {
        let (code, error) = refusal(&dir, misuse);
        assert_eq!(code, 2, "{misuse:?}: {error}");
    }
}

#[test]
fn the_control_socket_is_its_owners_alone_and_replaces_a_stale_one() {
    let dir = tempdir().unwrap();
    let socket = dir.path().join("data/control.sock");
    let running = Running::start(&dir, &[]);
    let metadata = fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    running.signal("KILL");
    running.end();
    assert!(socket.exists(), "nobody removed it");
    let running = Running::start(&dir, &[]);
    json(&dir, &["stats"]);
    running.signal("TERM");
    running.end();
    assert!(!socket.exists(), "a server that stops removes it");
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_told_and_serves_all_the_same() {
    let deep = tempfile::Builder::new()
        .prefix(&"d".repeat(120))
        .tempdir()
        .unwrap();
    let running = Running::start(&deep, &[]);
    let (code, error) = refusal(&deep, &["stats"]);
    assert_eq!(code, 3);
    assert!(error.contains("is in use by process"), "{error}");
    assert!(
        error.contains("is too long for a control socket"),
        "{error}"
    );
    running.signal("TERM");
    let (_, _, log) = running.end();
    assert!(log.contains("is too long for a control socket"), "{log}");
    json(&deep, &["stats"]);
}

/// Root may do everything, and what it makes is its own.
#[test]
fn root_keeps_out_of_anothers_store_unless_its_server_does_the_work() {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &[]);
    server.signal("TERM");
    assert!(server.end().0.success());
    let data = dir.path().join("data");
    let other = if is_root {
        12345
    } else {
        fs::metadata(&data).unwrap().uid()
    };
    std::os::unix::fs::chown(&data, Some(other), None).unwrap();
    if is_root {
        let (code, said) = refusal(&dir, &["purge", "--older-than", "0s"]);
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("user 12345's"), "{said}");
        assert!(said.contains("setpriv --reuid 12345"), "{said}");
        // It only reads.
        assert!(store(&dir, &["check"]).status.success());
    }
    let _server = Running::start(&dir, &[]);
    assert!(json(&dir, &["stats"]).is_object());
}
