//! One job from submit to end, however it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::*;
use crate::troubled::{Switch, Troubled};
use kjob_core::engine::{
    Accepted, Caller, CancelOutcome, EngineConfig, HandlerError, JobContext, JobKey, ManualClock,
    Registry, RouteOptions, SubmitError,
};
use kjob_core::{Ending, Filter, MemoryStore, Output, Owner, Parts, Payload, Phase};
use kjob_proto::Encoding;

#[tokio::test]
async fn a_job_runs_and_its_result_is_kept() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let accepted = bed.submit(call("/held", "in")).await;
    assert!(!accepted.existing);
    assert_eq!(accepted.tag.carried_id(), Some(accepted.id));

    let run = runs.recv().await.unwrap();
    assert_eq!(
        (run.id(), &run.payload),
        (accepted.id, &Payload::binary("in"))
    );
    assert_eq!(run.context.job().attempt, 1);
    let job = bed.job(accepted.id).await;
    assert_eq!((job.state.phase, job.state.progress), (Phase::Running, 0));
    run.done();
    settle().await;

    let job = bed.job(accepted.id).await;
    assert_eq!((job.state.phase, job.state.progress), (Phase::Done, 100));
    assert_eq!(job.ending, Some(Ending::Done(Output::binary("done"))));
    assert_eq!(bed.engine.stats().running, 0);
}

#[tokio::test]
async fn with_a_free_worker_the_start_is_in_the_commit_of_the_submit() {
    let (registry, _runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let id = bed.submit(call("/held", "in")).await.id;
    // Nothing but the submit's own task has run: there was no second step.
    let stored = bed.store.get(id, Parts::NONE, T0).await.unwrap().unwrap();
    assert_eq!(stored.state.phase, Phase::Running);
    assert_eq!(stored.state.lease.0, 1);
}

/// A server looks at its requests in turns, and some may not have one for long.
#[tokio::test]
async fn a_submit_that_has_no_turn_keeps_no_ids_from_others() {
    let switch = Arc::new(Switch::default());
    switch.is_slow.store(true, Ordering::SeqCst);
    let store = Arc::new(Troubled::new(Arc::new(MemoryStore::new()), switch));
    let (registry, _runs) = one("/held", RouteOptions::default(), true);
    let bed = bed_on(store, ManualClock::at(T0), config(|_| {}), registry).await;
    let mut first = std::pin::pin!(bed.engine.submit(call("/held", "first")));
    assert!(futures_now(&mut first).await.is_none());
    let second = bed.engine.submit(call("/held", "second"));
    let second = tokio::time::timeout(Duration::from_secs(10), second).await;
    assert!(second.expect("there are ids").is_ok());
    first.await.unwrap();
}

#[tokio::test]
async fn a_submit_whose_caller_goes_away_still_runs() {
    let switch = Arc::new(Switch::default());
    switch.is_slow.store(true, Ordering::SeqCst);
    let store = Arc::new(Troubled::new(Arc::new(MemoryStore::new()), switch));
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let clock = ManualClock::at(T0);
    let bed = bed_on(store, clock, EngineConfig::default(), registry).await;
    // The ids are set aside.
    bed.submit(call("/held", "first")).await;
    runs.recv().await.unwrap().done();
    let submit = bed.engine.submit(call("/held", "in"));
    // Polled once, then dropped: the store has the job, and has not said so.
    assert!(futures_now(submit).await.is_none());
    assert_eq!(runs.recv().await.unwrap().payload, Payload::binary("in"));
}

/// So its end is on its way into the store while the answer is on its way to the client.
#[tokio::test]
async fn a_cooperative_job_begins_before_its_submit_is_answered() {
    let mut registry = Registry::default();
    let options = RouteOptions::default();
    registry.route("/own-task", echo, options.clone()).unwrap();
    let options = options.cooperative();
    registry.route("/cooperative", echo, options).unwrap();
    let bed = bed(EngineConfig::default(), registry).await;
    let [later, at_once] = ["/own-task", "/cooperative"].map(|endpoint| call(endpoint, "in"));
    let at_once = bed.submit(at_once).await.id;
    assert_eq!(bed.phase(at_once).await, Phase::Done);
    let later = bed.submit(later).await.id;
    assert_eq!(bed.phase(later).await, Phase::Running);
}

async fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn a_panic_fails_its_own_job_only() {
    async fn fragile(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
        assert!(payload.data != "boom", "as the test wants");
        Ok(payload)
    }
    let mut registry = Registry::default();
    registry
        .route("/fragile", fragile, RouteOptions::default().concurrency(1))
        .unwrap();
    let bed = bed(EngineConfig::default(), registry).await;
    let bad = bed.submit(call("/fragile", "boom")).await.id;
    let good = bed.submit(call("/fragile", "fine")).await.id;
    settle().await;
    assert!(bed.error(bad).await.contains("panicked"));
    assert_eq!(bed.phase(good).await, Phase::Done);
}

#[tokio::test]
async fn a_failing_handler_gives_its_message() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let id = bed.submit(call("/held", "in")).await.id;
    runs.recv()
        .await
        .unwrap()
        .end(Err(HandlerError::failed("no such table")));
    settle().await;
    assert_eq!(bed.error(id).await, "no such table");
    // On a route that does not retry, a transient error is final too.
    let id = bed.submit(call("/held", "in")).await.id;
    runs.recv()
        .await
        .unwrap()
        .end(Err(HandlerError::transient("try later")));
    settle().await;
    assert_eq!(bed.error(id).await, "try later");
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(config(|c| c.workers = 1), registry).await;
    bed.submit(call("/held", "first")).await;
    let first = runs.recv().await.unwrap();
    let second = bed.submit(call("/held", "second")).await.id;
    assert_eq!(bed.phase(second).await, Phase::Queued);
    assert_eq!(cancel(&bed, second).await, CancelOutcome::Cancelled);
    assert_eq!(bed.phase(second).await, Phase::Cancelled);
    assert_eq!(bed.engine.stats().queued, 0);
    assert_eq!(
        cancel(&bed, second).await,
        CancelOutcome::Ended(Phase::Cancelled)
    );
    first.done();
    settle().await;
    assert!(runs.try_recv().is_err(), "the cancelled job must not run");
}

