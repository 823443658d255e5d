//! The engine, its store and its clock in one thread, under everything that may go wrong, as one
//! seed has it: users who meet, handlers that do anything, callbacks that fail, a store that is late,
//! out of order, full, failing and cut off, a clock that is set, kills and shut-downs. What anybody was told must
//! be true and stay true, and in the end everything must have ended and nothing be left over.
//!
//! One seed is one run, always the same: `cargo xtask simulate --seed N --trace` shows it, and
//! `cargo xtask simulate --seeds N` runs many.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stderr, reason = "traces are for people to read")]

mod callbacks;
mod checks;
mod clock;
mod coverage;
mod handlers;
mod history;
mod messenger;
mod plan;
mod sim;
mod store;
mod trace;
mod users;
mod world;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use trace::Tracing;

/// How many seeds the test runs unless it is told.
const SEEDS: u64 = 4_000;

/// From how many seeds on every event must have happened.
const SEEDS_FOR_COVERAGE: u64 = 2_000;

#[test]
fn what_was_told_is_true_whatever_happens() {
    let tracing = match std::env::var_os("KJOB_TRACE") {
        Some(_) => Tracing::Printed,
        None => Tracing::Off,
    };
    if let Some(seed) = number("KJOB_SEED") {
        if let Err(why) = attempt(seed, tracing) {
            panic!("{why}");
        }
        return;
    }
    let first = number("KJOB_FIRST_SEED").unwrap_or(0);
    let seeds = number("KJOB_SEEDS").unwrap_or(SEEDS);
    if let Some(why) = attempt_all(first..first.saturating_add(seeds)) {
        panic!("{why}");
    }
    let counts: Vec<_> = coverage::counts().collect();
    if std::env::var_os("KJOB_COUNTS").is_some() {
        for (event, count) in &counts {
            eprintln!("{count:>10} {event:?}");
        }
    }
    let missed = counts.iter().filter(|(_, count)| *count == 0);
    let missed: Vec<_> = missed.map(|(event, _)| event).collect();
    assert!(
        seeds < SEEDS_FOR_COVERAGE || missed.is_empty(),
        "over {seeds} seeds this has never happened: {missed:?}"
    );
}

/// Without this no seed could be replayed.
#[test]
fn a_seed_is_one_run() {
    let trace = |seed| {
        let run = move || attempt(seed, Tracing::Hashed).unwrap();
        std::thread::spawn(run).join().unwrap()
    };
    let mut sums = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let first = trace(seed);
        assert_eq!(first, trace(seed), "seed {seed}");
        sums.insert(first);
    }
    assert_eq!(sums.len(), 40, "other seeds are other runs");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("seeds and their count are numbers"))
}

/// Runs all seeds, on all processors; gives why the first that failed did.
fn attempt_all(seeds: Range<u64>) -> Option<String> {
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            if let Err(why) = attempt(seed, Tracing::Off) {
                failed.store(true, Ordering::Relaxed);
                return Some(why);
            }
        }
        None
    };
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| worker.join().unwrap());
        ended.flatten().next()
    })
}

thread_local! {
    /// The first panic on this thread that nobody meant to happen. Tasks' panics end nowhere else.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn attempt(seed: u64, tracing: Tracing) -> Result<(u64, u64), String> {
    note_panics();
    PANIC.take();
    let ended = std::panic::catch_unwind(|| world::run(seed, tracing));
    let why = match (PANIC.take(), ended) {
        (Some(panic), _) => panic,
        (None, Ok(Ok(sum))) => return Ok(sum),
        (None, Ok(Err(violation))) => violation,
        (None, Err(_)) => "a panic".to_owned(),
    };
    Err(format!(
        "seed {seed}: {why}\nreplay it with: cargo xtask simulate --seed {seed} --trace"
    ))
}

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let old = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload_as_str() == Some(handlers::BY_CHANCE) {
                return;
            }
            PANIC.with_borrow_mut(|panic| {
                panic.get_or_insert_with(|| info.to_string());
            });
            old(info);
        }));
    });
}
