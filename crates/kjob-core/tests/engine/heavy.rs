//! Work on large payloads and results waits for its turn, off the threads that everybody shares;
//! small ones are not held up by it.

use std::sync::mpsc;
use std::time::Duration;

use crate::support::*;
use kjob_core::engine::{HeavyWork, RouteOptions, Submission};
use kjob_core::{Payload, Phase};
use kjob_proto::{Encoding, snappy};
use tokio::task::JoinHandle;

/// A bound for what never comes; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes the only turn, until it is given back by dropping what this gives.
async fn occupy(heavy: &HeavyWork) -> mpsc::Sender<()> {
    let (release, wait) = mpsc::channel::<()>();
    let (begin, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let heavy = heavy.clone();
    tokio::spawn(async move {
        let work = move || {
            begin.send(()).unwrap();
            // It ends with an error: nothing is ever sent.
            let _ = wait.recv();
        };
        heavy.run(HeavyWork::LEN_MIN, work).await
    });
    begun.recv().await.unwrap();
    release
}

fn submission(payload: Payload) -> Submission {
    Submission::new(ann(), "/held", payload)
}

async fn in_time<T>(task: JoinHandle<T>) -> T {
    let done = tokio::time::timeout(PATIENCE, task).await;
    done.expect("it goes on").unwrap()
}

#[tokio::test]
async fn large_payloads_are_checked_in_their_turn_and_small_ones_at_once() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let heavy = HeavyWork::new(1);
    let bed = bed(config(|c| c.heavy = heavy.clone()), registry).await;
    let packed = |len| Payload {
        encoding: Encoding::Snappy,
        data: snappy::compress(&vec![7; len]).into(),
    };
    let large = [
        packed(HeavyWork::LEN_MIN),
        Payload::json(" ".repeat(HeavyWork::LEN_MIN)),
    ];
    for large in large {
        let release = occupy(&heavy).await;
        let engine = bed.engine.clone();
        let submit = tokio::spawn(async move { engine.submit(submission(large)).await });
        settle().await;
        assert!(!submit.is_finished(), "it waits for its turn");
        bed.submit(submission(packed(HeavyWork::LEN_MIN - 1))).await;
        bed.submit(submission(Payload::json("{}"))).await;
        for _ in 0..2 {
            runs.recv().await.unwrap().done();
        }
        drop(release);
        in_time(submit).await.unwrap();
        let run = runs.recv().await.unwrap();
        assert!(run.payload.data.len() >= HeavyWork::LEN_MIN);
        run.done();
    }
}

#[cfg(feature = "dynamic")]
#[tokio::test]
async fn large_results_are_turned_in_their_turn() {
    use kjob_core::engine::Schemas;
    let schema = r#"{"type":"record","name":"r","fields":[{"name":"text","type":"string"}]}"#;
    let schemas = Schemas::parse(schema, schema).unwrap();
    let options = RouteOptions::default().schemas(schemas);
    let (registry, mut runs) = one("/held", options, true);
    let heavy = HeavyWork::new(1);
    let bed = bed(config(|c| c.heavy = heavy.clone()), registry).await;
    let mut begin = async || {
        let job = submission(Payload::binary(vec![2, b'x']));
        let id = bed.submit(job).await.id;
        (id, runs.recv().await.unwrap())
    };
    let (large, run_large) = begin().await;
    let (small, run_small) = begin().await;
    let result = |len| Payload::json(format!(r#"{{"text":"{}"}}"#, "x".repeat(len)));
    let release = occupy(&heavy).await;
    run_large.end(Ok(result(HeavyWork::LEN_MIN)));
    run_small.end(Ok(result(10)));
    settle().await;
    assert_eq!(bed.phase(small).await, Phase::Done);
    assert_eq!(bed.phase(large).await, Phase::Running);
    drop(release);
    let (engine, owner) = (bed.engine.clone(), ann());
    let ended = tokio::spawn(async move {
        let caller = kjob_core::engine::Caller::user(owner);
        let key = kjob_core::engine::JobKey::Id(large);
        while !engine
            .get(&caller, &key)
            .await
            .unwrap()
            .unwrap()
            .state
            .phase
            .is_terminal()
        {
            tokio::task::yield_now().await;
        }
    });
    in_time(ended).await;
    assert_eq!(bed.phase(large).await, Phase::Done);
}
