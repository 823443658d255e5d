//! Submitting is idempotent by tag: the whole rule.

use bytes::Bytes;
use kjob_proto::{Encoding, Text};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Trial, at, complete, fail, new_job};
use crate::{
    Difference, JobId, JobTag, NewJob, Owner, Phase, Priority, State, Submitted, TagReuse,
};

fn existing(submitted: Submitted) -> JobId {
    match submitted {
        Submitted::Existing(job) => job.header.id,
        other => panic!("expected the same job, got {other:?}"),
    }
}

fn created(submitted: &Submitted) {
    assert!(
        matches!(submitted, Submitted::Created(_)),
        "expected a new job, got {submitted:?}"
    );
}

fn generated(id: JobId) -> JobTag {
    JobTag::generate(id, &mut StdRng::seed_from_u64(1))
}

pub async fn the_same_call_gives_the_same_job(trial: &mut Trial) {
    let first = trial.queued("a").await;
    for _ in 0..3 {
        let again = trial.job("a").await;
        let second = again.header.id;
        let Submitted::Existing(job) = trial.submit(again).await else {
            panic!()
        };
        assert_eq!(
            (job.header.id, job.payload, job.ending),
            (first, None, None)
        );
        assert_eq!(job.state, State::queued(None));
        assert_eq!(
            trial
                .store
                .get(second, Default::default(), at(0))
                .await
                .unwrap(),
            None
        );
    }
    assert_eq!(trial.store.usage(&Owner::anonymous()).total.jobs, 1);
}

pub async fn the_same_call_gives_the_same_job_in_every_state(trial: &mut Trial) {
    let jobs = [
        ("queued", trial.queued("queued").await),
        ("running", trial.running("running").await.0),
        ("done", trial.ended("done", complete(b"result")).await),
        ("failed", trial.ended("failed", fail()).await),
        ("cancelled", trial.cancelled("cancelled").await),
    ];
    for (tag, id) in jobs {
        // Asking for a start changes nothing: the job is not started again.
        let again = trial.job(tag).await;
        let before = trial.get(id).await;
        let Submitted::Existing(job) = trial.store.submit(again, true).await.unwrap() else {
            panic!("{tag}");
        };
        assert_eq!(
            (job.header.id, job.state, job.payload),
            (id, before.state, None)
        );
        assert_eq!(job.expires_at, before.expires_at);
        if let Some(crate::Ending::Done(result)) = &job.ending {
            assert_eq!(
                result.payload.data,
                Bytes::new(),
                "an existing job comes without its result"
            );
        }
        assert_eq!(trial.get(id).await, before);
    }
}

async fn conflicts(trial: &mut Trial, difference: Difference, change: impl Fn(&mut NewJob)) {
    let id = trial.queued("a").await;
    for reuse in [TagReuse::Never, TagReuse::IfFailed] {
        let mut other = trial.job("a").await;
        other.tag_reuse = reuse;
        change(&mut other);
        assert_eq!(
            trial.submit(other).await,
            Submitted::Conflict { id, difference }
        );
    }
    assert_eq!(trial.find("a").await, Some(id));
    // Also once the job has ended.
    trial.store.request_cancel(id, at(0)).await.unwrap();
    let mut other = trial.job("a").await;
    change(&mut other);
    assert_eq!(
        trial.submit(other).await,
        Submitted::Conflict { id, difference }
    );
}

pub async fn another_endpoint_is_a_conflict(trial: &mut Trial) {
    let change = |job: &mut NewJob| {
        job.header.endpoint = Text::from("/demo/sleep");
        job.payload = Bytes::from_static(b"also other bytes");
    };
    conflicts(trial, Difference::Endpoint, change).await;
}

pub async fn another_encoding_is_a_conflict(trial: &mut Trial) {
    conflicts(trial, Difference::Encoding, |job| {
        job.header.encoding = Encoding::Json
    })
    .await;
}

pub async fn other_bytes_are_a_conflict(trial: &mut Trial) {
    conflicts(trial, Difference::Payload, |job| {
        job.payload = Bytes::from_static(b"PAYLOAD")
    })
    .await;
}

pub async fn options_do_not_make_another_call(trial: &mut Trial) {
    let id = trial.queued("a").await;
    let mut again = trial.job("a").await;
    again.header.options.priority = Priority::new(1).unwrap();
    again.header.options.user_data = Text::from("other");
    again.header.source_ip = Text::from("10.0.0.1");
    assert_eq!(existing(trial.submit(again).await), id);
}

