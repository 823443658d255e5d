//! Jobs from their submit to their result: watched, typed, and cancelled when nobody waits any more.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use crate::support::{Between, Real};
use futures_core::Stream;
use kjob_client::{
    Cancel, Client, Encoding, Error, Health, Job, Payload, Status, Submit, Unsuccessful,
};
use serde::{Deserialize, Serialize};

const SOON: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
struct Sleep {
    millis: u64,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Slept {
    slept_millis: u64,
}

fn sleep(millis: u64) -> Submit {
    Submit::from_value("/demo/sleep", &Sleep { millis }).unwrap()
}

#[tokio::test]
async fn values_go_in_and_come_out() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let submit = sleep(1);
    let slept: Slept = client.call(&submit, SOON).await.unwrap();
    assert_eq!(slept, Slept { slept_millis: 1 });
    let job = client.get(submit.tag()).await.unwrap();
    assert_eq!(job.clone().into_value::<Slept>().unwrap(), slept);

    // Another type than the server's is no value of it.
    let result = job.into_result().unwrap();
    assert!(result.to_value::<Vec<u8>>().unwrap_err().is_odd());
    let binary = Payload::binary(vec![2]);
    assert!(binary.to_value::<Slept>().unwrap_err().is_odd());
    let by_number = std::collections::HashMap::from([((1, 2), 3)]);
    assert!(Payload::from_value(&by_number).unwrap_err().is_usage());
    let submit = Submit::from_value("/demo/sleep", &by_number);
    assert!(submit.unwrap_err().is_usage());
}

#[tokio::test]
async fn bytes_go_in_and_come_out() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let avro = &b"\x0ahello\x00"[..];
    let submit = Submit::from_bytes("/demo/echo", avro);
    assert_eq!(client.call_for_bytes(&submit, SOON).await.unwrap(), avro);
    // JSON too is bytes; but bytes are no JSON.
    let text = client.call_for_bytes(&sleep(1), SOON).await.unwrap();
    assert!(text.starts_with(b"{\"slept_millis\":1"), "{text:?}");
    let error = client.call::<Slept>(&submit, SOON).await.unwrap_err();
    assert!(error.is_odd(), "{error}");
}

#[tokio::test]
async fn jobs_without_a_result_say_why() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let fail = Submit::new("/demo/fail", Payload::json(r#"{"message":"out of paper"}"#));
    let job = client.run(&fail, SOON).await.unwrap();
    let why = job.into_result().unwrap_err();
    assert_eq!(why, Unsuccessful::Failed("out of paper".into()));
    let error = client.call::<Slept>(&fail, SOON).await.unwrap_err();
    assert_eq!(error.unsuccessful(), Some(&why));
    assert_eq!(error.to_string(), "the job failed: out of paper");

    let submit = sleep(3_600_000);
    let job = client.run(&submit, Duration::ZERO).await.unwrap();
    assert_eq!(job.into_result(), Err(Unsuccessful::Running(0)));
    client.cancel(submit.tag()).await.unwrap();
    let job = client.wait(submit.tag(), SOON).await.unwrap();
    assert_eq!(job.into_result(), Err(Unsuccessful::Cancelled));
}

#[tokio::test]
async fn a_result_comes_in_the_encoding_that_is_asked_for() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let submit = Submit::new("/demo/echo", Payload::binary(&b"\x0ahello\x00"[..]));
    client.run(&submit, SOON).await.unwrap();
    for (encoding, expected) in [
        (
            Encoding::Json,
            Payload::json(r#"{"message":"hello","info":{}}"#),
        ),
        (Encoding::Binary, Payload::binary(&b"\x0ahello\x00"[..])),
    ] {
        let job = client.get_in(submit.tag(), encoding).await.unwrap();
        assert_eq!(job.into_result(), Ok(expected));
    }
}

#[tokio::test]
async fn a_watch_tells_each_change_and_ends_with_the_end() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let submit = sleep(1_000);
    client.submit(&submit).await.unwrap();
    let mut watch = client.watch(submit.tag()).every(Duration::from_millis(10));
    let mut seen = Vec::new();
    while let Some(job) = watch.next().await {
        let job = job.unwrap();
        assert_eq!((job.id(), job.tag()), (Some(1), Some(submit.tag())));
        seen.push((job.progress, job.phase().map(str::to_owned), job.status));
    }
    let (last, before) = seen.split_last().unwrap();
    assert_eq!(last, &(100, Some("done".to_owned()), Status::Done));
    assert!(before.len() > 1, "there was progress to tell: {seen:?}");
    assert!(before.iter().all(|(.., status)| *status == Status::Running));
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
    assert!(
        seen.is_sorted_by_key(|(progress, ..)| *progress),
        "{seen:?}"
    );
    assert!(watch.next().await.is_none());
}

