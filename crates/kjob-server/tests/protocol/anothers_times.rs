//! How long what is asked of another's job takes, and of none.

use std::sync::Arc;
use std::time::Duration;

use kjob_proto::AdminAlterJobsRequest;
use kjob_server::{Access, Accounts};
use kjob_store::postgres::{PostgresOptions, PostgresStore};
use kjob_test_postgres::{Cluster, Settings};

use crate::accounts::{ANN, As, BOB, get, users};
use crate::raw::map;
use crate::server::TestServer;

/// Of all pairs of one of these and one of those, both in order, the share in which the first is the
/// longer; ties count half. One half is what cannot be told apart, one what always can.
fn share_that_is_longer(these: &[Duration], those: &[Duration]) -> f64 {
    let below = |time: &Duration| those.partition_point(|other| other < time);
    let up_to = |time: &Duration| those.partition_point(|other| other <= time);
    let pairs: usize = these.iter().map(|time| below(time) + up_to(time)).sum();
    pairs as f64 / (2 * these.len() * those.len()) as f64
}

#[test]
fn times_that_are_alike_are_longer_half_the_time() {
    let of = |millis: &[u64]| -> Vec<Duration> {
        millis.iter().map(|it| Duration::from_millis(*it)).collect()
    };
    let share = |these: &[u64], those: &[u64]| share_that_is_longer(&of(these), &of(those));
    assert_eq!(share(&[1, 2, 3], &[1, 2, 3]), 0.5);
    assert_eq!(share(&[4, 5], &[1, 2, 3]), 1.0);
    assert_eq!(share(&[1], &[1, 2, 3, 4]), 0.125);
}

fn access() -> Access {
    Access::default().accounts(Accounts::new(users()))
}

/// How long another's job takes and one that is not there, by each way to one. It prints and asserts nothing about
/// time, and is to be run by hand on an idle machine: `cargo test --release -p kjob-server --all-features
/// --test protocol -- --ignored --nocapture times_of_anothers`.
#[tokio::test]
#[ignore = "a measurement"]
async fn times_of_anothers_job_and_of_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::on_disk(dir.path(), access()).await;
    measure(&server, 20_000).await;
}

/// The same of a node over a database.
#[tokio::test]
#[ignore = "a measurement"]
async fn times_of_anothers_job_and_of_none_in_a_database() {
    let database = Cluster::start(&Settings::for_tests()).unwrap();
    let (url, options) = (database.url(), PostgresOptions::default());
    PostgresStore::migrate(&url, &options).await.unwrap();
    let store = PostgresStore::open(&url, options).await.unwrap();
    let server = TestServer::in_a_database(Arc::new(store), access()).await;
    measure(&server, 10_000).await;
}

#[allow(
    clippy::print_stderr,
    reason = "what was measured is for people to read"
)]
async fn measure(server: &TestServer, rounds: usize) {
    let mut ann = As::new(server, ANN).await;
    let mut bob = As::new(server, BOB).await;
    // Ids and tags are as long as those of none.
    let running = ann.submit("/gate", "tag-1").await;
    server.wait_begun().await;
    let request = kjob_proto::CreateJobRequest {
        endpoint: "/raw".into(),
        request_encoding: "binary".into(),
        data: vec![7; 8 << 20].into(),
        options: map(&[("job_tag", "tag-2")]),
        ..Default::default()
    };
    let done: kjob_proto::CreateJobResponse = ann.call("/create/job", &request).await.unwrap();
    let wait = [("wait_ms", "30000")];
    ann.reply("/get/job", &get(done.job_id, &wait)).await;
    let last = ann.submit("/raw", "tag-3").await;
    ann.reply("/get/job", &get(last, &wait)).await;

    let jobs = [
        ("running", running, "tag-1"),
        ("done, 8 MiB", done.job_id, "tag-2"),
        ("none", last + 1, "tag-9"),
    ];
    for (way, written) in ways(&bob, &jobs.map(|(_, id, tag)| (id, tag))) {
        let mut times: [Vec<Duration>; 3] = Default::default();
        for _ in 0..rounds {
            for (times, request) in times.iter_mut().zip(&written) {
                let began = std::time::Instant::now();
                bob.raw.send(request).await;
                bob.raw.reply().await;
                times.push(began.elapsed());
            }
        }
        times.iter_mut().for_each(|times| times.sort_unstable());
        let [.., none] = times.clone();
        for ((job, ..), times) in jobs.iter().zip(&times) {
            let longer = share_that_is_longer(times, &none);
            let at = |percent: usize| times[(times.len() - 1) * percent / 100];
            eprintln!(
                "{way:13} {job:12} p5 {:?} p25 {:?} p50 {:?} p75 {:?} p95 {:?}, longer than none {longer:.4}",
                at(5),
                at(25),
                at(50),
                at(75),
                at(95)
            );
        }
    }
}

/// Each way to ask for a job, with a request for each of these.
fn ways(by: &As, jobs: &[(i64, &str)]) -> Vec<(String, Vec<Vec<u8>>)> {
    let of = |written: &dyn Fn(i64, &str) -> Vec<u8>| -> Vec<Vec<u8>> {
        jobs.iter().map(|(id, tag)| written(*id, tag)).collect()
    };
    let cancel = |job_ids: Vec<i64>, options| AdminAlterJobsRequest {
        job_ids,
        action: "cancel".into(),
        options,
    };
    let alter = "/admin/alter/jobs";
    let by_tag = |tag: &str| map(&[("job_tag", tag)]);
    let mut all = vec![
        (
            "get by id".to_owned(),
            of(&|id, _| by.written("/get/job", &get(id, &[]))),
        ),
        (
            "get by tag".to_owned(),
            of(&|_, tag| by.written("/get/job", &get(0, &[("job_tag", tag)]))),
        ),
        (
            "cancel by id".to_owned(),
            of(&|id, _| by.written(alter, &cancel(vec![id], Default::default()))),
        ),
        (
            "cancel by tag".to_owned(),
            of(&|_, tag| by.written(alter, &cancel(vec![], by_tag(tag)))),
        ),
    ];
    for part in ["result", "payload", "log", "events"] {
        let path = |key: String| by.written_get(&format!("/jobs/{key}/{part}"));
        all.push((format!("{part} by id"), of(&|id, _| path(id.to_string()))));
        all.push((
            format!("{part} by tag"),
            of(&|_, tag| path(format!("tag:{tag}"))),
        ));
    }
    all
}