async fn cancel(bed: &Bed, id: kjob_core::JobId) -> CancelOutcome {
    bed.engine
        .cancel(&Caller::user(ann()), &JobKey::Id(id))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_running_handler_is_told_to_stop() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let id = bed.submit(call("/held", "in")).await.id;
    let run = runs.recv().await.unwrap();
    assert_eq!(cancel(&bed, id).await, CancelOutcome::Cancelling);
    assert!(run.context.is_cancelled());
    settle().await;
    let job = bed.job(id).await;
    assert_eq!(job.ending, Some(Ending::Cancelled));
}

#[tokio::test]
async fn a_handler_that_ignores_a_cancel_is_dropped_after_the_grace_time() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), false);
    let bed = bed(EngineConfig::default(), registry).await;
    let id = bed.submit(call("/held", "in")).await.id;
    let run = runs.recv().await.unwrap();
    cancel(&bed, id).await;
    bed.advance(Duration::from_millis(4_999)).await;
    assert_eq!(bed.phase(id).await, Phase::Cancelling);
    assert!(!run.is_gone());
    bed.advance(Duration::from_millis(1)).await;
    assert_eq!(bed.phase(id).await, Phase::Cancelled);
    assert!(run.is_gone());
}

#[tokio::test]
async fn a_result_given_in_spite_of_a_cancel_counts() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), false);
    let bed = bed(EngineConfig::default(), registry).await;
    let id = bed.submit(call("/held", "in")).await.id;
    let run = runs.recv().await.unwrap();
    assert_eq!(cancel(&bed, id).await, CancelOutcome::Cancelling);
    run.done();
    settle().await;
    assert_eq!(bed.phase(id).await, Phase::Done);
    assert_eq!(cancel(&bed, id).await, CancelOutcome::Ended(Phase::Done));
}

#[tokio::test]
async fn the_shorter_of_the_jobs_and_the_routes_time_is_the_deadline() {
    for (job, route, limit) in [(Some(50), 80, 50), (Some(90), 80, 80), (None, 80, 80)] {
        let options = RouteOptions::default().timeout(Duration::from_millis(route));
        let (registry, mut runs) = one("/held", options, true);
        let bed = bed(EngineConfig::default(), registry).await;
        let mut submission = call("/held", "in");
        submission.timeout = job.map(Duration::from_millis);
        let id = bed.submit(submission).await.id;
        let run = runs.recv().await.unwrap();
        assert_eq!(
            run.context.job().deadline,
            Some(T0.after(Duration::from_millis(limit)))
        );
        bed.advance(Duration::from_millis(limit - 1)).await;
        assert_eq!(bed.phase(id).await, Phase::Running);
        bed.advance(Duration::from_millis(1)).await;
        assert_eq!(
            bed.error(id).await,
            format!("deadline: not done within {limit} ms")
        );
    }
}

