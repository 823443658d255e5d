//! Routes that are replaced while jobs wait and run, and what a submit hands to its handler.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use kjob_core::engine::{
    Attachment, Caller, CancelOutcome, EngineConfig, HandlerError, JobContext, JobKey, ManualClock,
    Registry, RouteError, RouteOptions,
};
use kjob_core::{Ending, MemoryStore, Output, Payload, Phase, Store};

#[tokio::test]
async fn those_that_run_go_on_and_those_that_wait_take_the_new_handler() {
    whole_and_dozing(async |config| {
        let one_at_a_time = RouteOptions::default().concurrency(1);
        let (registry, mut old_runs) = one("/held", one_at_a_time.clone(), true);
        let bed = bed(config, registry).await;
        let first = bed.submit(call("/held", "1")).await;
        let second = bed.submit(call("/held", "2")).await;
        settle().await;
        let old_run = old_runs.try_recv().unwrap();

        let (registry, mut new_runs) = one("/held", one_at_a_time, true);
        bed.engine.replace_routes(registry).unwrap();
        settle().await;
        assert!(!old_run.is_gone(), "it goes on");
        assert!(new_runs.try_recv().is_err(), "it counts against the limit");
        old_run.done();
        settle().await;
        assert_eq!(bed.phase(first.id).await, Phase::Done);
        assert!(old_runs.try_recv().is_err());
        let new_run = new_runs.try_recv().unwrap();
        assert_eq!(new_run.id(), second.id);
        new_run.done();
        settle().await;
        assert_eq!(bed.phase(second.id).await, Phase::Done);
    })
    .await;
}

#[tokio::test]
async fn a_higher_limit_lets_those_that_wait_in_at_once() {
    whole_and_dozing(async |config| {
        let (registry, mut runs) = one("/held", RouteOptions::default().concurrency(1), true);
        let bed = bed(config, registry).await;
        for _ in 0..3 {
            bed.submit(call("/held", "")).await;
        }
        settle().await;
        let _first = runs.try_recv().unwrap();
        assert!(runs.try_recv().is_err());
        let (registry, mut runs) = one("/held", RouteOptions::default().concurrency(2), true);
        bed.engine.replace_routes(registry).unwrap();
        settle().await;
        let _second = runs.try_recv().unwrap();
        assert!(runs.try_recv().is_err(), "two run");
    })
    .await;
}

#[tokio::test]
async fn a_job_waits_for_the_route_that_its_endpoint_has_now() {
    whole_and_dozing(async |config| {
        let (registry, mut runs) = one("/x/*", RouteOptions::default().concurrency(1), true);
        let bed = bed(config, registry).await;
        bed.submit(call("/x/slow", "")).await;
        let quick = bed.submit(call("/x/quick", "")).await;
        let mut later = call("/x/quick", "later");
        later.delay = Duration::from_secs(60);
        let later = bed.submit(later).await;
        settle().await;
        let _slow = runs.try_recv().unwrap();

        let (slow, _slow_runs) = held(true);
        let (mut registry, mut runs) =
            one("/x/quick", RouteOptions::default().concurrency(1), true);
        let options = RouteOptions::default().concurrency(1);
        registry.route("/x/*", slow, options).unwrap();
        bed.engine.replace_routes(registry).unwrap();
        settle().await;
        let run = runs.try_recv().expect("the other route is free");
        assert_eq!(run.id(), quick.id);
        bed.advance(Duration::from_secs(60)).await;
        assert!(runs.try_recv().is_err(), "one at a time");
        run.done();
        settle().await;
        assert_eq!(runs.try_recv().unwrap().id(), later.id);
    })
    .await;
}

