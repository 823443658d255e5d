//! What the handle has the readers read, and what it finds in memory without them.

use kjob_core::{Job, JobId, Owner, Parts, StoreError, Timestamp};
use tokio::sync::oneshot;

use super::EmbeddedStore;
use super::pool::Length;
use super::query::Found;
use super::reader::Reader;

impl EmbeddedStore {
    /// Has a reader thread read something, unless the caller is gone when its turn comes. That may
    /// need a little room too: for the index of the log of a file that nobody has open.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&mut Reader) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_in(Length::Short, read).await
    }

    /// Likewise something that takes long, such as a list: others do not wait for it.
    pub(crate) async fn read_long<T: Send + 'static>(
        &self,
        read: impl Fn(&mut Reader) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_in(Length::Long, read).await
    }

    /// Has a job read as that is done at once, and once more, beside lists, if it has bytes for which that does
    /// not do. What they are is known only from its rows, which are read again then: small reads pay nothing
    /// for it, and beside many bytes it is nothing.
    pub(crate) async fn read_job(
        &self,
        read: impl Fn(&mut Reader, Length) -> Result<Option<Found>, StoreError> + Clone + Send + 'static,
    ) -> Result<Option<Job>, StoreError> {
        let at_once = read.clone();
        let mut found = self
            .read(move |reader| at_once(reader, Length::Short))
            .await?;
        if found.as_ref().is_some_and(|found| found.lacks_bytes) {
            found = self
                .read_long(move |reader| read(reader, Length::Long))
                .await?;
        }
        Ok(found.map(|found| found.job))
    }

    /// Has all tags of a segment read, beside what others ask for.
    pub(crate) async fn prove_tags(&self, segment: u32) -> Result<(), StoreError> {
        self.read_long(move |reader| reader.prove_tags(segment))
            .await
    }

    async fn read_in<T: Send + 'static>(
        &self,
        length: Length,
        read: impl Fn(&mut Reader) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        let seen = self.shared.room.releases();
        match self.read_once(length, read.clone()).await {
            Err(StoreError::Full) if self.makes_room(seen).await => {
                self.read_once(length, read).await
            }
            done => done,
        }
    }

    async fn read_once<T: Send + 'static>(
        &self,
        length: Length,
        read: impl FnOnce(&mut Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.check_open()?;
        let (reply, answer) = oneshot::channel();
        self.readers.submit(length, move |reader| {
            // Large results that nobody waits for any more would keep others waiting.
            if !reply.is_closed() {
                let done = read(reader).map_err(|error| reader.shared().judged(error));
                // Whoever went away meanwhile needs no answer.
                let _ = reply.send(done);
            }
        });
        answer.await.map_err(|_| self.unanswered())?
    }

    /// A job of this owner, if one is named, that is in memory: it lives, or ended a short while ago, or all that is stored of
    /// it is in the system's.
    pub(crate) fn at_hand(
        &self,
        id: JobId,
        owner: Option<&Owner>,
        parts: Parts,
        now: Timestamp,
    ) -> Option<Job> {
        let is_owners = |job: &Job| owner.is_none_or(|owner| job.header.owner == *owner);
        let live = self.live_job(id, parts);
        let known = live.or_else(|| self.shared.recent.get(id, parts, now));
        // Another's job is looked for on as well, as one that is not there.
        known.filter(is_owners).or_else(|| {
            let table = self.shared.table();
            table.of(id)?.at_rest.job(id, owner, parts, now)
        })
    }

    /// A live job whose header is at hand, from memory, on the spot; none if its payload is asked for,
    /// which is not there.
    fn live_job(&self, id: JobId, parts: Parts) -> Option<Job> {
        if parts.payload {
            return None;
        }
        let state = self.shared.live().get(id)?.state();
        let header = (*self.shared.header(id)?).clone();
        Some(Job {
            header,
            state,
            payload: None,
            ending: None,
            expires_at: None,
            callback: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use kjob_core::{Ending, Finish, Lease, Output, Owner, Store};

    use super::super::EmbeddedOptions;
    use super::super::store::tests::{NOW, job};
    use super::*;

    /// Has a future do what it can do at once; whether it then waits.
    async fn has_begun<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(future.as_mut().poll(context).is_pending())
        })
        .await
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            readers: 1,
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        store.readers.submit(Length::Short, move |_| {
            let _ = wait.recv();
        });
        let done = Arc::new(std::sync::Mutex::new(Vec::new()));
        let read = |name: &'static str| {
            let done = Arc::clone(&done);
            store.read(move |_| {
                done.lock().unwrap().push(name);
                Ok(())
            })
        };
        let mut given_up = Box::pin(read("given up"));
        assert!(has_begun(given_up.as_mut()).await);
        let mut waited_for = Box::pin(read("waited for"));
        assert!(has_begun(waited_for.as_mut()).await);
        drop(given_up);
        go_on.send(()).unwrap();
        waited_for.await.unwrap();
        assert_eq!(*done.lock().unwrap(), ["waited for"]);
    }

    #[tokio::test]
    async fn large_payloads_and_results_are_read_beside_lists() {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            readers: 2,
            recent_bytes: 0,
            waiting_bytes: 0,
            inline_bytes_max: 100_000,
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        let mut ids = store.reserve_ids(4).await.unwrap();
        // In the row of the job, in a large one, and in a file of its own.
        let lens = [64 << 10, (64 << 10) + 1, 100_001];
        let jobs: Vec<_> = lens.map(|len| (ids.take().unwrap(), len)).into();
        for (id, len) in jobs.clone() {
            let bytes = Bytes::from(vec![7; len]);
            let job = job(id, &format!("job-{id}"), bytes.clone());
            store.submit(job, true).await.unwrap();
            let finish = Finish::Complete(Output::binary(bytes));
            store.finish(id, Lease(1), finish, NOW).await.unwrap();
        }
        let waiting = ids.take().unwrap();
        let job = job(waiting, "waits", Bytes::from(vec![7; 100_000]));
        store.submit(job, false).await.unwrap();

        // The thread that takes what takes long is held up by a list.
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        store.readers.submit(Length::Long, move |_| {
            let _ = begun.send(());
            let _ = wait.recv();
        });
        begins.await.unwrap();
        let parts = [(true, false), (false, true), (true, true)];
        let parts = parts.map(|(payload, result)| Parts { payload, result });
        let owner = Owner::anonymous();
        let mut large = Vec::new();
        for (id, len) in jobs {
            for parts in parts {
                let bytes_in = move |job: Result<Option<Job>, StoreError>| {
                    let job = job.unwrap().unwrap();
                    let payload = job.payload.map(|payload| payload.len());
                    assert_eq!(payload, parts.payload.then_some(len));
                    let Some(Ending::Done(done)) = job.ending else {
                        panic!("it is done");
                    };
                    let result = if parts.result { len } else { 0 };
                    assert_eq!(done.payload.data.len(), result);
                };
                let (get, get_of) = (
                    store.get(id, parts, NOW),
                    store.get_of(&owner, id, parts, NOW),
                );
                if len <= 64 << 10 {
                    bytes_in(get.await);
                    bytes_in(get_of.await);
                } else {
                    large.push((Box::pin(get), bytes_in));
                    large.push((Box::pin(get_of), bytes_in));
                }
            }
        }
        let mut start = Box::pin(store.start(waiting, NOW));
        // As often as there are turns: to the thread for what is done at once, and to the other.
        for _ in 0..2 {
            for (get, _) in &mut large {
                assert!(has_begun(get.as_mut()).await);
            }
            assert!(has_begun(start.as_mut()).await);
            // This one comes after them.
            assert!(store.bytes_of(waiting, NOW).await.unwrap().is_some());
        }
        go_on.send(()).unwrap();
        for (get, bytes_in) in large {
            bytes_in(get.await);
        }
        let started = start.await.unwrap();
        assert_eq!(started.payload.unwrap().len(), 100_000);
    }
}
