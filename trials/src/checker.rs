//! Holds what clients were told, and what handlers wrote down, against what was promised.
//!
//! A pure function: it asks no server and reads no clock. What it takes as true is that an answer
//! was true at some moment between its asking and its arrival, and that all times are of one clock.

mod callbacks;
mod facts;
mod rules;
#[cfg(test)]
mod tests;
mod violation;

use std::collections::BTreeSet;
use std::fmt;

use crate::history::{Event, Micros, What};
use crate::journal::Journal;
use crate::receiver::Telling;

pub use violation::{Fault, Harm, Violation};

use facts::Facts;

/// All that is known of a trial.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// Of all clients, in any order.
    pub events: Vec<Event>,
    /// Of each process of the servers, in the order in which they were started; `None` if their
    /// handlers write none.
    pub journals: Option<Vec<Journal>>,
    /// What the receiver of callbacks was told, in any order.
    pub tellings: Vec<Telling>,
    /// What is to be known of servers that work at the same time.
    pub several: Option<Several>,
}

/// Several servers at the same time.
#[derive(Clone, Debug, Default)]
pub struct Several {
    /// By how much their clocks may differ.
    pub clocks_differ: Micros,
    /// When processes stood still.
    pub standstills: Vec<Standstill>,
}

/// A process stood still. What it had made up its mind to do before, it does as soon as it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standstill {
    /// Which: the number of its journal.
    pub process: usize,
    /// From when.
    pub from: Micros,
    /// Until when.
    pub until: Micros,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Every broken promise.
    pub violations: Vec<Violation>,
    /// How much was looked at.
    pub counts: Counts,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions of clients.
    pub events: u64,
    /// Those without an answer that stands.
    pub unanswered: u64,
    /// Jobs that a submit was acknowledged for.
    pub acknowledged: u64,
    /// Jobs seen ended.
    pub ended: u64,
    /// Jobs seen to have expired.
    pub expired: u64,
    /// Times that a handler was started.
    pub starts: u64,
    /// Jobs of which a handler was started more than once, as its route allows.
    pub retried: u64,
    /// Jobs whose ends were told to a receiver.
    pub told: u64,
    /// Those that it was told of more than once.
    pub told_again: u64,
    /// Looks by a tag that may have named one job after another, which say nothing.
    pub ambiguous: u64,
}

/// Checks a trial.
pub fn check(trial: &Trial) -> Findings {
    let facts = Facts::gather(trial);
    let mut violations = Vec::new();
    let owed = callbacks::owed(trial, &facts);
    rules::of_tags(&facts, &mut violations);
    for job in facts.jobs.values() {
        rules::of_identity(&facts, job, &mut violations);
        rules::of_existence(&facts, job, &mut violations);
        rules::of_ends(&facts, job, &mut violations);
        rules::of_progress(job, &mut violations);
        callbacks::of_tellings(&facts, &owed, job, &mut violations);
        if trial.journals.is_some() {
            rules::of_runs(&facts, job, &mut violations);
        }
    }
    rules::of_refusals(trial, &mut violations);
    rules::of_final_lists(trial, &mut violations);
    callbacks::of_messages(trial, &mut violations);
    Findings {
        counts: counts(trial, &facts),
        violations,
    }
}

/// The jobs whose ends are to be told by the end of a trial.
pub fn owed_tellings(trial: &Trial) -> BTreeSet<i64> {
    callbacks::owed(trial, &Facts::gather(trial))
}

fn counts(trial: &Trial, facts: &Facts<'_>) -> Counts {
    let of_jobs =
        |is: fn(&facts::Job<'_>) -> bool| facts.jobs.values().filter(|job| is(job)).count() as u64;
    Counts {
        events: trial.events.len() as u64,
        unanswered: trial
            .events
            .iter()
            .filter(|event| is_unanswered(event))
            .count() as u64,
        acknowledged: of_jobs(|job| !job.acks.is_empty()),
        ended: of_jobs(|job| job.terminals().next().is_some()),
        expired: of_jobs(|job| !job.absences.is_empty()),
        starts: facts
            .jobs
            .values()
            .map(|job| job.starts().count() as u64)
            .sum(),
        retried: of_jobs(|job| job.starts().count() > 1),
        told: of_jobs(|job| !job.tellings.is_empty()),
        told_again: of_jobs(|job| job.tellings.len() > 1),
        ambiguous: facts.ambiguous,
    }
}

fn is_unanswered(event: &Event) -> bool {
    use crate::history::Answer::Unknown;
    match &event.what {
        What::Submit { answer, .. } => matches!(answer, Unknown(_)),
        What::Get { answer, .. } => matches!(answer, Unknown(_)),
        What::Cancel { answer, .. } => matches!(answer, Unknown(_)),
        What::List { answer } => matches!(answer, Unknown(_)),
        What::FinalList { .. } => false,
    }
}

/// A line for each kind of thing that was looked at.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            events,
            unanswered,
            ended,
            expired,
            starts,
            retried,
            told,
            told_again,
            ..
        } = self;
        writeln!(
            f,
            "{events} questions, {unanswered} of them without an answer"
        )?;
        writeln!(f, "{ended} jobs seen ended, {expired} seen expired")?;
        writeln!(
            f,
            "{starts} starts of handlers, {retried} jobs started more than once"
        )?;
        writeln!(
            f,
            "{told} ends told to a receiver, {told_again} of them more than once"
        )
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.unanswered += other.unanswered;
        self.acknowledged += other.acknowledged;
        self.ended += other.ended;
        self.expired += other.expired;
        self.starts += other.starts;
        self.retried += other.retried;
        self.told += other.told;
        self.told_again += other.told_again;
        self.ambiguous += other.ambiguous;
    }
}
