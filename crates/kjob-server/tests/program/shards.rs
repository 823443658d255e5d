//! Servers on several databases.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kjob_client::{Client, Payload, Status, Submit};
use kjob_test_postgres::{Cluster, Settings, Stop};
use tempfile::{TempDir, tempdir};

use crate::accounts::call;
use crate::cluster::bare_database;
use crate::support::{Running, program, run};

/// A submit whose tag the server makes.
const UNTAGGED: &str = r#"{"endpoint":"/demo/echo","request_encoding":"json","data":"","data_str":"{\"message\":\"hello\"}","options":{}}"#;

const LONG: Duration = Duration::from_secs(60);

fn node(dir: &TempDir, databases: &str, number: u8) -> Running {
    let mut command = program();
    command
        .args(["--listen", &format!("127.0.0.{number}:0")])
        .args(["--store", databases, "--lease-time", "3s"]);
    Running::spawn(command, &dir.path().join(format!("log-{number}")))
}

fn echo(tag: String) -> Submit {
    let submit = Submit::new("/demo/echo", Payload::json("{\"message\":\"hello\"}"));
    submit.with_tag(tag)
}

/// Jobs with tags of their own: their ids.
async fn submit(client: &Client, name: &str, count: usize) -> Vec<(i64, String)> {
    let mut jobs = Vec::new();
    for number in 0..count {
        let tag = format!("{name}-{number}");
        let submitted = client.submit(&echo(tag.clone())).await.unwrap();
        jobs.push((submitted.id, tag));
    }
    jobs
}

/// The shards of ids, which have them in their lowest six bits.
fn shards(jobs: &[(i64, String)]) -> BTreeSet<i64> {
    jobs.iter().map(|(id, _)| id % 64).collect()
}

fn metric(server: &Running, name: &str) -> String {
    let (_, metrics) = server.get("/metrics");
    let line = metrics
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_default().to_owned()
}

