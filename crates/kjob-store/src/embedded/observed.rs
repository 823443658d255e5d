//! Commits, as an observer is told of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kjob_core::{Store, StoreError};

use super::store::tests::{inspect, job};
use super::{EmbeddedOptions, EmbeddedStore};
use crate::{CommitObserver, Observed};

#[derive(Debug, Default)]
struct Commits(Mutex<Vec<(usize, bool)>>);

impl CommitObserver for Commits {
    fn committed(&self, steps: usize, _: Duration, is_done: bool) {
        self.0.lock().unwrap().push((steps, is_done));
    }
}

#[tokio::test]
async fn steps_that_wait_together_are_one_commit() {
    let commits = Arc::new(Commits::default());
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        observer: Observed::by(commits.clone()),
        reserve_bytes: 0,
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    let mut ids = store.reserve_ids(4).await.unwrap();
    let mut next = |tag: &str| job(ids.take().unwrap(), tag, Bytes::from_static(b"payload"));
    let jobs = [next("a"), next("b"), next("c")];
    commits.0.lock().unwrap().clear();
    let go_on = held(&store).await;
    let [a, b, c] = jobs.map(|job| store.submit(job, false));
    let mut all = std::pin::pin!(async { tokio::join!(a, b, c) });
    begin(all.as_mut()).await;
    go_on.send(()).unwrap();
    let (a, b, c) = all.await;
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(*commits.0.lock().unwrap(), [(3, true)]);

    let go_on = held(&store).await;
    let mut refused = std::pin::pin!(store.submit(next("d"), false));
    begin(refused.as_mut()).await;
    inspect(&store, |writer| {
        let pending = writer.pending.values_mut();
        pending.for_each(|pending| pending.failed = Some(StoreError::Full));
    })
    .await;
    go_on.send(()).unwrap();
    assert!(refused.await.is_err());
    let told = commits.0.lock().unwrap().clone();
    assert_eq!(told, [(3, true), (1, false)]);
}

/// Keeps the writer from going on until it is told to.
async fn held(store: &EmbeddedStore) -> std::sync::mpsc::Sender<()> {
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    inspect(store, move |_| {
        let _ = wait.recv();
    })
    .await;
    go_on
}

/// Has a future do what it can do before the writer goes on.
async fn begin<F: Future>(future: std::pin::Pin<&mut F>) {
    tokio::select! {
        biased;
        _ = future => unreachable!("the writer waits"),
        () = std::future::ready(()) => {}
    }
}
