//! What the handle asks the writer for: at once, or with room made where the disk is full.

use std::sync::Arc;

use bytes::Bytes;
use kjob_core::{Finish, JobId, Lease, State, StepError, StoreError, Timestamp};
use tokio::sync::oneshot;

use super::EmbeddedStore;
use super::blobs::{BlobKind, Content, NewBlob};
use super::pool::Length;
use super::requests::{Action, NewFinish, Reply, Request, Step};
use super::room::Lacking;

impl EmbeddedStore {
    /// Has the writer do something, and waits for its answer.
    pub(crate) async fn ask<T, E: From<StoreError>>(
        &self,
        request: impl FnOnce(Reply<T, E>) -> Request,
    ) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        requests
            .send(request(reply))
            .await
            .map_err(|_| self.unwritten())?;
        answer.await.map_err(|_| self.unwritten())?
    }

    /// As [`ask`](Self::ask), for what has to go on when the disk is full: where it finds no room, room
    /// is made, and it is asked for once more.
    pub(crate) async fn insist<T, E: From<StoreError> + Lacking>(
        &self,
        request: impl Fn(Reply<T, E>) -> Request + Send + Sync,
    ) -> Result<T, E> {
        let seen = self.shared.room.releases();
        match self.ask(&request).await {
            Err(error) if error.is_full() && self.makes_room(seen).await => {
                self.ask(&request).await
            }
            done => done,
        }
    }

    /// Makes room for something that found none, and was begun after so many releases.
    pub(crate) async fn makes_room(&self, seen: u64) -> bool {
        let made = self.ask(|reply| Request::Release { seen, reply });
        matches!(made.await, Ok::<_, StoreError>(true))
    }

    /// Has a step done on a job.
    pub(crate) async fn step(
        &self,
        id: JobId,
        action: impl Fn() -> Action + Send + Sync,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.insist(|reply| step(id, action(), at, reply)).await
    }

    /// Has a job end, or finds no room for that.
    pub(crate) async fn finish_once(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let content = match &finish {
            Finish::Complete(result) => Some(
                self.content(id, BlobKind::Result, result.payload.data.clone())
                    .await?,
            ),
            _ => None,
        };
        let finish = NewFinish::new(finish, content);
        let action = Action::Finish { lease, finish };
        self.ask(|reply| step(id, action, at, reply)).await
    }

    /// Big bytes are durable in a file of their own before the commit that will name it.
    pub(crate) async fn content(
        &self,
        id: JobId,
        kind: BlobKind,
        data: Bytes,
    ) -> Result<Content, StoreError> {
        if data.len() <= self.shared.options.inline_bytes_max {
            return Ok(Content::Inline(data));
        }
        self.shared.check_open()?;
        let shared = Arc::clone(&self.shared);
        self.work_for(Length::Short, move || {
            let segment = shared.table().of(id).map_or(0, |entry| entry.number);
            let blob = NewBlob::write(&shared.layout, segment, id, kind, &data);
            let blob = shared.noted(blob)?;
            Ok(Content::File { blob, data })
        })
        .await
    }
}

fn step(id: JobId, action: Action, at: Timestamp, reply: Reply<State, StepError>) -> Request {
    Request::Step(Box::new(Step {
        id,
        action,
        at,
        reply,
    }))
}
