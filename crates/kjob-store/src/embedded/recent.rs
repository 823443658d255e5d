//! Jobs that ended a short while ago, in memory: a result is mostly fetched soon after its job has
//! ended. Only the writer puts jobs in and takes them out, after the commit that makes it so.

use std::sync::Arc;

use bytes::Bytes;
use kjob_core::{
    Ending, Header, Job, JobId, JobTag, Output, Owner, Parts, Payload, State, Timestamp,
};
use quick_cache::sync::Cache as Ids;

use super::blobs::Content;
use super::cache::{Cache, Kept};
use super::state_row::NewEnding;
use super::tags;

/// The jobs that ended last, each without its payload.
pub(crate) struct Recent {
    jobs: Cache<Arc<Job>>,
    /// Of those that are done, by the hashes of their tags: until they expire nobody else gets these.
    ids: Option<Ids<u64, JobId>>,
}

/// Tags of jobs that are found without asking the files, some 32 bytes each.
const IDS_MAX: usize = 32 << 10;

impl Kept for Arc<Job> {
    const LEAST: usize = 512;

    fn len(&self) -> usize {
        let message = match &self.ending {
            Some(Ending::Failed(message)) => message.len(),
            _ => 0,
        };
        message + self.result_len() + self.header.options.user_data.len()
    }
}

impl Recent {
    /// With 0 bytes, nothing is kept.
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            jobs: Cache::new(bytes),
            ids: (bytes > 0).then(|| Ids::new(IDS_MAX)),
        }
    }

    pub(crate) fn put(&self, job: Arc<Job>) {
        let header = &job.header;
        if let Some(ids) = &self.ids
            && matches!(job.ending, Some(Ending::Done(_)))
        {
            ids.insert(tags::hash_of(&header.tag, &header.owner), header.id);
        }
        self.jobs.put(header.id, job);
    }

    /// A job has its tag from now on: nobody who had it before is found by it any more, also where the clock
    /// is set back to before their expiry.
    pub(crate) fn take_tag(&self, header: &Header) {
        let Some(ids) = self.ids.as_ref().filter(|ids| !ids.is_empty()) else {
            return;
        };
        let hash = tags::hash_of(&header.tag, &header.owner);
        if ids.peek(&hash).is_some_and(|id| id != header.id) {
            ids.remove(&hash);
        }
    }

    pub(crate) fn remove(&self, id: JobId) {
        self.jobs.remove(id);
    }

    /// The job, unless it is not at hand or has expired, which the files tell.
    pub(crate) fn get(&self, id: JobId, parts: Parts, now: Timestamp) -> Option<Job> {
        if parts.payload {
            return None;
        }
        let job = self.jobs.get(id)?;
        if job.expires_at.is_none_or(|at| at <= now) {
            return None;
        }
        let mut job = Job::clone(&job);
        if let (false, Some(Ending::Done(output))) = (parts.result, &mut job.ending) {
            *output = output.without_bytes();
        }
        Some(job)
    }

    /// The job with a tag, if it is done and at hand, and has not expired.
    pub(crate) fn find(&self, owner: &Owner, tag: &JobTag, now: Timestamp) -> Option<JobId> {
        let id = self.ids.as_ref()?.get(&tags::hash_of(tag, owner))?;
        let job = self.jobs.get(id)?;
        let header = &job.header;
        let is_it = header.tag == *tag && header.owner == *owner;
        (is_it && job.expires_at.is_some_and(|at| at > now)).then_some(id)
    }

    fn copy(&self, data: &[u8]) -> Option<Bytes> {
        self.jobs.copy(data)
    }
}

