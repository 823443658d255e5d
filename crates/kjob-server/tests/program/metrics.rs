//! `/metrics` of the real program: what is there, who may look, and that jobs are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::time::Duration;

use kjob_client::{Payload, Submit};
use serde_json::Value;
use tempfile::tempdir;

use crate::accounts::{self, PASSWORD, basic};
use crate::support::Running;

const SOON: Duration = Duration::from_secs(60);

/// A page of metrics.
struct Page(String);

impl Page {
    fn of(server: &Running) -> Self {
        let (status, body) = server.get("/metrics");
        assert_eq!(status, 200, "{body}");
        Self(body)
    }

    /// Each metric, and its type.
    fn types(&self) -> BTreeMap<&str, &str> {
        let lines = self.0.lines();
        let types = lines.filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types.collect()
    }

    /// The value of a series, as it is written.
    fn value(&self, series: &str) -> Option<f64> {
        let mut lines = self.0.lines();
        lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }
}

/// The metrics that docs/metrics.md has, which a test of the library holds against the code.
fn documented() -> BTreeMap<&'static str, &'static str> {
    let docs = include_str!("../../../../docs/metrics.md");
    let rows = docs.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter_map(|row| {
        let (name, rest) = row.split_once("` | ")?;
        let kind = rest.split(' ').next()?;
        matches!(kind, "counter" | "gauge" | "histogram").then_some((name, kind))
    });
    let is_here = |name: &str| cfg!(target_os = "linux") || !name.starts_with("process_");
    rows.filter(|(name, _)| is_here(name)).collect()
}

#[test]
fn every_metric_is_there_from_the_start_and_no_other() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--demo"]);
    let page = Page::of(&server);
    assert_eq!(page.types(), documented());
    assert_eq!(page.value("kjob_jobs_queued"), Some(0.0));
    assert_eq!(page.value("kjob_workers"), Some(64.0));
    assert_eq!(page.value("kjob_store_segments"), Some(1.0));
    assert_eq!(page.value("kjob_connections_open"), Some(1.0));
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("kjob_build_info{{version=\"{version}\"}}");
    assert_eq!(page.value(&build), Some(1.0));
    #[cfg(target_os = "linux")]
    {
        let above_zero = |name| page.value(name).unwrap() > 0.0;
        assert!(above_zero("process_resident_memory_bytes"));
        assert!(above_zero("process_open_fds") && above_zero("process_max_fds"));
        let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = since_epoch - page.value("process_start_time_seconds").unwrap();
        assert!((-2.0..600.0).contains(&age), "{age}");
    }
}

/// Names of ours in a text of queries.
fn names_in(text: &str) -> BTreeSet<&str> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_of_name(letter));
    let is_ours = |word: &&str| word.starts_with("kjob_") || word.starts_with("process_");
    words.filter(is_ours).collect()
}

fn assert_known(names: &BTreeSet<&str>, known: &BTreeMap<&str, &str>) {
    for name in names {
        let parts = ["_bucket", "_sum", "_count"];
        let of_histogram = parts.iter().find_map(|part| name.strip_suffix(part));
        let is_part = of_histogram.is_some_and(|whole| known.get(whole) == Some(&"histogram"));
        let is_whole = known.get(name).is_some_and(|kind| *kind != "histogram");
        assert!(is_part || is_whole, "no server has {name}");
    }
}

