//! Jobs that ended a short while ago, in memory: a result is mostly fetched soon after its job has
//! ended. Only the writer puts jobs in and takes them out, after the commit that makes it so.

use std::sync::Arc;

use kjob_core::{Ending, Header, Job, JobId, Output, Parts, Payload, State, Timestamp};

use super::blobs::Content;
use super::cache::{Cache, Kept};
use super::state_row::NewEnding;

/// The jobs that ended last, each without its payload.
pub(crate) type Recent = Cache<Arc<Job>>;

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

/// The job, unless it is not at hand or has expired, which the files tell.
pub(crate) fn get(recent: &Recent, id: JobId, parts: Parts, now: Timestamp) -> Option<Job> {
    if parts.payload {
        return None;
    }
    let job = recent.get(id)?;
    if job.expires_at.is_none_or(|at| at <= now) {
        return None;
    }
    let mut job = Job::clone(&job);
    if let (false, Some(Ending::Done(output))) = (parts.result, &mut job.ending) {
        *output = output.without_bytes();
    }
    Some(job)
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
    use bytes::Bytes;
    use kjob_proto::Encoding;

    use super::super::cache::LEN_MAX;
    use super::super::live::detached;
    use super::super::store::tests::job;
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
        recent.put(JobId::FIRST, done(&recent, 10).unwrap());
        let get = |parts, now| get(&recent, JobId::FIRST, parts, now);
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
            recent.put(id, done(&recent, LEN_MAX).unwrap());
        }
        let kept = ids.filter(|id| get(&recent, *id, Parts::NONE, NOW).is_some());
        assert!((1..=16).contains(&kept.count()));
        let none = Recent::new(0);
        none.put(JobId::FIRST, done(&recent, 1).unwrap());
        assert_eq!(get(&none, JobId::FIRST, Parts::NONE, NOW), None);
    }
}
