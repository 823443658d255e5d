//! A data directory full of jobs, filled without a server, as that would take too long.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

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
const REMEMBERED: u64 = 100_000;

/// How many jobs there are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Done, and kept.
    pub(crate) stored: u64,
    /// Waiting, for a day at least.
    pub(crate) queued: u64,
}

impl Count {
    pub(crate) fn all(self) -> u64 {
        self.stored + self.queued
    }
}

/// Fills an empty directory: ids of jobs that are done, all of them or many.
///
/// # Errors
/// The store's.
pub(crate) fn fill(data: &Path, count: Count, payload_len: usize) -> Result<Vec<i64>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let store = EmbeddedStore::open(data, EmbeddedOptions::default())?;
    let filler = Arc::new(Filler {
        store,
        payload: payload(payload_len),
        now: Timestamp::from_millis(millis_now()?),
    });
    let mut remembered = Vec::new();
    runtime.block_on(async {
        let every = count.stored.div_ceil(REMEMBERED).max(1);
        for (jobs, ends) in [(count.stored, true), (count.queued, false)] {
            let mut left = jobs;
            while left > 0 {
                let block = left.min(u64::from(BLOCK));
                left -= block;
                let ids = filler.block(block as u32, ends).await?;
                let is_kept = |id: &&i64| ends && id.cast_unsigned().is_multiple_of(every);
                remembered.extend(ids.iter().filter(is_kept));
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
    async fn block(self: &Arc<Self>, count: u32, ends: bool) -> Result<Vec<i64>> {
        let mut block = self.store.reserve_ids(count).await?;
        let ids: Vec<JobId> = std::iter::from_fn(|| block.take()).collect();
        let mut callers = JoinSet::new();
        for own in ids.chunks(ids.len().div_ceil(CALLERS)) {
            let (filler, own) = (Arc::clone(self), own.to_vec());
            callers.spawn(async move {
                let mut random: SmallRng = rand::make_rng();
                for id in own {
                    filler.one(id, ends, &mut random).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended.context("a caller panicked")??;
        }
        Ok(ids.into_iter().map(JobId::get).collect())
    }

    async fn one(&self, id: JobId, ends: bool, random: &mut SmallRng) -> Result<()> {
        let options = JobOptions {
            not_before: (!ends).then(|| self.now.after(TOMORROW)),
            ..JobOptions::default()
        };
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
}