/// All `expr` of a dashboard, wherever they are.
fn queries<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("expr").and_then(Value::as_str));
            members.values().for_each(|member| queries(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[test]
fn dashboards_and_alerts_ask_for_metrics_that_there_are() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--store", "memory"]);
    let page = Page::of(&server);
    let mut known = page.types();
    if !cfg!(target_os = "linux") {
        known = documented();
    }
    let dashboard = include_str!("../../../../contrib/grafana/kjob.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let mut asked = Vec::new();
    queries(&dashboard, &mut asked);
    for query in &asked {
        let names = names_in(query);
        assert!(!names.is_empty(), "{query}");
        assert_known(&names, &known);
    }
    assert!(asked.len() > 30, "{}", asked.len());
    let alerts = include_str!("../../../../contrib/prometheus/alerts.yaml");
    let alerts: String = alerts
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    let names = names_in(&alerts);
    assert!(names.len() > 10);
    assert_known(&names, &known);
}

#[tokio::test]
async fn a_jobs_life_is_counted() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--demo", "--workers", "1"]);
    let client = server.client();
    let echo = Submit::new("/demo/echo", Payload::json(r#"{"message":"m"}"#));
    let job = client.submit(&echo).await.unwrap();
    client.wait(&job, SOON).await.unwrap();
    client.submit(&echo).await.unwrap();
    let fail = Submit::new("/demo/fail", Payload::json(r#"{"message":"m"}"#));
    let job = client.submit(&fail).await.unwrap();
    client.wait(&job, SOON).await.unwrap();
    let bad = Submit::new("/demo/echo", Payload::json("no JSON"));
    assert!(client.submit(&bad).await.is_err());
    let nowhere = Submit::new("/no/where", Payload::json("{}"));
    assert!(client.submit(&nowhere).await.is_err());
    let sleep = || Submit::new("/demo/sleep", Payload::json(r#"{"millis":600000}"#));
    let running = client.submit(&sleep()).await.unwrap();
    let waiting = client.submit(&sleep()).await.unwrap();
    let page = Page::of(&server);
    assert_eq!(page.value("kjob_jobs_running"), Some(1.0));
    assert_eq!(page.value("kjob_jobs_queued"), Some(1.0));
    for job in [waiting, running] {
        client.cancel(&job).await.unwrap();
        client.wait(&job, SOON).await.unwrap();
    }
    let page = Page::of(&server);
    for (series, count) in [
        (
            r#"kjob_submits_total{outcome="accepted",route="/demo/echo"}"#,
            1.0,
        ),
        (
            r#"kjob_submits_total{outcome="existing",route="/demo/echo"}"#,
            1.0,
        ),
        (
            r#"kjob_submits_total{outcome="refused",route="/demo/echo"}"#,
            1.0,
        ),
        (r#"kjob_submits_total{outcome="refused",route="none"}"#, 1.0),
        (r#"kjob_submit_refusals_total{reason="bad_payload"}"#, 1.0),
        (
            r#"kjob_submit_refusals_total{reason="unknown_endpoint"}"#,
            1.0,
        ),
        (
            r#"kjob_jobs_ended_total{route="/demo/echo",status="DONE"}"#,
            1.0,
        ),
        (
            r#"kjob_jobs_ended_total{route="/demo/fail",status="ERROR"}"#,
            1.0,
        ),
        (
            r#"kjob_jobs_ended_total{route="/demo/sleep",status="CANCELLED"}"#,
            2.0,
        ),
        (r#"kjob_cancels_total{outcome="cancelled"}"#, 1.0),
        (r#"kjob_cancels_total{outcome="cancelling"}"#, 1.0),
        (r#"kjob_job_run_seconds_count{route="/demo/sleep"}"#, 1.0),
        (r#"kjob_job_wait_seconds_count{route="/demo/sleep"}"#, 1.0),
        (
            r#"kjob_http_rejections_total{reason="invalid-payload"}"#,
            1.0,
        ),
        (
            r#"kjob_http_rejections_total{reason="unknown-endpoint"}"#,
            1.0,
        ),
        (
            r#"kjob_http_requests_total{code="200",endpoint="/create/job"}"#,
            5.0,
        ),
        (
            r#"kjob_http_requests_total{code="400",endpoint="/create/job"}"#,
            2.0,
        ),
        (
            r#"kjob_http_requests_total{code="200",endpoint="/metrics"}"#,
            1.0,
        ),
        ("kjob_jobs_queued", 0.0),
        ("kjob_store_jobs", 4.0),
    ] {
        assert_eq!(page.value(series), Some(count), "{series}");
    }
    assert!(page.value("kjob_store_commit_seconds_count").unwrap() >= 4.0);
    assert!(page.value("kjob_store_commit_steps_sum").unwrap() >= 8.0);
    assert!(
        !page.0.contains("/no/where"),
        "what clients send is no label"
    );
}

/// The status of a GET with these credentials.
fn get(server: &Running, credentials: &str) -> u16 {
    let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.0\r\nAuthorization: {credentials}\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn with_accounts_only_admins_look() {
    let dir = tempdir().unwrap();
    let (server, _) = accounts::start(&dir, &[]);
    assert_eq!(server.get("/metrics").0, 401);
    assert_eq!(get(&server, &basic("ann", PASSWORD)), 403);
    assert_eq!(get(&server, &basic("root", "wrong")), 401);
    assert_eq!(get(&server, &basic("root", PASSWORD)), 200);
    let open_dir = tempdir().unwrap();
    let (open, _) = accounts::start(&open_dir, &["--metrics-public"]);
    let page = Page::of(&open);
    assert_eq!(page.value("kjob_login_failures_total"), Some(0.0));
    get(&open, &basic("root", PASSWORD));
    let (status, _) = accounts::call(&open, &basic("root", "wrong"), "/get/job", "{}");
    assert_eq!(status, 401);
    let page = Page::of(&open);
    assert_eq!(page.value("kjob_login_failures_total"), Some(1.0));
    let rejected = r#"kjob_http_rejections_total{reason="unauthorized"}"#;
    assert_eq!(page.value(rejected), Some(1.0));
    let (status, _) = accounts::call(&open, "", "/metrics", "{}");
    assert_eq!(status, 405);
}

#[test]
fn where_nothing_is_embedded_there_is_no_segment() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--store", "memory"]);
    assert_eq!(Page::of(&server).value("kjob_store_segments"), Some(0.0));
}
