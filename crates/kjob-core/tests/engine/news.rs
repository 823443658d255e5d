//! Following a job: who has seen a state is told of what came later, and of nothing twice.

use std::time::Duration;

use crate::support::*;
use kjob_core::engine::{Caller, EngineConfig, JobKey, RouteOptions};
use kjob_core::{Age, Ending, Job, Owner, Payload, Phase};

const LONG: Duration = Duration::from_secs(3600);

async fn news(bed: &Bed, key: &JobKey, seen: Age, patience: Duration) -> Option<Job> {
    let caller = Caller::user(ann());
    bed.engine.news(&caller, key, seen, patience).await.unwrap()
}

#[tokio::test]
async fn news_come_once_each_and_the_end_last() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let key = JobKey::Id(bed.submit(call("/held", "in")).await.id);
    let run = runs.recv().await.unwrap();
    let begun = bed.engine.look(&Caller::user(ann()), &key).await.unwrap();
    let mut seen = begun.unwrap().state.age();

    // Nothing is new until something happens.
    let mut next = std::pin::pin!(news(&bed, &key, seen, LONG));
    tokio::select! {
        biased;
        job = &mut next => panic!("no news: {job:?}"),
        () = settle() => {}
    }
    run.context.progress(40);
    bed.advance(Duration::from_millis(100)).await;
    let job = next.await.unwrap();
    assert_eq!((job.state.phase, job.state.progress), (Phase::Running, 40));
    assert!(job.state.age() > seen);
    seen = job.state.age();

    // Who waits for the end is not woken by progress.
    let engine = bed.engine.clone();
    let (caller, of) = (Caller::user(ann()), key.clone());
    let end = tokio::spawn(async move { engine.news(&caller, &of, Age::LIVE_MAX, LONG).await });
    settle().await;
    run.context.progress(60);
    bed.advance(Duration::from_secs(1)).await;
    settle().await;
    assert!(!end.is_finished());
    assert_eq!(
        news(&bed, &key, seen, LONG).await.unwrap().state.progress,
        60
    );
    run.done();
    let job = end.await.unwrap().unwrap().unwrap();
    assert_eq!(job.state.phase, Phase::Done);
    // The result stays where it is.
    assert_eq!(job.ending, Some(Ending::Done(Payload::binary("").into())));
    // An end is told at once, as nothing comes after it.
    let again = news(&bed, &key, job.state.age(), LONG).await.unwrap();
    assert_eq!(again.state, job.state);
}

#[tokio::test]
async fn without_news_the_job_is_told_as_it_is() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let key = JobKey::Id(bed.submit(call("/held", "in")).await.id);
    let _run = runs.recv().await.unwrap();
    let engine = bed.engine.clone();
    let (caller, of) = (Caller::user(ann()), key.clone());
    let waiting = tokio::spawn(async move { engine.news(&caller, &of, Age::LIVE_MAX, LONG).await });
    settle().await;
    bed.advance(LONG).await;
    let job = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(job.state.phase, Phase::Running);
}

#[tokio::test]
async fn nobody_follows_the_job_of_another() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let key = JobKey::Id(bed.submit(call("/held", "in")).await.id);
    let _run = runs.recv().await.unwrap();
    let bob = Caller::user(Owner::new("bob"));
    let none = bed.engine.news(&bob, &key, Age::LIVE_MAX, LONG).await;
    assert_eq!(none.unwrap(), None);
    assert_eq!(bed.engine.look(&bob, &key).await.unwrap(), None);
}
