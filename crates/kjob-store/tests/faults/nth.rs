//! The nth call fails, for every n.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use kjob_core::Store;

use crate::layer::{ALL_FILES, Errno, Fault, Kind, Layer, Rule, under_the_layer};
use crate::work::{Work, runtime};

/// What came of the runs of a test.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    injected: u64,
    acknowledged: usize,
    /// Runs after whose fault the store took nothing more.
    stopped: u64,
    /// Runs in which the store could not even be opened until the fault was over.
    unopened: u64,
}

#[test]
fn the_calls_of_sqlite_and_of_rust_go_through_the_layer() {
    let name = "nth::the_calls_of_sqlite_and_of_rust_go_through_the_layer";
    under_the_layer(name, false, |layer| {
        runtime().block_on(async {
            let mut work = Work::new(&layer.directory.join("store"), 1);
            work.open().unwrap();
            work.run(300).await;
            work.settle().await;
            work.finish().await;
        });
        for kind in Kind::ALL {
            println!("{kind:?}: {} calls", layer.calls(kind));
            assert!(layer.calls(kind) > 0, "{kind:?} never came");
            assert_eq!(layer.injected(kind), 0);
        }
    });
}

macro_rules! nth {
    ($($name:ident: $rule:expr;)*) => {$(
        #[test]
        fn $name() {
            let name = concat!("nth::", stringify!($name));
            under_the_layer(name, false, |layer| every_nth(name, &layer, $rule));
        }
    )*};
}

const SAID_WITHIN: Duration = Duration::from_secs(5);

/// Once, or from then on for as long as the rule holds.
const ONCE: u64 = 1;
const ON: u64 = u64::MAX;

const fn rule(kinds: &'static [Kind], times: u64, fault: Fault, error: Errno) -> Rule<'static> {
    Rule {
        kinds,
        files: ALL_FILES,
        skip: 0,
        times,
        fault,
        error,
    }
}

/// What may need room.
const GROWING: &[Kind] = &[Kind::Create, Kind::Write, Kind::MakeDirectory];
/// What changes anything.
const CHANGING: &[Kind] = &[
    Kind::Create,
    Kind::Write,
    Kind::Sync,
    Kind::SyncDirectory,
    Kind::Truncate,
    Kind::Rename,
    Kind::Unlink,
    Kind::MakeDirectory,
    Kind::RemoveDirectory,
];
const DIRECTORIES: &[Kind] = &[
    Kind::Create,
    Kind::Truncate,
    Kind::Rename,
    Kind::Unlink,
    Kind::MakeDirectory,
    Kind::RemoveDirectory,
];

nth! {
    a_write_that_fails: rule(&[Kind::Write], ONCE, Fault::Fail, Errno::Io);
    a_write_that_is_torn: rule(&[Kind::Write], ONCE, Fault::Torn, Errno::Io);
    a_write_that_is_short: rule(&[Kind::Write], ONCE, Fault::Short, Errno::Io);
    a_write_that_is_interrupted: rule(&[Kind::Write], ONCE, Fault::Fail, Errno::Interrupted);
    a_sync_that_fails: rule(&[Kind::Sync], ONCE, Fault::Fail, Errno::Io);
    a_sync_of_a_directory_that_fails: rule(&[Kind::SyncDirectory], ONCE, Fault::Fail, Errno::Io);
    a_change_of_a_name_that_fails: rule(DIRECTORIES, ONCE, Fault::Fail, Errno::Io);
    a_read_that_fails: rule(&[Kind::Read], ONCE, Fault::Fail, Errno::Io);
    a_read_that_is_short: rule(&[Kind::Read], ONCE, Fault::Short, Errno::Io);
    a_disk_that_takes_nothing_more: rule(CHANGING, ON, Fault::Fail, Errno::Io);
    a_disk_that_is_full: rule(GROWING, ON, Fault::Fail, Errno::NoSpace);
    a_disk_that_is_full_in_the_middle: rule(GROWING, ON, Fault::Torn, Errno::NoSpace);
    a_quota_that_is_used_up: rule(GROWING, ON, Fault::Fail, Errno::Quota);
    a_quota_that_is_used_up_in_the_middle: rule(GROWING, ON, Fault::Torn, Errno::Quota);
}

/// Runs generated steps again and again, the first, second, third … call hit, until a run passes
/// without a hit.
fn every_nth(name: &str, layer: &Layer, rule: Rule<'_>) {
    layer.pretend_to_sync();
    let mut tally = Tally::default();
    let (seeds, every) = seeds();
    for seed in 0..seeds {
        let mut skip = 0;
        loop {
            let dir = layer.directory.join(format!("{seed}-{skip}"));
            let mut work = Work::new(&dir, seed);
            // SQLite tells nobody of a sync that fails while a file is closed, which loses nothing.
            work.reopens = !matches!(rule.kinds, [Kind::Sync]);
            let hits = runtime().block_on(run(layer, Rule { skip, ..rule }, work, &mut tally));
            fs::remove_dir_all(&dir).unwrap();
            if hits == 0 {
                break;
            }
            // Opening is looked at call by call, what comes again and again not each time.
            skip += if every { 1 } else { 1 + skip / 32 };
        }
    }
    println!("| {name} | {tally:?} |");
    assert!(tally.injected > 0);
}

async fn run(layer: &Layer, rule: Rule<'_>, mut work: Work, tally: &mut Tally) -> u64 {
    tally.runs += 1;
    layer.follow(rule);
    let is_open = work.open().is_ok();
    if is_open {
        work.run(60).await;
    } else {
        tally.unopened += 1;
    }
    layer.obey();
    let hits = layer.hits();
    tally.injected += hits;
    let is_sync = matches!(rule.kinds, [Kind::Sync]);
    let failure = || work.store.as_ref().and_then(|store| store.failure());
    // The thread whose sync failed may be about to say so.
    let is_awaited = is_sync && hits > 0 && work.store.is_some();
    let began = Instant::now();
    while is_awaited && failure().is_none() && began.elapsed() < SAID_WITHIN {
        thread::yield_now();
    }
    let failure = failure();
    if let Some(error) = &failure {
        tally.stopped += 1;
        assert!(hits > 0, "{error}");
        let is_full = matches!(rule.error, Errno::NoSpace | Errno::Quota);
        assert!(!is_full, "a full disk is no end: {error}");
    }
    assert!(
        !is_sync || hits == 0 || !is_open || failure.is_some() || work.store.is_none(),
        "a sync failed, call {} of them, and the store goes on",
        rule.skip
    );
    if let Some(store) = work.store.clone() {
        // What was answered is there to be read, whatever cannot be written.
        work.known.check(&store, work.now).await;
        drop(store);
        let before = work.history.len();
        work.run(10).await;
        let failed = work.history[before..]
            .iter()
            .flat_map(|asked| &asked.steps)
            .find(|step| step.answer.is_failed());
        assert_eq!(
            failed.is_some(),
            failure.is_some(),
            "{failure:?}, {failed:?}"
        );
    }
    work.settle().await;
    work.run(10).await;
    work.settle().await;
    tally.acknowledged += work.acknowledged();
    work.finish().await;
    hits
}

/// How many seeds to try, and whether with every single call.
pub fn seeds() -> (u64, bool) {
    match std::env::var("KJOB_FAULT_SEEDS") {
        Ok(count) => (count.parse().unwrap(), true),
        Err(_) => (1, false),
    }
}
