//! The jobs that have not ended, in memory: there may be millions.

use std::collections::BTreeMap;

use kjob_core::{JobId, Lease, LiveJob, NameKey, Names, Owner, Phase, Priority, State, Timestamp};
use kjob_proto::Text;

use super::live::{Live, Moment};

/// Jobs by id, 48 bytes for each and little more: ids come in rising order, so a tree of single jobs would
/// have its nodes half empty.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    /// By the id without its last bits; none is empty, and each is in the order of the ids.
    chunks: BTreeMap<i64, Vec<(JobId, Slot)>>,
    len: usize,
    owners: Names<Owner>,
    endpoints: Names<Text>,
}

/// Ids of a chunk differ in so many bits.
const CHUNK_BITS: u32 = 6;

#[derive(Clone, Copy, Debug)]
struct Slot {
    retention_ms: i64,
    at: Timestamp,
    owner: NameKey,
    endpoint: NameKey,
    attempt: u32,
    lease: Lease,
    phase: Phase,
    progress: u8,
    priority: Priority,
    flags: u8,
}

const NOT_BEFORE: u8 = 1;
const STARTED_AT: u8 = 2;
const HAS_ROW: u8 = 4;
const HAS_CALLBACK: u8 = 8;

/// A job among others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) id: JobId,
    slot: &'a Slot,
    lives: &'a Lives,
}

impl Lives {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, id: JobId) -> Option<Entry<'_>> {
        let chunk = self.chunks.get(&chunk_of(id))?;
        let at = position(chunk, id).ok()?;
        let (id, slot) = chunk.get(at)?;
        Some(self.entry(*id, slot))
    }

    pub(crate) fn contains(&self, id: JobId) -> bool {
        self.get(id).is_some()
    }

    /// Puts a job in, or in the place of what it was.
    pub(crate) fn insert(&mut self, id: JobId, live: &Live) {
        // Before the one that is replaced leaves, so that names that stay are not dropped between.
        let slot = self.pack(live);
        let chunk = self.chunks.entry(chunk_of(id)).or_default();
        let before = match position(chunk, id) {
            Ok(at) => chunk
                .get_mut(at)
                .map(|(_, old)| std::mem::replace(old, slot)),
            Err(at) => {
                chunk.insert(at, (id, slot));
                None
            }
        };
        match before {
            Some(old) => self.let_go(&old),
            None => self.len += 1,
        }
    }

    pub(crate) fn remove(&mut self, id: JobId) {
        let key = chunk_of(id);
        let Some(chunk) = self.chunks.get_mut(&key) else {
            return;
        };
        let Ok(at) = position(chunk, id) else {
            return;
        };
        let (_, slot) = chunk.remove(at);
        if chunk.is_empty() {
            self.chunks.remove(&key);
        } else if chunk.len() * 4 <= chunk.capacity() {
            chunk.shrink_to(chunk.len() * 2);
        }
        self.len -= 1;
        self.let_go(&slot);
    }

    /// The jobs above an id, by rising id.
    pub(crate) fn above(&self, after: Option<JobId>) -> impl Iterator<Item = Entry<'_>> {
        let first = after.map_or(i64::MIN, chunk_of);
        let jobs = self.chunks.range(first..).flat_map(|(_, chunk)| chunk);
        jobs.skip_while(move |(id, _)| after.is_some_and(|after| *id <= after))
            .map(|(id, slot)| self.entry(*id, slot))
    }

    /// The jobs below an id, by falling id.
    pub(crate) fn below(&self, before: Option<JobId>) -> impl Iterator<Item = Entry<'_>> {
        let last = before.map_or(i64::MAX, chunk_of);
        let chunks = self.chunks.range(..=last).rev();
        let jobs = chunks.flat_map(|(_, chunk)| chunk.iter().rev());
        jobs.skip_while(move |(id, _)| before.is_some_and(|before| *id >= before))
            .map(|(id, slot)| self.entry(*id, slot))
    }

    /// All jobs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.above(None)
    }

    /// Takes over the jobs of another.
    pub(crate) fn extend(&mut self, others: Lives) {
        if self.len == 0 {
            *self = others;
        } else {
            for job in others.iter() {
                self.insert(job.id, &job.live());
            }
        }
    }

    fn entry<'a>(&'a self, id: JobId, slot: &'a Slot) -> Entry<'a> {
        let lives = self;
        Entry { id, slot, lives }
    }

    fn pack(&mut self, live: &Live) -> Slot {
        let (at, moment) = match live.moment {
            Moment::None => (Timestamp::default(), 0),
            Moment::NotBefore(at) => (at, NOT_BEFORE),
            Moment::StartedAt(at) => (at, STARTED_AT),
        };
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        Slot {
            retention_ms: live.retention_ms,
            at,
            owner: self.owners.enter(&live.owner),
            endpoint: self.endpoints.enter(&live.endpoint),
            attempt: live.attempt,
            lease: live.lease,
            phase: live.phase,
            progress: live.progress,
            priority: live.priority,
            flags: moment | flag(live.has_row, HAS_ROW) | flag(live.has_callback, HAS_CALLBACK),
        }
    }

    fn let_go(&mut self, slot: &Slot) {
        self.owners.leave(slot.owner);
        self.endpoints.leave(slot.endpoint);
    }
}

