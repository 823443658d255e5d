//! What the client does when a connection, a server or what stands between them goes wrong.

use std::time::Duration;

use crate::support::{Between, Fate, Real};
use kjob_client::{Client, Encoding, List, Payload, Status, Submit};
use kjob_core::engine::EngineConfig;
use kjob_proto::{GetJobResponse, Signal, Text, reply_error, reply_failover, reply_ok};

const SOON: Duration = Duration::from_secs(20);

fn echo() -> Submit {
    Submit::new("/demo/echo", Payload::json(r#"{"message":"hello"}"#))
}

fn answer(status: &str, headers: &str, body: &str) -> Fate {
    let length = body.len();
    Fate::Answer(format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    ))
}

fn text(body: kjob_proto::Segments) -> String {
    String::from_utf8(body.into_bytes().to_vec()).unwrap()
}

fn json_client(between: &Between) -> Client {
    Client::builder(between.url())
        .encoding(Encoding::Json)
        .build()
        .unwrap()
}

/// The protocol's oldest trap: a client that lost the answer to a submit tries again, and the job
/// runs twice (docs/protocol.md section 1, rule 10).
#[tokio::test]
async fn a_submit_whose_answer_was_lost_is_one_job() {
    let real = Real::start().await;
    let between = Between::start(&real.address, [Fate::LoseReply, Fate::LoseReply]).await;
    let client = Client::new(between.url()).unwrap();
    let submitted = client.submit(&echo()).await.unwrap();
    assert!(submitted.existing, "the first try had made it");
    assert_eq!(between.count(), 3);
    let list = client.list(&List::default().with_ended()).await.unwrap();
    assert_eq!(
        list.jobs.iter().map(|job| job.id).collect::<Vec<_>>(),
        [submitted.id]
    );
}

#[tokio::test]
async fn tries_are_bounded() {
    let real = Real::start().await;
    let between = Between::start(&real.address, vec![Fate::LoseReply; 9]).await;
    let client = Client::builder(between.url()).tries(2).build().unwrap();
    let error = client.submit(&echo()).await.unwrap_err();
    assert!(error.is_broken() && !error.is_refused(), "{error}");
    assert_eq!(between.count(), 2);
}

#[tokio::test]
async fn a_late_answer_is_asked_for_again() {
    let real = Real::start().await;
    let between = Between::start(&real.address, [Fate::Swallow]).await;
    let client = Client::builder(between.url())
        .timeout(Duration::from_millis(300))
        .build();
    client.unwrap().submit(&echo()).await.unwrap();
    assert_eq!(between.count(), 2);

    let between = Between::start(&real.address, [Fate::Swallow]).await;
    let client = Client::builder(between.url())
        .timeout(Duration::from_millis(50))
        .tries(1);
    let error = client.build().unwrap().submit(&echo()).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

/// A listener whose queue is full: the system answers to no further connection.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_does_not_let_one_connect_is_not_waited_for_as_long_as_for_an_answer() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    let patience = Duration::from_millis(500);
    while let Ok(stream) =
        tokio::time::timeout(patience, tokio::net::TcpStream::connect(address)).await
    {
        queued.push(stream.unwrap());
    }
    let builder = Client::builder(format!("http://{address}")).timeout(SOON);
    let builder = builder.connect_timeout(Duration::from_millis(50));
    let error = builder.tries(1).build().unwrap().submit(&echo()).await;
    assert!(error.unwrap_err().is_connect());
}

#[tokio::test]
async fn nobody_there_is_told_as_such() {
    // A port that was free a moment ago, and that nobody listens on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::builder(&url).tries(2).build().unwrap();
    let error = client.submit(&echo()).await.unwrap_err();
    assert!(error.is_connect(), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn a_busy_server_is_waited_for() {
    let real = Real::start().await;
    let busy = text(reply_error("busy", Encoding::Json));
    let fates = [
        answer("429 Too Many Requests", "Retry-After: 0\r\n", &busy),
        answer("503 Service Unavailable", "", "<html>"),
    ];
    let between = Between::start(&real.address, fates).await;
    let submitted = json_client(&between).submit(&echo()).await.unwrap();
    assert!(!submitted.existing);
    assert_eq!(between.count(), 3);
}

#[tokio::test]
async fn a_server_that_stays_busy_is_told_as_such() {
    let mut config = EngineConfig::default();
    config.max_stored_bytes = 1;
    let real = Real::with(config).await;
    let between = Between::start(&real.address, []).await;
    let client = Client::builder(between.url()).tries(2).build().unwrap();
    let error = client.submit(&echo()).await.unwrap_err();
    assert!(error.is_busy(), "{error}");
    assert!(error.message().unwrap().contains("stored bytes"), "{error}");
    assert_eq!(between.count(), 2);
}

#[tokio::test]
async fn a_draining_server_is_left_alone() {
    let real = Real::start().await;
    real.engine.drain();
    let between = Between::start(&real.address, []).await;
    let client = Client::new(between.url()).unwrap();
    let error = client.submit(&echo()).await.unwrap_err();
    assert!(error.is_leaving(), "{error}");
    assert_eq!(error.message(), Some(Signal::Draining.message()));
    assert_eq!(between.count(), 1, "trying again would not help");

    let stopping = text(reply_failover(Signal::ShuttingDown, Encoding::Json));
    let fates = [answer("400 Bad Request", "", &stopping)];
    let between = Between::start(&real.address, fates).await;
    assert!(
        json_client(&between)
            .submit(&echo())
            .await
            .unwrap_err()
            .is_leaving()
    );
}

#[tokio::test]
async fn what_is_no_reply_is_odd() {
    let real = Real::start().await;
    let between = Between::start(&real.address, [answer("200 OK", "", "<html>")]).await;
    let error = json_client(&between).submit(&echo()).await.unwrap_err();
    assert!(error.is_odd(), "{error}");
}

#[tokio::test]
async fn a_reply_that_is_too_long_is_not_taken() {
    let real = Real::start().await;
    let fates = vec![answer("200 OK", "", &"x".repeat(100)); 2];
    let between = Between::start(&real.address, fates).await;
    for (limit, message) in [
        (
            100,
            "the reply (200) is not of the protocol; another program, or a proxy, may have answered",
        ),
        (99, "the reply is longer than 99 bytes"),
    ] {
        let client = Client::builder(between.url())
            .max_reply(limit)
            .build()
            .unwrap();
        let error = client.submit(&echo()).await.unwrap_err();
        assert!(error.is_odd());
        assert_eq!(error.to_string(), message);
    }
}

/// A Kinetica server knows nothing of `wait_ms`.
#[tokio::test]
async fn a_server_that_does_not_wait_is_polled() {
    let real = Real::start().await;
    let running = GetJobResponse {
        job_status: Text::from("RUNNING"),
        running: true,
        ..GetJobResponse::default()
    };
    let done = GetJobResponse {
        job_status: Text::from("DONE"),
        response_encoding: Text::from("json"),
        job_response_str: Text::from("{}"),
        ..GetJobResponse::default()
    };
    let fates = [&running, &running, &running, &done]
        .map(|job| answer("200 OK", "", &text(reply_ok(job, Encoding::Json))));
    let between = Between::start(&real.address, fates).await;
    let job = json_client(&between).wait(7, SOON).await.unwrap();
    assert_eq!(
        (job.status, job.result),
        (Status::Done, Some(Payload::json("{}")))
    );
    assert_eq!(between.count(), 4);
    let asked = between.seen.lock().unwrap()[0].clone();
    assert!(String::from_utf8(asked).unwrap().contains(r#""wait_ms":"#));
}

#[tokio::test]
async fn a_wait_outlives_a_broken_connection() {
    let real = Real::start().await;
    let between = Between::start(&real.address, [Fate::Forward, Fate::LoseReply]).await;
    let client = Client::new(between.url()).unwrap();
    let submitted = client.submit(&echo()).await.unwrap();
    let job = client.wait(&submitted, SOON).await.unwrap();
    assert_eq!(job.status, Status::Done);
    assert_eq!(between.count(), 3);
}
