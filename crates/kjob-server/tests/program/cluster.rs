//! Several servers on one database.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kjob_client::{Cancel, Client, Job, Payload, Status, Submit};
use tempfile::{TempDir, tempdir};

use crate::support::{Running, program, run};

const LONG: Duration = Duration::from_secs(60);

/// A schema of its own in the tests' database, with tables.
pub(crate) fn database() -> String {
    let url = bare_database();
    let (code, said, log) = run(["migrate", "--store", &url]);
    assert_eq!(code, 0, "{log}");
    assert!(said.contains("are of version"), "{said}");
    url
}

pub(crate) fn bare_database() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("program_{}_{number}", std::process::id());
    let url = kjob_test_postgres::url();
    let made = kjob_test_postgres::tool("psql", None)
        .args(["--quiet", "--dbname", &url, "--command"])
        .arg(format!("CREATE SCHEMA {name}"))
        .status()
        .unwrap();
    assert!(made.success());
    let and = if url.contains('?') { '&' } else { '?' };
    format!("{url}{and}options=-c%20search_path%3D{name}")
}

/// A node at a host of its own, as clients tell members of a ring by their hosts.
pub(crate) fn node(dir: &TempDir, database: &str, number: u8) -> Running {
    node_with(dir, database, number, &[])
}

fn node_with(dir: &TempDir, database: &str, number: u8, more: &[&str]) -> Running {
    let mut command = program();
    command
        .args(["--listen", &format!("127.0.0.{number}:0")])
        .args(["--store", database, "--lease-time", "3s"])
        .args(["--workers", "1"])
        .args(more);
    Running::spawn(command, &dir.path().join(format!("log-{number}")))
}

pub(crate) fn sleep(millis: u64) -> Submit {
    let payload = format!("{{\"millis\":{millis}}}");
    Submit::new("/demo/sleep", Payload::json(payload))
}

pub(crate) fn echo() -> Submit {
    Submit::new("/demo/echo", Payload::json("{\"message\":\"hello\"}"))
}

async fn wait(client: &Client, id: i64) -> Job {
    client.wait(id, LONG).await.unwrap()
}

/// A job that the node runs, which has to be the only one: another may claim what is submitted while it looks for
/// jobs itself.
pub(crate) async fn begun(node: &Running, submit: &Submit) -> i64 {
    let client = node.client();
    let id = client.submit(submit).await.unwrap().id;
    let deadline = Instant::now() + LONG;
    while client.get(id).await.unwrap().status != Status::Running {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    id
}

pub(crate) fn failure(job: &Job) -> &str {
    job.error_message.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn any_node_answers_for_any_job() {
    let (dir, database) = (tempdir().unwrap(), database());
    let (one, two) = (node(&dir, &database, 1), node(&dir, &database, 2));
    let (a, b) = (one.client(), two.client());
    let runs = a.submit(&sleep(600_000)).await.unwrap().id;
    // There is no place for it where it is submitted.
    let echoed = a.submit(&echo()).await.unwrap().id;
    let job = wait(&a, echoed).await;
    assert_eq!(job.status, Status::Done);
    assert!(job.result.unwrap().data.windows(5).any(|it| it == b"hello"));
    assert_eq!(b.get(runs).await.unwrap().status, Status::Running);
    assert_eq!(b.cancel(runs).await.unwrap(), Cancel::Cancelling);
    assert_eq!(wait(&b, runs).await.status, Status::Cancelled);
    assert_eq!(a.get(runs).await.unwrap().status, Status::Cancelled);
    // The same tag is the same job, whoever is asked.
    let submit = echo();
    let first = a.submit(&submit).await.unwrap();
    let again = b.submit(&submit).await.unwrap();
    assert_eq!((first.id, true), (again.id, again.existing));
    for server in [one, two] {
        server.signal("TERM");
        let (status, _, log) = server.end();
        assert!(status.success(), "{log}");
    }
}

#[tokio::test]
async fn others_take_over_from_a_node_that_was_killed() {
    let (dir, database) = (tempdir().unwrap(), database());
    let one = node(&dir, &database, 1);
    let runs = begun(&one, &sleep(600_000)).await;
    let two = node(&dir, &database, 2);
    let (a, b) = (one.client(), two.client());
    let busy = b.submit(&sleep(1_000)).await.unwrap().id;
    let waits = a.submit(&echo()).await.unwrap().id;
    drop(one);
    let job = wait(&b, runs).await;
    assert_eq!(job.status, Status::Error);
    assert!(
        failure(&job).starts_with("interrupted: the node"),
        "{job:?}"
    );
    for id in [busy, waits] {
        assert_eq!(wait(&b, id).await.status, Status::Done);
    }
    two.wait_logged("jobs are taken over", 1);
    let (_, metrics) = two.get("/metrics");
    for line in [
        "kjob_jobs_taken_over_total 1",
        "kjob_lease_held 1",
        r#"kjob_lease_events_total{event="joined"} 1"#,
        r#"kjob_lease_events_total{event="lost"} 0"#,
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}: {metrics}"
        );
    }
    for counted in [
        "kjob_store_commit_steps_count",
        "kjob_lease_renewal_seconds_count",
    ] {
        let zero = format!("{counted} 0");
        assert!(metrics.contains(counted) && !metrics.lines().any(|line| line == zero));
    }
}

