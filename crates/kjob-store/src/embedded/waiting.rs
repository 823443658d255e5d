//! Payloads of jobs that wait, in memory: those that were submitted a short while ago are mostly
//! started soon. Only the writer puts them in and takes them out, after the commit that makes it so.

use bytes::Bytes;
use kjob_core::JobId;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Larger ones are read from their file.
const LEN_MAX: usize = 64 << 10;

/// What one takes in memory beside its bytes, roughly.
const ENTRY_BYTES: usize = 128;

/// The payloads, as far as there is room for them.
pub(crate) struct Waiting(Option<Cache<JobId, Bytes, BySize>>);

#[derive(Clone)]
struct BySize;

impl Weighter<JobId, Bytes> for BySize {
    fn weight(&self, _: &JobId, payload: &Bytes) -> u64 {
        (ENTRY_BYTES + payload.len()) as u64
    }
}

impl Waiting {
    /// With 0 bytes, none are kept.
    pub(crate) fn new(bytes: u64) -> Self {
        let payloads = usize::try_from(bytes).unwrap_or(usize::MAX) / (2 * ENTRY_BYTES);
        Self((bytes > 0).then(|| Cache::with_weighter(payloads, bytes, BySize)))
    }

    pub(crate) fn get(&self, id: JobId) -> Option<Bytes> {
        self.0.as_ref()?.get(&id)
    }

    /// What is worth keeping of a payload, in memory of its own: it may be a small piece of much.
    pub(crate) fn kept(&self, payload: &Bytes) -> Option<Bytes> {
        let keep = self.0.is_some() && payload.len() <= LEN_MAX;
        keep.then(|| Bytes::copy_from_slice(payload))
    }

    pub(crate) fn put(&self, id: JobId, payload: Bytes) {
        if let Self(Some(cache)) = self {
            cache.insert(id, payload);
        }
    }

    pub(crate) fn remove(&self, id: JobId) {
        if let Self(Some(cache)) = self
            && !cache.is_empty()
        {
            cache.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_bound() {
        let waiting = Waiting::new(1 << 20);
        assert_eq!(waiting.kept(&vec![7; LEN_MAX + 1].into()), None);
        let ids = (1..=100).filter_map(JobId::new);
        for id in ids.clone() {
            let payload = waiting.kept(&vec![7; LEN_MAX].into()).unwrap();
            waiting.put(id, payload);
        }
        let kept = |waiting: &Waiting| ids.clone().filter(|id| waiting.get(*id).is_some()).count();
        assert!((1..=16).contains(&kept(&waiting)));
        ids.clone().for_each(|id| waiting.remove(id));
        assert_eq!(kept(&waiting), 0);
        assert_eq!(Waiting::new(0).kept(&Bytes::new()), None);
    }
}
