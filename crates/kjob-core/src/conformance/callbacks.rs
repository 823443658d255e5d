//! Callbacks: from the commit that ends a job until they are delivered or given up.

use std::time::Duration;

use kjob_proto::Text;

use super::{Trial, at, complete, fail};
use crate::{
    CallbackOutcome, CallbackPhase, CallbackState, CallbackTry, Filter, Finish, Job, JobId, Lease,
    Parts, Refused, Status, StepError, Timestamp,
};

const URL: &str = "https://hooks.example.com/done?key=ä";

/// Long enough that nothing here comes to its end.
const HOUR: i64 = 60 * 60 * 1000;

/// A running job with a callback.
async fn called_back(trial: &mut Trial, tag: &str) -> JobId {
    let mut job = trial.job(tag).await;
    job.header.options.callback_url = Some(Text::from(URL));
    let id = job.header.id;
    trial.store.submit(job, true).await.unwrap();
    id
}

/// An ended job with a callback.
async fn ended(trial: &mut Trial, tag: &str, finish: Finish, when: i64) -> JobId {
    let id = called_back(trial, tag).await;
    let done = trial.store.finish(id, Lease(1), finish, at(when)).await;
    done.unwrap();
    id
}

/// Claims all that is due, up to two at a time.
async fn claim_all(trial: &Trial, now: Timestamp, until: Timestamp) -> Vec<Job> {
    let mut jobs = Vec::new();
    loop {
        let claimed = trial.store.claim_callbacks(now, until, 2).await.unwrap();
        assert!(claimed.jobs.len() <= 2);
        jobs.extend(claimed.jobs);
        if claimed.next_at.is_none_or(|next| next > now) {
            return jobs;
        }
    }
}

async fn claimed(trial: &Trial, now: i64, until: i64) -> Vec<JobId> {
    let jobs = claim_all(trial, at(now), at(until)).await;
    jobs.iter().map(|job| job.header.id).collect()
}

fn delivered() -> CallbackTry {
    CallbackTry {
        http_status: Some(204),
        outcome: CallbackOutcome::Delivered,
    }
}

fn retry(when: i64) -> CallbackTry {
    let (error, at) = (Text::from("connection refused ✗"), at(when));
    CallbackTry {
        http_status: None,
        outcome: CallbackOutcome::Retry { error, at },
    }
}

fn give_up() -> CallbackTry {
    let error = Text::from("the receiver is gone");
    CallbackTry {
        http_status: Some(410),
        outcome: CallbackOutcome::GiveUp { error },
    }
}

async fn note(trial: &Trial, id: JobId, tried: CallbackTry, when: i64) -> CallbackState {
    let noted = trial.store.note_callback(id, tried, at(when)).await;
    noted.unwrap()
}

async fn state(trial: &Trial, id: JobId) -> Option<CallbackState> {
    let told = trial.get(id).await.callback;
    for parts in [Parts::NONE, Parts::RESULT] {
        let job = trial.store.get(id, parts, at(0)).await.unwrap().unwrap();
        assert_eq!(job.callback, told, "whatever else is asked for");
    }
    let filter = Filter {
        limit: 100,
        ..Filter::ALL
    };
    let page = trial.store.list(&filter, at(0)).await.unwrap();
    let listed = page.jobs.into_iter().find(|job| job.header.id == id);
    assert_eq!(listed.unwrap().callback, told, "get and list agree");
    told
}

fn is_refused(result: Result<CallbackState, StepError>) -> bool {
    matches!(result, Err(StepError::Refused(Refused::NoCallback)))
}

