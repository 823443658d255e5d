//! A data directory full of jobs, filled without a server, as that would take too long.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kjob_core::{
    Finish, Header, JobId, JobOptions, JobTag, NewJob, Output, Owner, QueryId, Store, Submitted,
    TagReuse, Timestamp,
};
use kjob_proto::{Encoding, Text};
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use crate::kjob::{ENDPOINT, TOMORROW, payload};

/// Ids that are set aside, and worked off, at a time.
const BLOCK: u32 = 100_000;

/// Callers at once: as many steps as the store makes durable by one sync.
const CALLERS: usize = 4_096;

/// Of how many jobs that are done the ids are remembered, to choose from.
pub(crate) const REMEMBERED: u64 = 100_000;

/// How long those are kept that are to have expired when a server looks for such.
const RETENTION_SHORT: Duration = Duration::from_secs(1);

/// How many jobs there are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Done, older than all others, and expired a second after the filling has begun.
    pub(crate) expired: u64,
    /// Done, and kept.
    pub(crate) stored: u64,
    /// Waiting, for a day at least.
    pub(crate) queued: u64,
}

impl Count {
    pub(crate) fn all(self) -> u64 {
        self.expired + self.stored + self.queued
    }

    /// A segment's space is given back when most of it has expired. In a small store, what has expired and
    /// what has not would be one segment.
    fn options(self) -> EmbeddedOptions {
        let usual = EmbeddedOptions::default();
        EmbeddedOptions {
            segment_jobs: match self.expired {
                0 => usual.segment_jobs,
                expired => expired.min(usual.segment_jobs),
            },
            ..usual
        }
    }
}

/// What is to become of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Done, and soon expired.
    Expires,
    /// Done, and kept.
    Stays,
    /// Waits until tomorrow.
    Waits,
}

/// Fills an empty directory: ids of jobs that are done and kept, all of them or many.
///
/// # Errors
/// The store's.
pub(crate) fn fill(data: &Path, count: Count, payload_len: usize) -> Result<Vec<i64>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let store = EmbeddedStore::open(data, count.options())?;
    let filler = Arc::new(Filler {
        store,
        payload: payload(payload_len),
        now: Timestamp::from_millis(millis_now()?),
    });
    let mut remembered = Vec::new();
    runtime.block_on(async {
        let every = count.stored.div_ceil(REMEMBERED).max(1);
        let parts = [
            (count.expired, Fate::Expires),
            (count.stored, Fate::Stays),
            (count.queued, Fate::Waits),
        ];
        for (jobs, fate) in parts {
            let mut left = jobs;
            while left > 0 {
                let block = left.min(u64::from(BLOCK));
                left -= block;
                let ids = filler.block(block as u32, fate).await?;
                if fate == Fate::Stays {
                    let is_chosen = |id: &&i64| id.cast_unsigned().is_multiple_of(every);
                    remembered.extend(ids.iter().filter(is_chosen));
                }
            }
        }
        anyhow::Ok(())
    })?;
    Ok(remembered)
}

struct Filler {
    store: EmbeddedStore,
    payload: Bytes,
    now: Timestamp,
}

impl Filler {
    /// So many jobs, by many callers at once.
    async fn block(self: &Arc<Self>, count: u32, fate: Fate) -> Result<Vec<i64>> {
        let mut block = self.store.reserve_ids(count).await?;
        let ids: Vec<JobId> = std::iter::from_fn(|| block.take()).collect();
        let mut callers = JoinSet::new();
        for own in ids.chunks(ids.len().div_ceil(CALLERS)) {
            let (filler, own) = (Arc::clone(self), own.to_vec());
            callers.spawn(async move {
                let mut random: SmallRng = rand::make_rng();
                for id in own {
                    filler.one(id, fate, &mut random).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended.context("a caller panicked")??;
        }
        Ok(ids.into_iter().map(JobId::get).collect())
    }

    async fn one(&self, id: JobId, fate: Fate, random: &mut SmallRng) -> Result<()> {
        let mut options = JobOptions::default();
        match fate {
            Fate::Expires => options.retention = RETENTION_SHORT,
            Fate::Stays => {}
            Fate::Waits => options.not_before = Some(self.now.after(TOMORROW)),
        }
        let ends = fate != Fate::Waits;
        let job = NewJob {
            header: Header {
                id,
                tag: tag(id, random)?,
                owner: Owner::anonymous(),
                endpoint: Text::from_static(ENDPOINT),
                encoding: Encoding::Binary,
                query_id: QueryId::from_bytes([7; 16]).context("a query id")?,
                parent_span: 1,
                received_at: self.now,
                source_ip: Text::from_static("127.0.0.1"),
                options,
            },
            payload: self.payload.clone(),
            tag_reuse: TagReuse::Never,
        };
        let Submitted::Created(state) = self.store.submit(job, ends).await? else {
            bail!("a tag came twice");
        };
        if ends {
            let finish = Finish::Complete(Output::binary(self.payload.clone()));
            let step = self.store.finish(id, state.lease, finish, self.now);
            step.await?;
        }
        Ok(())
    }
}

/// Every other job has a random tag of its own, the others have the server's.
fn tag(id: JobId, random: &mut SmallRng) -> Result<JobTag> {
    if id.get() % 2 == 0 {
        return Ok(JobTag::generate(id, random));
    }
    let bits: u128 = random.random();
    Ok(format!("{bits:032x}").parse()?)
}

fn millis_now() -> Result<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_millis())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::SMALL;
    use kjob_core::Parts;

    #[test]
    fn stored_jobs_are_done_and_queued_ones_wait_for_tomorrow() {
        let dir = tempfile::tempdir().unwrap();
        let count = Count {
            stored: 30,
            queued: 10,
            ..Count::default()
        };
        let ids = fill(dir.path(), count, SMALL).unwrap();
        assert_eq!(ids.len(), 30);
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        assert_eq!(store.statistics().live_jobs, 10);
        let now = Timestamp::from_millis(millis_now().unwrap());
        runtime.unwrap().block_on(async {
            for id in ids {
                let id = JobId::new(id).unwrap();
                let job = store.get(id, Parts::RESULT, now).await.unwrap().unwrap();
                let done = Some(kjob_core::Ending::Done(Output::binary(payload(SMALL))));
                assert_eq!(job.ending, done);
            }
        });
    }

    /// However small it is, a sweep finds segments of nothing else.
    #[test]
    fn the_space_of_expired_jobs_is_given_back_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let count = Count {
            expired: 20,
            stored: 60,
            ..Count::default()
        };
        let ids = fill(dir.path(), count, SMALL).unwrap();
        assert_eq!(ids.len(), 60);
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let now = Timestamp::from_millis(millis_now().unwrap());
        let later = now.after(Duration::from_secs(60));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let given_back = store.expire(later).await.unwrap();
            assert_eq!((given_back.jobs, given_back.more), (20, false));
            for id in ids {
                let id = JobId::new(id).unwrap();
                let job = store.get(id, Parts::RESULT, later).await.unwrap();
                assert!(job.is_some(), "{id:?}");
            }
        });
    }
}
