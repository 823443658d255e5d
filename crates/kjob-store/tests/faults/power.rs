//! Power is lost at any moment: what was acknowledged by then is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use kjob_core::Store;

use crate::disk::{Disk, Luck, records};
use crate::known::Known;
use crate::layer::{ALL_FILES, Errno, Fault, Kind, Layer, Rule, under_the_layer};
use crate::work::{Random, Work, options, runtime};

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    losses: u64,
    acknowledged: usize,
    failed_syncs: u64,
}

/// Steps on one store, until power is lost.
struct Past {
    work: Work,
    /// When the store was opened anew (by the length of the journal), what was found, and how many
    /// steps had been asked for.
    settled: Vec<(u64, Known, usize)>,
    /// Where the journal begins.
    begin: u64,
    /// What is on the disk of that which failed syncs were over.
    failed: Luck,
}

#[test]
fn what_was_acknowledged_survives_the_loss_of_power() {
    let name = "power::what_was_acknowledged_survives_the_loss_of_power";
    under_the_layer(name, true, |layer| {
        let mut tally = Tally::default();
        for seed in 0..seeds(2) {
            let mut past = Past::new(&layer, seed);
            runtime().block_on(async {
                past.work.open().unwrap();
                past.work.run(60).await;
                past.work.close().await;
            });
            past.lose_power(&layer, &mut tally, Moments::Some);
        }
        println!("| {name} | {tally:?} |");
    });
}

/// A sync fails, the store is opened anew, and later power is lost. What the failed sync was over
/// looks written, and no later sync writes it.
#[test]
fn what_was_found_after_a_failed_sync_survives_the_loss_of_power() {
    let name = "power::what_was_found_after_a_failed_sync_survives_the_loss_of_power";
    under_the_layer(name, true, |layer| {
        let mut tally = Tally::default();
        for seed in 0..seeds(3) {
            let mut past = Past::new(&layer, 1_000 + seed);
            let mut random = Random::new(seed);
            runtime().block_on(async {
                past.work.reopens = false;
                past.work.open().unwrap();
                layer.follow(Rule {
                    kinds: &[Kind::Sync],
                    files: ALL_FILES,
                    skip: 5 + random.below(40),
                    times: 1,
                    fault: Fault::Fail,
                    error: Errno::Io,
                });
                past.work.run(40).await;
                layer.obey();
                tally.failed_syncs += layer.hits();
                past.work.settle().await;
                let moment = fs::metadata(&layer.journal).unwrap().len();
                let known = past.work.known.clone();
                past.settled.push((moment, known, past.work.history.len()));
                past.work.run(20).await;
                past.work.close().await;
            });
            // What the failed sync was over may be on the disk in part, or all of it, and come back though it was not
            // found: then it has to stay away.
            for failed in [Luck::default(), Luck::All] {
                past.failed = failed;
                past.lose_power(&layer, &mut tally, Moments::Some);
            }
        }
        println!("| {name} | {tally:?} |");
        assert!(tally.failed_syncs > 0);
    });
}

/// A new job takes the tag of a failed one of another segment, which outlives it: two files change,
/// but one of the two jobs has the tag at every moment, and the old one never gets it back.
#[test]
fn a_tag_has_one_owner_at_every_moment_of_its_taking() {
    let name = "power::a_tag_has_one_owner_at_every_moment_of_its_taking";
    under_the_layer(name, true, |layer| {
        let mut tally = Tally::default();
        for (seed, tag) in [(0, "pool-0"), (1, "job-1-abcdefghijkl")] {
            let mut past = Past::new(&layer, 2_000 + seed);
            let mut begin = 0;
            runtime().block_on(async {
                let work = &mut past.work;
                work.open().unwrap();
                let old = work.submit_as(Some(tag), Duration::from_secs(1_000)).await;
                work.fail(old).await;
                for _ in 1..options().segment_jobs {
                    work.submit_as(None, Duration::from_secs(1_000)).await;
                }
                begin = work.moment();
                work.submit_as(Some(tag), Duration::from_secs(1)).await;
                assert_eq!(work.store().statistics().segments, 2);
                work.close().await;
            });
            past.lose_power(&layer, &mut tally, Moments::AllFrom(begin));
        }
        println!("| {name} | {tally:?} |");
    });
}

/// When power is lost.
#[derive(Clone, Copy, Debug)]
enum Moments {
    /// At every acknowledgement, and at random.
    Some,
    /// After each record of the journal from this one on.
    AllFrom(u64),
}

impl Past {
    fn new(layer: &Layer, seed: u64) -> Self {
        layer.pretend_to_sync();
        let dir = layer.directory.join(seed.to_string());
        Self {
            work: Work::new(&dir, seed).with_journal(&layer.journal),
            settled: Vec::new(),
            begin: fs::metadata(&layer.journal).unwrap().len(),
            failed: Luck::default(),
        }
    }

    /// Loses power, and looks at what is left.
    fn lose_power(&self, layer: &Layer, tally: &mut Tally, when: Moments) {
        let journal = fs::read(&layer.journal).unwrap();
        tally.acknowledged += self.work.acknowledged();
        let steps = self.work.history.iter().flat_map(|asked| &asked.steps);
        let acknowledgements = steps.map(|step| step.end);
        let settled = self.settled.iter().map(|(moment, ..)| *moment);
        let moments: BTreeSet<u64> = acknowledgements.chain(settled).collect();
        let first = self.settled.first().map_or(0, |(moment, ..)| *moment);
        let mut random = Random::new(self.begin);
        let mut disk = Disk::new(self.failed);
        for record in records(&journal[self.begin as usize..]) {
            disk.take(&record, &mut random);
            let moment = self.begin + record.end;
            let is_one = match when {
                Moments::AllFrom(begin) => moment >= begin,
                Moments::Some => moments.contains(&moment) || random.one_in(24),
            };
            if moment < first || !is_one {
                continue;
            }
            let pieces = random.pick(&[512, 4096]);
            for luck in [Luck::None, Luck::Pieces(pieces)] {
                tally.losses += 1;
                let home = tempfile::tempdir_in(layer.journal.parent().unwrap()).unwrap();
                let target = home.path().join("store");
                disk.lose_power(&self.work.dir, &target, luck, &mut random);
                println!("power is lost at {moment}, with {luck:?}");
                runtime().block_on(self.look(&target, moment, &mut random));
            }
        }
    }

    /// Opens what is left, finds what must be there, and goes on with it.
    async fn look(&self, dir: &Path, moment: u64, random: &mut Random) {
        let settled = self.settled.iter().rev().find(|(at, ..)| *at <= moment);
        let (mut known, from) = match settled {
            Some((_, known, from)) => (known.clone(), *from),
            None => (Known::default(), 0),
        };
        let mut work = Work::new(dir, random.next());
        work.now = self.work.history[0].now;
        for asked in &self.work.history[from..] {
            if asked.begin > moment {
                break;
            }
            work.now = asked.now;
            let steps: Vec<_> = asked
                .steps
                .iter()
                .map(|step| (&step.op, (step.end <= moment).then_some(&step.answer)))
                .collect();
            known.take(&steps, asked.now);
        }
        work.known = known;
        work.settle().await;
        work.run(3).await;
        assert!(work.store().failure().is_none());
        work.settle().await;
        // Tags of jobs that expire are free, and nobody's who lost them.
        work.cancel_all().await;
        work.pass(Duration::from_secs(5));
        work.settle().await;
        work.close().await;
    }
}

fn seeds(default: u64) -> u64 {
    let count = std::env::var("KJOB_FAULT_SEEDS").ok();
    count.map_or(default, |count| count.parse().unwrap())
}
