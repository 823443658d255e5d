//! Jobs that ended a short while ago, in memory: a result is mostly fetched soon after its job has
//! ended. Only the writer puts jobs in and takes them out, after the commit that makes it so.

use std::sync::Arc;

use bytes::Bytes;
use kjob_core::{Ending, Header, Job, JobId, Output, Parts, Payload, State, Timestamp};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::blobs::Content;
use super::state_row::NewEnding;

/// Larger results are read from their file: the copy would cost more than it saves.
const RESULT_LEN_MAX: usize = 64 << 10;

/// What a job takes in memory beside its texts and bytes, roughly.
const JOB_BYTES: usize = 512;

/// The jobs that ended last, as far as there is room for them.
pub(crate) struct Recent(Option<Cache<JobId, Arc<Job>, Bytesize>>);

#[derive(Clone)]
struct Bytesize;

impl Weighter<JobId, Arc<Job>> for Bytesize {
    fn weight(&self, _: &JobId, job: &Arc<Job>) -> u64 {
        let message = match &job.ending {
            Some(Ending::Failed(message)) => message.len(),
            _ => 0,
        };
        (JOB_BYTES + message + job.result_len() + job.header.options.user_data.len()) as u64
    }
}

impl Recent {
    /// With 0 bytes, none are kept.
    pub(crate) fn new(bytes: u64) -> Self {
        let jobs = usize::try_from(bytes).unwrap_or(usize::MAX) / (2 * JOB_BYTES);
        Self((bytes > 0).then(|| Cache::with_weighter(jobs, bytes, Bytesize)))
    }

    /// The job without its payload, unless it is not at hand or has expired, which the files tell.
    pub(crate) fn get(&self, id: JobId, parts: Parts, now: Timestamp) -> Option<Job> {
        if parts.payload {
            return None;
        }
        let job = self.0.as_ref()?.get(&id)?;
        if job.expires_at.is_none_or(|at| at <= now) {
            return None;
        }
        let mut job = Job::clone(&job);
        if let (false, Some(Ending::Done(output))) = (parts.result, &mut job.ending) {
            *output = output.without_bytes();
        }
        Some(job)
    }

    pub(crate) fn put(&self, job: Job) {
        if let Self(Some(cache)) = self {
            cache.insert(job.header.id, Arc::new(job));
        }
    }

    pub(crate) fn remove(&self, id: JobId) {
        if let Self(Some(cache)) = self {
            cache.remove(&id);
        }
    }
}

/// The job as it ended, if it is worth keeping. One that somebody is to be told of changes yet.
pub(crate) fn ended(
    header: &Header,
    state: &State,
    ending: &NewEnding,
    expires_at: Timestamp,
) -> Option<Job> {
    let ending = match ending {
        NewEnding::Done(encoding, info, Content::Inline(data)) if data.len() <= RESULT_LEN_MAX => {
            let payload = Payload {
                encoding: *encoding,
                // Its own memory: it may be a small piece of much.
                data: Bytes::copy_from_slice(data),
            };
            let info = info.clone();
            Ending::Done(Output { payload, info })
        }
        NewEnding::Done(..) => return None,
        NewEnding::Failed(message) => Ending::Failed(message.clone()),
        NewEnding::Cancelled => Ending::Cancelled,
    };
    header.options.callback_url.is_none().then(|| Job {
        header: header.clone(),
        state: *state,
        payload: None,
        ending: Some(ending),
        expires_at: Some(expires_at),
        callback: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::live::detached;
    use super::super::store::tests::job;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const LATER: Timestamp = Timestamp::from_millis(1_700_000_001_000);

    fn done(len: usize) -> Option<Job> {
        let header = detached(&job(JobId::FIRST, "tag", Bytes::new()));
        let content = Content::Inline(vec![7; len].into());
        let ending = NewEnding::Done(kjob_proto::Encoding::Binary, Default::default(), content);
        ended(&header, &State::queued(None), &ending, LATER)
    }

    #[test]
    fn a_job_is_there_until_it_expires_with_what_was_asked_for() {
        let recent = Recent::new(1 << 20);
        recent.put(done(10).unwrap());
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
        assert!(done(RESULT_LEN_MAX + 1).is_none());
        let recent = Recent::new(1 << 20);
        let ids = (1..=100).filter_map(JobId::new);
        for id in ids.clone() {
            let mut job = done(RESULT_LEN_MAX).unwrap();
            job.header.id = id;
            recent.put(job);
        }
        let kept = ids.filter(|id| recent.get(*id, Parts::NONE, NOW).is_some());
        assert!((1..=16).contains(&kept.count()));
        let none = Recent::new(0);
        none.put(done(1).unwrap());
        assert_eq!(none.get(JobId::FIRST, Parts::NONE, NOW), None);
    }
}
