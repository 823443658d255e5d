//! Handlers that break every rule, in the real program: only their own jobs are harmed. Others are
//! taken and done meanwhile, memory comes back, and the server drains.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kjob_client::{Cancel, Client, Job, Payload, Status, Submit, Submitted};
use kjob_trials::hostile::{BLOCK, DEAF, FAIL, HOARD, HOARD_LEN, HONEST, HUGE, PANIC, SPIN};
use kjob_trials::server::signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A bound for what never comes; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much more memory than before may be left: a part of what one greedy handler takes.
const MEMORY_LEFT_MAX: usize = HOARD_LEN / 4;

struct Server {
    child: Child,
    client: Client,
    log: PathBuf,
    _dir: TempDir,
}

impl Server {
    async fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostile-server"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KJOB_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
            .args([
                "--stop-grace",
                "100ms",
                "--drain-timeout",
                "0s",
                "--data-dir",
            ])
            .arg(dir.path().join("data"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().unwrap();
        let url = line.strip_prefix("kjob-server listening on ").unwrap();
        let client = Client::new(url).unwrap();
        Self {
            child,
            client,
            log,
            _dir: dir,
        }
    }

    async fn begin(&self, endpoint: &'static str) -> Submitted {
        let submit = Submit::new(endpoint, Payload::binary("in"));
        self.client.submit(&submit).await.unwrap()
    }

    async fn end(&self, job: &Submitted) -> Job {
        let job = self.client.wait(job.id, PATIENCE).await.unwrap();
        assert!(!job.running, "{job:?}");
        job
    }

    /// The message of a job that failed.
    async fn error(&self, job: &Submitted) -> String {
        let job = self.end(job).await;
        assert_eq!(job.status, Status::Error, "{job:?}");
        job.error_message.unwrap().to_string()
    }

    async fn is_cancelled(&self, job: &Submitted) {
        let told = self.client.cancel(job.id).await.unwrap();
        assert_eq!(told, Cancel::Cancelling, "{job:?}");
        assert_eq!(self.end(job).await.status, Status::Cancelled);
    }

    async fn honest_jobs_are_done(&self, what: &str) {
        for _ in 0..20 {
            let job = self.begin(HONEST).await;
            let ended = self.end(&job).await;
            assert_eq!(ended.result, Some(Payload::binary("in")), "beside {what}");
        }
    }

    /// Bytes of memory that the process has.
    fn memory(&self) -> usize {
        let status = format!("/proc/{}/status", self.child.id().unwrap());
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse::<usize>().unwrap() << 10
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let begin = Instant::now();
        while !is_so().await {
            assert!(begin.elapsed() < PATIENCE, "{what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Drains, whatever still runs.
    async fn drains(mut self) {
        signal(self.child.id().unwrap(), "TERM").await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let log = fs::read_to_string(&self.log).unwrap();
        assert_eq!(ended.expect("it ends").unwrap().code(), Some(0), "{log}");
    }
}

/// Lines of the log about a job that have this text as their message.
fn logged(log: &Path, job: &Submitted, message: &str) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let is_it =
        |line: &Value| line["message"] == message && line["job_id"] == job.id.to_string().as_str();
    lines.filter(is_it).collect()
}

#[tokio::test]
async fn handlers_that_hold_on_to_their_threads_hold_up_nobody_else() {
    let server = Server::start(&["--workers", "8"]).await;
    let mut held = Vec::new();
    for endpoint in [BLOCK, BLOCK, BLOCK, SPIN, DEAF] {
        held.push(server.begin(endpoint).await);
        server.honest_jobs_are_done(endpoint).await;
    }
    let mut late = Submit::new(SPIN, Payload::binary("in"));
    late = late.timeout(Duration::from_millis(50));
    let late = server.client.submit(&late).await.unwrap();
    let error = server.error(&late).await;
    assert!(error.starts_with("deadline: "), "{error}");
    server.honest_jobs_are_done("two that spin").await;
    // Two jobs are left in the way of the drain, one that blocks and one that spins.
    server.is_cancelled(&held[0]).await;
    server.is_cancelled(&held[4]).await;
    server.honest_jobs_are_done("what they left behind").await;
    server.drains().await;
}

#[tokio::test]
async fn greedy_handlers_give_back_what_they_took() {
    let server = Server::start(&["--workers", "4"]).await;
    server.honest_jobs_are_done("nothing").await;
    let before = server.memory();
    let hoard = server.begin(HOARD).await;
    let has_it = async || server.client.get(hoard.id).await.unwrap().progress == 50;
    server.until("it has its hoard", has_it).await;
    assert!(server.memory() > before + HOARD_LEN / 2, "it is memory");
    server.honest_jobs_are_done("a hoard").await;
    server.is_cancelled(&hoard).await;
    let huge = server.begin(HUGE).await;
    server.honest_jobs_are_done("a result of 1 GiB").await;
    let error = server.error(&huge).await;
    assert!(
        error.starts_with("result too large: 1073741824 bytes"),
        "{error}"
    );
    let is_back = async || server.memory() < before + MEMORY_LEFT_MAX;
    server.until("the memory is given back", is_back).await;
    server.drains().await;
}

#[tokio::test]
async fn what_a_handler_failed_of_is_logged_once_with_the_names_of_its_job() {
    let server = Server::start(&[]).await;
    let panicked = server.begin(PANIC).await;
    let failed = server.begin(FAIL).await;
    let error = server.error(&panicked).await;
    assert!(error.contains("panicked"), "{error}");
    assert_eq!(server.error(&failed).await, "a handler that fails");
    server.honest_jobs_are_done("both").await;
    let log = server.log.clone();
    let about = |job: &Submitted, message: &str| {
        let lines = logged(&log, job, message);
        assert_eq!(lines.len(), 1, "{message}: {lines:?}");
        let line = lines[0].clone();
        assert_eq!(line["query_id"], job.query_id.as_str(), "{line}");
        assert_eq!(line["job_tag"], job.tag.as_str(), "{line}");
        line
    };
    let line = about(&panicked, "the job's handler panicked");
    assert_eq!(line["level"], "ERROR");
    for job in [&panicked, &failed] {
        assert_eq!(about(job, "job ended")["status"], "ERROR");
    }
    // Where it panicked stands in a line of its own, as that is known before whose job it was.
    let text = fs::read_to_string(&log).unwrap();
    let places = text.matches("panicked: a handler that panics").count();
    assert_eq!(places, 1, "{text}");
    server.drains().await;
}