#[tokio::test]
async fn a_node_that_was_stopped_past_its_lease_speaks_for_nothing_and_joins_anew() {
    let (dir, database) = (tempdir().unwrap(), database());
    let one = node(&dir, &database, 1);
    // It would be done while its node is stopped, and brings its end as soon as that goes on.
    let length = Duration::from_secs(10);
    let runs = begun(&one, &sleep(10_000)).await;
    let begun = Instant::now();
    one.signal("STOP");
    let two = node(&dir, &database, 2);
    let (a, b) = (one.client(), two.client());
    let job = wait(&b, runs).await;
    assert_eq!(job.status, Status::Error);
    tokio::time::sleep(length.saturating_sub(begun.elapsed())).await;
    one.signal("CONT");
    one.wait_logged("the lease is lost", 1);
    one.wait_logged("joined the nodes of the store", 2);
    assert_eq!(one.get("/readyz").0, 200);
    let told = a.get(runs).await.unwrap();
    assert_eq!(
        (told.status, told.error_message),
        (job.status, job.error_message)
    );
    let next = a.submit(&echo()).await.unwrap().id;
    assert_eq!(wait(&a, next).await.status, Status::Done);
}

/// Of a config file: `/note` appends the payload to a file, and takes a moment to end then.
fn note_route(notes: &Path) -> String {
    let script = format!("cat >> {} && sleep 0.05", notes.display());
    format!("[[route]]\nendpoint = '/note'\nkind = 'command'\ncommand = ['sh', '-c', '{script}']\n")
}

#[tokio::test]
async fn nodes_go_one_after_the_other_and_nothing_is_lost_or_runs_twice() {
    let (dir, database) = (tempdir().unwrap(), database());
    let (notes, config) = (dir.path().join("notes"), dir.path().join("kjob.toml"));
    fs::write(&config, note_route(&notes)).unwrap();
    let config = config.to_str().unwrap();
    let node = |number| node_with(&dir, &database, number, &["--demo", "--config", config]);
    let mut nodes = [node(1), node(2)];
    let (mut ids, mut noted) = (Vec::new(), Vec::new());
    for (round, number) in [(1_u8, 1_u8), (2, 2), (3, 1), (4, 2)] {
        for server in &nodes {
            let client = server.client();
            for _ in 0..10 {
                ids.push(client.submit(&sleep(20)).await.unwrap().id);
                let line = format!("job {}", noted.len());
                let note = Submit::new("/note", Payload::binary(format!("{line}\n")));
                ids.push(client.submit(&note).await.unwrap().id);
                noted.push(line);
            }
        }
        let place = usize::from(number - 1);
        nodes[place].signal("TERM");
        let other = nodes[1 - place].client();
        ids.push(other.submit(&echo()).await.unwrap().id);
        // Its jobs may end, those that wait are the other's.
        let restarted = node(number + 2 * round);
        let old = std::mem::replace(&mut nodes[place], restarted);
        let (status, _, log) = old.end();
        assert!(status.success(), "{log}");
    }
    let client = nodes[0].client();
    for id in ids {
        let job = wait(&client, id).await;
        assert_eq!(job.status, Status::Done, "{job:?}");
    }
    let told = fs::read_to_string(&notes).unwrap();
    let mut told: Vec<&str> = told.lines().collect();
    told.sort_unstable();
    noted.sort_unstable();
    assert_eq!(told, noted);
}