/// Readers of streams poll, with whatever they have.
#[tokio::test]
async fn a_watch_is_a_stream() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let submit = sleep(300);
    client.submit(&submit).await.unwrap();
    let watch = client.watch(submit.tag()).every(Duration::from_millis(10));
    let mut stream: Pin<Box<dyn Stream<Item = Result<Job, Error>> + Send>> = Box::pin(watch);
    let mut seen = Vec::new();
    while let Some(job) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
        seen.push(job.unwrap().status);
    }
    let (last, before) = seen.split_last().unwrap();
    assert_eq!(last, &Status::Done);
    assert!(before.iter().all(|status| *status == Status::Running));
    let after = poll_fn(|context| stream.as_mut().poll_next(context)).await;
    assert!(after.is_none());
}

#[tokio::test]
async fn a_watch_that_is_dropped_while_it_waits_goes_on() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let submit = sleep(300);
    client.submit(&submit).await.unwrap();
    let mut watch = client.watch(submit.tag()).every(Duration::from_secs(60));
    let mut last = None;
    loop {
        let patience = Duration::from_millis(200);
        match tokio::time::timeout(patience, watch.next()).await {
            Ok(Some(job)) => last = Some(job.unwrap().status),
            Ok(None) => break,
            Err(_) => {}
        }
    }
    assert_eq!(last, Some(Status::Done));
}

#[tokio::test]
async fn a_watch_of_no_job_ends_with_the_refusal() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let mut watch = client.watch("no-such-tag");
    let error = watch.next().await.unwrap().unwrap_err();
    assert!(error.is_no_such_job(), "{error}");
    assert_eq!(error.server(), Some(real.url().as_str()));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_guard_cancels_its_job_when_it_is_dropped() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let submitted = client.submit(&sleep(3_600_000)).await.unwrap();
    let mut guard = client.cancel_on_drop(&submitted);
    let waiting = tokio::spawn(async move { guard.wait(SOON * 60).await });
    tokio::task::yield_now().await;
    waiting.abort();
    let job = client.wait(&submitted, SOON).await.unwrap();
    assert_eq!(job.status, Status::Cancelled);
}

#[tokio::test]
async fn a_guard_that_is_told_to_keeps_its_job() {
    let real = Real::start().await;
    let client = Client::new(real.url()).unwrap();
    let submitted = client.submit(&sleep(3_600_000)).await.unwrap();
    client.cancel_on_drop(&submitted).keep();
    // What the guard might have sent would come before this.
    let job = client.get(&submitted).await.unwrap();
    assert!(job.running && job.phase() != Some("cancelling"), "{job:?}");
    assert!(matches!(
        client.cancel(&submitted).await.unwrap(),
        Cancel::Cancelling | Cancel::Cancelled
    ));
}

#[tokio::test]
async fn a_guard_of_an_ended_job_asks_for_nothing() {
    let real = Real::start().await;
    let between = Between::start(&real.address, []).await;
    let client = Client::new(between.url()).unwrap();
    let submitted = client.submit(&sleep(1)).await.unwrap();
    let mut guard = client.cancel_on_drop(&submitted);
    let job = guard.wait(SOON).await.unwrap();
    assert_eq!(job.status, Status::Done);
    drop(guard);
    client.get(&submitted).await.unwrap();
    let heads = between.heads.lock().unwrap().join("");
    assert!(!heads.contains("/admin/alter/jobs"), "{heads}");
}

#[tokio::test]
async fn servers_tell_how_they_are() {
    let running = Real::start().await;
    let draining = Real::start().await;
    // The wire's word follows the program's, not the engine's.
    draining.system.drain();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);

    let urls = [running.url(), draining.url(), gone];
    let servers = Client::new(&urls[..]).unwrap().servers().await;
    let found = servers.iter().map(|server| &server.url);
    assert!(found.eq(&urls));
    assert!(matches!(servers[0].health, Ok(Health::Running)));
    assert!(matches!(servers[1].health, Ok(Health::Draining)));
    let error = servers[2].health.as_ref().unwrap_err();
    assert!(error.is_connect(), "{error}");
    let version = concat!("kjob ", env!("CARGO_PKG_VERSION"));
    assert_eq!(servers[0].version.as_deref(), Some(version));
    assert_eq!(servers[2].version, None);
    let current: Vec<_> = servers.iter().map(|server| server.is_current).collect();
    assert_eq!(current, [true, false, false]);
}
