//! The steps on one job that is there, as the writer does them: the state machine, against what is committed and what the batch has
//! done so far.

use kjob_core::{
    CallbackState, JobId, Phase, Refused, State, StepError, StoreError, Timestamp, Transition,
    apply,
};

use super::blobs::Content;
use super::callback_row;
use super::error::in_segment;
use super::live::Live;
use super::recent;
use super::requests::{Ack, Action, Reply, Step};
use super::state_row::{self, NewEnding};
use super::summary::Expiries;
use super::writer::Writer;

impl Writer {
    /// Moves a job on, by the state machine.
    pub(crate) fn step(&mut self, step: Step) {
        let Step {
            id,
            action,
            at,
            reply,
        } = step;
        let Some(number) = self.segment_of(id) else {
            return drop(reply.send(Err(StepError::Unknown(id))));
        };
        match self.try_step(number, id, action, at) {
            Ok(state) => self.answer(number, Ack::Step(reply, Ok(state))),
            // The store's own errors say nothing that a commit must prove.
            Err(error @ StepError::Store(_)) => drop(reply.send(Err(error))),
            Err(error) => self.answer(number, Ack::Step(reply, Err(error))),
        }
    }

    fn try_step(
        &mut self,
        number: u32,
        id: JobId,
        action: Action,
        at: Timestamp,
    ) -> Result<State, StepError> {
        let Some(live) = self.live(number, id) else {
            return Err(self.not_live(number, id, at)?);
        };
        let state = match apply(&live.state(), action.event(), at)? {
            Transition::Unchanged => return Ok(live.state()),
            Transition::To(state) => state,
        };
        if state.phase.is_terminal() {
            self.end(number, id, &live, &state, action, at)?;
            return Ok(state);
        }
        let (connection, pending) = self.writing(number)?;
        match state_row::put_state(connection, id, &state) {
            Ok(crc) => {
                live.take_row(id, &mut pending.totals);
                pending.totals.states.add(id.get(), crc);
                let moved = live.moved_to(&state);
                pending.states.insert(id, Some(moved));
                Ok(state)
            }
            Err(error) => Err(self.failed(number, "store a job's state", error).into()),
        }
    }

    fn end(
        &mut self,
        number: u32,
        id: JobId,
        live: &Live,
        state: &State,
        action: Action,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut ending = match action {
            Action::Finish { finish, .. } => finish.ending,
            _ => NewEnding::Cancelled,
        };
        // While a job is cancelling, most ends mean that it was cancelled.
        if state.phase == Phase::Cancelled {
            ending = NewEnding::Cancelled;
        }
        if let NewEnding::Done(_, _, Content::File { blob, .. }) = &mut ending {
            self.shared
                .noted(blob.move_to(&self.shared.layout, number))?;
        }
        let expires_at = live.expiry(at);
        let result = match &ending {
            NewEnding::Done(_, _, content) => content.data().len(),
            _ => 0,
        };
        let header = self.shared.header(id);
        let ended = header.and_then(|header| {
            recent::ended(&self.shared.recent, &header, state, &ending, expires_at)
        });
        let callback = live.has_callback.then(|| CallbackState::pending(at));
        if let NewEnding::Done(_, _, content) = &mut ending {
            self.pack(number, content)?;
        }
        let (connection, pending) = self.writing(number)?;
        let store = || {
            let sums = state_row::insert_end(connection, id, state, expires_at, &ending)?;
            if live.has_row {
                state_row::remove_state(connection, id)?;
            }
            if let Some(callback) = &callback {
                callback_row::put(connection, id, callback)?;
            }
            Ok(sums)
        };
        match store() {
            Ok(sums) => {
                live.take_row(id, &mut pending.totals);
                pending.totals.ends.add(id.get(), sums.end);
                pending.totals.expiries.add(id.get(), sums.expiry);
                if let Some(callback) = &callback {
                    pending.put_callback(id, callback);
                }
            }
            Err(error) => return Err(self.failed(number, "store a job's end", error)),
        }
        pending.states.insert(id, None);
        pending.ended.extend(ended);
        pending.live -= 1;
        pending.count(&live.owner, 0, i64::try_from(result).unwrap_or(i64::MAX));
        pending.count_expiry(Expiries::second_of(expires_at), 1);
        pending.blobs.extend(ending.into_blob());
        Ok(())
    }

    /// Why there is nothing to be done with a job that is not live.
    fn not_live(&mut self, number: u32, id: JobId, at: Timestamp) -> Result<StepError, StoreError> {
        let damaged = in_segment(number);
        let stored = self.reading(number)?.stored(id).map_err(&damaged)?;
        let Some(stored) = stored else {
            self.shared.absent(id).map_err(damaged)?;
            return Ok(StepError::Unknown(id));
        };
        if stored.is_expired(at) {
            return Ok(StepError::Unknown(id));
        }
        match stored.state.state.filter(|state| state.phase.is_terminal()) {
            Some(state) => Ok(Refused::Ended(state.phase).into()),
            None => Err(damaged(self.shared.lost_end(id))),
        }
    }

    /// Moves an ended job's expiry forward.
    pub(crate) fn expire_at(&mut self, id: JobId, at: Timestamp, reply: Reply<()>) {
        match self.try_expire_at(id, at) {
            Ok(Some(number)) => self.answer(number, Ack::Done(reply)),
            Ok(None) => drop(reply.send(Ok(()))),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn try_expire_at(&mut self, id: JobId, at: Timestamp) -> Result<Option<u32>, StoreError> {
        let Some(number) = self.segment_of(id) else {
            return Ok(None);
        };
        if self.live(number, id).is_some() {
            return Ok(Some(number));
        }
        let damaged = in_segment(number);
        let stored = self.reading(number)?.stored(id).map_err(&damaged)?;
        let Some(stored) = stored else {
            self.shared.absent(id).map_err(damaged)?;
            return Ok(Some(number));
        };
        let end = stored
            .state
            .end
            .ok_or_else(|| damaged(self.shared.lost_end(id)))?;
        if at >= end.expires_at {
            return Ok(Some(number));
        }
        let (connection, pending) = self.writing(number)?;
        match state_row::put_expiry(connection, id, at, end.seq) {
            Ok(crc) => {
                let old = state_row::expiry_checksum(id, end.expires_at, end.seq);
                pending.totals.expiries.remove(id.get(), old);
                pending.totals.expiries.add(id.get(), crc);
                pending.moved.push((id, at));
            }
            Err(error) => return Err(self.failed(number, "move a job's expiry", error)),
        }
        pending.count_expiry(Expiries::second_of(end.expires_at), -1);
        pending.count_expiry(Expiries::second_of(at), 1);
        Ok(Some(number))
    }
}
