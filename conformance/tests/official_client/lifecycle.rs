//! Crash and drain, as a client sees them.

use gpudb_api::KineticaError;
use kjob_conformance::{
    Connection, DemoResult, PayloadEncoding, Server, TestClient, echo, result, sleep, until,
    with_option,
};
use tempfile::TempDir;

const LONG_MILLIS: i64 = 60_000;

#[tokio::test]
async fn a_kill_keeps_finished_and_queued_jobs_and_interrupts_running_ones() {
    let data = TempDir::new().expect("a temporary directory");
    let start = || Server::start_on(data.path(), "127.0.0.1", &["--workers", "1"]);
    let kept = with_option(
        echo("kept", PayloadEncoding::Binary),
        "job_tag",
        "before-the-kill",
    );

    let first = start();
    let client = TestClient::connect(&[first.url()], Connection::DEFAULT).await;
    let finished = client.submit(kept.clone()).await.job_id;
    client.wait_end(finished).await;
    let running = client.submit(sleep(LONG_MILLIS)).await.job_id;
    client.wait_started(running).await;
    let queued = client
        .submit(echo("its turn came", PayloadEncoding::Binary))
        .await
        .job_id;
    first.kill();

    let second = start();
    let client = TestClient::connect(&[second.url()], Connection::DEFAULT).await;
    let found = client.get_by_tag("before-the-kill").await;
    assert_eq!(found.job_status, "DONE");
    assert_eq!(result(&found), DemoResult::Echo("kept".to_owned()));
    // It is still the same job to one who submits it again.
    let again = client.submit(kept).await;
    assert_eq!(
        (again.job_id, again.info["existing"].as_str()),
        (finished, "true")
    );
    // Handlers start at most once, so nobody can know what the running one did.
    let interrupted = client.wait_end(running).await;
    assert_eq!(interrupted.job_status, "ERROR");
    assert!(
        interrupted.status_map["error_message"].contains("interrupted"),
        "{:?}",
        interrupted.status_map
    );
    assert_eq!(
        result(&client.wait_end(queued).await),
        DemoResult::Echo("its turn came".to_owned())
    );
    // Ids are never used again.
    let new = client
        .submit(echo("new", PayloadEncoding::Binary))
        .await
        .job_id;
    assert!(new > queued, "{new} after {queued}");
    second.stop();
}

#[tokio::test]
async fn a_draining_server_sends_new_jobs_elsewhere() {
    let server = Server::start();
    // Direct: with discovery the client would not stay on a draining cluster to look at it.
    let client = TestClient::connect(&[server.url()], Connection::DIRECT).await;
    let running = drain_with_a_running_job(&server, &client).await;

    let refused = client.create(echo("late", PayloadEncoding::Binary)).await;

    // With one cluster known there is nowhere to go; that the client looked is what counts.
    let error = refused.expect_err("a draining server takes no jobs");
    assert!(matches!(error, KineticaError::Connection(_)), "{error:?}");
    assert!(error.message().contains("Draining"), "{error:?}");
    // What is there can still be asked for.
    assert!(client.get(running).await.running);
    // With its last job over, the server ends, and it does so with success.
    client.cancel(&[running]).await;
    server.wait_stopped();
}

#[tokio::test]
async fn a_connected_client_with_two_clusters_moves_on() {
    // A second cluster must differ by host name, as clients ignore ports (docs/protocol.md
    // section 8); all of 127.0.0.0/8 is loopback on Linux.
    let leaving = Server::start();
    let staying = Server::start_with("127.0.0.2", &[]);
    let client = TestClient::connect(&[leaving.url(), staying.url()], Connection::DEFAULT).await;
    let observer = TestClient::connect(&[leaving.url()], Connection::DIRECT).await;
    let running = drain_with_a_running_job(&leaving, &observer).await;

    let job = with_option(echo("moved", PayloadEncoding::Binary), "job_tag", "moved");
    let moved = client.submit(job).await.job_id;

    assert_eq!(client.db.num_cluster_switches(), 1);
    assert_eq!(
        result(&client.wait_end(moved).await),
        DemoResult::Echo("moved".to_owned())
    );
    let there = TestClient::connect(&[staying.url()], Connection::DEFAULT).await;
    assert_eq!(
        result(&there.get_by_tag("moved").await),
        DemoResult::Echo("moved".to_owned())
    );
    observer.cancel(&[running]).await;
    leaving.wait_stopped();
    staying.stop();
}

/// Leaves the server draining, kept alive by one job, whose id it returns.
async fn drain_with_a_running_job(server: &Server, client: &TestClient) -> i64 {
    let running = client.submit(sleep(LONG_MILLIS)).await.job_id;
    client.wait_started(running).await;
    server.terminate();
    until("ha_status says draining", async || {
        client.is_draining().await.then_some(())
    })
    .await;
    running
}
