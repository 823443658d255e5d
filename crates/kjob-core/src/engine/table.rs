//! The jobs that have not ended, by id and by given tag.
//!
//! There may be a million that wait, of which nobody asks for one. So past a number, a job that waits is
//! no more than a mark here: it dozes. It is read from the store again, and is [whole](Live) from then on,
//! when it is its turn or somebody watches it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::live::Live;
use crate::{JobId, JobTag, Owner};

/// All jobs that have not ended.
#[derive(Debug)]
pub(super) struct LiveTable {
    ids: Vec<Mutex<HashMap<JobId, Entry>>>,
    /// Of whole jobs only, and no more than a short cut: the store knows all tags.
    tags: Vec<Mutex<HashMap<(Owner, JobTag), JobId>>>,
    hasher: RandomState,
    whole: AtomicUsize,
    dozing: AtomicUsize,
    naps: AtomicU32,
}

#[derive(Debug)]
enum Entry {
    Whole(Arc<Live>),
    Dozing(Nap),
}

/// One time that a job dozes: whatever was read of it in an earlier one may be old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nap(u32);

/// A job that has not ended.
#[derive(Debug)]
pub(super) enum Found {
    Whole(Arc<Live>),
    Dozing(Nap),
}

/// What became of a job that was to be woken.
#[derive(Debug)]
pub(super) enum Woken {
    /// It is whole, by this call or another.
    Whole(Arc<Live>),
    /// It was whole meanwhile and dozes again.
    DozesAgain,
    /// It has ended.
    Gone,
}

/// Enough that a few dozen cores seldom meet.
const STRIPES: usize = 64;

impl LiveTable {
    pub(super) fn new() -> Self {
        Self {
            ids: (0..STRIPES).map(|_| Mutex::default()).collect(),
            tags: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            whole: AtomicUsize::new(0),
            dozing: AtomicUsize::new(0),
            naps: AtomicU32::new(0),
        }
    }

    /// Takes in a new job, whole.
    pub(super) fn insert(&self, live: &Arc<Live>) {
        self.put(live.header.id, Entry::Whole(live.clone()));
    }

    /// Takes in a job that waits, as a mark.
    pub(super) fn insert_dozing(&self, id: JobId) {
        self.put(id, Entry::Dozing(self.next_nap()));
    }

