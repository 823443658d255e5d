//! A process of many clients, which ask by chance until its standard input ends.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::asker::Asker;
use crate::history::{Answer, Key, Recorder};
use crate::plan::{Endpoints, Plan};

/// Jobs that the clients of a process know of together.
const KNOWN_MAX: usize = 300;

/// The longest pause of a client between two questions.
const PAUSE_MILLIS_MAX: u64 = 25;

/// What a process of clients is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub url: String,
    /// Of all that is by chance.
    pub seed: u64,
    /// The number of the first client; the others follow.
    pub first: u32,
    /// How many, half of them patient.
    pub clients: u32,
    /// What they may call.
    pub endpoints: Endpoints,
    /// Where ends are told.
    pub receiver: String,
    /// Where they write what they are told.
    pub history: PathBuf,
}

/// Runs the clients until the standard input ends; each has its last answer then.
///
/// # Errors
/// The history cannot be written, or the URL is none.
pub async fn run(options: Options) -> Result<()> {
    let recorder = Arc::new(Recorder::open(&options.history)?);
    let over = CancellationToken::new();
    let known = Arc::new(Mutex::new(Vec::new()));
    let mut clients = JoinSet::new();
    for number in options.first..options.first + options.clients {
        let asker = match number % 2 {
            0 => Asker::patient(&options.url, number, &recorder)?,
            _ => Asker::raw(&options.url, number, &recorder)?,
        };
        let seed = options.seed.wrapping_add(u64::from(number));
        let client = Client {
            asker,
            number,
            rng: StdRng::seed_from_u64(seed),
            endpoints: options.endpoints,
            receiver: options.receiver.clone(),
            known: Arc::clone(&known),
            submitted: 0,
        };
        clients.spawn(client.live(over.clone()));
    }
    let mut nothing = Vec::new();
    tokio::io::stdin().read_to_end(&mut nothing).await?;
    over.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.context("a client broke off")??;
    }
    Ok(())
}

struct Client {
    asker: Asker,
    number: u32,
    rng: StdRng,
    endpoints: Endpoints,
    receiver: String,
    known: Arc<Mutex<Vec<Known>>>,
    submitted: u64,
}

/// A call that was submitted, with its job if that is known.
#[derive(Clone)]
struct Known {
    plan: Plan,
    id: Option<i64>,
}

impl Client {
    async fn live(mut self, over: CancellationToken) -> Result<()> {
        while !over.is_cancelled() {
            self.ask().await?;
            let pause = self.rng.random_range(0..=PAUSE_MILLIS_MAX);
            let pause = tokio::time::sleep(Duration::from_millis(pause));
            over.run_until_cancelled(pause).await;
        }
        Ok(())
    }

    async fn ask(&mut self) -> Result<()> {
        let chance = self.rng.random_range(0..100);
        let Some(known) = self.any_known().filter(|_| chance >= 40) else {
            return self.submit_new().await;
        };
        let key = match known.id.filter(|_| self.rng.random_bool(0.6)) {
            Some(id) => Key::Id(id),
            None => Key::Tag(known.plan.call.tag.clone()),
        };
        let want = &known.plan.call.want;
        match (chance, known.id) {
            (40..62, _) => drop(self.asker.look(key, want, Duration::ZERO).await?),
            (62..72, _) => {
                let patience = Duration::from_millis(self.rng.random_range(1..800));
                self.asker.look(key, want, patience).await?;
            }
            (72..82, Some(id)) => drop(self.asker.cancel(id).await?),
            (82..96, _) => self.submit(known.plan).await?,
            (_, id) => {
                let after = id.unwrap_or_default().saturating_sub(20).max(0);
                self.asker.list(after, 40).await?;
            }
        }
        Ok(())
    }

    async fn submit_new(&mut self) -> Result<()> {
        self.submitted += 1;
        let name = format!("client_{}-{}", self.number, self.submitted);
        let plan = Plan::draw(&mut self.rng, self.endpoints, &name, &self.receiver);
        self.submit(plan).await
    }

    async fn submit(&mut self, plan: Plan) -> Result<()> {
        let answer = self.asker.submit(&plan.call, &plan.submit).await?;
        let id = match &answer {
            Answer::Told(accepted) => Some(accepted.id),
            _ => None,
        };
        // Whoever lost an answer asks again, or looks, or forgets about it.
        if id.is_none() && self.rng.random_bool(0.5) {
            let pause = self.rng.random_range(0..1_500);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.rng.random_bool(0.5) {
                self.asker.submit(&plan.call, &plan.submit).await?;
            } else {
                let key = Key::Tag(plan.call.tag.clone());
                let want = &plan.call.want;
                self.asker.look(key, want, Duration::ZERO).await?;
            }
        }
        self.know(Known { plan, id });
        Ok(())
    }

    fn any_known(&mut self) -> Option<Known> {
        let at = self.rng.random_range(0..KNOWN_MAX);
        let known = self.known();
        // The newest more often than the others.
        let at = known.len().checked_sub(1 + at.min(at % 40 + at / 8))?;
        known.get(at).cloned()
    }

    fn know(&mut self, new: Known) {
        let at = self.rng.random_range(0..KNOWN_MAX);
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.remove(at);
        }
        known.push(new);
    }

    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
