//! Steps on one job: submit, start, progress, finish, cancel.

use std::time::Duration;

use bytes::Bytes;
use kjob_proto::{Encoding, Text};

use super::{Trial, at, complete, fail, retry};
use crate::{
    Ending, Finish, Info, JobId, Lease, OnInterrupt, Output, Owner, Parts, Payload, Phase,
    Priority, QueryId, Refused, State, StepError, Submitted,
};

fn refused<T: std::fmt::Debug>(result: Result<T, StepError>) -> Refused {
    match result {
        Err(StepError::Refused(refused)) => refused,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub async fn a_submitted_job_is_queued_and_reads_back_whole(trial: &mut Trial) {
    let mut job = trial.job_of(&Owner::new("ann ✓"), "whole").await;
    let header = &mut job.header;
    header.endpoint = Text::from("/some/endpoint ✓");
    header.encoding = Encoding::Snappy;
    header.query_id = QueryId::from_bytes([0xff; 16]).unwrap();
    header.parent_span = 0x8000_0000_0000_0001;
    header.source_ip = Text::from("::1");
    header.options.priority = Priority::new(9).unwrap();
    header.options.not_before = Some(at(1));
    header.options.timeout = Some(Duration::from_millis(1500));
    header.options.retention = Duration::from_millis(3_600_001);
    header.options.remove_on_complete = true;
    header.options.user_data = Text::from("{\"text\": \"of the user ✓\"}");
    job.payload = Bytes::from_static(b"\x00\xff\x00bytes");
    let queued = State::queued(Some(at(1)));
    assert_eq!(trial.submit(job.clone()).await, Submitted::Created(queued));
    for _ in 0..2 {
        let found = trial.get(job.header.id).await;
        assert_eq!(found.header, job.header);
        assert_eq!(found.payload.as_ref(), Some(&job.payload));
        assert_eq!(
            (found.state, found.ending, found.expires_at),
            (queued, None, None)
        );
        if !trial.reopen().await {
            return;
        }
    }
}

pub async fn a_submit_may_start_the_job_in_one_step(trial: &mut Trial) {
    let mut job = trial.job("started").await;
    job.header.received_at = at(5);
    let id = job.header.id;
    let Submitted::Created(state) = trial.store.submit(job, true).await.unwrap() else {
        panic!("the tag is free");
    };
    let expected = (Phase::Running, Lease(1), 1, Some(at(5)));
    assert_eq!(
        (state.phase, state.lease, state.attempt, state.started_at),
        expected
    );
    assert_eq!(trial.get(id).await.state, state);
    let again = refused(trial.store.start(id, at(6)).await);
    assert_eq!(again, Refused::NotQueued(Phase::Running));
    if trial.reopen().await {
        assert_eq!(trial.get(id).await.state, state);
    }
}

pub async fn a_submit_does_not_start_a_job_before_its_time(trial: &mut Trial) {
    let mut job = trial.job("early").await;
    job.header.options.not_before = Some(at(10));
    let id = job.header.id;
    let queued = State::queued(Some(at(10)));
    assert_eq!(
        trial.store.submit(job, true).await.unwrap(),
        Submitted::Created(queued)
    );
    assert_eq!(trial.get(id).await.state, queued);
}

pub async fn starting_hands_out_the_payload(trial: &mut Trial) {
    let id = trial.queued("a").await;
    let started = trial.store.start(id, at(3)).await.unwrap();
    assert_eq!(started.payload.as_deref(), Some(&b"payload"[..]));
    assert_eq!(
        (started.state.phase, started.state.lease),
        (Phase::Running, Lease(1))
    );
    assert_eq!(started.state.started_at, Some(at(3)));
    assert_eq!(trial.get(id).await.state, started.state);
}

pub async fn only_a_queued_job_is_started(trial: &mut Trial) {
    let (running, lease) = trial.running("running").await;
    let done = trial.ended("done", complete(b"")).await;
    let start = |id: JobId| trial.store.start(id, at(1));
    assert_eq!(
        refused(start(running).await),
        Refused::NotQueued(Phase::Running)
    );
    assert_eq!(refused(start(done).await), Refused::Ended(Phase::Done));
    trial.store.request_cancel(running, at(1)).await.unwrap();
    assert_eq!(
        refused(start(running).await),
        Refused::NotQueued(Phase::Cancelling)
    );
    assert_eq!(trial.get(running).await.state.lease, lease);
}

pub async fn a_job_is_not_started_before_its_time(trial: &mut Trial) {
    let mut job = trial.job("later").await;
    job.header.options.not_before = Some(at(10));
    let id = job.header.id;
    trial.submit(job).await;
    let early = refused(trial.store.start(id, at(9)).await);
    assert_eq!(early, Refused::TooEarly { not_before: at(10) });
    assert_eq!(
        trial
            .store
            .start(id, at(10))
            .await
            .unwrap()
            .state
            .not_before,
        None
    );
}

pub async fn a_step_on_no_job_says_so(trial: &mut Trial) {
    let kept = trial.ended("expired", complete(b"")).await;
    let never = trial.id().await;
    let expired = trial.get(kept).await.expires_at.unwrap();
    for (id, now) in [(never, at(0)), (kept, expired)] {
        let unknown = |result: Result<State, StepError>| match result {
            Err(StepError::Unknown(unknown)) => assert_eq!(unknown, id),
            other => panic!("{other:?}"),
        };
        let store = &trial.store;
        unknown(store.start(id, now).await.map(|started| started.state));
        unknown(store.progress(id, Lease(1), 5, now).await);
        unknown(store.finish(id, Lease(1), complete(b""), now).await);
        unknown(store.request_cancel(id, now).await);
        store.expire_at(id, now).await.unwrap();
    }
}

pub async fn progress_never_falls_and_stays_below_a_hundred(trial: &mut Trial) {
    let (id, lease) = trial.running("a").await;
    for (told, kept) in [(0, 0), (40, 40), (20, 40), (40, 40), (200, 99), (98, 99)] {
        let state = trial.store.progress(id, lease, told, at(1)).await.unwrap();
        assert_eq!(
            (state.progress, state.phase),
            (kept, Phase::Running),
            "told {told}"
        );
        assert_eq!(trial.get(id).await.state, state);
    }
    let done = trial
        .store
        .finish(id, lease, complete(b""), at(2))
        .await
        .unwrap();
    assert_eq!(done.progress, 100);
}

pub async fn a_stale_lease_is_refused(trial: &mut Trial) {
    let (id, old) = trial.running("a").await;
    trial
        .store
        .finish(id, old, retry(5, true, at(0)), at(0))
        .await
        .unwrap();
    let current = trial.store.start(id, at(1)).await.unwrap().state.lease;
    assert!(current > old);
    let stale = Refused::StaleLease {
        found: old,
        current,
    };
    assert_eq!(
        refused(trial.store.progress(id, old, 50, at(2)).await),
        stale
    );
    assert_eq!(
        refused(trial.store.finish(id, old, complete(b"old"), at(2)).await),
        stale
    );
    assert_eq!(trial.get(id).await.state.progress, 0);
    trial
        .store
        .finish(id, current, complete(b"new"), at(2))
        .await
        .unwrap();
    assert_eq!(
        trial.get(id).await.ending,
        Some(Ending::Done(Output::binary(&b"new"[..])))
    );
}

pub async fn a_report_on_a_waiting_job_is_refused(trial: &mut Trial) {
    let id = trial.queued("a").await;
    let waiting = Refused::NotRunning(Phase::Queued);
    assert_eq!(
        refused(trial.store.progress(id, Lease(0), 50, at(1)).await),
        waiting
    );
    assert_eq!(
        refused(trial.store.finish(id, Lease(0), complete(b""), at(1)).await),
        waiting
    );
}

pub async fn every_way_to_end_keeps_what_it_must(trial: &mut Trial) {
    let json = Finish::Complete(Output::json("{\"ä\": 1}"));
    let reason = || Text::from("outcome unknown ✓");
    let cut_off = Finish::Interrupt {
        reason: reason(),
        then: OnInterrupt::Fail,
    };
    let ways = [
        (
            complete(b"\x00\xff"),
            Phase::Done,
            Ending::Done(Output::binary(&b"\x00\xff"[..])),
        ),
        (
            complete(b""),
            Phase::Done,
            Ending::Done(Output::binary(&b""[..])),
        ),
        (json, Phase::Done, Ending::Done(Output::json("{\"ä\": 1}"))),
        (
            fail(),
            Phase::Failed,
            Ending::Failed(Text::from("it failed")),
        ),
        (
            Finish::Fail(Text::new()),
            Phase::Failed,
            Ending::Failed(Text::new()),
        ),
        (cut_off, Phase::Failed, Ending::Failed(reason())),
    ];
    let mut ended = Vec::new();
    for (number, (finish, phase, ending)) in ways.into_iter().enumerate() {
        let (id, lease) = trial.running(&format!("way-{number}")).await;
        trial.store.progress(id, lease, 30, at(1)).await.unwrap();
        let state = trial.store.finish(id, lease, finish, at(2)).await.unwrap();
        let progress = if phase == Phase::Done { 100 } else { 30 };
        assert_eq!(
            (state.phase, state.progress, state.ended_at),
            (phase, progress, Some(at(2)))
        );
        ended.push((id, state, ending));
    }
    for _ in 0..2 {
        for (id, state, ending) in &ended {
            let job = trial.get(*id).await;
            assert_eq!((job.state, job.ending.as_ref()), (*state, Some(ending)));
            let day = job.header.options.retention;
            assert_eq!(job.expires_at, Some(at(2).after(day)));
        }
        if !trial.reopen().await {
            return;
        }
    }
}

pub async fn a_handler_cannot_stop_for_a_cancel_that_nobody_asked_for(trial: &mut Trial) {
    let (id, lease) = trial.running("a").await;
    let stopped = trial.store.finish(id, lease, Finish::Stop, at(1)).await;
    assert_eq!(refused(stopped), Refused::NotCancelling);
    assert_eq!(trial.get(id).await.state.phase, Phase::Running);
}

pub async fn an_interrupted_job_is_queued_again_and_the_run_is_charged(trial: &mut Trial) {
    let (id, lease) = trial.running("a").await;
    let state = trial
        .store
        .finish(id, lease, retry(2, true, at(50)), at(1))
        .await
        .unwrap();
    let expected = (Phase::Queued, 1, Some(at(50)), None);
    assert_eq!(
        (
            state.phase,
            state.attempt,
            state.not_before,
            state.started_at
        ),
        expected
    );
    let job = trial.get(id).await;
    assert_eq!((job.state, job.ending, job.expires_at), (state, None, None));
    trial.reopen().await;
    let early = refused(trial.store.start(id, at(49)).await);
    assert_eq!(early, Refused::TooEarly { not_before: at(50) });
    let again = trial.store.start(id, at(50)).await.unwrap();
    assert_eq!((again.state.attempt, again.state.lease), (2, Lease(2)));
    assert_eq!(again.payload.as_deref(), Some(&b"payload"[..]));
}

pub async fn an_uncharged_run_costs_no_attempt(trial: &mut Trial) {
    let (id, mut lease) = trial.running("a").await;
    for run in 1..5 {
        let state = trial
            .store
            .finish(id, lease, retry(1, false, at(0)), at(run))
            .await
            .unwrap();
        assert_eq!((state.phase, state.attempt), (Phase::Queued, 0));
        lease = trial.store.start(id, at(run)).await.unwrap().state.lease;
        assert_eq!(i64::from(lease.0), run + 1);
    }
}

pub async fn attempts_run_out(trial: &mut Trial) {
    let (id, lease) = trial.running("a").await;
    trial
        .store
        .finish(id, lease, retry(2, true, at(0)), at(0))
        .await
        .unwrap();
    let lease = trial.store.start(id, at(1)).await.unwrap().state.lease;
    let state = trial
        .store
        .finish(id, lease, retry(2, true, at(9)), at(2))
        .await
        .unwrap();
    assert_eq!((state.phase, state.attempt), (Phase::Failed, 2));
    let job = trial.get(id).await;
    assert_eq!(job.ending, Some(Ending::Failed(Text::from("cut off"))));
    assert_eq!(job.state, state);
}

pub async fn progress_does_not_fall_over_attempts(trial: &mut Trial) {
    let (id, lease) = trial.running("a").await;
    trial.store.progress(id, lease, 60, at(0)).await.unwrap();
    let queued = trial
        .store
        .finish(id, lease, retry(3, true, at(0)), at(0))
        .await
        .unwrap();
    assert_eq!(queued.progress, 60);
    let lease = trial.store.start(id, at(1)).await.unwrap().state.lease;
    assert_eq!(
        trial
            .store
            .progress(id, lease, 10, at(1))
            .await
            .unwrap()
            .progress,
        60
    );
}

pub async fn the_first_end_wins(trial: &mut Trial) {
    let (id, lease) = trial.running("a").await;
    trial
        .store
        .finish(id, lease, complete(b"first"), at(1))
        .await
        .unwrap();
    for late in [
        complete(b"second"),
        fail(),
        Finish::Stop,
        retry(9, true, at(0)),
    ] {
        let late = trial.store.finish(id, lease, late, at(2)).await;
        assert_eq!(refused(late), Refused::Ended(Phase::Done));
    }
    let job = trial.get(id).await;
    assert_eq!(
        job.ending,
        Some(Ending::Done(Output::binary(&b"first"[..])))
    );
    assert_eq!(job.state.ended_at, Some(at(1)));
}

pub async fn a_queued_job_is_cancelled_at_once(trial: &mut Trial) {
    let id = trial.queued("a").await;
    let state = trial.store.request_cancel(id, at(4)).await.unwrap();
    assert_eq!(
        (state.phase, state.ended_at),
        (Phase::Cancelled, Some(at(4)))
    );
    let job = trial.get(id).await;
    assert_eq!((job.state, job.ending), (state, Some(Ending::Cancelled)));
    assert_eq!(
        job.expires_at,
        Some(at(4).after(job.header.options.retention))
    );
    assert_eq!(
        refused(trial.store.start(id, at(5)).await),
        Refused::Ended(Phase::Cancelled)
    );
}

pub async fn a_running_job_is_asked_to_stop(trial: &mut Trial) {
    for (number, finish) in [Finish::Stop, fail(), retry(9, true, at(0))]
        .into_iter()
        .enumerate()
    {
        let (id, lease) = trial.running(&format!("a-{number}")).await;
        for _ in 0..2 {
            let state = trial.store.request_cancel(id, at(1)).await.unwrap();
            assert_eq!(state.phase, Phase::Cancelling);
            assert_eq!(trial.get(id).await.state, state);
        }
        trial.reopen().await;
        let advanced = trial.store.progress(id, lease, 70, at(1)).await.unwrap();
        assert_eq!((advanced.phase, advanced.progress), (Phase::Cancelling, 70));
        let state = trial.store.finish(id, lease, finish, at(2)).await.unwrap();
        assert_eq!(state.phase, Phase::Cancelled);
        assert_eq!(trial.get(id).await.ending, Some(Ending::Cancelled));
    }
}

pub async fn a_result_beats_a_cancel(trial: &mut Trial) {
    let (id, lease) = trial.running("a").await;
    trial.store.request_cancel(id, at(1)).await.unwrap();
    let state = trial
        .store
        .finish(id, lease, complete(b"done"), at(2))
        .await
        .unwrap();
    assert_eq!((state.phase, state.progress), (Phase::Done, 100));
    let late = trial.store.request_cancel(id, at(3)).await;
    assert_eq!(refused(late), Refused::Ended(Phase::Done));
}

pub async fn an_ended_job_is_not_cancelled(trial: &mut Trial) {
    let ended = [
        (trial.ended("done", complete(b"")).await, Phase::Done),
        (trial.ended("failed", fail()).await, Phase::Failed),
        (trial.cancelled("cancelled").await, Phase::Cancelled),
    ];
    for (id, phase) in ended {
        let before = trial.get(id).await;
        assert_eq!(
            refused(trial.store.request_cancel(id, at(9)).await),
            Refused::Ended(phase)
        );
        assert_eq!(trial.get(id).await, before);
    }
}

pub async fn what_is_said_of_a_result_is_kept_with_it(trial: &mut Trial) {
    let mut most = Info::new();
    for number in 0..Info::ENTRIES_MAX {
        let name = format!("{number:0width$}", width = Info::NAME_LEN_MAX);
        most.insert(name, "ä".repeat(Info::VALUE_LEN_MAX / 2))
            .unwrap();
    }
    let mut little = Info::new();
    little.insert("content_type", "text/html").unwrap();
    little.insert("empty", "").unwrap();
    let mut ended = Vec::new();
    for (number, info) in [most, little, Info::new()].into_iter().enumerate() {
        for len in [0, 10, 300_000] {
            let payload = Payload::binary(vec![7; len]);
            let info = info.clone();
            let result = Output { payload, info };
            let finish = Finish::Complete(result.clone());
            let id = trial.ended(&format!("info-{number}-{len}"), finish).await;
            ended.push((id, result));
        }
    }
    for _ in 0..2 {
        for (id, result) in &ended {
            let told = trial.get(*id).await.ending;
            assert_eq!(told, Some(Ending::Done(result.clone())));
            let job = trial.store.get(*id, Parts::NONE, at(0)).await.unwrap();
            let told = job.and_then(|job| job.ending);
            assert_eq!(told, Some(Ending::Done(result.without_bytes())));
        }
        if !trial.reopen().await {
            break;
        }
    }
}

pub async fn steps_survive_reopening(trial: &mut Trial) {
    let queued = trial.queued("queued").await;
    let (running, lease) = trial.running("running").await;
    trial
        .store
        .progress(running, lease, 33, at(1))
        .await
        .unwrap();
    let started = trial.queued("started").await;
    trial.store.start(started, at(2)).await.unwrap();
    let done = trial.ended("done", complete(b"result")).await;
    let mut before = Vec::new();
    for id in [queued, running, started, done] {
        before.push(trial.get(id).await);
    }
    if !trial.reopen().await {
        return;
    }
    for job in before {
        assert_eq!(trial.get(job.header.id).await, job);
    }
    trial
        .store
        .finish(running, lease, complete(b"after"), at(3))
        .await
        .unwrap();
    trial.store.start(queued, at(3)).await.unwrap();
    let late = trial.store.finish(done, Lease(1), fail(), at(3)).await;
    assert_eq!(refused(late), Refused::Ended(Phase::Done));
}

pub async fn big_payloads_and_results_come_back(trial: &mut Trial) {
    let big = |len: usize| -> Bytes { (0..len).map(|at| (at * 31 + at / 256) as u8).collect() };
    let sizes = [0, 1, 4095, 4096, 256 * 1024, 256 * 1024 + 1, 3 << 20];
    let mut jobs = Vec::new();
    for size in sizes {
        let mut job = trial.job(&format!("size-{size}")).await;
        job.payload = big(size);
        let id = job.header.id;
        trial.submit(job.clone()).await;
        let started = trial.store.start(id, at(1)).await.unwrap();
        assert_eq!(started.payload.as_ref(), Some(&job.payload), "{size} bytes");
        let result = Finish::Complete(Output::binary(big(size + 1)));
        trial
            .store
            .finish(id, started.state.lease, result, at(2))
            .await
            .unwrap();
        // The same call again is known by its bytes, also where they are big.
        let mut again = job.clone();
        again.header.id = trial.id_for(&job.header.tag).await;
        assert!(matches!(
            trial.submit(again.clone()).await,
            Submitted::Existing(_)
        ));
        again.payload = big(size + 1);
        assert!(matches!(
            trial.submit(again).await,
            Submitted::Conflict { .. }
        ));
        jobs.push((id, size));
    }
    for _ in 0..2 {
        for (id, size) in &jobs {
            let job = trial.get(*id).await;
            assert_eq!(job.payload, Some(big(*size)));
            assert_eq!(
                job.ending,
                Some(Ending::Done(Output::binary(big(*size + 1))))
            );
            let bare = trial
                .store
                .get(*id, Parts::NONE, at(3))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(bare.payload, None);
        }
        if !trial.reopen().await {
            return;
        }
    }
}
