//! Ids are never given twice.

use std::collections::HashSet;

use super::Trial;

pub async fn a_reserved_id_is_never_given_again(trial: &mut Trial) {
    let mut seen = HashSet::new();
    for count in [1, 3, 100, 1, 7] {
        let mut block = trial.store.reserve_ids(count).await.unwrap();
        while let Some(id) = block.take() {
            assert!(seen.insert(id), "{id} was given twice");
        }
    }
}

pub async fn a_reserved_id_is_never_given_again_after_reopening(trial: &mut Trial) {
    let mut seen = HashSet::new();
    for _ in 0..3 {
        // Nothing is submitted: the reservation itself must be durable.
        let mut block = trial.store.reserve_ids(10).await.unwrap();
        while let Some(id) = block.take() {
            assert!(seen.insert(id), "{id} was given twice");
        }
        if !trial.reopen().await {
            return;
        }
    }
}

pub async fn a_block_has_as_many_ids_as_were_asked_for(trial: &mut Trial) {
    assert_eq!(trial.store.reserve_ids(5).await.unwrap().remaining(), 5);
    assert!(trial.store.reserve_ids(0).await.unwrap().remaining() >= 1);
}
