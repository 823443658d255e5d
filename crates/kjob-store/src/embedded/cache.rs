//! What is kept of jobs in memory beside the files, bounded by its bytes; what is read again stays longest.

use bytes::Bytes;
use kjob_core::JobId;
use quick_cache::Weighter;
use quick_cache::sync::Cache as Jobs;

/// Larger payloads and results are read from their file: the copy would cost more than it saves.
pub(crate) const LEN_MAX: usize = 64 << 10;

/// What can be kept of a job.
pub(crate) trait Kept: Clone {
    /// What the least of it takes in memory, roughly.
    const LEAST: usize;

    /// Its bytes beyond that.
    fn len(&self) -> usize;
}

/// Values by job, as far as there is room for them.
pub(crate) struct Cache<V>(Option<Jobs<JobId, V, BySize>>);

#[derive(Clone)]
pub(crate) struct BySize;

impl<V: Kept> Weighter<JobId, V> for BySize {
    fn weight(&self, _: &JobId, value: &V) -> u64 {
        (V::LEAST + value.len()) as u64
    }
}

impl<V: Kept> Cache<V> {
    /// With 0 bytes, nothing is kept.
    pub(crate) fn new(bytes: u64) -> Self {
        let values = usize::try_from(bytes).unwrap_or(usize::MAX) / (2 * V::LEAST);
        Self((bytes > 0).then(|| Jobs::with_weighter(values, bytes, BySize)))
    }

    pub(crate) fn get(&self, id: JobId) -> Option<V> {
        self.0.as_ref()?.get(&id)
    }

    pub(crate) fn put(&self, id: JobId, value: V) {
        if let Self(Some(jobs)) = self {
            jobs.insert(id, value);
        }
    }

    pub(crate) fn remove(&self, id: JobId) {
        if let Self(Some(jobs)) = self
            && !jobs.is_empty()
        {
            jobs.remove(&id);
        }
    }

    /// Bytes that are worth keeping, in memory of their own: they may be a small piece of much.
    pub(crate) fn copy(&self, data: &[u8]) -> Option<Bytes> {
        let keep = self.0.is_some() && data.len() <= LEN_MAX;
        keep.then(|| Bytes::copy_from_slice(data))
    }
}

/// The payload of a job that waits: those that were submitted a short while ago are mostly started
/// soon.
impl Kept for Bytes {
    const LEAST: usize = 128;

    fn len(&self) -> usize {
        Bytes::len(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_bound() {
        let waiting = Cache::<Bytes>::new(1 << 20);
        assert_eq!(waiting.copy(&[7; LEN_MAX + 1]), None);
        let ids = (1..=100).filter_map(JobId::new);
        for id in ids.clone() {
            waiting.put(id, waiting.copy(&[7; LEN_MAX]).unwrap());
        }
        let kept = |cache: &Cache<Bytes>| ids.clone().filter(|id| cache.get(*id).is_some()).count();
        assert!((1..=16).contains(&kept(&waiting)));
        ids.clone().for_each(|id| waiting.remove(id));
        assert_eq!(kept(&waiting), 0);
        let none = Cache::<Bytes>::new(0);
        assert_eq!(none.copy(&[]), None);
        none.put(JobId::FIRST, Bytes::new());
        assert_eq!(none.get(JobId::FIRST), None);
    }
}