#[tokio::test]
async fn progress_is_shown_once_stored_and_not_too_often() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let id = bed.submit(call("/held", "in")).await.id;
    let run = runs.recv().await.unwrap();
    run.context.progress(10);
    settle().await;
    assert_eq!(
        bed.job(id).await.state.progress,
        0,
        "the first report waits for its interval"
    );
    run.context.progress(20);
    run.context.progress(15);
    bed.advance(Duration::from_millis(100)).await;
    assert_eq!(bed.job(id).await.state.progress, 20);
    assert_eq!(
        bed.store
            .get(id, Parts::NONE, T0)
            .await
            .unwrap()
            .unwrap()
            .state
            .progress,
        20
    );
    run.context.progress(200);
    bed.advance(Duration::from_millis(100)).await;
    assert_eq!(bed.job(id).await.state.progress, 99);
    run.done();
    settle().await;
    assert_eq!(bed.job(id).await.state.progress, 100);
}

#[tokio::test]
async fn a_wait_ends_with_the_job_or_with_its_patience() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let id = bed.submit(call("/held", "in")).await.id;
    let run = runs.recv().await.unwrap();
    let wait = || {
        let engine = bed.engine.clone();
        tokio::spawn(async move {
            let caller = Caller::user(ann());
            engine
                .wait(&caller, &JobKey::Id(id), Duration::from_secs(10))
                .await
                .unwrap()
                .unwrap()
        })
    };
    let impatient = wait();
    bed.advance(Duration::from_secs(10)).await;
    assert_eq!(impatient.await.unwrap().state.phase, Phase::Running);
    let (one, two) = (wait(), wait());
    settle().await;
    run.done();
    for waiter in [one, two] {
        let job = waiter.await.unwrap();
        assert_eq!(job.ending, Some(Ending::Done(Output::binary("done"))));
    }
    // A job that has ended is answered at once.
    assert_eq!(wait().await.unwrap().state.phase, Phase::Done);
}

#[tokio::test]
async fn a_delayed_job_starts_at_its_time() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let mut later = call("/held", "later");
    later.delay = Duration::from_secs(20);
    let later = bed.submit(later).await.id;
    let mut sooner = call("/held", "sooner");
    sooner.delay = Duration::from_secs(10);
    let sooner = bed.submit(sooner).await.id;
    bed.advance(Duration::from_millis(9_999)).await;
    assert!(runs.try_recv().is_err());
    bed.advance(Duration::from_millis(1)).await;
    assert_eq!(runs.try_recv().unwrap().id(), sooner);
    assert_eq!(bed.phase(later).await, Phase::Queued);
    bed.advance(Duration::from_secs(10)).await;
    assert_eq!(runs.try_recv().unwrap().id(), later);
}

#[tokio::test]
async fn results_are_checked() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(config(|c| c.max_result = 4), registry).await;
    let mut end = async |result: Payload| {
        let id = bed.submit(call("/held", "in")).await.id;
        runs.recv().await.unwrap().end(Ok(result));
        settle().await;
        id
    };
    let fits = end(Payload::binary("1234")).await;
    assert_eq!(bed.phase(fits).await, Phase::Done);
    let large = end(Payload::binary("12345")).await;
    assert_eq!(
        bed.error(large).await,
        "result too large: 5 bytes, more than the limit of 4"
    );
    let json = end(Payload::json("{}")).await;
    assert_eq!(
        bed.error(json).await,
        "the handler gave a json result for a binary job"
    );
}

