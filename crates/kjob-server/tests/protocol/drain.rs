//! A drain and a stop, as clients see them.

use std::time::Duration;

use kjob_proto::{Encoding, GetJobResponse, Signal};

use crate::raw::{Reply, in_time, post_head};
use crate::server::TestServer;

fn signal(reply: &Reply, encoding: Encoding) -> String {
    assert_eq!(reply.status, 400);
    reply.open::<GetJobResponse>(encoding).unwrap_err()
}

#[tokio::test]
async fn a_draining_server_sends_new_jobs_elsewhere_and_serves_what_it_has() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let job = raw
        .submit("/gate", b"x", &[("job_tag", "kept")])
        .await
        .unwrap();
    server.wait_begun().await;
    server.system.drain();
    server.engine.drain();
    let refusal = raw.submit("/raw", b"x", &[]).await.unwrap_err();
    assert_eq!(refusal, Signal::Draining.message());
    for encoding in Encoding::ALL {
        let request = kjob_proto::CreateJobRequest {
            endpoint: "/raw".into(),
            request_encoding: "binary".into(),
            ..Default::default()
        };
        let body = crate::raw::encode(encoding, &request);
        raw.post("/create/job", encoding.content_type(), &body)
            .await;
        let reply = raw.reply().await;
        assert_eq!(signal(&reply, encoding), Signal::Draining.message());
    }
    assert!(raw.get(job.job_id, &[]).await.unwrap().running);
    server.gate.add_permits(1);
    assert_eq!(raw.end_of(job.job_id).await.job_status, "DONE");
}

/// A queued job does not end while the server drains: whoever waits for it is told how it stands.
#[tokio::test]
async fn long_polls_are_answered_when_the_engine_closes() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let job = raw
        .submit("/raw", b"x", &[("delay_ms", "3600000")])
        .await
        .unwrap();
    let poll = {
        let mut raw = server.connect().await;
        let id = job.job_id;
        tokio::spawn(async move { raw.get(id, &[("wait_ms", "300000")]).await })
    };
    assert!(
        raw.get(job.job_id, &[("wait_ms", "10")])
            .await
            .unwrap()
            .running
    );
    in_time("the close", server.engine.shut_down(Duration::ZERO))
        .await
        .unwrap();
    let seen = in_time("the poll", poll).await.unwrap().unwrap();
    assert_eq!(seen.info.get("phase").unwrap(), &"queued");
}

#[tokio::test]
async fn a_closed_engine_sends_everybody_elsewhere() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let job = raw.submit("/raw", b"x", &[]).await.unwrap();
    raw.end_of(job.job_id).await;
    server.engine.shut_down(Duration::ZERO).await.unwrap();
    let shutting_down = Signal::ShuttingDown.message();
    assert_eq!(raw.get(job.job_id, &[]).await.unwrap_err(), shutting_down);
    raw.post("/admin/show/jobs", "application/json", b"{}")
        .await;
    let reply = raw.reply().await;
    assert_eq!(signal(&reply, Encoding::Json), shutting_down);
    // It is on its way out already, and says so.
    assert_eq!(
        raw.submit("/raw", b"x", &[]).await.unwrap_err(),
        Signal::Draining.message()
    );
}

#[tokio::test]
async fn a_stop_closes_resting_connections_at_once() {
    let server = TestServer::start().await;
    let mut silent = server.connect().await;
    let mut rested = server.connect().await;
    rested.assert_usable().await;
    let mut begun = server.connect().await;
    begun.send("POST /get/job HT").await;
    begun.assert_open().await;
    let stopped = tokio::time::Instant::now();
    server.handle.stop();
    in_time("the end", server.serving).await.unwrap();
    // Far below the time that requests in progress would have.
    assert!(stopped.elapsed() < Duration::from_secs(3));
    for raw in [&mut silent, &mut rested, &mut begun] {
        raw.assert_closed().await;
    }
    let refused = tokio::net::TcpStream::connect(server.addr).await;
    assert!(refused.is_err());
}

/// A request whose body is still coming when the server stops is answered, and its connection closed.
#[tokio::test]
async fn a_request_in_progress_is_answered_before_the_end() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send(post_head(
        "/get/job",
        "application/json",
        "Expect: 100-continue\r\nContent-Length: 2",
    ))
    .await;
    assert_eq!(raw.bare_reply(false).await.status, 100);
    server.handle.stop();
    tokio::task::yield_now().await;
    raw.send("{}").await;
    let reply = raw.reply().await;
    assert_eq!(
        signal(&reply, Encoding::Json),
        Signal::ShuttingDown.message()
    );
    raw.assert_closed().await;
    in_time("the end", server.serving).await.unwrap();
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let server = TestServer::with_options(|options| {
        options.stop_timeout = Duration::from_millis(100);
    })
    .await;
    let mut raw = server.connect().await;
    let job = raw.submit("/gate", b"x", &[]).await.unwrap();
    let poll = format!(
        r#"{{"job_id":{},"options":{{"wait_ms":"300000"}}}}"#,
        job.job_id
    );
    raw.post("/get/job", "application/json", poll.as_bytes())
        .await;
    server.settled().await;
    server.handle.stop();
    in_time("the end", server.serving).await.unwrap();
    raw.assert_closed().await;
}
