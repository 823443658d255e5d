//! The store as the engine knows it.

use std::sync::Arc;

use async_trait::async_trait;
use kjob_core::{
    CallbackState, CallbackTry, ClaimedCallbacks, Expired, Filter, Finish, IdBlock, Job, JobId,
    JobTag, Lease, LivePage, NewJob, Owner, Page, Parts, Started, State, StepError, Store,
    StoreError, StoreUsage, Submitted, Timestamp,
};

use super::EmbeddedStore;
use super::blobs::{BlobKind, Content};
use super::live::detached;
use super::pool::Length;
use super::reader::{FoundByTag, Reader};
use super::requests::{Action, NotSubmitted, Request, Submit, Thoroughness};
use super::room::Lacking;

#[async_trait]
impl Store for EmbeddedStore {
    async fn reserve_ids(&self, count: u32) -> Result<IdBlock, StoreError> {
        self.insist(|reply| Request::Reserve { count, reply }).await
    }

    async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        let header = Arc::new(detached(&job));
        let NewJob {
            payload, tag_reuse, ..
        } = job;
        let payload = if self.shared.room.is_short() {
            // No file is begun for it. The writer knows whether it is a repeated one.
            Content::Inline(payload)
        } else {
            self.content(header.id, BlobKind::Payload, payload).await?
        };
        let mut submit = Box::new(Submit {
            header,
            payload,
            tag_reuse,
            start,
        });
        loop {
            match self.ask(|reply| Request::Submit(submit, reply)).await {
                Ok(done) => return Ok(done),
                Err(NotSubmitted::Store(error)) => return Err(error),
                Err(NotSubmitted::Unproven(segment, again)) => {
                    self.prove_tags(segment).await?;
                    submit = again;
                }
            }
        }
    }

    async fn start(&self, id: JobId, at: Timestamp) -> Result<Started, StepError> {
        if let Some(payload) = self.shared.waiting.get(id) {
            let state = self.step(id, || Action::Start, at).await?;
            return Ok(Started {
                state,
                payload: Some(payload),
            });
        }
        // Read first: once the start is durable, there is no way back to waiting.
        let parts = Parts {
            payload: true,
            result: false,
        };
        let read = move |reader: &mut Reader, length| match reader.get_within(id, parts, at, length)
        {
            // SQLite tells a read that failed as damage. That may pass; a job cannot be unfailed.
            Err(StoreError::Corrupt { .. }) => reader.get_within(id, parts, at, length),
            other => other,
        };
        let payload = match self.read_job(read).await {
            Ok(job) => job.and_then(|job| job.payload),
            Err(StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let state = self.step(id, || Action::Start, at).await?;
        Ok(Started { state, payload })
    }

    async fn progress(
        &self,
        id: JobId,
        lease: Lease,
        percent: u8,
        at: Timestamp,
    ) -> Result<State, StepError> {
        self.step(id, || Action::Progress { lease, percent }, at)
            .await
    }

    async fn finish(
        &self,
        id: JobId,
        lease: Lease,
        finish: Finish,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let seen = self.shared.room.releases();
        let again = finish.clone();
        match self.finish_once(id, lease, finish, at).await {
            Err(error) if error.is_full() && self.makes_room(seen).await => {
                self.finish_once(id, lease, again, at).await
            }
            done => done,
        }
    }

    async fn request_cancel(&self, id: JobId, at: Timestamp) -> Result<State, StepError> {
        self.step(id, || Action::Cancel, at).await
    }

    async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        self.shared.check_open()?;
        if let Some(id) = self.shared.recent.find(owner, tag, now) {
            return Ok(Some(id));
        }
        loop {
            let (owner, tag) = (owner.clone(), tag.clone());
            let find = move |reader: &mut Reader| reader.find(&owner, &tag, now);
            match self.read(find).await? {
                FoundByTag::Job(id) => return Ok(id),
                FoundByTag::Unproven(segment) => self.prove_tags(segment).await?,
            }
        }
    }

    async fn get(
        &self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.shared.check_open()?;
        if let Some(job) = self.at_hand(id, None, parts, now) {
            return Ok(Some(job));
        }
        self.read_job(move |reader, length| reader.get_within(id, parts, now, length))
            .await
    }

    async fn get_of(
        &self,
        owner: &Owner,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        self.shared.check_open()?;
        if let Some(job) = self.at_hand(id, Some(owner), parts, now) {
            return Ok(Some(job));
        }
        // Another's job that is at hand is looked for on disk as well, as one that is not there.
        let owner = owner.clone();
        self.read_job(move |reader, length| {
            let found = reader.get_within(id, Parts::NONE, now, Length::Short)?;
            match found.filter(|found| found.job.header.owner == owner) {
                Some(_) if parts != Parts::NONE => reader.get_within(id, parts, now, length),
                own => Ok(own),
            }
        })
        .await
    }

    async fn list(&self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        let filter = filter.clone();
        self.read_long(move |reader| reader.list(&filter, now))
            .await
    }

    async fn live(
        &self,
        after: Option<JobId>,
        limit: usize,
        _now: Timestamp,
    ) -> Result<LivePage, StoreError> {
        self.read(move |reader| Ok(reader.live(after, limit))).await
    }

    async fn bytes_of(&self, id: JobId, now: Timestamp) -> Result<Option<u64>, StoreError> {
        self.read(move |reader| reader.bytes_of(id, now)).await
    }

    async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        self.read(move |reader| reader.claim_callbacks(now, until, limit))
            .await
    }

    async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        self.insist(|reply| Request::NoteCallback {
            id,
            tried: Box::new(tried.clone()),
            at,
            reply,
        })
        .await
    }

    async fn expire_at(&self, id: JobId, at: Timestamp) -> Result<(), StoreError> {
        self.insist(|reply| Request::ExpireAt { id, at, reply })
            .await
    }

    async fn expire(&self, now: Timestamp) -> Result<Expired, StoreError> {
        self.give_back(now, Thoroughness::WhatPays).await
    }

    fn usage(&self, owner: &Owner) -> StoreUsage {
        self.shared.usage(owner)
    }

    fn failure(&self) -> Option<StoreError> {
        self.shared.failure()
    }

    async fn close(&self) -> Result<(), StoreError> {
        // Its files go while the directory is still ours.
        let mut rewriting = self.rewriting.lock().await;
        *rewriting = None;
        match self.ask(|reply| Request::Close { reply }).await {
            Err(StoreError::Closed) => Ok(()),
            done => done,
        }
    }
}
