//! A whole simulation: one engine after another on one store, each until it is killed or shut
//! down, and the last until everything has ended.

use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::{Caller, Engine, JobKey};
use kjob_core::{Clock, Filter, Owner, Phase};
use rand::RngExt;

use crate::coverage::Event;
use crate::handlers;
use crate::messenger::Messenger;
use crate::plan::{Plan, Round, RoundEnd, Trouble, millis};
use crate::sim::Sim;
use crate::store::SimStore;
use crate::trace::Tracing;
use crate::users::User;

/// How long everything may take to end once there is no trouble any more.
const END_WITHIN: Duration = Duration::from_secs(4 * 3_600);

/// Runs a seed; gives the hash of its trace and how many lines that has.
pub(crate) fn run(seed: u64, tracing: Tracing) -> Result<(u64, u64), String> {
    let sim = Sim::new(Plan::new(seed), tracing);
    for number in 0..sim.plan.rounds.len() {
        let round = &sim.plan.rounds[number];
        sim.store.reopen();
        sim.history().reopened();
        sim.set(|present| {
            let jumped = present.jumped;
            *present = Default::default();
            present.jumped = jumped;
            present.round = number;
            present.trouble = round.trouble;
        });
        sim.note(format_args!("round {number}: {round:?}"));
        let clock = sim.clock.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .on_thread_park(move || clock.pass())
            .build()
            .expect("a runtime needs nothing");
        runtime.block_on(live(sim.clone(), number));
        sim.set(|present| present.killing = true);
        drop(runtime);
        let wreck = std::mem::take(&mut *sim.wreck.lock().unwrap());
        wreck.settle(&sim);
        let violations = &sim.history().violations;
        if let Some(first) = violations.first() {
            sim.note(format_args!("violated: {first}"));
            return Err(first.clone());
        }
    }
    Ok(sim.trace.sum())
}

async fn live(sim: Arc<Sim>, number: usize) {
    let round = &sim.plan.rounds[number];
    weather(&sim, round);
    let end = sim.clock.micros(round.length.as_micros() as u64);
    let opening = open(&sim, number);
    let engine = if round.end == RoundEnd::Kill {
        tokio::select! {
            biased;
            engine = opening => engine,
            () = sim.clock.sleep(round.length) => {
                Event::KilledWhileTakingUp.happened();
                return;
            }
        }
    } else {
        opening.await
    };
    // The server does not start with a store that has failed.
    let Some(engine) = engine else { return };
    tokio::spawn(hear_of_failure(sim.clone(), engine.clone()));
    let rng = sim.plan.rng(7 ^ ((number as u64) << 8));
    tokio::spawn(Messenger::new(&sim, &engine).live(rng));
    let users: Vec<_> = (0..round.users)
        .map(|user| {
            let rng = sim
                .plan
                .rng(3 ^ ((user as u64) << 8) ^ ((number as u64) << 16));
            let live = User::new(&sim, &engine, user).live(round.calls_per_user, rng);
            tokio::spawn(live)
        })
        .collect();
    match round.end {
        RoundEnd::Kill => {
            end.await;
            Event::Killed.happened();
            sim.history().nothing_is_overdue();
            failure_was_told(&sim);
        }
        RoundEnd::ShutDown(timeout) => {
            end.await;
            shut_down(&sim, &engine, timeout).await;
            failure_was_told(&sim);
        }
        RoundEnd::Calm => {
            for user in users {
                // It has panicked if this fails, which is known by another way.
                let _ = user.await;
            }
            sim.history().nothing_is_overdue();
            calm(&sim, &engine).await;
        }
    }
}

