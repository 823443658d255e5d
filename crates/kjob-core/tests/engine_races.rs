//! Many users at once on a store that answers in any order, late, or with errors, under an engine
//! that is killed now and then. What each user was told must stay true.
//!
//! Every run is made from one seed: orders, delays, failures, kills and what handlers do. A seed
//! that fails is named; `KJOB_SEED=n cargo test -p kjob-core --test engine_races` runs it alone,
//! `KJOB_SEEDS=n` runs the first n.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;
#[path = "support/troubled.rs"]
#[allow(dead_code, reason = "other tests make other trouble")]
mod troubled;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kjob_core::engine::{
    Caller, CancelOutcome, Engine, HandlerError, JobContext, JobKey, ManualClock, Registry,
    RouteOptions,
};
use kjob_core::{Ending, Job, JobId, JobTag, MemoryStore, Payload, Phase, Store};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use support::*;
use troubled::Troubled;

const KILLS: usize = 3;
const USERS: usize = 4;
const CALLS_PER_USER: usize = 12;

/// What users were told and handlers did, over all kills.
#[derive(Default)]
struct History {
    /// tag → the id that a submit answered with.
    accepted: HashMap<String, JobId>,
    ids: HashMap<JobId, String>,
    /// The newest thing that was seen of a job.
    seen: HashMap<JobId, Job>,
    /// How often the handler of a job was begun.
    starts: HashMap<JobId, usize>,
    told_cancelled: Vec<JobId>,
}

type Shared = Arc<Mutex<History>>;

impl History {
    fn accept(&mut self, tag: &JobTag, id: JobId) {
        let before = self.accepted.insert(tag.to_string(), id);
        assert!(
            before.is_none_or(|old| old == id),
            "{tag} was {before:?} and is now {id}"
        );
        let other = self.ids.insert(id, tag.to_string());
        assert!(
            other.is_none_or(|old| old == tag.as_str()),
            "{id} was given twice"
        );
    }

    fn see(&mut self, job: Job) {
        let id = job.header.id;
        if let Some(old) = self.seen.get(&id) {
            assert_eq!(old.header, job.header);
            assert!(
                !old.state.is_newer_than(&job.state),
                "{:?} after {:?}",
                job.state,
                old.state
            );
            assert!(
                job.state.progress >= old.state.progress,
                "progress fell: {job:?}"
            );
            if old.state.phase.is_terminal() {
                assert_eq!(*old, job, "an ended job has changed");
            }
        }
        assert_eq!(job.state.phase.is_terminal(), job.ending.is_some());
        self.seen.insert(id, job);
    }
}

/// A handler that does anything a handler may do, by chance.
async fn anything(
    history: Shared,
    seed: u64,
    context: JobContext,
    payload: Payload,
) -> Result<Payload, HandlerError> {
    let id = context.job().id;
    *history.lock().unwrap().starts.entry(id).or_default() += 1;
    let mut rng =
        StdRng::seed_from_u64(seed ^ id.get() as u64 ^ (u64::from(context.job().attempt) << 32));
    for step in 0..rng.random_range(0..6u8) {
        tokio::task::yield_now().await;
        context.progress(step * 20);
        if context.is_cancelled() && rng.random_bool(0.5) {
            return Err(HandlerError::Stopped);
        }
    }
    match rng.random_range(0..10) {
        0 => Err(HandlerError::failed("by chance")),
        1 | 2 => Err(HandlerError::transient("by chance")),
        3 => panic!("by chance"),
        // Ends by a cancel, its deadline, or a kill.
        4 => {
            if rng.random_bool(0.5) {
                context.cancelled().await;
                Err(HandlerError::Stopped)
            } else {
                std::future::pending().await
            }
        }
        _ => Ok(payload),
    }
}

fn routes(history: &Shared, seed: u64) -> Registry {
    let mut registry = Registry::default();
    let limited = || RouteOptions::default().timeout(Duration::from_secs(30));
    for (endpoint, options) in [
        ("/once", limited()),
        ("/again", limited().retry(4)),
        ("/narrow", limited().concurrency(1)),
    ] {
        let history = history.clone();
        let handler = move |context, payload| anything(history.clone(), seed, context, payload);
        registry.route(endpoint, handler, options).unwrap();
    }
    registry
}

/// A user who submits (until it has an answer), looks, waits and cancels.
async fn user(engine: Engine, history: Shared, name: usize, round: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ ((name as u64) << 20) ^ ((round as u64) << 40));
    let caller = Caller::user(ann());
    for call in 0..CALLS_PER_USER {
        // Two users share each tag, and each round asks for some old tags again.
        let tag = format!(
            "t{}-{}",
            name / 2,
            rng.random_range(0..=round) * CALLS_PER_USER + call
        );
        let endpoint = ["/once", "/again", "/narrow"][(name / 2 + call) % 3];
        let submission = tagged(endpoint, "payload", &tag);
        let id = loop {
            match engine.submit(submission.clone()).await {
                Ok(accepted) => {
                    history.lock().unwrap().accept(&accepted.tag, accepted.id);
                    break accepted.id;
                }
                Err(_) => tokio::task::yield_now().await,
            }
        };
        for _ in 0..rng.random_range(0..4) {
            let key = if rng.random_bool(0.5) {
                JobKey::Id(id)
            } else {
                JobKey::Tag(tag.parse().unwrap())
            };
            match rng.random_range(0..4) {
                0 => match engine.cancel(&caller, &key).await {
                    Ok(CancelOutcome::Cancelled) => history.lock().unwrap().told_cancelled.push(id),
                    Ok(CancelOutcome::NotFound) => panic!("{id} was accepted and is not found"),
                    _ => {}
                },
                1 => {
                    let patience = Duration::from_millis(rng.random_range(0..20_000));
                    look(&history, engine.wait(&caller, &key, patience).await);
                }
                _ => look(&history, engine.get(&caller, &key).await),
            }
        }
    }
}

