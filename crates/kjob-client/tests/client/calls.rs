//! Every call of the client against a real server.

use std::time::Duration;

use crate::support::Real;
use kjob_client::{Cancel, Client, Encoding, List, Payload, Status, Submit};
use kjob_core::engine::EngineConfig;

const SOON: Duration = Duration::from_secs(20);
const HELLO: &str = r#"{"message":"hello","options":{}}"#;
/// The same as Avro: a text of five bytes and an empty map.
const HELLO_AVRO: &[u8] = b"\x0ahello\x00";

fn clients(real: &Real) -> impl Iterator<Item = Client> {
    let url = real.url();
    Encoding::ALL
        .into_iter()
        .map(move |encoding| Client::builder(&url).encoding(encoding).build().unwrap())
}

fn sleep(millis: u64) -> Payload {
    Payload::json(format!(r#"{{"millis":{millis}}}"#))
}

#[tokio::test]
async fn a_result_comes_in_the_encoding_of_its_payload_whatever_the_request_is_in() {
    let real = Real::start().await;
    for client in clients(&real) {
        for (payload, result) in [
            (
                Payload::json(HELLO),
                Payload::json(r#"{"message":"hello","info":{}}"#),
            ),
            (Payload::binary(HELLO_AVRO), Payload::binary(HELLO_AVRO)),
            (Payload::snappy(HELLO_AVRO), Payload::binary(HELLO_AVRO)),
        ] {
            let submitted = client
                .submit(&Submit::new("/demo/echo", payload))
                .await
                .unwrap();
            assert!(!submitted.existing && submitted.query_id.len() == 32);
            let job = client.wait(&submitted, SOON).await.unwrap();
            assert_eq!(
                (&job.status, job.running, job.progress),
                (&Status::Done, false, 100)
            );
            assert_eq!(job.result, Some(result));
            assert_eq!(client.get(submitted.id).await.unwrap(), job);
            assert_eq!(client.get(&*submitted.tag).await.unwrap(), job);
        }
    }
}

#[tokio::test]
async fn a_big_payload_goes_out_and_comes_back() {
    let real = Real::start().await;
    let text = "0123456789abcdef".repeat(1 << 16);
    for client in clients(&real) {
        let payload = Payload::json(format!(r#"{{"message":"{text}"}}"#));
        let submitted = client
            .submit(&Submit::new("/demo/echo", payload))
            .await
            .unwrap();
        let job = client.wait(&submitted, SOON).await.unwrap();
        let expected = format!(r#"{{"message":"{text}","info":{{}}}}"#);
        assert!(job.result.unwrap().as_text() == Some(&expected));
    }
}

#[tokio::test]
async fn the_same_submit_twice_is_one_job() {
    let real = Real::start().await;
    for client in clients(&real) {
        let submit = Submit::new("/demo/echo", Payload::json(HELLO));
        let first = client.submit(&submit).await.unwrap();
        let second = client.submit(&submit).await.unwrap();
        assert_eq!((second.id, second.existing), (first.id, true));

        let other = Submit::new("/demo/echo", sleep(1)).with_tag(submit.tag().to_owned());
        let error = client.submit(&other).await.unwrap_err();
        assert!(error.is_refused(), "{error}");
    }
}

#[tokio::test]
async fn a_failed_job_tells_why() {
    let real = Real::start().await;
    for client in clients(&real) {
        let payload = Payload::json(r#"{"message":"out of paper"}"#);
        let submitted = client
            .submit(&Submit::new("/demo/fail", payload))
            .await
            .unwrap();
        let job = client.wait(&submitted, SOON).await.unwrap();
        assert_eq!((job.status, job.result), (Status::Error, None));
        assert_eq!(job.error_message.unwrap(), "out of paper");
    }
}

#[tokio::test]
async fn refusals_are_told_and_not_tried_again() {
    let real = Real::start().await;
    let between = crate::support::Between::start(&real.address, []).await;
    let client = Client::new(between.url()).unwrap();
    for (submit, word) in [
        (Submit::new("/no/such", Payload::json(HELLO)), "/no/such"),
        (Submit::new("/demo/echo", Payload::json("{}")), "message"),
        (
            Submit::new("/demo/echo", Payload::json(HELLO)).with_tag("a b"),
            "job_tag",
        ),
        (
            Submit::new("/demo/echo", Payload::json(HELLO)).priority(10),
            "priority",
        ),
    ] {
        let before = between.count();
        let error = client.submit(&submit).await.unwrap_err();
        assert!(error.is_refused(), "{error}");
        assert!(error.message().unwrap().contains(word), "{error}");
        assert_eq!(between.count(), before + 1);
    }
    for key in ["no-such-tag".into(), kjob_client::JobKey::Id(99)] {
        assert!(client.get(&key).await.unwrap_err().is_refused());
        assert!(client.wait(&key, SOON).await.unwrap_err().is_refused());
    }
}

#[tokio::test]
async fn jobs_are_cancelled_by_id_and_by_tag() {
    let mut config = EngineConfig::default();
    config.workers = 1;
    let real = Real::with(config).await;
    for client in clients(&real) {
        let running = client
            .submit(&Submit::new("/demo/sleep", sleep(3_600_000)))
            .await
            .unwrap();
        let waiting = client
            .submit(&Submit::new("/demo/sleep", sleep(3_600_000)))
            .await
            .unwrap();

        // The only worker is taken, so the second job waits.
        assert_eq!(client.cancel(&waiting).await.unwrap(), Cancel::Cancelled);
        let told = client
            .cancel_all(&[running.id, 99_999, waiting.id])
            .await
            .unwrap();
        assert_eq!(
            told,
            [
                (running.id, Cancel::Cancelling),
                (99_999, Cancel::NotFound),
                (waiting.id, Cancel::Already(Status::Cancelled)),
            ]
        );
        let job = client.wait(running.id, SOON).await.unwrap();
        assert_eq!((job.status, job.running), (Status::Cancelled, false));
        assert!(client.cancel("no-such-tag").await.unwrap_err().is_refused());
        assert_eq!(client.cancel_all(&[]).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_wait_that_is_over_gives_the_job_as_it_stands() {
    let real = Real::start().await;
    for client in clients(&real) {
        let submitted = client
            .submit(&Submit::new("/demo/sleep", sleep(3_600_000)))
            .await
            .unwrap();
        let job = client
            .wait(&submitted, Duration::from_millis(30))
            .await
            .unwrap();
        assert_eq!(
            (job.status, job.running, job.result),
            (Status::Running, true, None)
        );
        client.cancel(&submitted).await.unwrap();
    }
}

#[tokio::test]
async fn lists_are_filtered_and_come_in_pieces() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let mut submitted = Vec::new();
    for n in 0..5 {
        let submit = Submit::new("/demo/echo", Payload::json(HELLO)).user_data(format!("n{n}"));
        let job = client.submit(&submit).await.unwrap();
        client.wait(&job, SOON).await.unwrap();
        submitted.push(job);
    }
    let running = client
        .submit(&Submit::new("/demo/sleep", sleep(3_600_000)))
        .await
        .unwrap();

    let live = client.list(&List::default()).await.unwrap();
    assert_eq!(live.next, None);
    let [job] = &live.jobs[..] else {
        panic!("{live:?}")
    };
    assert_eq!(
        (job.id, job.tag.as_deref()),
        (running.id, Some(running.tag.as_str()))
    );
    assert_eq!(
        (&job.status, &*job.endpoint),
        (&Status::Running, "/demo/sleep")
    );
    assert_eq!((&*job.user, &*job.source_ip), ("anonymous", "127.0.0.1"));
    assert!(job.received_at_millis > 1_700_000_000_000);

    let all = client.list(&List::default().with_ended()).await.unwrap();
    assert_eq!(all.jobs.len(), 6);

    let done = List::default().status(&Status::Done).limit(2);
    let mut found = Vec::new();
    let mut piece = client.list(&done).await.unwrap();
    loop {
        assert!(piece.jobs.len() <= 2);
        found.extend(
            piece
                .jobs
                .iter()
                .map(|job| (job.id, job.user_data.to_string())),
        );
        let Some(next) = piece.next else { break };
        piece = client.list(&done.clone().after(next)).await.unwrap();
    }
    let expected: Vec<_> = submitted
        .iter()
        .enumerate()
        .map(|(n, job)| (job.id, format!("n{n}")))
        .collect();
    assert_eq!(found, expected);

    let named = client
        .list(&List::default().tag(submitted[3].tag.clone()))
        .await
        .unwrap();
    assert_eq!(
        named.jobs.iter().map(|job| job.id).collect::<Vec<_>>(),
        [submitted[3].id]
    );
    let none = client
        .list(&List::default().with_ended().endpoint("/demo/fail"))
        .await
        .unwrap();
    assert_eq!(none.jobs, []);
    client.cancel(&running).await.unwrap();
}