pub async fn a_tag_belongs_to_its_owner(trial: &mut Trial) {
    let mine = trial.queued("a").await;
    let ann = Owner::new("ann");
    let mut other = trial.job_of(&ann, "a").await;
    other.payload = Bytes::from_static(b"other");
    let theirs = other.header.id;
    created(&trial.submit(other).await);
    assert_eq!(trial.find("a").await, Some(mine));
    let tag = "a".parse().unwrap();
    assert_eq!(
        trial.store.find(&ann, &tag, at(0)).await.unwrap(),
        Some(theirs)
    );
    assert_eq!(
        trial
            .store
            .find(&Owner::new("bob"), &tag, at(0))
            .await
            .unwrap(),
        None
    );
}

pub async fn the_tag_of_an_expired_job_is_free(trial: &mut Trial) {
    let old = trial.ended("a", complete(b"")).await;
    let expired = trial.get(old).await.expires_at.unwrap();
    let mut early = trial.job("a").await;
    early.header.received_at = crate::Timestamp::from_millis(expired.as_millis() - 1);
    assert_eq!(existing(trial.submit(early).await), old);
    let mut next = trial.job("a").await;
    next.header.received_at = expired;
    next.payload = Bytes::from_static(b"anything");
    let id = next.header.id;
    created(&trial.submit(next).await);
    let tag = "a".parse().unwrap();
    let found = trial
        .store
        .find(&Owner::anonymous(), &tag, expired)
        .await
        .unwrap();
    assert_eq!(found, Some(id));
}

async fn is_given_anew_only_on_request(trial: &mut Trial, old: JobId) {
    assert_eq!(
        existing({
            let again = trial.job("a").await;
            trial.submit(again).await
        }),
        old
    );
    let mut anew = trial.job("a").await;
    anew.tag_reuse = TagReuse::IfFailed;
    anew.payload = Bytes::from_static(b"other bytes this time");
    let id = anew.header.id;
    created(&trial.submit(anew.clone()).await);
    for _ in 0..2 {
        assert_eq!(trial.find("a").await, Some(id));
        // The old job is there still, under its id.
        assert_eq!(trial.get(old).await.header.tag.as_str(), "a");
        // The tag belongs to a live job now.
        let mut again = anew.clone();
        again.header.id = trial.id_for(&anew.header.tag).await;
        assert_eq!(existing(trial.submit(again).await), id);
        if !trial.reopen().await {
            break;
        }
    }
    // And is not given back when the new job expires before the old one.
    trial.store.request_cancel(id, at(1)).await.unwrap();
    trial.store.expire_at(id, at(2)).await.unwrap();
    while trial.store.expire(at(60_000)).await.unwrap().more {}
    assert_eq!(
        trial
            .store
            .find(&Owner::anonymous(), &"a".parse().unwrap(), at(60_000))
            .await
            .unwrap(),
        None
    );
}

pub async fn a_failed_jobs_tag_is_given_anew_only_on_request(trial: &mut Trial) {
    let old = trial.ended("a", fail()).await;
    is_given_anew_only_on_request(trial, old).await;
}

pub async fn a_cancelled_jobs_tag_is_given_anew_only_on_request(trial: &mut Trial) {
    let old = trial.cancelled("a").await;
    is_given_anew_only_on_request(trial, old).await;
}

pub async fn the_tag_of_a_job_that_did_not_fail_is_never_given_anew(trial: &mut Trial) {
    let jobs = [
        ("queued", trial.queued("queued").await),
        ("running", trial.running("running").await.0),
        ("done", trial.ended("done", complete(b"")).await),
    ];
    for (tag, id) in jobs {
        let mut again = trial.job(tag).await;
        again.tag_reuse = TagReuse::IfFailed;
        assert_eq!(existing(trial.submit(again).await), id);
    }
}

pub async fn a_generated_tag_finds_its_job(trial: &mut Trial) {
    let id = trial.id().await;
    let job = new_job(id, generated(id));
    created(&trial.submit(job).await);
    let tag = generated(id);
    assert_eq!(trial.find(tag.as_str()).await, Some(id));
    let find = |owner: Owner, tag: JobTag| {
        let store = std::sync::Arc::clone(&trial.store);
        async move { store.find(&owner, &tag, at(0)).await.unwrap() }
    };
    assert_eq!(
        find(Owner::new("ann"), tag).await,
        None,
        "it is its owner's"
    );
    let guess = JobTag::generate(id, &mut StdRng::seed_from_u64(2));
    assert_eq!(
        find(Owner::anonymous(), guess).await,
        None,
        "the whole tag counts"
    );
    if trial.reopen().await {
        assert_eq!(trial.find(generated(id).as_str()).await, Some(id));
    }
}

