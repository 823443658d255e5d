//! What happened in the last hours, in slots of a fixed length: two rings of them, in memory.
//!
//! A slot is made by the first event in it, and an idle server does nothing: how many jobs wait and run is looked
//! at when a slot begins and when it ends, and stays as it was then until the next event.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kjob_core::Clock;
use kjob_core::engine::{Engine, SystemClock};
use serde::Serialize;
use tokio::sync::Notify;

/// How long a slot of the last hour is.
const HOUR_SLOT_SECS: u64 = 10;

/// How far back one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// An hour, in slots of ten seconds.
    Hour,
    /// A day, in slots of a minute.
    Day,
}

/// Counts what happens.
#[derive(Debug)]
pub(crate) struct History {
    rings: Mutex<Rings>,
    /// Told when a slot has begun.
    begun: Notify,
}

#[derive(Debug)]
struct Rings {
    hour: Ring,
    day: Ring,
}

/// The slots in which something happened, oldest first.
#[derive(Debug)]
struct Ring {
    slot_secs: u64,
    slots_max: u64,
    /// The slot in which the process began.
    first: u64,
    slots: VecDeque<Slot>,
}

/// What happened in a slot.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// Since 1970.
    number: u64,
    pub(crate) submitted: u32,
    pub(crate) refused: u32,
    pub(crate) done: u32,
    pub(crate) failed: u32,
    pub(crate) cancelled: u32,
    pub(crate) wait: Times,
    pub(crate) run: Times,
    queued: Level,
    running: Level,
}

/// Something that is looked at now and then.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    highest: u32,
    last: u32,
}

/// How many buckets times have: the last begins at some two days.
const BUCKETS: usize = 56;

/// Times, in buckets whose bounds rise by the root of two: below a millisecond, then from one on.
#[derive(Debug)]
pub(crate) struct Times([u32; BUCKETS]);

/// What is told of a span: a number for each slot, from the oldest to that of now.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Told {
    slot_seconds: u64,
    /// When the first slot begins, in seconds since 1970.
    begin: u64,
    submitted: Vec<Option<u32>>,
    refused: Vec<Option<u32>>,
    done: Vec<Option<u32>>,
    failed: Vec<Option<u32>>,
    cancelled: Vec<Option<u32>>,
    queued: Vec<Option<u32>>,
    running: Vec<Option<u32>>,
    wait_p50_ms: Vec<Option<f64>>,
    wait_p99_ms: Vec<Option<f64>>,
    run_p50_ms: Vec<Option<f64>>,
    run_p99_ms: Vec<Option<f64>>,
}

impl Default for History {
    fn default() -> Self {
        Self::at(now_secs())
    }
}

impl History {
    fn at(secs: u64) -> Self {
        let ring = |slot_secs, slots_max| Ring {
            slot_secs,
            slots_max,
            first: secs / slot_secs,
            slots: VecDeque::new(),
        };
        Self {
            rings: Mutex::new(Rings {
                hour: ring(HOUR_SLOT_SECS, 360),
                day: ring(60, 1440),
            }),
            begun: Notify::new(),
        }
    }

    /// Something happened now.
    pub(crate) fn add(&self, count: impl Fn(&mut Slot)) {
        self.add_at(now_secs(), count);
    }

    fn add_at(&self, secs: u64, count: impl Fn(&mut Slot)) {
        let mut rings = self.lock();
        let has_begun = rings.hour.add(secs, &count);
        rings.day.add(secs, &count);
        drop(rings);
        if has_begun {
            self.begun.notify_one();
        }
    }

    /// Looks how many jobs wait and run, for ever: at the begin and the end of each slot in which something
    /// happens.
    pub(crate) async fn keep_looking(&self, engine: &Engine) {
        loop {
            self.begun.notified().await;
            self.look(engine);
            tokio::time::sleep(until_slot_ends()).await;
            self.look(engine);
        }
    }

    fn look(&self, engine: &Engine) {
        let stats = engine.stats();
        self.set_levels(stats.queued, stats.running);
    }

    fn set_levels(&self, queued: usize, running: usize) {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut rings = self.lock();
        let Rings { hour, day } = &mut *rings;
        for slot in [hour, day]
            .into_iter()
            .filter_map(|ring| ring.slots.back_mut())
        {
            slot.queued.set(count(queued));
            slot.running.set(count(running));
        }
    }

