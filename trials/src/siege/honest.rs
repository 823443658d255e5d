//! Honest clients: they submit, wait, fetch, check, and remember.
//!
//! Half of them keep their connection; the others take a new one for each job, as a client does
//! that has just come. Each rests between two jobs, so that they load the server the same whatever
//! it does.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use kjob_client::{Client, Payload, Status, Submit};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accounts::HONEST;

/// How many there are.
const CLIENTS: usize = 8;

/// The rest between two jobs.
const REST: Duration = Duration::from_millis(25);

/// How long a whole life of a job may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many jobs are looked at again at a time.
const LOOKED_AT_TOGETHER: usize = 16;

/// The clients at work.
#[derive(Debug)]
pub(crate) struct Honest {
    url: String,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    times: Mutex<Vec<Duration>>,
    begun: Mutex<Vec<Option<Instant>>>,
    acknowledged: Mutex<Vec<Acknowledged>>,
    failures: Mutex<Vec<String>>,
}

/// A job that a client was told it has.
#[derive(Clone, Debug)]
struct Acknowledged {
    id: i64,
    tag: String,
    /// The result, once it was fetched.
    result: Option<String>,
}

/// The times of whole lives, from the submit to the checked result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    sorted: Vec<Duration>,
}

impl Honest {
    /// Sends them out.
    pub(crate) fn begin(url: &str) -> Result<Self> {
        let (stop, shared) = (CancellationToken::new(), Arc::new(Shared::default()));
        lock(&shared.begun).resize(CLIENTS, None);
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let keeps = number % 2 == 0;
            let kept = keeps.then(|| client(url)).transpose()?;
            let worker = Worker {
                number,
                url: url.to_owned(),
                kept,
                shared: shared.clone(),
            };
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(worker.work()).await;
            });
        }
        Ok(Self {
            url: url.to_owned(),
            stop,
            tasks,
            shared,
        })
    }

    /// The times since the last call; a life that goes on counts as long as it has taken.
    pub(crate) fn take_times(&self) -> Times {
        let mut times = std::mem::take(&mut *lock(&self.shared.times));
        let longest = times.iter().copied().max().unwrap_or_default();
        let going_on = lock(&self.shared.begun);
        let ages = going_on.iter().flatten().map(|begun| begun.elapsed());
        times.extend(ages.filter(|age| *age > longest));
        Times::new(times)
    }

    /// What went wrong since the last call.
    pub(crate) fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.shared.failures))
    }

    /// Sends them home, and looks at every job again: how many there are, and what is wrong.
    pub(crate) async fn end(mut self) -> Result<(usize, Vec<String>)> {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let acknowledged = std::mem::take(&mut *lock(&self.shared.acknowledged));
        let mut wrong = self.take_failures();
        let mut ids = HashSet::new();
        let twice = acknowledged.iter().filter(|job| !ids.insert(job.id));
        wrong.extend(twice.map(|job| format!("id {} was given twice", job.id)));

        let count = acknowledged.len();
        let client = client(&self.url)?;
        let mut waiting = acknowledged.into_iter();
        let mut looks = JoinSet::new();
        loop {
            while looks.len() < LOOKED_AT_TOGETHER
                && let Some(job) = waiting.next()
            {
                let client = client.clone();
                looks.spawn(async move { job.check(&client).await.err() });
            }
            match looks.join_next().await {
                Some(found) => wrong.extend(found?),
                None => return Ok((count, wrong)),
            }
        }
    }
}

impl Acknowledged {
    /// That the job is there, and is what its client was told.
    async fn check(&self, client: &Client) -> Result<(), String> {
        let Self { id, tag, result } = self;
        let lost = |error| format!("job {id} is lost: {error}");
        let job = client.wait(*id, PATIENCE).await.map_err(lost)?;
        if job
            .info
            .get("job_tag")
            .is_none_or(|found| found != tag.as_str())
        {
            return Err(format!("job {id} has another tag: {:?}", job.info));
        }
        // One that was cut off by our own end has no result to compare.
        let Some(result) = result else {
            return Ok(());
        };
        match job.result {
            Some(found) if found.data == result.as_bytes() => Ok(()),
            found => Err(format!("job {id} was changed: {} {found:?}", job.status)),
        }
    }
}

#[derive(Debug)]
struct Worker {
    number: usize,
    url: String,
    kept: Option<Client>,
    shared: Arc<Shared>,
}

impl Worker {
    async fn work(self) {
        for turn in 0_u64.. {
            let begun = Instant::now();
            self.set_begun(Some(begun));
            match self.live(turn).await {
                Ok(()) => lock(&self.shared.times).push(begun.elapsed()),
                Err(failure) => lock(&self.shared.failures).push(failure),
            }
            self.set_begun(None);
            tokio::time::sleep(REST).await;
        }
    }

    fn set_begun(&self, begun: Option<Instant>) {
        if let Some(slot) = lock(&self.shared.begun).get_mut(self.number) {
            *slot = begun;
        }
    }

    /// One job from its submit to its checked result.
    async fn live(&self, turn: u64) -> Result<(), String> {
        let failed = |error| format!("an honest client failed: {error}");
        let client = match &self.kept {
            Some(client) => client.clone(),
            None => client(&self.url).map_err(failed)?,
        };
        let message = format!("{}-{turn}-{}", self.number, "x".repeat(200));
        let payload = format!("{{\"message\":\"{message}\"}}");
        let submit = Submit::new("/demo/echo", Payload::json(payload));
        let submitted = client.submit(&submit).await.map_err(failed)?;
        let slot = {
            let mut all = lock(&self.shared.acknowledged);
            all.push(Acknowledged {
                id: submitted.id,
                tag: submit.tag().to_owned(),
                result: None,
            });
            all.len() - 1
        };
        let job = client.wait(&submitted, PATIENCE).await.map_err(failed)?;
        let found = job.result.map(|result| result.data).unwrap_or_default();
        let found = String::from_utf8_lossy(&found).into_owned();
        if job.status != Status::Done || !found.contains(&message) {
            return Err(format!(
                "job {} ended as {}: {found}",
                submitted.id, job.status
            ));
        }
        if let Some(job) = lock(&self.shared.acknowledged).get_mut(slot) {
            job.result = Some(found);
        }
        Ok(())
    }
}

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { sorted: times }
    }

    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The time that so many hundredths of all lives do not exceed.
    pub(crate) fn percentile(&self, hundredths: usize) -> Duration {
        let rank = (self.sorted.len() * hundredths).div_ceil(100);
        let at = rank.saturating_sub(1);
        self.sorted.get(at).copied().unwrap_or_default()
    }

    pub(crate) fn with(mut self, other: &Self) -> Self {
        self.sorted.extend(&other.sorted);
        Self::new(self.sorted)
    }
}

/// A client of the server, whether it has accounts or not.
fn client(url: &str) -> Result<Client, kjob_client::Error> {
    Client::builder(url)
        .basic(HONEST.name, HONEST.password)
        .build()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = Times::new((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(times.percentile(50), Duration::from_millis(100));
        assert_eq!(times.percentile(99), Duration::from_millis(198));
        assert_eq!(Times::default().percentile(99), Duration::ZERO);
        let one = Times::new(vec![Duration::from_millis(7)]);
        assert_eq!(one.percentile(50), Duration::from_millis(7));
    }
}