pub async fn every_end_of_a_job_makes_its_callback_pending(trial: &mut Trial) {
    let done = called_back(trial, "done").await;
    let failed = called_back(trial, "failed").await;
    let stopped = called_back(trial, "stopped").await;
    let mut queued = trial.job("queued").await;
    queued.header.options.callback_url = Some(Text::from(URL));
    let cancelled = queued.header.id;
    trial.submit(queued).await;
    let untold = trial.ended("untold", complete(b"")).await;
    let all = [done, failed, stopped, cancelled];
    for id in all {
        assert_eq!(state(trial, id).await, None, "before its end");
        let note = trial.store.note_callback(id, delivered(), at(0)).await;
        assert!(is_refused(note), "before its end");
    }
    assert_eq!(claimed(trial, HOUR, 2 * HOUR).await, []);

    let store = &trial.store;
    store
        .finish(done, Lease(1), complete(b"x"), at(1))
        .await
        .unwrap();
    store.finish(failed, Lease(1), fail(), at(2)).await.unwrap();
    store.request_cancel(stopped, at(2)).await.unwrap();
    store
        .finish(stopped, Lease(1), Finish::Stop, at(3))
        .await
        .unwrap();
    store.request_cancel(cancelled, at(4)).await.unwrap();
    for _ in 0..2 {
        for (id, when) in all.into_iter().zip(1..) {
            assert_eq!(
                state(trial, id).await,
                Some(CallbackState::pending(at(when)))
            );
            let url = trial.get(id).await.header.options.callback_url;
            assert_eq!(url, Some(Text::from(URL)));
        }
        assert_eq!(state(trial, untold).await, None, "it has no callback_url");
        assert_eq!(claimed(trial, 2, HOUR).await, [done, failed], "what is due");
        assert_eq!(claimed(trial, 4, HOUR).await, [stopped, cancelled]);
        assert_eq!(claimed(trial, HOUR - 1, HOUR).await, []);
        if !trial.reopen().await {
            return;
        }
    }
}

pub async fn a_job_that_is_queued_again_has_no_callback_yet(trial: &mut Trial) {
    let id = called_back(trial, "again").await;
    let again = super::retry(3, true, at(0));
    trial
        .store
        .finish(id, Lease(1), again, at(0))
        .await
        .unwrap();
    assert_eq!(state(trial, id).await, None);
    trial.reopen().await;
    assert_eq!(claimed(trial, HOUR, 2 * HOUR).await, []);
    trial.store.request_cancel(id, at(5)).await.unwrap();
    assert_eq!(claimed(trial, HOUR, 2 * HOUR).await, [id]);
}

pub async fn a_claim_holds_until_its_time(trial: &mut Trial) {
    let id = ended(trial, "a", complete(b"result"), 0).await;
    let [job] = &claim_all(trial, at(0), at(100)).await[..] else {
        panic!("one is due");
    };
    let whole = trial.store.get(id, Parts::NONE, at(0)).await.unwrap();
    assert_eq!(
        Some(job),
        whole.as_ref(),
        "it comes as get tells it, without bytes"
    );
    let next = trial
        .store
        .claim_callbacks(at(99), at(200), 9)
        .await
        .unwrap();
    assert_eq!((next.jobs, next.next_at), (Vec::new(), Some(at(100))));
    assert_eq!(claimed(trial, 100, 300).await, [id], "the claim is over");
    note(trial, id, retry(250), 120).await;
    assert_eq!(claimed(trial, 249, 400).await, []);
    assert_eq!(
        claimed(trial, 250, 400).await,
        [id],
        "a noted try ends the claim"
    );
    note(trial, id, delivered(), 260).await;
    let over = trial
        .store
        .claim_callbacks(at(HOUR), at(HOUR), 9)
        .await
        .unwrap();
    assert_eq!((over.jobs, over.next_at), (Vec::new(), None));
}

pub async fn a_claim_that_is_over_at_once_still_moves_on(trial: &mut Trial) {
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(ended(trial, &format!("a-{number}"), fail(), 5 - number).await);
    }
    let mut late = ids.clone();
    late.reverse();
    let all = trial.store.claim_callbacks(at(9), at(9), 9).await.unwrap();
    let all: Vec<JobId> = all.jobs.iter().map(|job| job.header.id).collect();
    assert_eq!(all, late, "the longest due first");
    let mut found = claimed(trial, 10, 10).await;
    // Of several shards each has an order of its own.
    found.sort();
    assert_eq!(found, ids, "each once");
}

