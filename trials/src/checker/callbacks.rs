//! What callbacks promise: every end is told, as it was, and none before it was.

use std::collections::BTreeSet;

use super::facts::{Facts, Job};
use super::rules::violation;
use super::{Fault, Trial, Violation};
use crate::history::Micros;
use crate::journal::Moment;

/// For how much longer a job has to be kept, when a trial is over, to count as one that is still to be
/// told of: longer than the server waits between two tries.
const KEPT_ON: Micros = 60_000_000;

/// The jobs whose ends are to be told by the end of the trial: seen ended, and kept on.
pub(super) fn owed(trial: &Trial, facts: &Facts<'_>) -> BTreeSet<i64> {
    let over = trial.events.iter().map(|event| event.answered).max();
    let over = over.unwrap_or_default();
    let is_owed = |job: &&Job<'_>| {
        let calls_back = facts.call_of(job).is_some_and(|call| call.calls_back);
        let until = facts.kept_until(job);
        calls_back
            && job.terminals().next().is_some()
            && until.is_some_and(|until| until > over + KEPT_ON)
    };
    let owed = facts.jobs.values().filter(is_owed);
    owed.map(|job| job.id).collect()
}

/// The end of a job is told, as it was, and not before.
pub(super) fn of_tellings(
    facts: &Facts<'_>,
    owed: &BTreeSet<i64>,
    job: &Job<'_>,
    found: &mut Vec<Violation>,
) {
    let mut told = |fault, seen: String| found.push(violation(fault, job, seen));
    let tellings = &job.tellings;
    if owed.contains(&job.id) && !tellings.iter().any(|(telling, _)| telling.is_taken) {
        told(
            Fault::Untold,
            format!("{} tries reached its receiver", tellings.len()),
        );
    }
    let Some((first, _)) = tellings.iter().min_by_key(|(telling, _)| telling.at) else {
        return;
    };
    if facts.call_of(job).is_some_and(|call| !call.calls_back) {
        told(Fault::WrongTelling, "nobody asked for that".to_owned());
    }
    let names: BTreeSet<_> = tellings.iter().map(|(telling, _)| &telling.name).collect();
    let is_its = |name: &str| name.starts_with(&format!("job-{}-", job.id));
    if names.len() > 1 || !is_its(&first.name) {
        told(Fault::WrongTelling, format!("as {names:?}"));
    }
    let alive = job
        .sights
        .iter()
        .filter(|sight| !sight.status.is_terminal());
    let alive = alive.map(|sight| sight.span.asked);
    let started = job
        .runs
        .iter()
        .filter(|run| run.entry.what == Moment::Start)
        .filter(|run| !facts.stood_still(run));
    let started = started.map(|run| run.entry.at);
    if let Some(later) = alive.chain(started).find(|at| *at > first.at) {
        told(
            Fault::ToldEarly,
            format!("at {}, and it lived at {later}", first.at),
        );
    }
    let Some(seen) = job.terminals().next() else {
        return;
    };
    let errors: BTreeSet<_> = job.terminals().filter_map(|sight| sight.error).collect();
    let is_true = |end: &crate::receiver::End| {
        let error = end.error.as_deref();
        end.status == seen.status
            && (errors.is_empty() || error.is_some_and(|e| errors.contains(e)))
    };
    if let Some((_, end)) = tellings.iter().find(|(_, end)| !is_true(end)) {
        told(
            Fault::WrongTelling,
            format!("{end:?}, but it ended as {:?}", seen.status),
        );
    }
}

/// Each is signed, and tells of an end.
pub(super) fn of_messages(trial: &Trial, found: &mut Vec<Violation>) {
    for telling in &trial.tellings {
        if !telling.is_signed || telling.end.is_none() {
            found.push(Violation {
                fault: Fault::WrongTelling,
                id: telling.end.as_ref().map(|end| end.id),
                tag: None,
                seen: format!("{telling:?}"),
            });
        }
    }
}
