//! The job list, `/admin/show/jobs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gpudb_api::AdminShowJobsResponse;
use kjob_conformance::{PayloadEncoding, TestClient, echo, fail, sleep, with_option};

on_each_connection!(finished_jobs_are_listed_only_if_asked_for);

async fn finished_jobs_are_listed_only_if_asked_for(client: &TestClient) {
    assert!(client.list(&[]).await.expect("a list").job_id.is_empty());
    let tagged = with_option(
        echo("done", PayloadEncoding::Binary),
        "job_tag",
        "the-done-one",
    );
    let done = client.submit(tagged).await.job_id;
    let failed = client.submit(fail("on purpose")).await.job_id;
    client.wait_end(done).await;
    client.wait_end(failed).await;
    let running = client
        .submit(with_option(sleep(60_000), "job_tag", "the-long-one"))
        .await
        .job_id;

    let live = client.list(&[]).await.expect("a list");
    let hidden = client
        .list(&[("show_async_jobs", "false")])
        .await
        .expect("a list");
    let everything = client
        .list(&[("show_async_jobs", "true")])
        .await
        .expect("a list");

    assert_eq!(live.job_id, [running]);
    assert_eq!(hidden.job_id, [running]);
    assert_eq!(tags(&live)[&running], "the-long-one");
    let statuses: BTreeMap<i64, &str> = everything
        .job_id
        .iter()
        .copied()
        .zip(everything.status.iter().map(String::as_str))
        .collect();
    assert_eq!(
        statuses,
        BTreeMap::from([(done, "DONE"), (failed, "ERROR"), (running, "RUNNING")])
    );
    let row = everything
        .job_id
        .iter()
        .position(|&job_id| job_id == done)
        .expect("the finished job is listed");
    assert_eq!(everything.endpoint_name[row], "/demo/echo");
    assert_eq!(everything.source_ip[row], "127.0.0.1");
    assert_eq!(tags(&everything)[&done], "the-done-one");

    client.cancel(&[running]).await;
    assert_eq!(client.wait_end(running).await.job_status, "CANCELLED");
    assert!(client.list(&[]).await.expect("a list").job_id.is_empty());
}

/// Checks that the columns are parallel and returns each job's tag.
fn tags(list: &AdminShowJobsResponse) -> HashMap<i64, String> {
    let lengths = BTreeSet::from([
        list.job_id.len(),
        list.status.len(),
        list.endpoint_name.len(),
        list.time_received.len(),
        list.auth_id.len(),
        list.source_ip.len(),
        list.query_text.len(),
        list.user_data.len(),
        list.flags.len(),
    ]);
    assert_eq!(lengths.len(), 1, "{lengths:?}");
    let tags: HashMap<i64, String> =
        serde_json::from_str(&list.info["job_tag"]).expect("an object from id to tag");
    assert_eq!(tags.len(), list.job_id.len());
    tags
}