/// The job as it ended, if it is worth keeping. One that somebody is to be told of changes yet.
pub(crate) fn ended(
    recent: &Recent,
    header: &Header,
    state: &State,
    ending: &NewEnding,
    expires_at: Timestamp,
) -> Option<Arc<Job>> {
    if header.options.callback_url.is_some() {
        return None;
    }
    let ending = match ending {
        NewEnding::Done(encoding, info, Content::Inline(data)) => {
            let payload = Payload {
                encoding: *encoding,
                data: recent.copy(data)?,
            };
            let info = info.clone();
            Ending::Done(Output { payload, info })
        }
        NewEnding::Done(..) => return None,
        NewEnding::Failed(message) => Ending::Failed(message.clone()),
        NewEnding::Cancelled => Ending::Cancelled,
    };
    Some(Arc::new(Job {
        header: header.clone(),
        state: *state,
        payload: None,
        ending: Some(ending),
        expires_at: Some(expires_at),
        callback: None,
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kjob_core::{Finish, Lease, Store, Submitted};
    use kjob_proto::Encoding;

    use super::super::cache::LEN_MAX;
    use super::super::live::detached;
    use super::super::store::tests::job;
    use super::super::{EmbeddedOptions, EmbeddedStore};
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const LATER: Timestamp = Timestamp::from_millis(1_700_000_001_000);

    fn done(recent: &Recent, len: usize) -> Option<Arc<Job>> {
        let header = detached(&job(JobId::FIRST, "tag", Bytes::new()));
        let content = Content::Inline(vec![7; len].into());
        let ending = NewEnding::Done(Encoding::Binary, Default::default(), content);
        ended(recent, &header, &State::queued(None), &ending, LATER)
    }

    #[test]
    fn a_job_is_there_until_it_expires_with_what_was_asked_for() {
        let recent = Recent::new(1 << 20);
        recent.put(done(&recent, 10).unwrap());
        let get = |parts, now| recent.get(JobId::FIRST, parts, now);
        assert_eq!(get(Parts::RESULT, NOW).unwrap().result_len(), 10);
        assert_eq!(get(Parts::NONE, NOW).unwrap().result_len(), 0);
        let payload = Parts {
            payload: true,
            result: true,
        };
        assert_eq!(get(payload, NOW), None);
        assert_eq!(get(Parts::RESULT, LATER), None);
        recent.remove(JobId::FIRST);
        assert_eq!(get(Parts::RESULT, NOW), None);
    }

    #[test]
    fn memory_has_a_bound() {
        let recent = Recent::new(1 << 20);
        assert!(done(&recent, LEN_MAX + 1).is_none());
        let ids = (1..=100).filter_map(JobId::new);
        for id in ids.clone() {
            let mut job = Job::clone(&done(&recent, LEN_MAX).unwrap());
            job.header.id = id;
            recent.put(Arc::new(job));
        }
        let kept = ids.filter(|id| recent.get(*id, Parts::NONE, NOW).is_some());
        assert!((1..=16).contains(&kept.count()));
        let none = Recent::new(0);
        none.put(done(&recent, 1).unwrap());
        assert_eq!(none.get(JobId::FIRST, Parts::NONE, NOW), None);
    }

    #[test]
    fn a_done_job_is_found_by_its_tag_and_owner_until_it_expires() {
        let recent = Recent::new(1 << 20);
        let job = done(&recent, 10).unwrap();
        let (owner, tag) = (job.header.owner.clone(), job.header.tag.clone());
        let other_owner = Owner::new("another");
        let other_tag: JobTag = "another".parse().unwrap();
        recent.put(job.clone());
        assert_eq!(recent.find(&owner, &tag, NOW), Some(JobId::FIRST));
        assert_eq!(recent.find(&owner, &tag, LATER), None);
        assert_eq!(recent.find(&other_owner, &tag, NOW), None);
        assert_eq!(recent.find(&owner, &other_tag, NOW), None);
        recent.remove(JobId::FIRST);
        assert_eq!(recent.find(&owner, &tag, NOW), None);

        // Another may have the tag of one that failed at any time.
        let mut failed = Job::clone(&job);
        failed.ending = Some(Ending::Failed("no".into()));
        let recent = Recent::new(1 << 20);
        recent.put(Arc::new(failed));
        assert_eq!(recent.find(&owner, &tag, NOW), None);
    }

    #[test]
    fn a_tag_leads_to_who_took_it_last() {
        let recent = Recent::new(1 << 20);
        let first = done(&recent, 10).unwrap();
        let (owner, tag) = (first.header.owner.clone(), first.header.tag.clone());
        let find = || recent.find(&owner, &tag, NOW);
        recent.put(first.clone());
        recent.take_tag(&first.header);
        assert_eq!(find(), Some(JobId::FIRST));
        let mut second = Job::clone(&first);
        second.header.id = JobId::new(2).unwrap();
        recent.take_tag(&second.header);
        assert_eq!(find(), None);
        recent.put(Arc::new(second));
        assert_eq!(find(), JobId::new(2));
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_gives_no_tag_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let mut ids = store.reserve_ids(2).await.unwrap();
        let ends = [
            (NOW, Finish::Complete(Output::binary("result"))),
            (LATER, Finish::Fail("no".into())),
        ];
        for (at, finish) in ends {
            let id = ids.take().unwrap();
            let mut job = job(id, "tag", Bytes::new());
            job.header.received_at = at;
            job.header.options.retention = Duration::from_secs(1);
            let (owner, tag) = (job.header.owner.clone(), job.header.tag.clone());
            let stored = store.submit(job, true).await.unwrap();
            assert!(matches!(stored, Submitted::Created(_)), "{stored:?}");
            store.finish(id, Lease(1), finish, at).await.unwrap();
            // The first one has expired when the second is submitted, and has not by this.
            let found = store.find(&owner, &tag, NOW).await.unwrap();
            assert_eq!(found, Some(id));
        }
    }
}
