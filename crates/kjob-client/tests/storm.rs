//! Every submitted tag ends as exactly one job, whatever happens to the bytes between.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "client/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kjob_client::{Client, ClientBuilder, Job, List, Payload, Status, Submit, Submitted};
use kjob_core::engine::{EngineConfig, HandlerError, JobContext, Registry, RouteOptions};
use support::Real;
use support::storm::Storm;
use tokio::sync::watch;

const CALLERS: usize = 16;
const SUBMITS_PER_CALLER: usize = 25;
const SUBMITS: usize = CALLERS * SUBMITS_PER_CALLER;

const STEP: Duration = Duration::from_millis(300);

/// How often a handler was started, by payload.
type Starts = Arc<Mutex<HashMap<String, usize>>>;

/// A server whose endpoint `/once` gives its payload back, and counts.
async fn counting_server() -> (Real, Starts) {
    let starts = Starts::default();
    let counted = starts.clone();
    let once = move |_: JobContext, payload: kjob_core::Payload| {
        let text = String::from_utf8(payload.data.to_vec()).unwrap();
        *counted.lock().unwrap().entry(text).or_default() += 1;
        async move { Ok::<_, HandlerError>(payload) }
    };
    let mut registry = Registry::default();
    registry
        .route("/once", once, RouteOptions::default())
        .unwrap();
    let real = Real::with_registry(registry, EngineConfig::default(), None).await;
    (real, starts)
}

fn patient(builder: ClientBuilder) -> Client {
    let builder = builder.connect_timeout(Duration::from_secs(2));
    // Short, so that what was swallowed does not hold the test up for long.
    let builder = builder.timeout(Duration::from_millis(700));
    builder.tries(60).build().unwrap()
}

/// What the callers were told.
#[derive(Default)]
struct Told {
    /// Ids by tag.
    ids: HashMap<String, i64>,
    /// Answers that said that the job was there already: an earlier try had made it.
    existing: usize,
}

/// Submits from many callers at once, waits for each job, and checks its result. `acknowledged` counts.
async fn submit_all(client: &Client, acknowledged: &watch::Sender<usize>) -> Told {
    let told = Arc::new(Mutex::new(Told::default()));
    let callers = (0..CALLERS).map(|caller| {
        let (client, acknowledged, told) = (client.clone(), acknowledged.clone(), told.clone());
        tokio::spawn(async move {
            for n in 0..SUBMITS_PER_CALLER {
                let tag = format!("t-{caller}-{n}");
                let text = format!("{{\"tag\":\"{tag}\"}}");
                let payload = Payload::json(text.clone());
                let submit = Submit::new("/once", payload.clone()).with_tag(tag.clone());
                let submitted = client.submit(&submit).await.unwrap();
                {
                    let mut told = told.lock().unwrap();
                    told.existing += usize::from(submitted.existing);
                    told.ids.insert(tag, submitted.id);
                }
                acknowledged.send_modify(|count| *count += 1);
                assert_eq!(end(&client, &submitted).await.into_result(), Ok(payload));
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    Arc::into_inner(told).unwrap().into_inner().unwrap()
}

/// Waits for the end in short steps: a reply that was swallowed is missed only when the step is over.
async fn end(client: &Client, submitted: &Submitted) -> Job {
    loop {
        let job = client.wait(submitted, STEP).await.unwrap();
        if !job.running {
            return job;
        }
    }
}

/// Asks the server itself: one job for each tag, the one that was told, done, and started once.
async fn check_each_is_one_job(real: &Real, starts: &Starts, told: &Told) {
    let direct = Client::new(real.url()).unwrap();
    let list = direct.list(&List::default().with_ended()).await.unwrap();
    assert_eq!(list.next, None);
    assert_eq!((list.jobs.len(), told.ids.len()), (SUBMITS, SUBMITS));
    for job in list.jobs {
        assert_eq!(job.status, Status::Done, "{job:?}");
        assert_eq!(told.ids.get(job.tag.as_deref().unwrap()), Some(&job.id));
    }
    let starts = starts.lock().unwrap();
    assert_eq!(starts.len(), SUBMITS);
    assert!(starts.values().all(|times| *times == 1), "{starts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tag_is_one_job_through_a_storm() {
    let (real, starts) = counting_server().await;
    let storm = Storm::start(&real.address, 4).await;
    let client = patient(Client::builder(storm.url()));
    let told = submit_all(&client, &watch::Sender::new(0)).await;
    check_each_is_one_job(&real, &starts, &told).await;

    println!(
        "{SUBMITS} submits, {} of them answered by a job of an earlier try; {:?}",
        told.existing, storm.counts
    );
    let counts = &storm.counts;
    for (what, count) in [
        ("dropped", &counts.dropped),
        ("cut to the server", &counts.cut_to_server),
        ("cut to the client", &counts.cut_to_client),
        ("swallowed to the server", &counts.swallowed_to_server),
        ("swallowed to the client", &counts.swallowed_to_client),
        ("delayed", &counts.delayed),
        ("lost answers", &AtomicUsize::new(told.existing)),
    ] {
        assert!(count.load(Ordering::Relaxed) > 0, "none {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tag_is_one_job_while_servers_of_one_store_die_in_turn() {
    let (real, starts) = counting_server().await;
    let twin = real.twin().await;
    let mut servers = [
        Storm::calm(&real.address).await,
        Storm::calm(&twin.address).await,
    ];
    let client = patient(Client::builder(servers.each_ref().map(Storm::url)));
    let acknowledged = watch::Sender::new(0);
    let mut count = acknowledged.subscribe();
    let callers = {
        let client = client.clone();
        tokio::spawn(async move { submit_all(&client, &acknowledged).await })
    };
    // Each time, the one that dies is the one in use; it is back before the other one dies.
    let mut deaths = 0;
    for goal in (1..8).map(|eighth| eighth * SUBMITS / 8) {
        count.wait_for(|count| *count >= goal).await.unwrap();
        let victim = deaths % 2;
        servers[victim].die();
        let came = *count.borrow();
        count
            .wait_for(|count| *count >= SUBMITS.min(came + SUBMITS / 16))
            .await
            .unwrap();
        servers[victim].revive().await;
        deaths += 1;
    }
    let told = callers.await.unwrap();
    check_each_is_one_job(&real, &starts, &told).await;

    let served = servers
        .each_ref()
        .map(|server| server.counts.connections.load(Ordering::Relaxed));
    println!("{SUBMITS} submits, {deaths} deaths; connections by server: {served:?}");
    assert!(served.iter().all(|connections| *connections > 1));
}

#[tokio::test]
async fn who_is_told_to_leave_goes_and_comes_back() {
    let first = Real::start().await;
    let second = Real::start().await;
    let client = Client::new([first.url(), second.url()]).unwrap();
    let current = async || {
        let servers = client.servers().await;
        servers.iter().position(|server| server.is_current)
    };
    let submit = || Submit::new("/demo/echo", Payload::json(r#"{"message":"hello"}"#));
    client.submit(&submit()).await.unwrap();
    assert_eq!(current().await, Some(0));

    first.engine.drain();
    client.submit(&submit()).await.unwrap();
    assert_eq!(current().await, Some(1));
    let clone = client.clone();
    clone.submit(&submit()).await.unwrap();
    assert_eq!(current().await, Some(1), "clones go along");

    second.engine.drain();
    let error = client.submit(&submit()).await.unwrap_err();
    assert!(error.is_leaving(), "{error}");
}