/// Opens an engine, as often as the store keeps it from that.
async fn open(sim: &Arc<Sim>, number: usize) -> Option<Engine> {
    let round = &sim.plan.rounds[number];
    let mut rng = sim.plan.rng(4 ^ ((number as u64) << 8));
    loop {
        let opened = Engine::open(
            Arc::new(SimStore(sim.clone())),
            handlers::routes(sim, round.gone),
            sim.plan.config.clone(),
            Arc::new(sim.clock.clone()),
            handlers::seed(&mut rng),
        );
        match opened.await {
            Ok(engine) => {
                sim.note(format_args!("open"));
                let now = sim.clock.passed();
                sim.set(|present| present.opened = Some(now));
                return Some(engine);
            }
            Err(_) if sim.present().failed => return None,
            Err(error) => {
                if round.is_reliable() {
                    let mut history = sim.history();
                    history.violated(format_args!("not opened: {error}"));
                }
                sim.clock.sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What happens to the store and the clock whatever anybody does.
fn weather(sim: &Arc<Sim>, round: &Round) {
    let later = |after: Duration, what: Box<dyn FnOnce(&Sim) + Send>| {
        let sim = sim.clone();
        tokio::spawn(async move {
            sim.clock.sleep(after).await;
            what(&sim);
        });
    };
    for (after, by) in round.jumps.clone() {
        later(
            after,
            Box::new(move |sim| {
                sim.note(format_args!("the clock is set by {by} ms"));
                let event = if by > 0 {
                    Event::ClockSetForward
                } else {
                    Event::ClockSetBack
                };
                event.happened();
                sim.set(|present| present.jumped = true);
                sim.clock.jump(by);
            }),
        );
    }
    if let Some((begin, end)) = round.full {
        later(
            begin,
            Box::new(|sim| sim.set(|present| present.full = true)),
        );
        later(end, Box::new(|sim| sim.set(|present| present.full = false)));
    }
    if let Some(after) = round.fails_at {
        later(
            after,
            Box::new(|sim| {
                sim.note(format_args!("the store fails"));
                Event::FailedForGood.happened();
                sim.set(|present| present.failed = true);
            }),
        );
    }
}

async fn hear_of_failure(sim: Arc<Sim>, engine: Engine) {
    let _error = engine.store_failed().await;
    Event::FailureTold.happened();
    if !sim.present().failed {
        let mut history = sim.history();
        history.violated(format_args!("a failure is told that never was"));
    }
    sim.set(|present| present.failure_told = true);
}

fn failure_was_told(sim: &Sim) {
    let present = sim.present();
    let answered = present.failure_answered;
    let mut history = sim.history();
    if answered.is_some_and(|at| at < history.at) && !present.failure_told {
        history.violated(format_args!("nobody was told that the store has failed"));
    }
}

async fn shut_down(sim: &Sim, engine: &Engine, timeout: Duration) {
    let mut rng = sim.plan.rng(5 ^ ((sim.present().round as u64) << 8));
    sim.set(|present| present.draining = true);
    if rng.random_bool(0.5) {
        engine.drain();
        sim.clock.sleep(millis(&mut rng, 0, 2_000)).await;
    }
    sim.note(format_args!("shut down within {timeout:?}"));
    sim.set(|present| present.closing = true);
    let begin = sim.clock.passed();
    let ended = engine.shut_down(timeout).await;
    let took = sim.clock.passed() - begin;
    sim.note(format_args!("shut down: {ended:?}"));
    let event = if took < timeout.as_micros() as u64 {
        Event::ShutDownIdle
    } else {
        Event::ShutDownInterrupting
    };
    event.happened();
    let failed = sim.present().failed;
    let mut history = sim.history();
    history.nothing_is_overdue();
    if ended.is_ok() == failed {
        history.violated(format_args!("shut down with {ended:?}, failed: {failed}"));
    }
    let longest = timeout + sim.plan.config.stop_grace;
    if took > longest.as_micros() as u64 + history.slack() {
        history.violated(format_args!("shutting down took {took} us of {longest:?}"));
    }
}

/// No more trouble: everything ends, all is as it was told, and nothing is left over.
async fn calm(sim: &Arc<Sim>, engine: &Engine) {
    sim.set(|present| {
        present.trouble = Trouble::NONE;
        present.full = false;
    });
    // Steps on their way may still meet what was drawn for them before, and be tried again.
    let begin = sim.clock.passed();
    loop {
        let stats = engine.stats();
        if (stats.queued, stats.live, stats.running) == (0, 0, 0) {
            break;
        }
        if sim.clock.passed() - begin > END_WITHIN.as_micros() as u64 {
            let mut history = sim.history();
            return history.violated(format_args!("jobs are left over: {stats:?}"));
        }
        sim.clock.sleep(Duration::from_secs(2)).await;
    }
    everything_was_kept(sim, engine).await;
    if !all_callbacks_were_made(sim).await {
        return;
    }
    sim.set(|present| {
        present.jumped = true;
        present.draining = true;
        present.closing = true;
    });
    sim.clock.jump(3 * 3_600_000);
    let interval = sim.plan.config.expire_interval;
    sim.clock.sleep(interval * 2).await;
    let usage = engine.usage(&Owner::new("ann")).total;
    if (usage.jobs, usage.bytes) != (0, 0) {
        let mut history = sim.history();
        history.violated(format_args!("everything has expired, but for {usage:?}"));
    }
    if let Err(error) = engine.shut_down(Duration::ZERO).await {
        let mut history = sim.history();
        history.violated(format_args!("the last shut-down failed: {error}"));
    }
}

/// Every callback whose job is kept is delivered or given up in the end.
async fn all_callbacks_were_made(sim: &Arc<Sim>) -> bool {
    let begin = sim.clock.passed();
    loop {
        let pending = sim.history().callbacks_pending();
        if pending.is_empty() {
            return true;
        }
        if sim.clock.passed() - begin > END_WITHIN.as_micros() as u64 {
            let mut history = sim.history();
            history.violated(format_args!("callbacks are left over: {pending:?}"));
            return false;
        }
        sim.clock.sleep(Duration::from_secs(2)).await;
    }
}

async fn everything_was_kept(sim: &Arc<Sim>, engine: &Engine) {
    let admin = Caller::admin(Owner::new("root"));
    let accepted = sim.history().accepted.clone();
    for id in accepted {
        let name = {
            let history = sim.history();
            let header = &history.jobs[&id].header;
            (header.owner.clone(), header.tag.clone())
        };
        let owner = Caller::user(name.0);
        for (caller, key) in [
            (&admin, JobKey::Id(id)),
            (&owner, JobKey::Id(id)),
            (&owner, JobKey::Tag(name.1)),
        ] {
            let tag = match &key {
                JobKey::Tag(tag) => Some(tag),
                JobKey::Id(_) => None,
            };
            let wall = sim.clock.now();
            let before = sim.history().before(&caller.owner, tag, wall);
            let answer = engine.get(caller, &key).await;
            let mut history = sim.history();
            match answer {
                Ok(job) => history.was_found(caller, &key, job.as_ref(), &before),
                Err(error) => history.violated(format_args!("a look failed: {error}")),
            }
        }
    }
    let running = Filter {
        statuses: vec![kjob_core::Status::Running],
        limit: 1_000,
        ..Filter::ALL
    };
    let listed = engine.list(&admin, running).await;
    let mut history = sim.history();
    match listed {
        Ok(page) if page.jobs.is_empty() => {}
        other => history.violated(format_args!("still listed as running: {other:?}")),
    }
    let left: Vec<_> = history
        .jobs
        .iter()
        .filter(|(_, known)| !known.state.phase.is_terminal())
        .map(|(id, known)| (*id, known.state.phase))
        .collect();
    if !left.is_empty() {
        let left: Vec<(_, Phase)> = left;
        history.violated(format_args!("jobs have not ended: {left:?}"));
    }
}