#[tokio::test]
async fn snappy_payloads_are_unpacked_for_the_handler_and_checked_at_the_door() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let packed = kjob_proto::snappy::compress(b"plain");
    let mut submission = call("/held", "");
    submission.payload = Payload {
        encoding: Encoding::Snappy,
        data: packed.into(),
    };
    let id = bed.submit(submission.clone()).await.id;
    let run = runs.recv().await.unwrap();
    assert_eq!(run.payload, Payload::binary("plain"));
    run.done();
    settle().await;
    assert_eq!(
        bed.job(id).await.ending,
        Some(Ending::Done(Output::binary("done")))
    );
    submission.payload.data = "not snappy".into();
    let refused = bed.engine.submit(submission).await;
    assert!(
        matches!(refused, Err(SubmitError::BadPayload { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_ended_job_is_there_for_its_retention() {
    let mut registry = Registry::default();
    registry
        .route("/echo", echo, RouteOptions::default())
        .unwrap();
    let bed = bed(config(|c| c.retention = Duration::from_secs(10)), registry).await;
    let id = bed.submit(tagged("/echo", "in", "t")).await.id;
    settle().await;
    bed.advance(Duration::from_millis(9_999)).await;
    assert_eq!(bed.phase(id).await, Phase::Done);
    bed.advance(Duration::from_millis(1)).await;
    let caller = Caller::user(ann());
    assert_eq!(
        bed.engine.get(&caller, &JobKey::Id(id)).await.unwrap(),
        None
    );
    // Its tag is free again, and its space is given back.
    assert!(!bed.submit(tagged("/echo", "other", "t")).await.existing);
    bed.advance(Duration::from_secs(60)).await;
    assert_eq!(bed.engine.usage(&ann()).total.jobs, 0);
}

#[tokio::test]
async fn remove_on_complete_drops_a_job_after_its_first_delivery() {
    let mut registry = Registry::default();
    registry
        .route("/echo", echo, RouteOptions::default())
        .unwrap();
    let bed = bed(EngineConfig::default(), registry).await;
    let mut submission = call("/echo", "in");
    submission.remove_on_complete = true;
    let id = bed.submit(submission).await.id;
    bed.advance(Duration::from_secs(3600)).await;
    let job = bed.job(id).await;
    bed.engine.delivered(&job).await.unwrap();
    bed.advance(Duration::from_secs(59)).await;
    // A second delivery does not prolong it.
    bed.engine.delivered(&bed.job(id).await).await.unwrap();
    bed.advance(Duration::from_secs(1)).await;
    let caller = Caller::user(ann());
    assert_eq!(
        bed.engine.get(&caller, &JobKey::Id(id)).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn another_users_job_does_not_exist() {
    let (registry, mut runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let accepted = bed.submit(tagged("/held", "in", "mine")).await;
    let run = runs.recv().await.unwrap();
    only_the_owner_and_admins_see(&bed, &accepted).await;
    run.done();
    settle().await;
    only_the_owner_and_admins_see(&bed, &accepted).await;
}

async fn only_the_owner_and_admins_see(bed: &Bed, accepted: &Accepted) {
    let bob = Caller::user(Owner::new("bob"));
    let admin = Caller::admin(Owner::new("root"));
    for key in [JobKey::Id(accepted.id), JobKey::Tag(accepted.tag.clone())] {
        assert_eq!(bed.engine.get(&bob, &key).await.unwrap(), None);
        assert_eq!(
            bed.engine
                .wait(&bob, &key, Duration::from_secs(1))
                .await
                .unwrap(),
            None
        );
        assert_eq!(
            bed.engine.cancel(&bob, &key).await.unwrap(),
            CancelOutcome::NotFound
        );
        assert!(
            bed.engine
                .get(&Caller::user(ann()), &key)
                .await
                .unwrap()
                .is_some()
        );
    }
    let all = Filter {
        limit: 10,
        ..Filter::ALL
    };
    let of_ann = Filter {
        owner: Some(ann()),
        ..all.clone()
    };
    assert!(
        bed.engine
            .list(&bob, all.clone())
            .await
            .unwrap()
            .jobs
            .is_empty()
    );
    assert!(bed.engine.list(&bob, of_ann).await.unwrap().jobs.is_empty());
    assert_eq!(bed.engine.list(&admin, all).await.unwrap().jobs.len(), 1);
    assert!(
        bed.engine
            .get(&admin, &JobKey::Id(accepted.id))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn two_users_may_use_the_same_tag() {
    let (registry, _runs) = one("/held", RouteOptions::default(), true);
    let bed = bed(EngineConfig::default(), registry).await;
    let anns = bed.submit(tagged("/held", "in", "mine")).await;
    let mut submission = tagged("/held", "other", "mine");
    submission.owner = Owner::new("bob");
    let bobs = bed.submit(submission).await;
    assert!(!bobs.existing && bobs.id != anns.id);
    for (owner, id) in [(ann(), anns.id), (Owner::new("bob"), bobs.id)] {
        let key = JobKey::Tag(anns.tag.clone());
        let job = bed
            .engine
            .get(&Caller::user(owner), &key)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(job.header.id, id);
    }
}
