//! Reading: get, find, list.

use kjob_proto::Text;

use super::{Trial, at, complete, fail};
use crate::{
    Ending, Filter, JobId, LiveJob, Order, Output, Owner, Page, Parts, Priority, Status, Timestamp,
};

/// All pages of a list.
async fn list(trial: &Trial, filter: &Filter, now: Timestamp) -> Vec<JobId> {
    let mut filter = filter.clone();
    let mut ids = Vec::new();
    loop {
        let Page { jobs, next } = trial.store.list(&filter, now).await.unwrap();
        assert!(jobs.len() <= filter.limit);
        ids.extend(jobs.iter().map(|job| job.header.id));
        let Some(next) = next else { return ids };
        let is_beyond = |id: JobId, other: JobId| match filter.order {
            Order::OldestFirst => id > other,
            Order::NewestFirst => id < other,
        };
        let leads_on = filter.after.is_none_or(|after| is_beyond(next, after));
        assert!(leads_on, "every page leads on");
        assert!(
            ids.last().is_none_or(|last| !is_beyond(*last, next)),
            "the next page begins after this one"
        );
        filter.after = Some(next);
    }
}

pub async fn get_gives_the_parts_that_were_asked_for(trial: &mut Trial) {
    let live = trial.queued("live").await;
    let done = trial.ended("done", complete(b"result")).await;
    for (payload, result) in [(false, false), (true, false), (false, true), (true, true)] {
        let parts = Parts { payload, result };
        for id in [live, done] {
            let job = trial.store.get(id, parts, at(0)).await.unwrap().unwrap();
            assert_eq!(job.payload.is_some(), payload);
            assert!(job.payload.is_none_or(|bytes| bytes == "payload"));
        }
        let job = trial.store.get(done, parts, at(0)).await.unwrap().unwrap();
        let bytes = if result { &b"result"[..] } else { b"" };
        assert_eq!(job.ending, Some(Ending::Done(Output::binary(bytes))));
    }
}

pub async fn the_bytes_of_a_job_are_those_of_its_payload_and_result(trial: &mut Trial) {
    let live = trial.queued("live").await;
    let done = trial.ended("done", complete(b"a result")).await;
    let failed = trial.ended("failed", fail()).await;
    let payload = b"payload".len() as u64;
    for (id, bytes) in [(live, payload), (done, payload + 8), (failed, payload)] {
        assert_eq!(trial.store.bytes_of(id, at(0)).await.unwrap(), Some(bytes));
    }
    let reserved = trial.id().await;
    assert_eq!(trial.store.bytes_of(reserved, at(0)).await.unwrap(), None);
    trial.store.expire_at(done, at(5)).await.unwrap();
    assert!(trial.store.bytes_of(done, at(4)).await.unwrap().is_some());
    assert_eq!(trial.store.bytes_of(done, at(5)).await.unwrap(), None);
}

pub async fn get_of_an_owner_gives_theirs_alone(trial: &mut Trial) {
    let live = trial.queued("live").await;
    let done = trial.ended("done", complete(b"result")).await;
    let (owner, other) = (Owner::anonymous(), Owner::new("other"));
    for (payload, result) in [(false, false), (true, false), (false, true), (true, true)] {
        let parts = Parts { payload, result };
        for id in [live, done] {
            let own = trial.store.get_of(&owner, id, parts, at(0)).await.unwrap();
            assert_eq!(own, trial.store.get(id, parts, at(0)).await.unwrap());
            assert!(own.is_some());
            let others = trial.store.get_of(&other, id, parts, at(0)).await;
            assert_eq!(others.unwrap(), None);
        }
    }
    let none = trial.id().await;
    let job = trial.store.get_of(&owner, none, Parts::RESULT, at(0)).await;
    assert_eq!(job.unwrap(), None);
}

pub async fn get_of_no_job_gives_nothing(trial: &mut Trial) {
    let last = JobId::new(JobId::MAX).unwrap();
    let reserved = trial.id().await;
    for id in [reserved, last] {
        let parts = Parts {
            payload: true,
            result: true,
        };
        assert_eq!(trial.store.get(id, parts, at(0)).await.unwrap(), None);
    }
}

pub async fn find_of_no_tag_gives_nothing(trial: &mut Trial) {
    trial.queued("a").await;
    for tag in [
        "b",
        "A",
        "aa",
        "job-1-abcdefghijkl",
        "0189f7a4-7b3c-7def-8123-456789abcdef",
    ] {
        assert_eq!(trial.find(tag).await, None, "{tag}");
    }
}

pub async fn list_gives_jobs_by_rising_id(trial: &mut Trial) {
    // Submitted in another order than that of their ids.
    let mut jobs = Vec::new();
    for number in 0..6 {
        jobs.push(trial.job(&format!("tag-{number}")).await);
    }
    let mut ids: Vec<_> = jobs.iter().map(|job| job.header.id).collect();
    for at in [3, 0, 5, 1, 4, 2] {
        trial.submit(jobs[at].clone()).await;
    }
    ids.sort();
    assert_eq!(list(trial, &Filter::ALL, at(0)).await, ids);
    let running = Filter {
        statuses: vec![Status::Running],
        ..Filter::ALL
    };
    assert_eq!(list(trial, &running, at(0)).await, ids);
    if trial.reopen().await {
        assert_eq!(list(trial, &Filter::ALL, at(0)).await, ids);
    }
}

