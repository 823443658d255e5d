//! Steps asked for at the same time.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use kjob_proto::Text;
use tokio::task::JoinSet;

use super::{Trial, at, complete, new_job};
use crate::{
    CallbackOutcome, CallbackTry, Finish, JobId, Lease, Output, Owner, Parts, Phase, Refused,
    StepError, Store, Submitted,
};

/// Runs `count` tasks at once and gives what each gave.
async fn at_once<T, F>(trial: &Trial, count: u32, task: impl Fn(Arc<dyn Store>, u32) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..count {
        tasks.spawn(task(Arc::clone(&trial.store), number));
    }
    tasks.join_all().await
}

async fn ids_for(trial: &mut Trial, tags: impl IntoIterator<Item = String>) -> Vec<JobId> {
    let mut ids = Vec::new();
    for tag in tags {
        ids.push(trial.id_for(&tag.parse().unwrap()).await);
    }
    ids
}

pub async fn one_tag_submitted_at_once_gives_one_job(trial: &mut Trial) {
    let ids = ids_for(trial, (0..64).map(|_| "same".to_owned())).await;
    let answers = at_once(trial, 64, |store, number| {
        let job = new_job(ids[number as usize], "same".parse().unwrap());
        async move { store.submit(job, number % 2 == 0).await.unwrap() }
    })
    .await;
    let created = answers
        .iter()
        .filter(|answer| matches!(answer, Submitted::Created(_)))
        .count();
    assert_eq!(created, 1);
    let winner = trial.find("same").await.unwrap();
    for answer in answers {
        match answer {
            Submitted::Existing(job) => assert_eq!(job.header.id, winner),
            Submitted::Created(_) => {}
            conflict => panic!("{conflict:?}"),
        }
    }
    assert_eq!(trial.store.usage(&Owner::anonymous()).total.jobs, 1);
}

pub async fn one_end_of_many_wins(trial: &mut Trial) {
    let (id, lease) = trial.running("a").await;
    let answers = at_once(trial, 32, |store, number| async move {
        let result = Output::binary(number.to_string().into_bytes());
        (
            number,
            store
                .finish(id, lease, Finish::Complete(result), at(1))
                .await,
        )
    })
    .await;
    let mut winners = Vec::new();
    for (number, answer) in answers {
        match answer {
            Ok(_) => winners.push(number),
            Err(StepError::Refused(Refused::Ended(Phase::Done))) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    let ending = trial.get(id).await.ending;
    let result = Output::binary(winners[0].to_string().into_bytes());
    assert_eq!(ending, Some(crate::Ending::Done(result)));
}

pub async fn one_delivery_of_many_is_noted(trial: &mut Trial) {
    let mut job = trial.job("a").await;
    job.header.options.callback_url = Some(Text::from("http://127.0.0.1/"));
    let id = job.header.id;
    trial.store.submit(job, true).await.unwrap();
    let store = &trial.store;
    store
        .finish(id, Lease(1), complete(b""), at(0))
        .await
        .unwrap();
    let answers = at_once(trial, 32, |store, number| async move {
        let tried = CallbackTry {
            http_status: Some(200 + number as u16),
            outcome: CallbackOutcome::Delivered,
        };
        store.note_callback(id, tried, at(1)).await
    })
    .await;
    let mut noted = Vec::new();
    for answer in answers {
        match answer {
            Ok(state) => noted.push(state),
            Err(StepError::Refused(Refused::NoCallback)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(noted.len(), 1);
    assert_eq!(trial.get(id).await.callback, noted.pop());
}

pub async fn one_start_of_many_wins(trial: &mut Trial) {
    let id = trial.queued("a").await;
    let answers = at_once(
        trial,
        32,
        |store, _| async move { store.start(id, at(1)).await },
    )
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(trial.get(id).await.state.lease, Lease(1));
}

pub async fn many_lives_at_once_all_end_as_they_should(trial: &mut Trial) {
    let ids = ids_for(trial, (0..300).map(|number| format!("tag-{number}"))).await;
    let ended = at_once(trial, 300, |store, number| {
        let id = ids[number as usize];
        async move {
            let job = new_job(id, format!("tag-{number}").parse().unwrap());
            let start = number % 3 != 0;
            let Submitted::Created(state) = store.submit(job, start).await.unwrap() else {
                panic!("tag-{number} is taken");
            };
            if !start {
                let state = store.request_cancel(id, at(1)).await.unwrap();
                assert_eq!(state.phase, Phase::Cancelled);
                return (id, Phase::Cancelled);
            }
            store.progress(id, state.lease, 50, at(1)).await.unwrap();
            // Seen as soon as it is answered.
            let job = store.get(id, Parts::NONE, at(1)).await.unwrap().unwrap();
            assert_eq!(job.state.progress, 50);
            store
                .finish(id, state.lease, complete(b"done"), at(2))
                .await
                .unwrap();
            let job = store.get(id, Parts::RESULT, at(2)).await.unwrap().unwrap();
            assert_eq!(job.state.phase, Phase::Done);
            (id, Phase::Done)
        }
    })
    .await;
    for _ in 0..2 {
        for (id, phase) in &ended {
            assert_eq!(trial.get(*id).await.state.phase, *phase);
        }
        if !trial.reopen().await {
            return;
        }
    }
}

pub async fn ids_reserved_at_once_are_different(trial: &mut Trial) {
    let blocks = at_once(trial, 32, |store, number| async move {
        store.reserve_ids(1 + number % 5).await
    })
    .await;
    let mut seen = HashSet::new();
    for block in blocks {
        let mut block = block.unwrap();
        while let Some(id) = block.take() {
            assert!(seen.insert(id), "{id} was given twice");
        }
    }
}
