//! A server whose only database goes away and comes back.

use std::time::{Duration, Instant};

use kjob_client::Status;
use kjob_test_postgres::{Cluster, Settings, Stop};
use tempfile::tempdir;

use crate::cluster::{begun, echo, failure, node, sleep};
use crate::support::{Running, run};

const LONG: Duration = Duration::from_secs(60);

/// Waits until `/readyz` answers so.
async fn until_ready_says(server: &Running, wanted: u16) {
    let deadline = Instant::now() + LONG;
    loop {
        let (code, said) = server.get("/readyz");
        if code == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{code}: {said}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_server_without_its_database_is_not_ready_until_that_is_back() {
    let dir = tempdir().unwrap();
    let mut database = Cluster::start(&Settings::for_tests()).unwrap();
    let url = database.url();
    let (code, _, log) = run(["migrate", "--store", &url]);
    assert_eq!(code, 0, "{log}");
    let server = node(&dir, &url, 1);
    let client = server.client();
    let runs = begun(&server, &sleep(600_000)).await;
    assert_eq!(server.get("/readyz").0, 200);

    database.stop(Stop::Immediate).unwrap();
    until_ready_says(&server, 503).await;
    let (_, said) = server.get("/readyz");
    assert!(said.contains("lease"), "{said}");
    assert_eq!(server.get("/healthz").0, 200);
    server.wait_logged("the lease cannot be renewed", 1);

    database.resume().unwrap();
    until_ready_says(&server, 200).await;
    let job = client.wait(runs, LONG).await.unwrap();
    assert_eq!(job.status, Status::Error);
    assert!(failure(&job).starts_with("interrupted"), "{job:?}");
    let next = client.submit(&echo()).await.unwrap().id;
    assert_eq!(client.wait(next, LONG).await.unwrap().status, Status::Done);
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert!(status.success(), "{log}");
}