impl Entry<'_> {
    pub(crate) fn state(&self) -> State {
        let slot = self.slot;
        let at = |flag| (slot.flags & flag != 0).then_some(slot.at);
        State {
            phase: slot.phase,
            progress: slot.progress,
            attempt: slot.attempt,
            lease: slot.lease,
            not_before: at(NOT_BEFORE),
            started_at: at(STARTED_AT),
            ended_at: None,
        }
    }

    pub(crate) fn has_row(&self) -> bool {
        self.slot.flags & HAS_ROW != 0
    }

    pub(crate) fn is_of(&self, owner: &Owner) -> bool {
        self.lives.owners.name(self.slot.owner) == Some(owner)
    }

    pub(crate) fn calls(&self, endpoint: &Text) -> bool {
        self.lives.endpoints.name(self.slot.endpoint) == Some(endpoint)
    }

    /// The job, by itself.
    pub(crate) fn live(&self) -> Live {
        let slot = self.slot;
        let moment = match slot.flags & (NOT_BEFORE | STARTED_AT) {
            0 => Moment::None,
            NOT_BEFORE => Moment::NotBefore(slot.at),
            _ => Moment::StartedAt(slot.at),
        };
        Live {
            owner: self.owner(),
            endpoint: self.endpoint(),
            priority: slot.priority,
            retention_ms: slot.retention_ms,
            moment,
            attempt: slot.attempt,
            lease: slot.lease,
            phase: slot.phase,
            progress: slot.progress,
            has_row: self.has_row(),
            has_callback: slot.flags & HAS_CALLBACK != 0,
        }
    }

    /// What it takes to queue it.
    pub(crate) fn brief(&self) -> LiveJob {
        LiveJob {
            id: self.id,
            owner: self.owner(),
            endpoint: self.endpoint(),
            priority: self.slot.priority,
            state: self.state(),
        }
    }

    // Both have a name as long as a slot has their number.

    fn owner(&self) -> Owner {
        let name = self.lives.owners.name(self.slot.owner).cloned();
        name.unwrap_or_else(Owner::anonymous)
    }

    fn endpoint(&self) -> Text {
        let name = self.lives.endpoints.name(self.slot.endpoint);
        name.cloned().unwrap_or_default()
    }
}

fn chunk_of(id: JobId) -> i64 {
    id.get() >> CHUNK_BITS
}