#[tokio::test]
async fn jobs_without_a_route_fail_as_after_a_restart() {
    whole_and_dozing(async |config| {
        let options = RouteOptions::default().concurrency(1).retry(5);
        let (registry, mut runs) = one("/held", options, true);
        let bed = bed(config, registry).await;
        let running = bed.submit(call("/held", "runs")).await;
        let waiting = bed.submit(call("/held", "waits")).await;
        let mut delayed = call("/held", "later");
        delayed.delay = Duration::from_secs(60);
        let delayed = bed.submit(delayed).await;
        settle().await;
        let run = runs.try_recv().unwrap();
        bed.engine.replace_routes(Registry::default()).unwrap();
        settle().await;
        let unserved = "endpoint \"/held\" is no longer served";
        assert_eq!(bed.error(waiting.id).await, unserved);
        assert_eq!(bed.error(delayed.id).await, unserved);
        assert_eq!(bed.phase(running.id).await, Phase::Running);
        // It is to be queued again, and there is nothing any more that could run it.
        run.end(Err(HandlerError::transient("try again")));
        settle().await;
        assert_eq!(bed.error(running.id).await, unserved);
        let stats = bed.engine.stats();
        assert_eq!((stats.queued, stats.live, stats.running), (0, 0, 0));
        assert!(bed.engine.submit(call("/held", "")).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_cancel_finds_a_job_that_was_rerouted() {
    whole_and_dozing(async |config| {
        let one_at_a_time = || RouteOptions::default().concurrency(1);
        let (registry, mut old_runs) = one("/x/*", one_at_a_time(), true);
        let bed = bed(config, registry).await;
        bed.submit(call("/x/a", "")).await;
        let first = bed.submit(call("/x/b", "")).await;
        let second = bed.submit(call("/x/b", "")).await;
        settle().await;
        let (mut registry, mut new_runs) = one("/x/b", one_at_a_time(), true);
        let (other, _other_runs) = held(true);
        registry.route("/x/*", other, one_at_a_time()).unwrap();
        bed.engine.replace_routes(registry).unwrap();
        settle().await;
        let run = new_runs.try_recv().unwrap();
        assert_eq!(run.id(), first.id);
        // The second waits for its new route, and is taken out there.
        let key = JobKey::Id(second.id);
        let outcome = bed.engine.cancel(&Caller::user(ann()), &key).await;
        assert_eq!(outcome.unwrap(), CancelOutcome::Cancelled);
        run.done();
        old_runs.try_recv().unwrap().done();
        settle().await;
        assert!(new_runs.try_recv().is_err(), "nothing waits there");
        let stats = bed.engine.stats();
        assert_eq!((stats.queued, stats.live, stats.running), (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn patterns_are_counted_over_the_life_of_an_engine() {
    let bed = bed(EngineConfig::default(), Registry::default()).await;
    let many = |range: std::ops::Range<u32>| {
        let mut registry = Registry::default();
        for number in range {
            let pattern = format!("/{number}");
            registry
                .route(&pattern, echo, RouteOptions::default())
                .unwrap();
        }
        registry
    };
    bed.engine.replace_routes(many(0..65_536)).unwrap();
    bed.engine.replace_routes(many(7..8)).unwrap();
    let refused = bed.engine.replace_routes(many(65_536..65_537));
    assert_eq!(refused, Err(RouteError::TooMany));
    assert!(bed.engine.serves("/7") && !bed.engine.serves("/65536"));
}

#[tokio::test]
async fn a_handler_is_handed_what_its_submit_attached_but_not_after_a_restart() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let registry = || {
        let handler = |context: JobContext, _: Payload| async move {
            let attachment = context.job().attachment.as_ref();
            let text = attachment.and_then(|attachment| attachment.get::<&str>());
            Ok(Payload::binary(text.copied().unwrap_or("nothing")))
        };
        let mut registry = Registry::default();
        registry
            .route("/tell", handler, RouteOptions::default())
            .unwrap();
        registry
    };
    let attached = |delay| {
        let mut submission = call("/tell", "");
        submission.attachment = Some(Attachment::new("a secret"));
        submission.delay = delay;
        submission
    };
    let clock = ManualClock::at(T0);
    let bed = bed_on(store.clone(), clock, EngineConfig::default(), registry()).await;
    let at_once = bed.submit(attached(Duration::ZERO)).await;
    let soon = bed.submit(attached(Duration::from_secs(1))).await;
    let later = bed.submit(attached(Duration::from_secs(9))).await;
    bed.advance(Duration::from_secs(1)).await;
    let done = |text: &'static str| Some(Ending::Done(Output::binary(text)));
    assert_eq!(bed.job(at_once.id).await.ending, done("a secret"));
    assert_eq!(bed.job(soon.id).await.ending, done("a secret"));

    let clock = ManualClock::at(T0.after(Duration::from_secs(9)));
    let restarted = bed_on(store, clock, EngineConfig::default(), registry()).await;
    settle().await;
    assert_eq!(restarted.job(later.id).await.ending, done("nothing"));
}

#[tokio::test]
async fn a_result_in_another_encoding_is_only_for_routes_that_say_so() {
    let mut registry = Registry::default();
    let other = |_: JobContext, _: Payload| async { Ok(Payload::json("7")) };
    let any = RouteOptions::default().any_result();
    registry.route("/any", other, any).unwrap();
    registry
        .route("/same", other, RouteOptions::default())
        .unwrap();
    let bed = bed(EngineConfig::default(), registry).await;
    let any = bed.submit(call("/any", "")).await;
    let same = bed.submit(call("/same", "")).await;
    settle().await;
    let ending = bed.job(any.id).await.ending;
    assert_eq!(ending, Some(Ending::Done(Output::json("7"))));
    assert_eq!(
        bed.error(same.id).await,
        "the handler gave a json result for a binary job"
    );
}