    /// What happened, up to now.
    pub(crate) fn told(&self, span: Span, engine: &Engine) -> Told {
        self.look(engine);
        self.told_at(span, now_secs())
    }

    fn told_at(&self, span: Span, secs: u64) -> Told {
        let rings = self.lock();
        match span {
            Span::Hour => rings.hour.told(secs),
            Span::Day => rings.day.told(secs),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        // No panic leaves it half changed.
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_millis() -> u64 {
    u64::try_from(SystemClock.now().as_millis()).unwrap_or(0)
}

fn now_secs() -> u64 {
    now_millis() / 1_000
}

/// Until the shorter slot ends that it is now.
fn until_slot_ends() -> Duration {
    let slot = HOUR_SLOT_SECS * 1_000;
    Duration::from_millis(slot - now_millis() % slot)
}

impl Ring {
    /// Whether a slot begins with it.
    fn add(&mut self, secs: u64, count: impl Fn(&mut Slot)) -> bool {
        let number = secs / self.slot_secs;
        // Where the clock was set back, time stands still.
        let begins = self.slots.back().is_none_or(|last| last.number < number);
        if begins {
            let oldest = number.saturating_sub(self.slots_max);
            while self.slots.front().is_some_and(|slot| slot.number <= oldest) {
                self.slots.pop_front();
            }
            // What waited when the last one ended waits still.
            let level =
                |of: fn(&Slot) -> Level| Level::of(self.slots.back().map_or(0, |it| of(it).last));
            let slot = Slot {
                number,
                queued: level(|slot| slot.queued),
                running: level(|slot| slot.running),
                ..Slot::default()
            };
            self.slots.push_back(slot);
        }
        self.slots.back_mut().into_iter().for_each(count);
        begins
    }

    fn told(&self, secs: u64) -> Told {
        let last = secs / self.slot_secs;
        let begin = (last + 1).saturating_sub(self.slots_max);
        let mut told = Told {
            slot_seconds: self.slot_secs,
            begin: begin * self.slot_secs,
            ..Told::default()
        };
        let mut slots = self.slots.iter().peekable();
        let (mut queued, mut running) = (0, 0);
        while let Some(slot) = slots.next_if(|slot| slot.number < begin) {
            (queued, running) = (slot.queued.last, slot.running.last);
        }
        let nothing = Slot::default();
        for number in begin..=last {
            // In a slot without events all stays as it was.
            let found = slots.next_if(|slot| slot.number == number);
            let is_known = number >= self.first || found.is_some();
            let slot = found.unwrap_or(&nothing);
            if found.is_some() {
                (queued, running) = (slot.queued.highest, slot.running.highest);
            }
            let known = |count: u32| is_known.then_some(count);
            told.submitted.push(known(slot.submitted));
            told.refused.push(known(slot.refused));
            told.done.push(known(slot.done));
            told.failed.push(known(slot.failed));
            told.cancelled.push(known(slot.cancelled));
            told.queued.push(known(queued));
            told.running.push(known(running));
            told.wait_p50_ms.push(slot.wait.quantile(0.5));
            told.wait_p99_ms.push(slot.wait.quantile(0.99));
            told.run_p50_ms.push(slot.run.quantile(0.5));
            told.run_p99_ms.push(slot.run.quantile(0.99));
            if found.is_some() {
                (queued, running) = (slot.queued.last, slot.running.last);
            }
        }
        told
    }
}

impl Level {
    fn of(level: u32) -> Self {
        Self {
            highest: level,
            last: level,
        }
    }

    fn set(&mut self, level: u32) {
        self.highest = self.highest.max(level);
        self.last = level;
    }
}

impl Default for Times {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Times {
    pub(crate) fn add(&mut self, millis: u64) {
        let bucket = match millis {
            0 => 0,
            // The logarithm of a number of milliseconds is far below the largest index there may be.
            _ => (2.0 * (millis as f64).log2()) as usize + 1,
        };
        if let Some(count) = self.0.get_mut(bucket.min(BUCKETS - 1)) {
            *count = count.saturating_add(1);
        }
    }

    /// The time that so large a part of them does not pass, as far as the buckets tell.
    fn quantile(&self, part: f64) -> Option<f64> {
        let all: f64 = self.0.iter().map(|count| f64::from(*count)).sum();
        if all == 0.0 {
            return None;
        }
        let rank = part * all;
        let mut before = 0.0;
        for (bucket, count) in self.0.iter().enumerate() {
            let count = f64::from(*count);
            if count > 0.0 && before + count >= rank {
                let (low, high) = (bound(bucket), bound(bucket + 1));
                let millis = low + (high - low) * ((rank - before) / count).clamp(0.0, 1.0);
                return Some((millis * 10.0).round() / 10.0);
            }
            before += count;
        }
        None
    }
}

/// Where a bucket begins, in milliseconds.
fn bound(bucket: usize) -> f64 {
    match bucket {
        0 => 0.0,
        _ => ((bucket - 1) as f64 / 2.0).exp2(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The begin of a slot of both rings.
    const BEGIN: u64 = 1_800_000_000;

    #[test]
    fn events_count_in_their_slots_of_both_rings() {
        let history = History::at(BEGIN);
        for secs in [0, 9, 10, 59, 60] {
            history.add_at(BEGIN + secs, |slot| slot.submitted += 1);
        }
        let told = history.told_at(Span::Hour, BEGIN + 65);
        assert_eq!((told.slot_seconds, told.submitted.len()), (10, 360));
        assert_eq!(told.begin, BEGIN + 70 - 3600);
        let known = |numbers: &[u32]| numbers.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(told.submitted[353..], known(&[2, 1, 0, 0, 0, 1, 1]));
        assert_eq!(
            told.submitted[352], None,
            "before it began nothing is known"
        );
        let told = history.told_at(Span::Day, BEGIN + 65);
        assert_eq!((told.slot_seconds, told.submitted.len()), (60, 1440));
        assert_eq!(told.submitted[1438..], known(&[4, 1]));
    }

    #[test]
    fn what_waits_and_runs_stays_as_it_was_while_nothing_happens() {
        let history = History::at(BEGIN);
        history.set_levels(7, 7);
        history.add_at(BEGIN, |slot| slot.submitted += 1);
        history.set_levels(9, 4);
        history.set_levels(3, 2);
        history.add_at(BEGIN + 30, |slot| slot.done += 1);
        history.set_levels(1, 0);
        let told = history.told_at(Span::Hour, BEGIN + 50);
        let last =
            |levels: &[Option<u32>]| levels[354..].iter().flatten().copied().collect::<Vec<_>>();
        assert_eq!(last(&told.queued), [9, 3, 3, 3, 1, 1]);
        assert_eq!(last(&told.running), [4, 2, 2, 2, 0, 0]);
        let told = history.told_at(Span::Hour, BEGIN + 4000);
        assert!(told.queued.iter().all(|level| *level == Some(1)));
    }

    #[test]
    fn memory_is_bounded_and_a_clock_that_is_set_back_does_no_harm() {
        let history = History::at(BEGIN);
        for slot in 0..5000 {
            history.add_at(BEGIN + slot * 60, |slot| slot.submitted += 1);
        }
        assert_eq!(history.lock().hour.slots.len(), 60);
        assert_eq!(history.lock().day.slots.len(), 1440);
        history.add_at(BEGIN, |slot| slot.submitted += 1);
        let told = history.told_at(Span::Day, BEGIN + 4999 * 60);
        assert_eq!(told.submitted[1438..], [Some(1), Some(2)]);
        let told = history.told_at(Span::Day, 0);
        assert_eq!(told.submitted.len(), 1);
    }

    proptest! {
        #[test]
        fn quantiles_are_within_a_bucket_of_the_truth(
            mut times in proptest::collection::vec(0..100_000_000u64, 1..200),
            part in prop_oneof![Just(0.5), Just(0.99)],
        ) {
            let mut buckets = Times::default();
            times.iter().for_each(|millis| buckets.add(*millis));
            times.sort_unstable();
            let rank = ((part * times.len() as f64).ceil() as usize).max(1);
            let right = times[rank - 1] as f64;
            let found = buckets.quantile(part).unwrap();
            prop_assert!(found >= right / 1.5 - 1.1 && found <= right * 1.5 + 1.1, "{found} for {right}");
        }
    }

    #[test]
    fn no_times_have_no_quantile_and_long_ones_are_in_the_last_bucket() {
        let mut times = Times::default();
        assert_eq!(times.quantile(0.5), None);
        times.add(u64::MAX);
        assert!(times.quantile(0.5).unwrap() > 86_400_000.0);
    }
}