/// Answers of one job may overtake one another on their way here, so only those that are asked
/// for one after another are compared: each answer is noted before the next is asked for.
fn look(history: &Shared, answer: Result<Option<Job>, kjob_core::StoreError>) {
    let Ok(found) = answer else { return };
    let job = found.expect("an accepted job is found");
    let mut history = history.lock().unwrap();
    // Another user may have seen something newer while this answer was on its way.
    let newer = history
        .seen
        .get(&job.header.id)
        .is_some_and(|old| old.state.is_newer_than(&job.state));
    if !newer {
        history.see(job);
    }
}

fn run(seed: u64) {
    let store = Arc::new(MemoryStore::new());
    let history = Shared::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let clock = ManualClock::at(T0);
    for round in 0..=KILLS {
        let last = round == KILLS;
        let turns = rng.random_range(50..3_000);
        let order = rng.next_u64();
        until_killed(async {
            let shared: Arc<dyn Store> = Arc::new(Troubled::shuffled(store.clone(), order, 40));
            let opening = tokio::spawn({
                let config = config(|c| c.workers = 5);
                let clock = Arc::new(clock.clone());
                Engine::open(shared, routes(&history, seed), config, clock, order)
            });
            while !opening.is_finished() {
                settle().await;
                // Taking up old jobs may have to wait for the store.
                clock.advance(Duration::from_millis(150));
            }
            let bed = opening.await.unwrap().unwrap();
            let users: Vec<_> = (0..USERS)
                .map(|name| tokio::spawn(user(bed.clone(), history.clone(), name, round, seed)))
                .collect();
            if !last {
                for turn in 0..turns {
                    tokio::task::yield_now().await;
                    if turn % 40 == 0 {
                        clock.advance(Duration::from_millis(150));
                    }
                }
                for user in users.into_iter().filter(|user| user.is_finished()) {
                    user.await.unwrap();
                }
                return;
            }
            for user in users {
                while !user.is_finished() {
                    settle().await;
                    clock.advance(Duration::from_millis(150));
                }
                user.await.unwrap();
            }
            all_end(&bed, &clock).await;
            everything_was_kept(&bed, &history).await;
        });
    }
}

async fn all_end(engine: &Engine, clock: &ManualClock) {
    for _ in 0..2_000 {
        settle().await;
        let stats = engine.stats();
        if (stats.queued, stats.running) == (0, 0) {
            return;
        }
        clock.advance(Duration::from_secs(1));
    }
    panic!("jobs are left over: {:?}", engine.stats());
}

async fn everything_was_kept(engine: &Engine, history: &Shared) {
    let accepted = history.lock().unwrap().accepted.clone();
    let caller = Caller::user(ann());
    for (tag, id) in accepted {
        let mut jobs = Vec::new();
        for key in [JobKey::Id(id), JobKey::Tag(tag.parse().unwrap())] {
            let job = loop {
                if let Ok(found) = engine.get(&caller, &key).await {
                    break found.expect("an accepted job is kept");
                }
            };
            assert!(job.state.phase.is_terminal(), "{job:?}");
            jobs.push(job);
        }
        assert_eq!(jobs[0], jobs[1]);
        let job = jobs.remove(0);
        let mut history = history.lock().unwrap();
        let starts = history.starts.get(&id).copied().unwrap_or(0);
        match job.header.endpoint.as_str() {
            "/again" => assert!(starts <= job.state.lease.0 as usize),
            _ => assert!(starts <= 1, "{id} ran {starts} times"),
        }
        match (&job.ending, job.state.phase) {
            (Some(Ending::Done(result)), Phase::Done) => {
                assert_eq!(*result, Payload::binary("payload"));
                assert!(starts >= 1);
            }
            (Some(Ending::Failed(why)), Phase::Failed) => assert!(!why.is_empty()),
            (Some(Ending::Cancelled), Phase::Cancelled) => {}
            other => panic!("{other:?}"),
        }
        if history.told_cancelled.contains(&id) {
            assert_eq!(job.state.phase, Phase::Cancelled);
        }
        history.see(job);
    }
}

#[test]
fn what_users_were_told_stays_true() {
    // The handlers' panics are part of the test; their backtraces would bury a real one.
    let old = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some("by chance") {
            old(info);
        }
    }));
    if let Ok(seed) = std::env::var("KJOB_SEED") {
        return run(seed.parse().expect("KJOB_SEED is a number"));
    }
    let seeds =
        std::env::var("KJOB_SEEDS").map_or(300, |n| n.parse().expect("KJOB_SEEDS is a number"));
    for seed in 0..seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(panic);
        }
    }
}