pub async fn a_user_tag_of_the_generated_form_is_a_tag_like_any_other(trial: &mut Trial) {
    // It carries the id of a job that is there, has another tag, and is someone else's business.
    let other = trial.queued("other").await;
    let never = trial.id().await;
    for carried in [other, never] {
        let tag = generated(carried);
        let job = trial.job(tag.as_str()).await;
        let id = job.header.id;
        created(&trial.submit(job).await);
        for _ in 0..2 {
            assert_eq!(trial.find(tag.as_str()).await, Some(id));
            let again = trial.job(tag.as_str()).await;
            assert_eq!(existing(trial.submit(again).await), id);
            trial.reopen().await;
        }
        let mut conflict = trial.job(tag.as_str()).await;
        conflict.payload = Bytes::new();
        let difference = Difference::Payload;
        assert_eq!(
            trial.submit(conflict).await,
            Submitted::Conflict { id, difference }
        );
    }
    assert_eq!(trial.find("other").await, Some(other));
}

pub async fn repeating_a_generated_tag_gives_the_same_job(trial: &mut Trial) {
    // The caller learnt the tag from the first answer, and submits again by it.
    let id = trial.id().await;
    created(&trial.submit(new_job(id, generated(id))).await);
    let again = trial.job(generated(id).as_str()).await;
    assert_eq!(existing(trial.submit(again).await), id);
    let mut other = trial.job(generated(id).as_str()).await;
    other.header.encoding = Encoding::Json;
    let difference = Difference::Encoding;
    assert_eq!(
        trial.submit(other).await,
        Submitted::Conflict { id, difference }
    );
}

pub async fn a_failed_jobs_generated_tag_can_be_given_anew(trial: &mut Trial) {
    let old = trial.id().await;
    created(&trial.submit(new_job(old, generated(old))).await);
    trial.store.request_cancel(old, at(0)).await.unwrap();
    let mut anew = trial.job(generated(old).as_str()).await;
    anew.tag_reuse = TagReuse::IfFailed;
    let id = anew.header.id;
    created(&trial.submit(anew).await);
    for _ in 0..2 {
        assert_eq!(trial.find(generated(old).as_str()).await, Some(id));
        assert_eq!(trial.get(old).await.state.phase, Phase::Cancelled);
        trial.reopen().await;
    }
}

pub async fn tags_survive_reopening(trial: &mut Trial) {
    let mut jobs = Vec::new();
    for number in 0..20 {
        let tag = format!("tag-{number}");
        let id = match number % 3 {
            0 => trial.queued(&tag).await,
            1 => trial.ended(&tag, complete(b"")).await,
            _ => trial.ended(&tag, fail()).await,
        };
        jobs.push((tag, id));
    }
    if !trial.reopen().await {
        return;
    }
    for (tag, id) in jobs {
        assert_eq!(trial.find(&tag).await, Some(id));
        let again = trial.job(&tag).await;
        assert_eq!(existing(trial.submit(again).await), id);
    }
}

pub async fn tags_of_every_form_come_back(trial: &mut Trial) {
    let forms = [
        "a".to_owned(),
        "-".to_owned(),
        "_".to_owned(),
        "0".to_owned(),
        "A-z_0".to_owned(),
        "x".repeat(JobTag::LEN_MAX),
        "0189f7a4-7b3c-7def-8123-456789abcdef".to_owned(),
        "0189F7A4-7B3C-7DEF-8123-456789ABCDEF".to_owned(),
        "0189f7a47b3c7def8123456789abcdef".to_owned(),
        "00000000-0000-0000-0000-000000000000".to_owned(),
        "job-1-short".to_owned(),
        "job-01-abcdefghijkl".to_owned(),
    ];
    let mut ids = Vec::new();
    for tag in &forms {
        ids.push(trial.queued(tag).await);
    }
    for _ in 0..2 {
        for (tag, id) in forms.iter().zip(&ids) {
            assert_eq!(trial.find(tag).await, Some(*id), "{tag}");
            assert_eq!(trial.get(*id).await.header.tag.as_str(), tag);
        }
        if !trial.reopen().await {
            return;
        }
    }
}
