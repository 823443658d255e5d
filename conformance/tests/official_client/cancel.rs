//! Cancelling through `/admin/alter/jobs`: what it does to a job, and the word for each id.

use gpudb_api::GetJobResponse;
use kjob_conformance::{
    Connection, DemoResult, PayloadEncoding, Server, TestClient, echo, fail, new_tag, result,
    sleep, with_option,
};

use PayloadEncoding::Binary;

const LONG_MILLIS: i64 = 60_000;
const UNKNOWN_ID: i64 = (1 << 53) - 1;

#[tokio::test]
async fn a_queued_job_is_cancelled_at_once_and_a_running_one_is_told_to_stop() {
    let (server, client) = one_worker().await;
    let running = client.submit(sleep(LONG_MILLIS)).await.job_id;
    client.wait_started(running).await;
    let queued = client.submit(echo("waits", Binary)).await.job_id;
    let before = client.get(queued).await;
    assert_eq!(
        (before.job_status.as_str(), before.running, before.progress),
        ("RUNNING", true, 0)
    );

    assert_eq!(
        client.cancel(&[queued]).await,
        words(&[(queued, "cancelled")])
    );
    // At once: not after the worker has come to it.
    assert_cancelled(&client.get(queued).await);
    assert!(client.get(running).await.running);

    assert_eq!(
        client.cancel(&[running]).await,
        words(&[(running, "cancelling")])
    );
    let stopped = client.wait_end(running).await;
    assert_cancelled(&stopped);
    // It ended where it was, and its worker is free again.
    assert!((1..100).contains(&stopped.progress), "{}", stopped.progress);
    let after = client.submit(echo("free", Binary)).await.job_id;
    assert_eq!(
        result(&client.wait_end(after).await),
        DemoResult::Echo("free".to_owned())
    );
    server.stop();
}

#[tokio::test]
async fn jobs_are_cancelled_by_tag() {
    let (server, client) = one_worker().await;
    let (running_tag, queued_tag) = (new_tag(), new_tag());
    let running = client
        .submit(with_option(sleep(LONG_MILLIS), "job_tag", &running_tag))
        .await
        .job_id;
    client.wait_started(running).await;
    let queued = client
        .submit(with_option(echo("waits", Binary), "job_tag", &queued_tag))
        .await
        .job_id;

    for (tag, job_id, word) in [
        (&queued_tag, queued, "cancelled"),
        (&running_tag, running, "cancelling"),
    ] {
        let reply = client
            .alter(&[], "cancel", &[("job_tag", tag)])
            .await
            .expect("the cancel is accepted");
        assert_eq!(
            (reply.job_ids, reply.status),
            (vec![job_id], vec![word.to_owned()])
        );
    }

    assert_cancelled(&client.wait_end(running).await);
    assert_cancelled(&client.wait_end(queued).await);
    server.stop();
}

#[tokio::test]
async fn each_id_gets_its_word_in_order() {
    let (server, client) = one_worker().await;
    let done = client.submit(echo("done", Binary)).await.job_id;
    let failed = client.submit(fail("on purpose")).await.job_id;
    client.wait_end(done).await;
    client.wait_end(failed).await;
    let running = client.submit(sleep(LONG_MILLIS)).await.job_id;
    client.wait_started(running).await;
    let queued = client.submit(echo("waits", Binary)).await.job_id;

    assert_eq!(
        client
            .cancel(&[queued, done, UNKNOWN_ID, running, failed])
            .await,
        words(&[
            (queued, "cancelled"),
            (done, "already DONE"),
            (UNKNOWN_ID, "not found"),
            (running, "cancelling"),
            (failed, "already ERROR"),
        ])
    );
    client.wait_end(running).await;
    assert_eq!(
        client.cancel(&[running, queued]).await,
        words(&[
            (running, "already CANCELLED"),
            (queued, "already CANCELLED")
        ])
    );
    // What was over before stays as it was.
    assert_eq!(client.get(done).await.job_status, "DONE");
    assert_eq!(client.get(failed).await.job_status, "ERROR");
    server.stop();
}

/// A single worker, so that a second job waits for as long as a first one runs.
async fn one_worker() -> (Server, TestClient) {
    let server = Server::start_with("127.0.0.1", &["--workers", "1"]);
    let client = TestClient::connect(&[server.url()], Connection::DEFAULT).await;
    (server, client)
}

fn assert_cancelled(reply: &GetJobResponse) {
    assert_eq!(
        (reply.job_status.as_str(), reply.running, reply.successful),
        ("CANCELLED", false, false)
    );
    assert!(reply.status_map.is_empty());
    assert!(reply.job_response.is_empty() && reply.job_response_str.is_empty());
}

fn words(pairs: &[(i64, &str)]) -> Vec<(i64, String)> {
    pairs
        .iter()
        .map(|&(job_id, word)| (job_id, word.to_owned()))
        .collect()
}