pub async fn every_try_is_told(trial: &mut Trial) {
    let tried = ended(trial, "tried", complete(b""), 0).await;
    let told = ended(trial, "delivered", fail(), 0).await;
    let given_up = ended(trial, "given-up", complete(b"r"), 0).await;
    let again = note(trial, tried, retry(50), 10).await;
    let expected = CallbackState {
        phase: CallbackPhase::Pending,
        attempts: 1,
        next_at: Some(at(50)),
        tried_at: Some(at(10)),
        http_status: None,
        error: Some(Text::from("connection refused ✗")),
    };
    assert_eq!(again, expected);
    let tried_twice = note(trial, tried, retry(90), 51).await;
    assert_eq!(
        (tried_twice.attempts, tried_twice.next_at),
        (2, Some(at(90)))
    );
    note(trial, told, retry(50), 10).await;
    let delivered_state = note(trial, told, delivered(), 52).await;
    let expected = CallbackState {
        phase: CallbackPhase::Delivered,
        attempts: 2,
        next_at: None,
        tried_at: Some(at(52)),
        http_status: Some(204),
        error: None,
    };
    assert_eq!(delivered_state, expected);
    let given_up_state = note(trial, given_up, give_up(), 53).await;
    assert_eq!(given_up_state.phase, CallbackPhase::GivenUp);
    assert_eq!(given_up_state.http_status, Some(410));
    for _ in 0..2 {
        assert_eq!(state(trial, tried).await.as_ref(), Some(&tried_twice));
        assert_eq!(state(trial, told).await.as_ref(), Some(&delivered_state));
        assert_eq!(state(trial, given_up).await.as_ref(), Some(&given_up_state));
        assert_eq!(claimed(trial, 89, HOUR).await, []);
        for over in [told, given_up] {
            for late in [delivered(), retry(60), give_up()] {
                let late = trial.store.note_callback(over, late, at(54)).await;
                assert!(is_refused(late), "it is over");
            }
        }
        if !trial.reopen().await {
            break;
        }
    }
    assert_eq!(claimed(trial, 90, HOUR).await, [tried]);
}

pub async fn a_try_of_no_callback_is_refused(trial: &mut Trial) {
    let untold = trial.ended("untold", complete(b"")).await;
    let noted = trial.store.note_callback(untold, delivered(), at(1)).await;
    assert!(is_refused(noted));
    let nobody = JobId::new(JobId::MAX - 1).unwrap();
    let noted = trial.store.note_callback(nobody, delivered(), at(1)).await;
    assert!(matches!(noted, Err(StepError::Unknown(id)) if id == nobody));
}

pub async fn an_expired_job_takes_its_callback_along(trial: &mut Trial) {
    let gone = ended(trial, "gone", complete(b""), 0).await;
    let kept = ended(trial, "kept", complete(b""), 0).await;
    trial.store.expire_at(gone, at(100)).await.unwrap();
    note(trial, gone, retry(50), 1).await;
    let late = trial.store.note_callback(gone, delivered(), at(100)).await;
    assert!(matches!(late, Err(StepError::Unknown(id)) if id == gone));
    for _ in 0..2 {
        assert_eq!(claimed(trial, 100, 200).await, [kept]);
        if !trial.reopen().await {
            break;
        }
    }
    let later = at(100).after(Duration::from_secs(10));
    while trial.store.expire(later).await.unwrap().more {}
    trial.reopen().await;
    assert_eq!(claimed(trial, 10_100, 10_200).await, [kept]);
}

/// Jobs come and go around them, and what is stored of them moves to other files with some.
pub async fn callbacks_outlive_the_jobs_around_them(trial: &mut Trial) {
    let mut kept = Vec::new();
    for number in 0..40 {
        let id = ended(trial, &format!("a-{number}"), complete(b"r"), 0).await;
        match number % 8 {
            0 => kept.push((id, Some(note(trial, id, retry(9_000), 1).await))),
            1 => kept.push((id, Some(note(trial, id, delivered(), 1).await))),
            2 => kept.push((id, Some(CallbackState::pending(at(0))))),
            _ => trial.store.expire_at(id, at(5)).await.unwrap(),
        }
    }
    for round in 0..2 {
        let mut more = true;
        while more {
            more = trial.store.expire(at(20_000)).await.unwrap().more;
            // Between two pieces of the work.
            if let Some((id, told)) = kept.iter_mut().find(|(_, told)| {
                told.as_ref()
                    .is_some_and(|told| told.next_at == Some(at(9_000)))
            }) {
                *told = Some(note(trial, *id, give_up(), 2).await);
            }
        }
        for (id, told) in &kept {
            assert_eq!(state(trial, *id).await, *told, "round {round}");
        }
        trial.reopen().await;
    }
    let mut due: Vec<_> = kept
        .iter()
        .filter(|(_, told)| told.as_ref().is_some_and(|told| told.next_at.is_some()))
        .map(|(id, _)| *id)
        .collect();
    due.sort();
    let mut found = claimed(trial, 20_000, HOUR).await;
    found.sort();
    assert_eq!(found, due);
    let filter = Filter {
        statuses: vec![Status::Done],
        limit: 100,
        ..Filter::ALL
    };
    let left = trial.store.list(&filter, at(20_000)).await.unwrap().jobs;
    assert_eq!(left.len(), kept.len());
}
