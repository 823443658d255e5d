//! Submits whose answers are long in coming, or are lost, while other nodes and this one take what they stored.

use std::time::Duration;

use crate::cluster::{Member, member, once};
use crate::support::*;
use kjob_core::engine::{Caller, JobKey, SubmitError};
use kjob_core::{JobId, MemoryCluster, Phase};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// A submit whose answer takes two seconds.
fn slow_submit(node: &Member, payload: &'static str) -> JoinHandle<Result<JobId, SubmitError>> {
    node.handle.slow_submits(2 * SECOND);
    let engine = node.engine.clone();
    tokio::spawn(async move {
        let accepted = engine.submit(call("/held", payload)).await;
        accepted.map(|it| it.id)
    })
}

#[tokio::test(start_paused = true)]
async fn a_job_that_another_began_before_its_submit_was_answered_is_the_others() {
    for is_lost in [false, true] {
        let cluster = MemoryCluster::at(T0);
        let mut a = member(&cluster, once()).await;
        let mut b = member(&cluster, once()).await;
        a.submit("1").await;
        let busy = a.run().await;
        let submitted = slow_submit(&a, "2");
        let run = b.run().await;
        let id = run.id();
        sleep(SECOND).await;
        if is_lost {
            a.handle.set_cut(true);
            submitted.await.unwrap().unwrap_err();
            a.handle.set_cut(false);
        } else {
            assert_eq!(submitted.await.unwrap().unwrap(), id);
        }
        a.handle.slow_submits(Duration::ZERO);
        // It is asked again what became of it.
        sleep(5 * SECOND).await;
        assert_eq!(a.phase(id).await, Phase::Running, "{is_lost}");
        assert_eq!(a.engine.stats().queued, 0, "{is_lost}");
        let (began, end) = (Instant::now(), a.wait(id));
        run.done();
        assert_eq!(end.await.unwrap().state.phase, Phase::Done, "{is_lost}");
        assert!(
            began.elapsed() <= SECOND,
            "{is_lost}: {:?}",
            began.elapsed()
        );
        busy.done();
    }
}

/// Its own claim may be quicker than the answer to its submit.
#[tokio::test(start_paused = true)]
async fn a_job_that_began_here_before_its_submit_was_answered_waits_no_more_and_stays() {
    let cluster = MemoryCluster::at(T0);
    let mut a = member(&cluster, once()).await;
    a.submit("1").await;
    let first = a.run().await;
    let submitted = slow_submit(&a, "2");
    sleep(SECOND).await;
    first.done();
    let run = a.run().await;
    assert_eq!(a.engine.stats().queued, 0, "it runs");
    assert_eq!(submitted.await.unwrap().unwrap(), run.id());
    a.handle.slow_submits(Duration::ZERO);
    // For longer than it takes until what was started without word is given back.
    sleep(3 * crate::cluster::LEASE).await;
    assert_eq!(a.phase(run.id()).await, Phase::Running);
    assert!(!a.has_run(), "it runs once");
    assert_eq!(a.engine.stats().queued, 0);
    // It is told of a cancel that another node was asked for, as what runs here is.
    let b = member(&cluster, once()).await;
    let id = run.id();
    let key = JobKey::Id(id);
    b.engine.cancel(&Caller::user(ann()), &key).await.unwrap();
    let told = tokio::time::timeout(SECOND, run.context.cancelled()).await;
    assert!(told.is_ok(), "a cancel is heard");
    assert_eq!(a.wait(id).await.unwrap().state.phase, Phase::Cancelled);
}
