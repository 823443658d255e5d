//! Submits, as the writer does them: the tag rule, against what is committed and what the batch has done so far.

use std::cmp::Ordering;
use std::sync::Arc;

use kjob_core::{
    Difference, JobId, JobTag, Owner, Parts, Phase, State, StoreError, Submitted, TagReuse,
    Timestamp,
};

use super::blobs::Content;
use super::error::in_segment;
use super::job_row;
use super::ledger::Ledger;
use super::live::{Live, first_state};
use super::query::Stored;
use super::requests::{Ack, NotSubmitted, Reply, Submit};
use super::room::Lacking;
use super::tag_moves::HeldTag;
use super::tags::{self, TagKey};
use super::writer::Writer;
use crate::values::millis;

/// Who has the tag of a submit.
enum Holder {
    Nobody,
    /// This job, in this segment.
    Job(u32, Box<Stored>),
    /// That depends on changes of this batch in this other segment, which may fail by themselves.
    Undecided(u32),
    /// Nobody, unless this segment has lost a tag.
    Unproven(u32),
}

/// Where a submit's answer goes.
type ReplyToSubmit = Reply<Submitted, NotSubmitted>;

impl Writer {
    /// Stores a job or finds the one it repeats. Gives the request back if it has to wait for
    /// the commit of a segment's changes in this batch.
    pub(crate) fn submit(
        &mut self,
        submit: Box<Submit>,
        reply: ReplyToSubmit,
    ) -> Option<(u32, Box<Submit>, ReplyToSubmit)> {
        match self.try_submit(&submit) {
            Ok(Outcome::Store(segment, taken)) => self.store(segment, *submit, reply, taken),
            Ok(Outcome::Answer(segment, done)) => {
                self.answer(segment, Ack::Submit(reply, done));
            }
            Ok(Outcome::Wait(awaited)) => return Some((awaited, submit, reply)),
            Ok(Outcome::Prove(segment)) => {
                drop(reply.send(Err(NotSubmitted::Unproven(segment, submit))));
            }
            Err(error) => {
                if error.is_full() && !self.shared.room.is_short() {
                    self.note_full();
                }
                drop(reply.send(Err(error.into())));
            }
        }
        None
    }

    fn try_submit(&mut self, submit: &Submit) -> Result<Outcome, StoreError> {
        let header = &submit.header;
        let segment = self.segment_for(header.id, header.received_at)?;
        if let Some(error) = self.pending.get(&segment).and_then(|p| p.failed.as_ref()) {
            return Err(error.clone());
        }
        if header.tag.carried_id() == Some(header.id) {
            self.check_room()?;
            return Ok(Outcome::Store(segment, None));
        }
        let (place, old) =
            match self.holder(segment, &header.owner, &header.tag, header.received_at)? {
                Holder::Nobody => {
                    self.check_room()?;
                    return Ok(Outcome::Store(segment, None));
                }
                Holder::Undecided(number) => return Ok(Outcome::Wait(number)),
                Holder::Unproven(number) => return Ok(Outcome::Prove(number)),
                Holder::Job(place, old) => (place, old),
            };
        let id = old.job.header.id;
        let phase = old.state.state.unwrap_or(old.job.first_state).phase;
        let failed = matches!(phase, Phase::Failed | Phase::Cancelled);
        if !(failed && submit.tag_reuse == TagReuse::IfFailed) {
            let difference = self.difference(place, &old, submit)?;
            let done = match difference {
                Some(difference) => Submitted::Conflict { id, difference },
                None => Submitted::Existing(Box::new(old.into_job())),
            };
            return Ok(Outcome::Answer(place, done));
        }
        self.check_room()?;
        let held = HeldTag {
            segment: place,
            owner: header.owner.clone(),
            tag: header.tag.clone(),
            id,
        };
        match place.cmp(&segment) {
            // The newest is asked first, so the new job has the tag once it is there.
            Ordering::Less => Ok(Outcome::Store(segment, Some(held))),
            Ordering::Equal => {
                // An entry is overwritten together with the new job's row.
                if header.tag.carried_id() == Some(id) {
                    self.give_away(&held)?;
                }
                Ok(Outcome::Store(segment, None))
            }
            // A submit that was held up. Its job would not be found while the old one has the tag,
            // which it therefore loses first, by a commit of its own.
            Ordering::Greater => {
                self.give_away(&held)?;
                Ok(Outcome::Wait(place))
            }
        }
    }

