//! A tag that is given away while its old job's segment is being rewritten stays given away: the
//! copy of the segment, made piece by piece beside the writer, may hold the tag's entry already.

use std::time::Duration;

use crate::trial::{Trial, at, by_count, job};
use kjob_core::{Finish, JobId, JobTag, NewJob, Store, TagReuse};
use kjob_proto::Text;
use kjob_store::embedded::EmbeddedOptions;

#[tokio::test]
async fn a_users_tag_is_not_brought_back_by_a_rewriting_under_way() {
    is_not_brought_back(|_| "a".parse().unwrap()).await;
}

#[tokio::test]
async fn a_generated_tag_is_not_brought_back_by_a_rewriting_under_way() {
    is_not_brought_back(|id| format!("job-{id}-abcdefghijkl").parse().unwrap()).await;
}

async fn is_not_brought_back(tag_of: impl Fn(JobId) -> JobTag) {
    let mut trial = Trial::new(EmbeddedOptions {
        sweep_jobs: 1,
        ..by_count(20)
    });
    // The first of the segment, so that the first piece of the rewriting copies it.
    let old = trial.id().await;
    let tag = tag_of(old);
    trial.submit_as(tagged(old, &tag)).await;
    fail(&trial, old).await;
    for number in 0..19 {
        let name = format!("short-{number}");
        let id = trial.submit_kept(&name, Duration::from_secs(1)).await;
        trial.finish(id, &name, at(0)).await;
    }
    trial.submit("next").await;
    assert_eq!(trial.segments(), 2);
    let begun = trial.store().expire(at(10)).await.unwrap();
    assert!(
        begun.more && begun.jobs == 0,
        "the rewriting is under way: {begun:?}"
    );

    // Another job takes the tag, and is gone before the old one is.
    let mut anew = tagged(trial.id().await, &tag);
    anew.tag_reuse = TagReuse::IfFailed;
    anew.header.options.retention = Duration::from_secs(60);
    let new = trial.submit_as(anew).await;
    fail(&trial, new).await;
    let (expired, _) = trial.expire_all(at(10)).await;
    assert_eq!(expired.jobs, 19, "the segment was rewritten after all");

    for _ in 0..2 {
        assert_eq!(trial.find(tag.as_str(), at(20)).await, Some(new));
        assert!(trial.get(old, at(100)).await.is_some());
        assert_eq!(trial.find(tag.as_str(), at(100)).await, None);
        trial.reopen().await;
    }
    let mut free = tagged(trial.id().await, &tag);
    free.header.received_at = at(100);
    trial.submit_as(free).await;
}

fn tagged(id: JobId, tag: &JobTag) -> NewJob {
    job(id, tag.as_str())
}

async fn fail(trial: &Trial, id: JobId) {
    let lease = trial.get(id, at(0)).await.unwrap().state.lease;
    let finish = Finish::Fail(Text::from("it failed"));
    trial
        .store()
        .finish(id, lease, finish, at(0))
        .await
        .unwrap();
}
