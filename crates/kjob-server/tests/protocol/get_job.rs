//! `/get/job`: what each phase looks like, waiting, and what is kept afterwards.

use std::time::Duration;

use kjob_proto::{AdminAlterJobsRequest, AdminAlterJobsResponse};

use crate::raw::{in_time, map};
use crate::server::TestServer;

#[tokio::test]
async fn each_phase_reads_as_the_protocol_says() {
    let server = TestServer::with_engine(|config| config.workers = 1).await;
    let mut raw = server.connect().await;
    let running = raw.submit("/gate", b"x", &[]).await.unwrap();
    server.wait_begun().await;
    let queued = raw.submit("/fail", b"on purpose", &[]).await.unwrap();
    for (job, phase) in [(&running, "running"), (&queued, "queued")] {
        let seen = raw.get(job.job_id, &[]).await.unwrap();
        assert_eq!(
            (&*seen.job_status, seen.running, seen.successful),
            ("RUNNING", true, false)
        );
        assert_eq!((seen.progress, &*seen.response_encoding), (0, "binary"));
        assert_eq!(seen.info.get("phase").unwrap(), &phase);
        assert!(seen.status_map.is_empty() && seen.job_response.is_empty());
        assert!(seen.info.get("time_ended").is_none());
    }
    server.gate.add_permits(1);

    let done = raw.end_of(running.job_id).await;
    assert_eq!(
        (&*done.job_status, done.successful, done.progress),
        ("DONE", true, 100)
    );
    assert_eq!(
        (&*done.endpoint, &done.job_response[..]),
        ("/gate", b"x".as_slice())
    );
    assert_eq!(done.info.get("attempt").unwrap(), &"1");
    let time = |name| done.info.get(name).unwrap().parse::<i64>().unwrap();
    assert!(time("time_received") <= time("time_started"));
    assert!(time("time_started") <= time("time_ended"));
    assert_eq!(
        time("time_expires") - time("time_ended"),
        24 * 60 * 60 * 1000
    );

    let failed = raw.end_of(queued.job_id).await;
    assert_eq!(
        (&*failed.job_status, failed.running, failed.successful),
        ("ERROR", false, false)
    );
    assert_eq!(failed.status_map, map(&[("error_message", "on purpose")]));
    assert!(failed.job_response.is_empty() && failed.job_response_str.is_empty());

    let stopped = raw.submit("/gate", b"x", &[]).await.unwrap();
    server.wait_begun().await;
    let cancel = AdminAlterJobsRequest {
        job_ids: vec![stopped.job_id],
        action: "cancel".into(),
        ..Default::default()
    };
    let _: AdminAlterJobsResponse = raw.call("/admin/alter/jobs", &cancel).await.unwrap();
    let stopped = raw.end_of(stopped.job_id).await;
    assert_eq!(
        (&*stopped.job_status, stopped.running),
        ("CANCELLED", false)
    );
    assert!(stopped.status_map.is_empty() && stopped.job_response.is_empty());
}

#[tokio::test]
async fn the_tag_wins_over_the_id() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let other = raw.submit("/raw", b"other", &[]).await.unwrap();
    raw.submit("/raw", b"this", &[("job_tag", "this")])
        .await
        .unwrap();
    let options = [("job_tag", "this"), ("wait_ms", "30000")];
    let found = raw.get(other.job_id, &options).await.unwrap();
    assert_eq!(&found.job_response[..], b"this");
    let refusal = raw
        .get(other.job_id, &[("job_tag", "nobody-has-this")])
        .await;
    assert_eq!(
        refusal.unwrap_err(),
        "job with job_tag nobody-has-this not found"
    );
}

#[tokio::test]
async fn a_wait_ends_with_the_job() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let job = raw.submit("/gate", b"x", &[]).await.unwrap();
    server.wait_begun().await;
    let mut polls = Vec::new();
    for _ in 0..8 {
        let (mut raw, id) = (server.connect().await, job.job_id);
        polls.push(tokio::spawn(async move { raw.end_of(id).await }));
    }
    assert!(
        raw.get(job.job_id, &[("wait_ms", "0")])
            .await
            .unwrap()
            .running
    );
    assert!(
        raw.get(job.job_id, &[("wait_ms", "5")])
            .await
            .unwrap()
            .running
    );
    assert!(polls.iter().all(|poll| !poll.is_finished()));
    server.gate.add_permits(1);
    for poll in polls {
        let done = in_time("a poll", poll).await.unwrap();
        assert_eq!(done.job_status, "DONE");
    }
}

#[tokio::test]
async fn a_wait_is_capped_by_the_server() {
    let server =
        TestServer::with_options(|options| options.max_wait = Duration::from_millis(50)).await;
    let mut raw = server.connect().await;
    let job = raw.submit("/gate", b"x", &[]).await.unwrap();
    let wait = u64::MAX.to_string();
    let seen = raw.get(job.job_id, &[("wait_ms", &wait)]).await.unwrap();
    assert!(seen.running);
}

#[tokio::test]
async fn bad_options_are_refused_by_name() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let job = raw.submit("/raw", b"x", &[]).await.unwrap();
    for (name, value) in [
        ("wait_ms", "soon"),
        ("wait_ms", "-1"),
        ("wait_ms", "1e3"),
        ("wait-ms", "1"),
        ("responseencoding", "json"),
        ("response_encoding", "JSON"),
        ("job_tag", "a b"),
    ] {
        let refusal = raw.get(job.job_id, &[(name, value)]).await.unwrap_err();
        assert!(refusal.contains(name), "{refusal}");
    }
}

/// Dropped a while after its result was delivered whole, and not before.
#[tokio::test]
async fn a_job_that_is_to_be_removed_stays_until_its_result_went_out() {
    let server = TestServer::with_engine(|config| config.remove_grace = Duration::ZERO).await;
    let mut raw = server.connect().await;
    let options = [("remove_job_on_complete", "true")];
    let job = raw.submit("/gate", b"x", &options).await.unwrap();
    server.wait_begun().await;
    assert!(raw.get(job.job_id, &[]).await.unwrap().running);
    server.gate.add_permits(1);
    let done = raw.end_of(job.job_id).await;
    assert_eq!(&done.job_response[..], b"x");
    // Each look is a delivery, but the first has done it; only when the note of it is durable is not
    // for us to know.
    let gone = async { while raw.get(job.job_id, &[]).await.is_ok() {} };
    in_time("the removal", gone).await;

    let failed = raw.submit("/fail", b"x", &options).await.unwrap();
    raw.end_of(failed.job_id).await;
    for _ in 0..10 {
        assert_eq!(
            raw.get(failed.job_id, &[]).await.unwrap().job_status,
            "ERROR"
        );
    }
}