    /// The segment that a new job belongs to; begins one if it is time.
    fn segment_for(&mut self, id: JobId, now: Timestamp) -> Result<u32, StoreError> {
        let Some(newest) = self.newest() else {
            return Err(StoreError::Closed);
        };
        let pending = self.pending.get(&newest.number);
        let jobs = newest.jobs + pending.map_or(0, |pending| pending.jobs);
        let last = newest
            .max_id
            .max(pending.map_or(0, |pending| pending.max_id));
        let opened_at = newest
            .opened_at
            .or_else(|| pending.and_then(|p| p.opened_at));
        let options = &self.shared.options;
        let full = jobs >= options.segment_jobs.max(1);
        let age = opened_at.map_or(0, |at| now.as_millis().saturating_sub(at));
        let old = jobs > 0 && age >= millis(options.segment_age);
        // Where room is short, the submit may well be a repeated one that needs none.
        if (full || old) && id.get() > last && !self.shared.room.is_short() {
            self.roll()?;
        }
        self.segment_of(id).ok_or(StoreError::Closed)
    }

    /// Who has a tag now, looking in the newest segment first.
    fn holder(
        &mut self,
        target: u32,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Holder, StoreError> {
        let hash = tags::hash_of(tag, owner);
        let candidates: Vec<u32> = self
            .segments
            .values()
            .rev()
            .filter(|ledger| ledger.filter.may_hold(hash))
            .map(|ledger| ledger.number)
            .collect();
        for number in candidates {
            if number != target && self.pending.contains_key(&number) {
                return Ok(Holder::Undecided(number));
            }
            let found = self.reading(number)?.tagged(owner, tag);
            match found.map_err(in_segment(number))? {
                Some(stored) if !stored.is_expired(now) => {
                    return self.holding(number, stored);
                }
                Some(_) => {}
                None if self
                    .segments
                    .get(&number)
                    .is_some_and(Ledger::may_lack_tags) =>
                {
                    return Ok(Holder::Unproven(number));
                }
                None => {}
            }
        }
        let Some(carried) = tag.carried_id() else {
            return Ok(Holder::Nobody);
        };
        let Some(number) = self.segment_of(carried) else {
            return Ok(Holder::Nobody);
        };
        if number != target && self.pending.contains_key(&number) {
            return Ok(Holder::Undecided(number));
        }
        let found = self.reading(number)?.carried(owner, tag, carried);
        let found = found.map_err(in_segment(number))?;
        if let Some(stored) = found.filter(|stored| !stored.is_expired(now)) {
            return self.holding(number, stored);
        }
        let stored = self.reading(number)?.stored(carried);
        if stored.map_err(in_segment(number))?.is_none() {
            self.shared.absent(carried)?;
        }
        Ok(Holder::Nobody)
    }

    /// A job that has a tag, if it is sound: one without an end has to live.
    fn holding(&self, number: u32, mut stored: Stored) -> Result<Holder, StoreError> {
        let id = stored.job.header.id;
        if stored.state.end.is_none() {
            let live = self.live(number, id);
            let live = live.ok_or_else(|| in_segment(number)(self.shared.lost_end(id)))?;
            stored.state.state = Some(live.state());
        }
        Ok(Holder::Job(number, Box::new(stored)))
    }

    fn difference(
        &mut self,
        place: u32,
        old: &Stored,
        submit: &Submit,
    ) -> Result<Option<Difference>, StoreError> {
        let new = submit.payload.data();
        let header = &old.job.header;
        // Length and checksum tell most differences without the bytes, but equality only with.
        let other = old.job.payload.len != new.len() as u64
            || (old.job.payload.len > 0 && old.job.payload.crc != crc32fast::hash(new));
        if other {
            let nothing = Difference::between((header, new), (&submit.header, new));
            return Ok(Some(nothing.unwrap_or(Difference::Payload)));
        }
        let parts = Parts {
            payload: true,
            result: false,
        };
        let job = self.reading(place)?.job(header.id, parts);
        let job = job.map_err(in_segment(place))?;
        let stored = job.and_then(|job| job.payload).unwrap_or_default();
        Ok(Difference::between(
            (header, &stored),
            (&submit.header, new),
        ))
    }

    fn store(
        &mut self,
        number: u32,
        mut submit: Submit,
        reply: ReplyToSubmit,
        taken: Option<HeldTag>,
    ) {
        match self.try_store(number, &mut submit) {
            Ok(state) => {
                let Submit {
                    header, payload, ..
                } = submit;
                let Some(pending) = self.pending.get_mut(&number) else {
                    return;
                };
                let live = Live::of(&header, &state, false);
                let bytes = i64::try_from(payload.data().len()).unwrap_or(i64::MAX);
                let id = header.id;
                pending.states.insert(id, Some(live));
                pending.count(&header.owner, 1, bytes);
                pending.jobs += 1;
                pending.live += 1;
                pending.max_id = pending.max_id.max(id.get());
                let lowest = pending.min_new_id.unwrap_or(i64::MAX);
                pending.min_new_id = Some(lowest.min(id.get()));
                if state.started_at.is_none()
                    && let Content::Inline(data) | Content::Packed { data, .. } = &payload
                {
                    let kept = self.shared.waiting.copy(data);
                    pending.payloads.extend(kept.map(|data| (id, data)));
                }
                pending.headers.push(header);
                pending.taken.extend(taken);
                if let Content::File { blob, .. } = payload {
                    pending.blobs.push(blob);
                }
                pending
                    .acks
                    .push(Ack::Submit(reply, Submitted::Created(state)));
            }
            Err(error) => drop(reply.send(Err(error.into()))),
        }
    }

    fn try_store(&mut self, number: u32, submit: &mut Submit) -> Result<State, StoreError> {
        let header = Arc::clone(&submit.header);
        let generated = header.tag.carried_id() == Some(header.id);
        if self
            .segments
            .get(&number)
            .is_some_and(|ledger| ledger.sealed)
        {
            self.unsettle(number)?;
        }
        if let Content::File { blob, .. } = &mut submit.payload {
            self.shared
                .noted(blob.move_to(&self.shared.layout, number))?;
        }
        let state = first_state(&header, submit.start);
        let opened_at = match self.segments.get(&number) {
            Some(ledger) if ledger.opened_at.is_none() => Some(header.received_at.as_millis()),
            _ => None,
        };
        let key = TagKey::of(&header.tag);
        let owner = header.owner.as_str();
        let hash = (!generated).then(|| tags::hash_of(&header.tag, &header.owner));
        let filter = self.segments.get(&number).map(|l| Arc::clone(&l.filter));
        // An expired or failed job may have had the tag here.
        let may_replace =
            hash.is_some_and(|hash| filter.as_ref().is_none_or(|filter| filter.may_hold(hash)));
        let replaced = if may_replace {
            let held = self.reading(number)?.tag_id(&header.owner, &header.tag);
            held.map_err(in_segment(number))?
        } else {
            None
        };
        self.pack(number, &mut submit.payload)?;
        let (connection, pending) = self.writing(number)?;
        pending.opened_at = pending.opened_at.or(opened_at);
        let started = state.started_at.is_some();
        let store = || {
            let job = job_row::insert(connection, &header, started, &submit.payload)?;
            let tag = match hash {
                Some(_) => Some(tags::put(connection, &key, owner, header.id.get())?),
                None => None,
            };
            Ok((job, tag))
        };
        match store() {
            Ok((job, tag)) => {
                let id = header.id.get();
                pending.totals.jobs.add(id, job);
                if let Some(old) = replaced {
                    let crc = tags::checksum(&key, owner, old);
                    pending.totals.tags.remove(old, crc);
                }
                if let Some(crc) = tag {
                    pending.totals.tags.add(id, crc);
                }
                if let (Some(hash), Some(filter)) = (hash, filter) {
                    filter.insert(hash);
                }
                Ok(state)
            }
            Err(error) => Err(self.failed(number, "store a job", error)),
        }
    }
}

/// What becomes of a submit.
enum Outcome {
    /// A new job, in this segment; the tag that it takes from a job of another.
    Store(u32, Option<HeldTag>),
    /// This answer, by what is in this segment.
    Answer(u32, Submitted),
    /// Nothing before the commit of this segment.
    Wait(u32),
    /// Nothing before all tags of this segment are read.
    Prove(u32),
}