    fn put(&self, id: JobId, entry: Entry) {
        self.count_of(&entry).fetch_add(1, Ordering::Relaxed);
        if let Some(before) = self.ids_of(id).insert(id, entry) {
            self.count_of(&before).fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn count_of(&self, entry: &Entry) -> &AtomicUsize {
        match entry {
            Entry::Whole(_) => &self.whole,
            Entry::Dozing(_) => &self.dozing,
        }
    }

    /// The job, if it has not ended.
    pub(super) fn find(&self, id: JobId) -> Option<Found> {
        self.ids_of(id).get(&id).map(|entry| match entry {
            Entry::Whole(live) => Found::Whole(live.clone()),
            Entry::Dozing(nap) => Found::Dozing(*nap),
        })
    }

    /// The job, if it is whole.
    pub(super) fn get(&self, id: JobId) -> Option<Arc<Live>> {
        match self.ids_of(id).get(&id) {
            Some(Entry::Whole(live)) => Some(live.clone()),
            _ => None,
        }
    }

    /// Makes the job findable by its tag. A generated tag carries the id and needs no entry.
    pub(super) fn name(&self, live: &Live) {
        let header = &live.header;
        if header.tag.carried_id() != Some(header.id) {
            let key = (header.owner.clone(), header.tag.clone());
            self.tags_of(&key).insert(key, header.id);
        }
    }

    /// The whole job that `tag` names.
    pub(super) fn named(&self, owner: &Owner, tag: &JobTag) -> Option<Arc<Live>> {
        let key = (owner.clone(), tag.clone());
        let given = self.tags_of(&key).get(&key).copied();
        let live = given
            .or_else(|| tag.carried_id())
            .and_then(|id| self.get(id))?;
        (live.header.owner == *owner && live.header.tag == *tag).then_some(live)
    }

    /// The job, whole: as it is here already, or else this.
    pub(super) fn adopt(&self, new: Arc<Live>) -> Arc<Live> {
        let id = new.header.id;
        let mut ids = self.ids_of(id);
        if let Some(Entry::Whole(live)) = ids.get(&id) {
            return live.clone();
        }
        if let Some(before) = ids.insert(id, Entry::Whole(new.clone())) {
            self.count_of(&before).fetch_sub(1, Ordering::Relaxed);
        }
        self.whole.fetch_add(1, Ordering::Relaxed);
        self.name(&new);
        new
    }

    /// Drops another engine's job, if it is held here so many times and no more; says whether it is gone.
    pub(super) fn let_go(&self, live: &Arc<Live>, held: usize) -> bool {
        let id = live.header.id;
        let mut ids = self.ids_of(id);
        let is_ours = matches!(ids.get(&id), Some(Entry::Whole(whole)) if Arc::ptr_eq(whole, live));
        // While the stripe is locked nobody else comes to hold it.
        if !is_ours || live.is_local() || Arc::strong_count(live) > held {
            return !is_ours;
        }
        ids.remove(&id);
        self.whole.fetch_sub(1, Ordering::Relaxed);
        self.unname(live);
        true
    }

    /// Lets a job that waits doze, if nobody but the caller holds it; says whether it does.
    pub(super) fn doze(&self, live: &Arc<Live>) -> bool {
        let id = live.header.id;
        let mut ids = self.ids_of(id);
        let Some(entry) = ids.get_mut(&id) else {
            return false;
        };
        // While the stripe is locked nobody else comes to hold it. One that somebody holds is watched, or
        // on its way to somewhere.
        let is_ours = matches!(entry, Entry::Whole(whole) if Arc::ptr_eq(whole, live))
            && Arc::strong_count(live) == 2;
        if !is_ours || !live.may_doze() {
            return false;
        }
        *entry = Entry::Dozing(self.next_nap());
        self.whole.fetch_sub(1, Ordering::Relaxed);
        self.dozing.fetch_add(1, Ordering::Relaxed);
        self.unname(live);
        true
    }

    /// Makes a dozing job whole: as it was read from the store in this nap.
    pub(super) fn wake(&self, nap: Nap, read: Arc<Live>) -> Woken {
        let id = read.header.id;
        let mut ids = self.ids_of(id);
        let Some(entry) = ids.get_mut(&id) else {
            return Woken::Gone;
        };
        match entry {
            Entry::Whole(live) => Woken::Whole(live.clone()),
            Entry::Dozing(current) if *current != nap => Woken::DozesAgain,
            Entry::Dozing(_) => {
                *entry = Entry::Whole(read.clone());
                self.whole.fetch_add(1, Ordering::Relaxed);
                self.dozing.fetch_sub(1, Ordering::Relaxed);
                self.name(&read);
                Woken::Whole(read)
            }
        }
    }

    /// The job has ended, or will not be.
    pub(super) fn remove(&self, live: &Live) {
        self.forget(live.header.id);
        self.unname(live);
    }

    /// Drops what there is of a job.
    pub(super) fn forget(&self, id: JobId) {
        if let Some(entry) = self.ids_of(id).remove(&id) {
            self.count_of(&entry).fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn unname(&self, live: &Live) {
        let header = &live.header;
        if header.tag.carried_id() != Some(header.id) {
            let key = (header.owner.clone(), header.tag.clone());
            let mut tags = self.tags_of(&key);
            if tags.get(&key) == Some(&header.id) {
                tags.remove(&key);
            }
        }
    }

    /// How many jobs there are.
    pub(super) fn len(&self) -> usize {
        self.whole() + self.dozing.load(Ordering::Relaxed)
    }

    /// How many of them are whole.
    pub(super) fn whole(&self) -> usize {
        self.whole.load(Ordering::Relaxed)
    }

    /// Whether some of them doze.
    pub(super) fn has_dozing(&self) -> bool {
        self.dozing.load(Ordering::Relaxed) > 0
    }

    /// Calls `each` for every whole job.
    pub(super) fn for_each(&self, each: impl Fn(&Arc<Live>)) {
        for stripe in &self.ids {
            let mut lives: Vec<_> = lock(stripe)
                .values()
                .filter_map(|entry| match entry {
                    Entry::Whole(live) => Some(live.clone()),
                    Entry::Dozing(_) => None,
                })
                .collect();
            // Not in the order of a hash, so that a simulation can be repeated.
            lives.sort_by_key(|live| live.header.id);
            lives.iter().for_each(&each);
        }
    }

    fn next_nap(&self) -> Nap {
        Nap(self.naps.fetch_add(1, Ordering::Relaxed))
    }

    fn ids_of(&self, id: JobId) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        // The lowest bits may tell the shard.
        let id = id.get() as usize;
        lock(&self.ids[(id ^ (id >> 6)) % STRIPES])
    }

    fn tags_of(&self, key: &(Owner, JobTag)) -> MutexGuard<'_, HashMap<(Owner, JobTag), JobId>> {
        lock(&self.tags[self.hasher.hash_one(key) as usize % STRIPES])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No map is left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
