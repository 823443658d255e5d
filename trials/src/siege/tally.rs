//! What an attack did, and what it was answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// How many violations are kept with their words; the others are counted.
const VIOLATIONS_KEPT: usize = 20;

/// Counts of one attack, as its process prints them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections that were made.
    pub connections: u64,
    /// The most connections that were open at a time, where an attack holds them.
    pub held: u64,
    /// Requests, frames or whatever the attack is made of.
    pub sent: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Answers by status, and ends of connections by how they were.
    pub answers: BTreeMap<String, u64>,
    /// What was not as it has to be: how often, by words.
    pub violations: BTreeMap<String, u64>,
    /// Processor time that the attackers took, in seconds.
    pub processor: f64,
    /// What a reader of the table should know.
    pub notes: Vec<String>,
}

/// Counts that all tasks of an attack share.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection was made.
    pub fn connected(&self) {
        self.lock().connections += 1;
    }

    /// So many connections are open now.
    pub fn holds(&self, connections: u64) {
        let mut counts = self.lock();
        counts.held = counts.held.max(connections);
    }

    /// So many requests went out, of so many bytes together.
    pub fn sent(&self, requests: u64, bytes: usize) {
        let mut counts = self.lock();
        counts.sent += requests;
        counts.bytes += bytes as u64;
    }

    /// An answer, or an end, that is as it may be.
    pub fn answered(&self, what: impl Into<String>) {
        *self.lock().answers.entry(what.into()).or_default() += 1;
    }

    /// Something that must not be.
    pub fn violation(&self, what: impl Into<String>) {
        let mut counts = self.lock();
        let mut what = what.into();
        if counts.violations.len() >= VIOLATIONS_KEPT && !counts.violations.contains_key(&what) {
            what = "others".to_owned();
        }
        *counts.violations.entry(what).or_default() += 1;
    }

    /// Something to tell.
    pub fn note(&self, what: impl Into<String>) {
        self.lock().notes.push(what.into());
    }

    /// All of it.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_kinds_of_violations_are_counted_and_few_are_told() {
        let tally = Tally::default();
        for n in 0..100 {
            tally.violation(format!("{n}"));
            tally.violation("0");
        }
        let counts = tally.counts();
        assert_eq!(counts.violations.len(), VIOLATIONS_KEPT + 1);
        assert_eq!(counts.violations.values().sum::<u64>(), 200);
        assert_eq!(counts.violations["0"], 101);
    }
}
