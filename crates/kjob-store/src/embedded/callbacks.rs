//! The steps on callbacks: the writer notes how tries went, a reader hands out what is due.

use std::sync::Arc;

use kjob_core::{
    CallbackState, CallbackTry, ClaimedCallbacks, JobId, Refused, StepError, StoreError, Timestamp,
};

use super::callback_row;
use super::error::in_segment;
use super::ledger::Pending;
use super::reader::Reader;
use super::requests::{Ack, Reply};
use super::totals::Totals;
use super::writer::Writer;

impl Writer {
    /// Notes how a try went.
    pub(crate) fn note_callback(
        &mut self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
        reply: Reply<CallbackState, StepError>,
    ) {
        let Some(number) = self.segment_of(id) else {
            return drop(reply.send(Err(StepError::Unknown(id))));
        };
        match self.try_note_callback(number, id, tried, at) {
            // The store's own errors say nothing that a commit must prove.
            Err(error @ StepError::Store(_)) => drop(reply.send(Err(error))),
            done => self.answer(number, Ack::Callback(reply, Box::new(done))),
        }
    }

    fn try_note_callback(
        &mut self,
        number: u32,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        if self.live(number, id).is_some() {
            return Err(Refused::NoCallback.into());
        }
        let damaged = in_segment(number);
        let stored = self.reading(number)?.stored(id).map_err(&damaged)?;
        let Some(stored) = stored else {
            self.shared.absent(id).map_err(damaged)?;
            return Err(StepError::Unknown(id));
        };
        if stored.is_expired(at) {
            return Err(StepError::Unknown(id));
        }
        let end = stored.state.end;
        let end = end.ok_or_else(|| damaged(self.shared.lost_end(id)))?;
        let old = end.callback.ok_or(Refused::NoCallback)?;
        let new = old.after(tried, at).ok_or(Refused::NoCallback)?;
        let (connection, pending) = self.writing(number)?;
        match callback_row::put(connection, id, &new) {
            Ok(_) => {
                take(&mut pending.totals, id, &old);
                pending.put_callback(id, &new);
                Ok(new)
            }
            Err(error) => Err(self.failed(number, "note a callback", error).into()),
        }
    }
}

impl Pending {
    /// Counts a row of `callbacks` that was written.
    pub(crate) fn put_callback(&mut self, id: JobId, state: &CallbackState) {
        let crc = callback_row::checksum(id, state);
        self.totals.callbacks.add(id.get(), crc);
        if state.next_at.is_some() {
            self.totals.callbacks_due.add(id.get(), crc);
        }
        self.callbacks.push((id, state.next_at));
    }
}

/// Takes a row of `callbacks` out of the totals.
fn take(totals: &mut Totals, id: JobId, state: &CallbackState) {
    let crc = callback_row::checksum(id, state);
    totals.callbacks.remove(id.get(), crc);
    if state.next_at.is_some() {
        totals.callbacks_due.remove(id.get(), crc);
    }
}

impl Reader {
    /// Hands out callbacks that are due; looks at no more jobs than `limit`.
    pub(crate) fn claim_callbacks(
        &mut self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        let shared = Arc::clone(self.shared());
        let mut jobs = Vec::new();
        for _ in 0..limit.max(1) {
            let Some(id) = shared.callbacks().claim(now, until) else {
                break;
            };
            match self.get(id, now) {
                Ok(Some(job)) => {
                    // A try may have been noted at this very moment.
                    let state = job.callback.as_ref();
                    jobs.extend(state.and_then(|state| state.next_at).map(|_| job));
                }
                // It has expired; or it is damaged, and is found again when the store is opened anew.
                Ok(None) | Err(StoreError::Corrupt { .. }) => shared.callbacks().set(id, None),
                Err(error) => return Err(error),
            }
        }
        let next_at = shared.callbacks().next_at();
        Ok(ClaimedCallbacks { jobs, next_at })
    }
}
