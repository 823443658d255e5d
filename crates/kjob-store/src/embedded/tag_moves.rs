//! A tag that a job of another segment had: with `tag_reuse` = `if_failed`, a new job takes it over.
//!
//! Two files cannot be committed at once, so the order decides what a crash between them leaves. The
//! newest segment is asked for a tag first. So the new job is committed first, and has the tag from
//! that moment; only then is the tag taken away from the old job, which would have it again once
//! the new one expired. What a crash leaves undone of that is done when the store is opened: the
//! new job still lives then.

use std::collections::BTreeMap;

use kjob_core::{Header, JobId, JobTag, Owner, Phase, StoreError, Timestamp};

use super::error::in_segment;
use super::ledger::Ledger;
use super::query::{Stored, TagRow};
use super::tags::{self, TagKey};
use super::writer::Writer;

/// A tag, and the ended job that has it by the file of its segment.
#[derive(Clone, Debug)]
pub(crate) struct HeldTag {
    pub(crate) segment: u32,
    pub(crate) owner: Owner,
    pub(crate) tag: JobTag,
    pub(crate) id: JobId,
}

/// A live job whose tag an older segment may know as well.
#[derive(Clone, Debug)]
pub(crate) struct SharedTag {
    segment: u32,
    owner: Owner,
    tag: JobTag,
    id: JobId,
    received_at: Timestamp,
}

impl SharedTag {
    /// The tag of a live job of `segment`, if it may be known in an `older` one too.
    pub(crate) fn of(header: &Header, segment: u32, older: &BTreeMap<u32, Ledger>) -> Option<Self> {
        let carried = header.tag.carried_id();
        if carried == Some(header.id) {
            return None;
        }
        // A generated tag has no entry to be known by.
        let hash = tags::hash_of(&header.tag, &header.owner);
        let is_shared = carried.is_some() || older.values().any(|l| l.filter.may_hold(hash));
        is_shared.then(|| Self {
            segment,
            owner: header.owner.clone(),
            tag: header.tag.clone(),
            id: header.id,
            received_at: header.received_at,
        })
    }
}

impl Writer {
    /// Takes a tag away from an ended job.
    pub(crate) fn give_away(&mut self, held: &HeldTag) -> Result<(), StoreError> {
        let HeldTag {
            segment,
            owner,
            tag,
            id,
        } = held;
        let segment = *segment;
        // It is still noted here that the tag was once this segment's, so that what was lost is
        // told from what was given away. Of a generated tag this is the first entry.
        let sealed = self
            .segments
            .get(&segment)
            .is_some_and(|ledger| ledger.sealed);
        if sealed {
            self.unsettle(segment)?;
        }
        let (connection, pending) = self.writing(segment)?;
        match tags::put(connection, &TagKey::of(tag), owner.as_str(), 0) {
            Ok(crc) => {
                if tag.carried_id() != Some(*id) {
                    let old = tags::checksum(&TagKey::of(tag), owner.as_str(), id.get());
                    pending.totals.tags.remove(id.get(), old);
                }
                pending.totals.tags.add(0, crc);
            }
            Err(error) => return Err(self.failed(segment, "give a tag away", error)),
        }
        if let Some(ledger) = self.segments.get_mut(&segment) {
            // A copy of the segment that is being made may have the entry already.
            ledger.changes += 1;
            ledger.filter.insert(tags::hash_of(tag, owner));
        }
        Ok(())
    }

    /// Takes the tags that new jobs have now away from the jobs that had them. Where there is no room
    /// for it, it is tried again later.
    pub(crate) fn give_away_taken(&mut self) {
        if self.taken.is_empty() || self.shared.failure().is_some() {
            return;
        }
        let mut given = Vec::new();
        for held in std::mem::take(&mut self.taken) {
            match self.still_has(&held) {
                Ok(false) => {}
                Ok(true) if self.give_away(&held).is_ok() => given.push(held),
                Ok(true) | Err(_) => self.taken.push(held),
            }
        }
        self.commit();
        given.retain(|held| self.failed_commits.contains_key(&held.segment));
        self.failed_commits.clear();
        self.taken.append(&mut given);
    }

    /// Does what a crash left undone: finds the jobs whose tags live jobs of newer segments took.
    pub(crate) fn find_taken(&mut self, shared: Vec<SharedTag>) {
        for tag in shared {
            let older: Vec<u32> = self
                .segments
                .range(..tag.segment)
                .map(|(n, _)| *n)
                .collect();
            for number in older {
                // What cannot be read now stays as it is; the new job has the tag either way.
                if let Ok(Some(held)) = self.lost_to(&tag, number) {
                    self.taken.push(held);
                }
            }
        }
    }

    /// The job of an older segment that has the tag by its file and must have lost it.
    fn lost_to(&mut self, new: &SharedTag, segment: u32) -> Result<Option<HeldTag>, StoreError> {
        let (owner, tag) = (&new.owner, &new.tag);
        let hash = tags::hash_of(tag, owner);
        let known = self
            .segments
            .get(&segment)
            .is_some_and(|l| l.filter.may_hold(hash));
        let carried = tag.carried_id();
        let carried = carried.filter(|id| *id != new.id && self.segment_of(*id) == Some(segment));
        let found = match carried {
            _ if known => self.reading(segment)?.tagged(owner, tag)?,
            Some(id) => self.reading(segment)?.carried(owner, tag, id)?,
            None => None,
        };
        // One that had expired lost nothing: the tag was free.
        let had = |old: &Stored| {
            let failed = matches!(
                old.state.state.map(|state| state.phase),
                Some(Phase::Failed | Phase::Cancelled)
            );
            failed && !old.is_expired(new.received_at)
        };
        Ok(found.filter(had).map(|old| HeldTag {
            segment,
            owner: owner.clone(),
            tag: tag.clone(),
            id: old.job.header.id,
        }))
    }

    /// Whether the job has the tag, by the file of its segment.
    fn still_has(&mut self, held: &HeldTag) -> Result<bool, StoreError> {
        if !self.segments.contains_key(&held.segment) {
            return Ok(false);
        }
        let row = self.reading(held.segment)?.tag(&held.owner, &held.tag);
        Ok(match row.map_err(in_segment(held.segment))? {
            TagRow::Job(id) => id == held.id,
            TagRow::None => held.tag.carried_id() == Some(held.id),
            TagRow::Gone => false,
        })
    }
}