fn position(chunk: &[(JobId, Slot)], id: JobId) -> Result<usize, usize> {
    // Mostly the newest is asked for, or the next is put in.
    match chunk.last() {
        Some((last, _)) if *last < id => Err(chunk.len()),
        _ => chunk.binary_search_by_key(&id, |(id, _)| *id),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_job_is_small() {
        assert_eq!(size_of::<(JobId, Slot)>(), 48);
    }

    fn live() -> impl Strategy<Value = Live> {
        let moment = (0..3u8, any::<i32>()).prop_map(|(kind, at)| {
            let at = Timestamp::from_millis(at.into());
            [Moment::None, Moment::NotBefore(at), Moment::StartedAt(at)][usize::from(kind)]
        });
        let names = (0..3u8, 0..4u8, 0..10u8);
        let numbers = (any::<i64>(), any::<u32>(), any::<u32>(), 0..100u8);
        let phase = prop_oneof![
            Just(Phase::Queued),
            Just(Phase::Running),
            Just(Phase::Cancelling)
        ];
        (names, numbers, moment, phase, any::<(bool, bool)>()).prop_map(
            |((owner, endpoint, priority), numbers, moment, phase, (has_row, has_callback))| {
                let (retention_ms, attempt, lease, progress) = numbers;
                Live {
                    owner: Owner::new(&format!("o{owner}")),
                    endpoint: Text::from(format!("/e{endpoint}")),
                    priority: Priority::new(priority).unwrap(),
                    retention_ms,
                    moment,
                    attempt,
                    lease: Lease(lease),
                    phase,
                    progress,
                    has_row,
                    has_callback,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_the_order_of_the_ids(
            steps in proptest::collection::vec((1..300i64, proptest::option::weighted(0.6, live())), 0..400),
            after in proptest::option::of(1..300i64),
        ) {
            let mut lives = Lives::default();
            let mut model = BTreeMap::new();
            for (id, step) in steps {
                let id = JobId::new(id).unwrap();
                match step {
                    Some(live) => {
                        lives.insert(id, &live);
                        model.insert(id, live);
                    }
                    None => {
                        lives.remove(id);
                        model.remove(&id);
                    }
                }
                let found = lives.get(id).map(|entry| entry.live());
                prop_assert_eq!(found.as_ref(), model.get(&id));
                prop_assert_eq!(lives.len(), model.len());
            }
            let after = after.and_then(JobId::new);
            let above: Vec<_> = lives.above(after).map(|entry| (entry.id, entry.live())).collect();
            let expected: Vec<_> = model.iter().filter(|(id, _)| Some(**id) > after)
                .map(|(id, live)| (*id, live.clone())).collect();
            prop_assert_eq!(above, expected);
            let below: Vec<_> = lives.below(after).map(|entry| (entry.id, entry.live())).collect();
            let expected: Vec<_> = model.iter().rev()
                .filter(|(id, _)| after.is_none_or(|after| **id < after))
                .map(|(id, live)| (*id, live.clone())).collect();
            prop_assert_eq!(below, expected);
            for entry in lives.iter() {
                let live = &model[&entry.id];
                prop_assert_eq!(entry.state(), live.state());
                prop_assert!(entry.is_of(&live.owner) && entry.calls(&live.endpoint));
                let brief = entry.brief();
                prop_assert_eq!((brief.id, brief.state), (entry.id, live.state()));
                prop_assert_eq!((&brief.owner, &brief.endpoint), (&live.owner, &live.endpoint));
                prop_assert_eq!(brief.priority, live.priority);
            }
            let mut half = Lives::default();
            let mut rest = Lives::default();
            for (id, live) in &model {
                if id.get() % 3 == 0 { half.insert(*id, live) } else { rest.insert(*id, live) }
            }
            half.extend(rest);
            let all: Vec<_> = half.iter().map(|entry| (entry.id, entry.live())).collect();
            prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
            for id in model.keys() {
                lives.remove(*id);
            }
            prop_assert!(lives.chunks.is_empty() && lives.owners.is_empty() && lives.endpoints.is_empty());
        }
    }
}