#[tokio::test]
async fn clients_are_told_of_the_others() {
    let (dir, database) = (tempdir().unwrap(), database());
    let (one, two) = (node(&dir, &database, 1), node(&dir, &database, 2));
    // It is seen at the second look at the latest.
    let both = format!("{};{}", one.url, two.url);
    let deadline = Instant::now() + LONG;
    loop {
        let told = properties(&one);
        if told.contains(&both) {
            assert!(told.contains("TRUE"), "{told}");
            break;
        }
        assert!(Instant::now() < deadline, "{told}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn nodes_that_name_owners_by_different_keys_do_not_start_together() {
    let (dir, database) = (tempdir().unwrap(), database());
    let upstream = Running::start(&dir, &["--store", "memory"]);
    let front = |number: u8, key: Option<&Path>| {
        let data = dir.path().join(format!("data-{number}"));
        if let Some(key) = key {
            fs::create_dir_all(&data).unwrap();
            fs::copy(key, data.join("owner.key")).unwrap();
        }
        let mut command = program();
        command
            .args(["--listen", &format!("127.0.0.{number}:0"), "--demo=false"])
            .args(["--store", &database, "--upstream", &upstream.url])
            .args(["--data-dir", data.to_str().unwrap()]);
        command
    };
    let _one = Running::spawn(front(1, None), &dir.path().join("log-one"));
    let refused = front(2, None).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("data-2/owner.key is not the key by which owners are named"),
        "{said}"
    );
    assert!(!dir.path().join("data-2/owner.key").exists());
    let key = dir.path().join("data-1/owner.key");
    let _three = Running::spawn(front(3, Some(&key)), &dir.path().join("log-three"));
}

fn properties(server: &Running) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
    let body = "{\"options\":{\"properties\":\"conf.ha_ring_head_nodes_full,conf.enable_ha\"}}";
    write!(
        stream,
        "POST /show/system/properties HTTP/1.0\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

#[test]
fn what_is_wrong_with_a_database_is_said_and_its_password_is_not() {
    let bare = bare_database();
    let with_password = bare.replacen("postgres@", "postgres:hunter2@", 1);
    let (code, _, log) = run(["--listen", "127.0.0.1:0", "--store", &with_password]);
    assert_eq!(code, 1);
    assert!(log.contains("run kjob-server migrate"), "{log}");
    assert!(
        log.contains("postgres:***@") && !log.contains("hunter2"),
        "{log}"
    );
    let (code, shown, log) = run(["check", "--store", &with_password]);
    assert_eq!(code, 0, "{log}");
    assert!(
        shown.contains("postgres:***@") && !shown.contains("hunter2"),
        "{shown}"
    );
    let (code, _, log) = run([
        "--store",
        "postgres://postgres@127.0.0.1:1/none?sslmode=disable",
    ]);
    assert_eq!(code, 1);
    assert!(
        log.contains("store postgres://postgres@127.0.0.1:1"),
        "{log}"
    );
    let (code, _, log) = run(["migrate"]);
    assert_eq!(code, 1);
    assert!(log.contains("is no database"), "{log}");
}