pub async fn live_gives_what_it_takes_to_queue(trial: &mut Trial) {
    let mut urgent = trial.job_of(&Owner::new("ann"), "urgent").await;
    urgent.header.endpoint = Text::from("/demo/sleep");
    urgent.header.options.priority = Priority::new(9).unwrap();
    urgent.header.options.not_before = Some(at(500));
    trial.submit(urgent).await;
    trial.queued("queued").await;
    trial.ended("done", complete(b"")).await;
    let (running, lease) = trial.running("running").await;
    trial
        .store
        .progress(running, lease, 40, at(9))
        .await
        .unwrap();
    trial.cancelled("cancelled").await;
    let (cancelling, _) = trial.running("cancelling").await;
    trial.store.request_cancel(cancelling, at(0)).await.unwrap();
    let filter = Filter {
        statuses: vec![Status::Running],
        ..Filter::ALL
    };
    for reopened in [false, true] {
        if reopened && !trial.reopen().await {
            break;
        }
        let listed = trial.store.list(&filter, at(0)).await.unwrap().jobs;
        let listed: Vec<_> = listed
            .into_iter()
            .map(|job| LiveJob {
                id: job.header.id,
                owner: job.header.owner,
                endpoint: job.header.endpoint,
                priority: job.header.options.priority,
                state: job.state,
            })
            .collect();
        assert_eq!(listed.len(), 4);
        for limit in [1, 3, 100] {
            let mut jobs = Vec::new();
            let mut after = None;
            loop {
                let page = trial.store.live(after, limit, at(0)).await.unwrap();
                assert!(page.jobs.len() <= limit);
                jobs.extend(page.jobs);
                let Some(next) = page.next else { break };
                assert!(Some(next) > after, "every page leads on");
                after = Some(next);
            }
            assert_eq!(jobs, listed);
        }
    }
}

pub async fn list_keeps_to_each_filter(trial: &mut Trial) {
    let queued = trial.queued("queued").await;
    let (running, _) = trial.running("running").await;
    let (cancelling, _) = trial.running("cancelling").await;
    trial.store.request_cancel(cancelling, at(0)).await.unwrap();
    let done = trial.ended("done", complete(b"")).await;
    let failed = trial.ended("failed", fail()).await;
    let cancelled = trial.cancelled("cancelled").await;
    let ann = Owner::new("ann");
    let mut job = trial.job_of(&ann, "other").await;
    job.header.endpoint = Text::from("/demo/sleep");
    let other = job.header.id;
    trial.submit(job).await;

    let with = |statuses: &[Status]| Filter {
        statuses: statuses.to_vec(),
        ..Filter::ALL
    };
    let by = |owner: &Owner| Filter {
        owner: Some(owner.clone()),
        ..Filter::ALL
    };
    let to = |endpoint| Filter {
        endpoint: Some(Text::from(endpoint)),
        ..Filter::ALL
    };
    let mine = Owner::anonymous();
    let cases = [
        (
            Filter::ALL,
            vec![queued, running, cancelling, done, failed, cancelled, other],
        ),
        (
            with(&[Status::Running]),
            vec![queued, running, cancelling, other],
        ),
        (with(&[Status::Done]), vec![done]),
        (with(&[Status::Error]), vec![failed]),
        (with(&[Status::Cancelled]), vec![cancelled]),
        (
            with(&[Status::Done, Status::Running]),
            vec![queued, running, cancelling, done, other],
        ),
        (by(&ann), vec![other]),
        (
            by(&mine),
            vec![queued, running, cancelling, done, failed, cancelled],
        ),
        (by(&Owner::new("bob")), vec![]),
        (to("/demo/sleep"), vec![other]),
        (to("/demo"), vec![]),
        (
            Filter {
                statuses: vec![Status::Running],
                ..by(&mine)
            },
            vec![queued, running, cancelling],
        ),
        (
            Filter {
                statuses: vec![Status::Running],
                ..to("/demo/sleep")
            },
            vec![other],
        ),
        (
            Filter {
                after: Some(done),
                ..Filter::ALL
            },
            vec![failed, cancelled, other],
        ),
        (
            Filter {
                after: Some(running),
                ..with(&[Status::Running])
            },
            vec![cancelling, other],
        ),
        (
            Filter {
                after: Some(other),
                ..Filter::ALL
            },
            vec![],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(list(trial, &filter, at(0)).await, expected, "{filter:?}");
    }
}

pub async fn list_comes_in_pages_that_lead_to_the_end(trial: &mut Trial) {
    let mut ids = Vec::new();
    for number in 0..10 {
        let tag = format!("tag-{number}");
        ids.push(match number % 2 {
            0 => trial.queued(&tag).await,
            _ => trial.ended(&tag, complete(b"")).await,
        });
    }
    for statuses in [vec![], vec![Status::Running], vec![Status::Done]] {
        let wants = |number: &usize| match statuses.first() {
            Some(Status::Running) => number.is_multiple_of(2),
            Some(_) => number % 2 == 1,
            None => true,
        };
        let expected: Vec<_> = (0..10).filter(wants).map(|number| ids[number]).collect();
        for limit in [1, 2, 3, 9, 10, 11] {
            let mut filter = Filter {
                statuses: statuses.clone(),
                limit,
                ..Filter::ALL
            };
            assert_eq!(list(trial, &filter, at(0)).await, expected, "limit {limit}");
            filter.order = Order::NewestFirst;
            let newest: Vec<_> = expected.iter().rev().copied().collect();
            assert_eq!(list(trial, &filter, at(0)).await, newest, "limit {limit}");
        }
    }
}

pub async fn list_gives_the_newest_first_if_asked(trial: &mut Trial) {
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(trial.queued(&format!("live-{number}")).await);
        ids.push(trial.ended(&format!("done-{number}"), complete(b"")).await);
    }
    ids.reverse();
    for reopened in [false, true] {
        if reopened && !trial.reopen().await {
            break;
        }
        for (statuses, expected) in [
            (vec![], ids.clone()),
            (
                vec![Status::Running],
                ids.iter().copied().skip(1).step_by(2).collect(),
            ),
            (
                vec![Status::Done],
                ids.iter().copied().step_by(2).collect::<Vec<_>>(),
            ),
        ] {
            let filter = Filter {
                statuses,
                order: Order::NewestFirst,
                ..Filter::ALL
            };
            assert_eq!(list(trial, &filter, at(0)).await, expected, "{filter:?}");
            let after = Filter {
                after: Some(ids[4]),
                ..filter
            };
            let beyond: Vec<_> = expected.into_iter().filter(|id| *id < ids[4]).collect();
            assert_eq!(list(trial, &after, at(0)).await, beyond, "{after:?}");
        }
    }
}

