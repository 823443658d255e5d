//! The program on a disk that fails, or is full: a layer under the process (kjob-store's
//! tests/faults) does that to its calls.

use std::time::{Duration, Instant};

use kjob_client::{Cancel, Client, List, Payload, Status, Submit};
use tempfile::TempDir;

use crate::layer::{ALL_FILES, Errno, Fault, Kind, Layer, Rule, build};
use crate::support::{Running, program};

const SOON: Duration = Duration::from_secs(60);

const FULL: Rule<'_> = Rule {
    kinds: &[Kind::Create, Kind::Write, Kind::MakeDirectory],
    files: ALL_FILES,
    skip: 0,
    times: u64::MAX,
    fault: Fault::Fail,
    error: Errno::NoSpace,
};

fn echo() -> Submit {
    Submit::new("/demo/echo", Payload::json(r#"{"message":"hello"}"#))
}

fn sleep(millis: u32) -> Submit {
    let request = format!(r#"{{"millis":{millis}}}"#);
    Submit::new("/demo/sleep", Payload::json(request))
}

/// A server with one worker and the layer under it.
fn start(home: &TempDir, layer: &Layer) -> Running {
    let mut command = program();
    command
        .args(["--listen", "127.0.0.1:0", "--workers", "1", "--data-dir"])
        .arg(layer.directory.join("data"));
    layer.put_under(&mut command, &build(home.path()), false);
    Running::spawn(command, &home.path().join("log"))
}

/// A client that takes no for an answer.
fn client(server: &Running) -> Client {
    let url = format!("http://{}", server.address);
    Client::builder(&url).tries(1).build().unwrap()
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_everyone_is_told() {
    let home = tempfile::tempdir().unwrap();
    let layer = Layer::make(home.path());
    let server = start(&home, &layer);
    let client = client(&server);
    let kept = client.submit(&echo()).await.unwrap();
    assert_eq!(client.wait(&kept, SOON).await.unwrap().status, Status::Done);
    assert_eq!(server.get("/readyz").0, 200);

    layer.follow(Rule {
        kinds: &[Kind::Sync, Kind::SyncDirectory],
        error: Errno::Io,
        times: 1,
        ..FULL
    });
    let error = client.submit(&echo()).await.unwrap_err();
    assert!(!error.is_busy(), "waiting is no help: {error}");
    // One sync failed, and all that follow would go well: that proves nothing.
    layer.obey();
    assert_eq!(layer.hits(), 1);
    for _ in 0..3 {
        client.submit(&echo()).await.unwrap_err();
    }
    let (status, body) = server.get("/readyz");
    assert_eq!(status, 503);
    assert!(body.starts_with("the store failed: "), "{body}");
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(client.get(&kept).await.unwrap().status, Status::Done);
    assert_eq!(
        client
            .list(&List::default().with_ended())
            .await
            .unwrap()
            .jobs
            .len(),
        1
    );
    server.wait_logged("the store has failed", 1);
    server.signal("TERM");
    let (_, _, log) = server.end();
    assert_eq!(log.matches("the store has failed").count(), 1, "{log}");

    let server = start(&home, &layer);
    let client = self::client(&server);
    assert_eq!(client.get(&kept).await.unwrap().status, Status::Done);
    assert_eq!(server.get("/readyz").0, 200);
    client.submit(&echo()).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_submits_for_now_and_loses_no_result() {
    let home = tempfile::tempdir().unwrap();
    let layer = Layer::make(home.path());
    let server = start(&home, &layer);
    let client = client(&server);
    let done = client.submit(&echo()).await.unwrap();
    client.wait(&done, SOON).await.unwrap();
    let running = client.submit(&sleep(1)).await.unwrap();
    client.wait(&running, SOON).await.unwrap();
    let long = client.submit(&sleep(3_600_000)).await.unwrap();
    let queued = client.submit(&echo()).await.unwrap();

    layer.follow(FULL);
    let error = client.submit(&echo()).await.unwrap_err();
    assert!(error.is_busy(), "{error}");
    assert_eq!(error.status().map(|status| status.as_u16()), Some(429));
    assert_eq!(error.message(), Some("the store is out of space"));
    assert_eq!(client.get(&done).await.unwrap().status, Status::Done);
    assert_eq!(
        client
            .list(&List::default().with_ended())
            .await
            .unwrap()
            .jobs
            .len(),
        4
    );
    // A full disk is no reason to send everyone elsewhere.
    assert_eq!(server.get("/readyz").0, 200);
    // This disk takes nothing more, whatever is deleted, so that the reserve is no help to a cancel: it
    // is refused in the same way, and nothing pretends.
    let error = client.cancel(&queued).await.unwrap_err();
    assert!(error.is_busy(), "{error}");
    assert_eq!(client.get(&queued).await.unwrap().status, Status::Running);

    layer.obey();
    let begin = Instant::now();
    let again = loop {
        match client.submit(&echo()).await {
            Ok(again) => break again,
            Err(error) => assert!(error.is_busy() && begin.elapsed() < SOON, "{error}"),
        }
    };
    assert_eq!(client.cancel(&queued).await.unwrap(), Cancel::Cancelled);
    client.cancel(&long).await.unwrap();
    let ended = client.wait(&long, SOON).await.unwrap();
    assert_eq!(ended.status, Status::Cancelled);
    assert_eq!(
        client.wait(&again, SOON).await.unwrap().status,
        Status::Done
    );
}

/// The job ends while the disk is full: its result waits in memory until there is room.
#[tokio::test]
async fn a_result_that_has_no_room_is_stored_once_there_is_some() {
    let home = tempfile::tempdir().unwrap();
    let layer = Layer::make(home.path());
    let server = start(&home, &layer);
    let client = client(&server);
    let job = client.submit(&sleep(300)).await.unwrap();
    layer.follow(FULL);
    server.wait_logged("job's end cannot be stored; will try again", 1);
    assert_eq!(client.get(&job).await.unwrap().status, Status::Running);
    layer.obey();
    let ended = client.wait(&job, SOON).await.unwrap();
    assert_eq!(ended.status, Status::Done);
}
