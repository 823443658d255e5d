//! `/admin/alter/jobs`: a word for each job, in order.

use kjob_proto::{AdminAlterJobsRequest, AdminAlterJobsResponse};

use crate::raw::{Raw, map};
use crate::server::TestServer;

async fn cancel(
    raw: &mut Raw,
    job_ids: &[i64],
    tag: Option<&str>,
) -> Result<Vec<(i64, String)>, String> {
    let tag: Vec<_> = tag.map(|tag| ("job_tag", tag)).into_iter().collect();
    let request = AdminAlterJobsRequest {
        job_ids: job_ids.to_vec(),
        action: "cancel".into(),
        options: map(&tag),
    };
    let reply: AdminAlterJobsResponse = raw.call("/admin/alter/jobs", &request).await?;
    assert_eq!(reply.action, "cancel");
    assert_eq!(reply.job_ids.len(), reply.status.len());
    let words = reply.status.iter().map(|word| word.to_string());
    Ok(reply.job_ids.into_iter().zip(words).collect())
}

fn words<const N: usize>(expected: [(i64, &str); N]) -> Result<Vec<(i64, String)>, String> {
    Ok(expected.map(|(id, word)| (id, word.to_owned())).to_vec())
}

#[tokio::test]
async fn each_id_gets_its_word_in_order() {
    let server = TestServer::with_engine(|config| config.workers = 1).await;
    let mut raw = server.connect().await;
    let done = raw.submit("/raw", b"x", &[]).await.unwrap().job_id;
    raw.end_of(done).await;
    let failed = raw.submit("/fail", b"x", &[]).await.unwrap().job_id;
    raw.end_of(failed).await;
    let running = raw
        .submit("/gate", b"x", &[("job_tag", "runs")])
        .await
        .unwrap()
        .job_id;
    server.wait_begun().await;
    let queued = raw
        .submit("/gate", b"x", &[("job_tag", "waits")])
        .await
        .unwrap()
        .job_id;

    let ids = [queued, done, 0, -1, i64::MAX, 4_000, running, failed];
    let expected = words([
        (queued, "cancelled"),
        (done, "already DONE"),
        (0, "not found"),
        (-1, "not found"),
        (i64::MAX, "not found"),
        (4_000, "not found"),
        (running, "cancelling"),
        (failed, "already ERROR"),
    ]);
    assert_eq!(cancel(&mut raw, &ids, None).await, expected);
    raw.end_of(running).await;
    let expected = words([
        (running, "already CANCELLED"),
        (queued, "already CANCELLED"),
    ]);
    assert_eq!(cancel(&mut raw, &[running, queued], None).await, expected);
}

#[tokio::test]
async fn a_tag_names_a_job_beside_the_ids() {
    let server = TestServer::with_engine(|config| config.workers = 1).await;
    let mut raw = server.connect().await;
    let running = raw
        .submit("/gate", b"x", &[("job_tag", "runs")])
        .await
        .unwrap()
        .job_id;
    server.wait_begun().await;
    let queued = raw
        .submit("/gate", b"x", &[("job_tag", "waits")])
        .await
        .unwrap()
        .job_id;
    let other = raw.submit("/gate", b"x", &[]).await.unwrap().job_id;

    // Nothing is cancelled where the tag names nothing.
    let refusal = cancel(&mut raw, &[queued], Some("nobody-has-this")).await;
    assert_eq!(
        refusal.unwrap_err(),
        "job with job_tag nobody-has-this not found"
    );
    assert!(raw.get(queued, &[]).await.unwrap().running);

    let expected = words([(other, "cancelled"), (queued, "cancelled")]);
    assert_eq!(cancel(&mut raw, &[other], Some("waits")).await, expected);
    let expected = words([(running, "cancelling")]);
    assert_eq!(cancel(&mut raw, &[], Some("runs")).await, expected);
    raw.end_of(running).await;
    let expected = words([(running, "already CANCELLED")]);
    assert_eq!(cancel(&mut raw, &[running], Some("runs")).await, expected);
}

#[tokio::test]
async fn many_are_cancelled_at_once_and_answered_in_order() {
    let server = TestServer::with_engine(|config| config.workers = 1).await;
    let mut raw = server.connect().await;
    raw.submit("/gate", b"x", &[]).await.unwrap();
    server.wait_begun().await;
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(raw.submit("/gate", b"x", &[]).await.unwrap().job_id);
        ids.push(-1);
    }
    ids.reverse();
    let replied = cancel(&mut raw, &ids, None).await.unwrap();
    for ((id, word), asked) in replied.iter().zip(&ids) {
        let expected = if *asked == -1 {
            "not found"
        } else {
            "cancelled"
        };
        assert_eq!((id, word.as_str()), (asked, expected));
    }
    assert_eq!(server.engine.stats().queued, 0);
}

#[tokio::test]
async fn other_actions_and_no_job_at_all_are_refused() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for action in ["pause", "Cancel", ""] {
        let request = AdminAlterJobsRequest {
            job_ids: vec![1],
            action: action.into(),
            ..Default::default()
        };
        let outcome: Result<AdminAlterJobsResponse, _> =
            raw.call("/admin/alter/jobs", &request).await;
        let expected = format!("action cannot be {action:?}; allowed: cancel");
        assert_eq!(outcome.unwrap_err(), expected);
    }
    let refusal = cancel(&mut raw, &[], None).await.unwrap_err();
    assert!(
        refusal.contains("job_ids") && refusal.contains("job_tag"),
        "{refusal}"
    );
}