/// Waits until a node has no lease on so many shards.
async fn without_lease(server: &Running, count: usize) {
    let wanted = format!("kjob_shards_without_lease {count}");
    let begin = Instant::now();
    while metric(server, "kjob_shards_without_lease") != wanted {
        assert!(begin.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn jobs_are_spread_over_databases_and_any_node_answers_for_them() {
    let dir = tempdir().unwrap();
    let (first, second, third) = (bare_database(), bare_database(), bare_database());
    let two = format!("{first},{second}");
    let (code, said, log) = run(["migrate", "--store", &two]);
    assert_eq!(code, 0, "{log}");
    assert!(said.ends_with("they are a set of 2 shards now\n"), "{said}");
    let (code, _, log) = run(["--store", &second]);
    assert_ne!(code, 0);
    assert!(
        log.contains("the database is shard 1 of a set of 2"),
        "{log}"
    );
    let (code, said, log) = run(["migrate", "--store", &second]);
    assert_eq!(code, 0, "{log}");
    assert!(said.contains("it is shard 1 of a set of 2"), "{said}");
    let turned = format!("{second},{first}");
    let (code, _, log) = run(["--store", &turned]);
    assert_ne!(code, 0);
    assert!(log.contains("is shard 1 of its set"), "{log}");

    let (a, b) = (node(&dir, &two, 1), node(&dir, &two, 2));
    let (code, _, log) = run(["migrate", "--store", &format!("{two},{third}")]);
    assert_ne!(code, 0);
    assert!(log.contains("nodes at work"), "{log}");
    let jobs = submit(&a.client(), "early", 20).await;
    assert_eq!(shards(&jobs), [0, 1].into());
    for (id, tag) in &jobs {
        let job = b.client().wait(*id, LONG).await.unwrap();
        assert_eq!(job.status, Status::Done);
        let again = b.client().submit(&echo(tag.clone())).await.unwrap();
        assert_eq!((again.id, again.existing), (*id, true));
    }
    assert_eq!(metric(&a, "kjob_shards"), "kjob_shards 2");
    for server in [a, b] {
        server.signal("TERM");
        let (status, _, log) = server.end();
        assert!(status.success(), "{log}");
    }

    let three = format!("{two},{third}");
    let (code, said, log) = run(["migrate", "--store", &three]);
    assert_eq!(code, 0, "{log}");
    assert!(
        said.ends_with("their set has grown from 2 to 3 shards\n"),
        "{said}"
    );
    let a = node(&dir, &three, 1);
    for (id, tag) in &jobs {
        let again = a.client().submit(&echo(tag.clone())).await.unwrap();
        assert_eq!((again.id, again.existing), (*id, true));
    }
    let late = submit(&a.client(), "late", 30).await;
    assert_eq!(shards(&late), [0, 1, 2].into());
}

/// Submits jobs whose callers give no tag, which go where they can: to this shard.
async fn run_untagged(server: &Running, shard: i64) {
    for _ in 0..10 {
        let (code, reply) = call(server, "", "/create/job", UNTAGGED);
        assert_eq!(code, 200, "{reply}");
        let begin = reply.find("job_id\\\":").unwrap() + "job_id\\\":".len();
        let digits: String = reply[begin..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let id: i64 = digits.parse().unwrap();
        assert_eq!(id % 64, shard);
        let job = server.client().wait(id, LONG).await.unwrap();
        assert_eq!(job.status, Status::Done);
    }
}

#[tokio::test]
async fn a_node_that_is_started_while_a_database_is_down_takes_it_in_when_it_is_back() {
    let dir = tempdir().unwrap();
    let stays = bare_database();
    let mut goes = Cluster::start(&Settings::for_tests()).unwrap();
    // The first of the set is the one that is down.
    let both = format!("{},{stays}", goes.url());
    let (code, _, log) = run(["migrate", "--store", &both]);
    assert_eq!(code, 0, "{log}");
    goes.stop(Stop::Immediate).unwrap();

    let server = node(&dir, &both, 1);
    let client = server.client();
    let (code, ready) = server.get("/readyz");
    assert_eq!(code, 200, "{ready}");
    let gauge = |name: &str| metric(&server, name);
    assert_eq!(gauge("kjob_shards"), "kjob_shards 2");
    let gone = "kjob_shards_without_lease";
    assert_eq!(gauge(gone), format!("{gone} 1"));
    let impatient = Client::builder(server.url.as_str()).tries(1).build();
    let impatient = impatient.unwrap();
    let (mut jobs, mut refused) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let tag = format!("early-{number}");
        match impatient.submit(&echo(tag.clone())).await {
            Ok(submitted) => jobs.push((submitted.id, tag)),
            Err(_) => refused.push(tag),
        }
    }
    assert_eq!(shards(&jobs), [1].into());
    assert!(!refused.is_empty());
    run_untagged(&server, 1).await;

    goes.resume().unwrap();
    without_lease(&server, 0).await;
    for tag in refused {
        let submitted = client.submit(&echo(tag.clone())).await.unwrap();
        assert_eq!(submitted.id % 64, 0);
        jobs.push((submitted.id, tag));
    }
    for (id, _) in &jobs {
        assert_eq!(client.wait(*id, LONG).await.unwrap().status, Status::Done);
    }
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert!(status.success(), "{log}");
    let told = log.matches("the shard cannot be joined yet").count();
    assert_eq!(told, 1, "{log}");
    assert!(!log.contains("the lease is lost"), "{log}");
}

#[test]
fn a_database_that_comes_late_is_asked_for_the_key_of_owners() {
    let dir = tempdir().unwrap();
    let stays = bare_database();
    let mut goes = Cluster::start(&Settings::for_tests()).unwrap();
    let both = format!("{stays},{}", goes.url());
    let (code, _, log) = run(["migrate", "--store", &both]);
    assert_eq!(code, 0, "{log}");
    let upstream = Running::start(&dir, &["--store", "memory"]);
    let front = |number: u8| {
        let mut command = program();
        command
            .args(["--listen", &format!("127.0.0.{number}:0"), "--demo=false"])
            .args(["--store", &both, "--upstream", &upstream.url, "--data-dir"])
            .arg(dir.path().join(format!("data-{number}")));
        command
    };
    let first = Running::spawn(front(1), &dir.path().join("log-1"));
    first.signal("TERM");
    let (status, _, log) = first.end();
    assert!(status.success(), "{log}");

    goes.stop(Stop::Immediate).unwrap();
    let refused = front(2).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("data-2/owner.key is not the key"), "{said}");
    let again = Running::spawn(front(1), &dir.path().join("log-again"));
    again.signal("TERM");
    let (status, _, log) = again.end();
    assert!(status.success(), "{log}");
    // Where no other database knows it, nobody but the one that is away can tell.
    let forgotten = kjob_test_postgres::tool("psql", None)
        .args(["--quiet", "--dbname", &stays, "--command"])
        .arg("DELETE FROM kjob_agreed WHERE name = 'owner.key'")
        .status();
    assert!(forgotten.unwrap().success());
    let other = Running::spawn(front(2), &dir.path().join("log-2"));
    goes.resume().unwrap();
    other.wait_logged("a database that was away at the start knows another key", 1);
}

#[tokio::test]
async fn a_database_that_is_away_takes_its_own_jobs_along_and_no_others() {
    let dir = tempdir().unwrap();
    let stays = bare_database();
    let mut goes = Cluster::start(&Settings::for_tests()).unwrap();
    let both = format!("{stays},{}", goes.url());
    let (code, _, log) = run(["migrate", "--store", &both]);
    assert_eq!(code, 0, "{log}");
    let server = node(&dir, &both, 1);
    let client = server.client();
    let jobs = submit(&client, "early", 20).await;
    for (id, _) in &jobs {
        assert_eq!(client.wait(*id, LONG).await.unwrap().status, Status::Done);
    }
    goes.stop(Stop::Immediate).unwrap();
    without_lease(&server, 1).await;
    let (code, ready) = server.get("/readyz");
    assert_eq!(code, 200, "{ready}");
    for (id, tag) in &jobs {
        let is_there = id % 64 == 0;
        let impatient = Client::builder(server.url.as_str())
            .tries(1)
            .build()
            .unwrap();
        let got = impatient.get(*id).await;
        assert_eq!(got.is_ok(), is_there, "{id}: {got:?}");
        let again = impatient.submit(&echo(tag.clone())).await;
        assert_eq!(again.is_ok(), is_there, "{tag}: {again:?}");
    }
    run_untagged(&server, 0).await;
    goes.resume().unwrap();
    for (id, _) in &jobs {
        assert_eq!(client.wait(*id, LONG).await.unwrap().status, Status::Done);
    }
    without_lease(&server, 0).await;
    let late = submit(&client, "late", 20).await;
    assert_eq!(shards(&late), [0, 1].into());
    for (id, _) in &late {
        assert_eq!(client.wait(*id, LONG).await.unwrap().status, Status::Done);
    }
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert!(status.success(), "{log}");
}