pub async fn list_keeps_to_the_time_of_the_submit(trial: &mut Trial) {
    const HOUR: i64 = 3_600_000;
    let mut ids = Vec::new();
    // Days apart, in their order; but for one, since clocks are set.
    for (number, hours) in [0, 24, 48, 49, 48, 96].into_iter().enumerate() {
        let mut job = trial.job(&format!("tag-{number}")).await;
        job.header.received_at = at(hours * HOUR);
        ids.push(job.header.id);
        trial.submit(job).await;
    }
    for (since, until, wanted) in [
        (None, None, &[0, 1, 2, 3, 4, 5][..]),
        (Some(48), None, &[2, 3, 4, 5]),
        (Some(49), None, &[3, 5]),
        (None, Some(48), &[0, 1]),
        (Some(24), Some(49), &[1, 2, 4]),
        (Some(97), None, &[]),
        (None, Some(0), &[]),
    ] {
        for order in [Order::OldestFirst, Order::NewestFirst] {
            let mut expected: Vec<_> = wanted.iter().map(|number: &usize| ids[*number]).collect();
            if order == Order::NewestFirst {
                expected.reverse();
            }
            for statuses in [vec![], vec![Status::Running]] {
                let filter = Filter {
                    since: since.map(|hours| at(hours * HOUR)),
                    until: until.map(|hours| at(hours * HOUR)),
                    order,
                    statuses,
                    ..Filter::ALL
                };
                assert_eq!(list(trial, &filter, at(0)).await, expected, "{filter:?}");
            }
        }
    }
}

pub async fn list_gives_no_bytes(trial: &mut Trial) {
    trial.queued("live").await;
    trial.ended("done", complete(b"result")).await;
    let page = trial.store.list(&Filter::ALL, at(0)).await.unwrap();
    assert!(page.jobs.iter().all(|job| job.payload.is_none()));
    let result = page.jobs[1].ending.clone();
    assert_eq!(result, Some(Ending::Done(Output::binary(&b""[..]))));
    let one = trial
        .store
        .get(page.jobs[1].header.id, Parts::NONE, at(0))
        .await
        .unwrap();
    assert_eq!(one.as_ref(), Some(&page.jobs[1]));
}

pub async fn list_of_live_jobs_survives_reopening(trial: &mut Trial) {
    let mut live = Vec::new();
    for number in 0..12 {
        let tag = format!("tag-{number}");
        match number % 4 {
            0 => live.push(trial.queued(&tag).await),
            1 => live.push(trial.running(&tag).await.0),
            2 => drop(trial.ended(&tag, complete(b"")).await),
            _ => drop(trial.cancelled(&tag).await),
        }
    }
    let running = Filter {
        statuses: vec![Status::Running],
        ..Filter::ALL
    };
    assert_eq!(list(trial, &running, at(0)).await, live);
    if trial.reopen().await {
        assert_eq!(list(trial, &running, at(0)).await, live);
    }
}
