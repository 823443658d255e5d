//! The promises, one function for each kind.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Facts, Job, Run};
use super::{Fault, Trial, Violation};
use crate::call::Rule;
use crate::history::{Answer, Micros, Status, What};
use crate::journal::Moment;

/// Servers tell times in whole milliseconds.
const MILLISECOND: Micros = 1_000;

/// A tag names one job at a time.
pub(super) fn of_tags(facts: &Facts<'_>, found: &mut Vec<Violation>) {
    for (tag, ids) in &facts.tags {
        let mut jobs: Vec<_> = ids.iter().filter_map(|id| facts.jobs.get(id)).collect();
        // Each server has blocks of ids of its own, so among several a later job may have a lower one.
        if !facts.is_one_by_one() {
            jobs.sort_by_key(|job| job.there_from());
        }
        for pair in jobs.windows(2) {
            let [old, new] = pair else { continue };
            // The old one may have had its time by when the new one was first seen.
            let until = facts.kept_until(old);
            let from = new.there_from();
            if let (Some(until), Some(from)) = (until, from)
                && from < until
            {
                found.push(Violation {
                    fault: Fault::TagOfTwo,
                    id: Some(new.id),
                    tag: Some((*tag).to_owned()),
                    seen: format!(
                        "it named job {} too, which is kept for {} more µs",
                        old.id,
                        until - from
                    ),
                });
            }
        }
    }
}

/// An id is one call's, and one that somebody submitted.
pub(super) fn of_identity(facts: &Facts<'_>, job: &Job<'_>, found: &mut Vec<Violation>) {
    let mut told = |fault, seen: String| found.push(violation(fault, job, seen));
    if job.tags.len() > 1 {
        told(Fault::IdOfTwo, format!("its tags are {:?}", job.tags));
    }
    let is_there = job.there_from().is_some();
    if is_there && facts.call_of(job).is_none() {
        told(Fault::Stranger, "nobody submitted it".to_owned());
    }
    let new = job.acks.iter().filter(|ack| !ack.existing).count();
    if new > 1 {
        told(Fault::NewTwice, format!("{new} submits were told so"));
    }
}

/// What is there stays until its time, and what is gone stays gone.
pub(super) fn of_existence(facts: &Facts<'_>, job: &Job<'_>, found: &mut Vec<Violation>) {
    let Some(call) = facts.call_of(job) else {
        return;
    };
    let mut told = |fault, seen: String| found.push(violation(fault, job, seen));
    if let (Some(there), Some(until)) = (job.there_from(), facts.kept_until(job)) {
        let lost = job
            .absences
            .iter()
            .find(|absent| absent.asked > there && absent.answered < until);
        if let Some(absent) = lost {
            let seen = format!(
                "not found at {}, was there at {there}, is kept until {until} at least",
                absent.answered
            );
            told(Fault::Lost, seen);
        }
    }
    // Before it was there, it may have been asked for by its tag.
    let gone = job.there_from().and_then(|there| {
        let gone = job.absences.iter().filter(|absent| absent.asked > there);
        gone.map(|absent| absent.answered).min()
    });
    let seen = job.sights.iter().map(|sight| sight.span.asked);
    let seen = seen.chain(job.acks.iter().map(|ack| ack.span.asked)).max();
    if let (Some(gone), Some(seen)) = (gone, seen)
        && seen > gone + facts.clocks_differ()
    {
        let seen = format!("not found at {gone}, there at {seen}");
        told(Fault::CameBack, seen);
    }
    let retention = call.retention_millis.saturating_mul(MILLISECOND);
    let expired = job
        .ended_at()
        .map(|at| at.saturating_add(retention + MILLISECOND + facts.clocks_differ()));
    if let (Some(expired), Some(seen)) = (expired, seen)
        && seen > expired
    {
        told(
            Fault::CameBack,
            format!("its time was over at {expired}, there at {seen}"),
        );
    }
}

/// An end never changes, is one that may be, and has the right result.
pub(super) fn of_ends(facts: &Facts<'_>, job: &Job<'_>, found: &mut Vec<Violation>) {
    let mut told = |fault, seen: String| found.push(violation(fault, job, seen));
    let Some(first) = job.terminals().next() else {
        return;
    };
    let alive = job
        .sights
        .iter()
        .filter(|sight| !sight.status.is_terminal());
    let alive = alive
        .map(|sight| sight.span)
        .chain(job.cancelling.iter().copied());
    let mut alive = alive.filter(|span| span.asked > first.span.answered);
    if let Some(alive) = alive.next() {
        let seen = format!(
            "it was {:?} at {}, and had no end at {}",
            first.status, first.span.answered, alive.asked
        );
        told(Fault::Changed, seen);
    }
    if let Some(other) = job.terminals().find(|sight| sight.status != first.status) {
        told(
            Fault::Changed,
            format!("{:?}, then {:?}", first.status, other.status),
        );
    }
    let ended: BTreeSet<_> = job
        .terminals()
        .filter_map(|sight| sight.ended_millis)
        .collect();
    let errors: BTreeSet<_> = job.terminals().filter_map(|sight| sight.error).collect();
    let results = job.terminals().filter_map(|sight| sight.result);
    let results: BTreeSet<_> = results.map(|result| result.crc).collect();
    if ended.len() > 1 || errors.len() > 1 || results.len() > 1 {
        let seen = format!("ends {ended:?}, errors {errors:?}, results {results:?}");
        told(Fault::Changed, seen);
    }
    for result in job.terminals().filter_map(|sight| sight.result) {
        let by = result.by.as_ref();
        let is_own = by.is_none_or(|by| by.id == job.id && job.tags.contains(by.token.as_str()));
        if !result.is_right || !is_own {
            told(Fault::WrongResult, format!("{result:?}"));
            break;
        }
    }
    of_cancels(facts, job, first.status, found);
}

/// Only what somebody cancels is cancelled, and what was durably being cancelled does not fail.
fn of_cancels(facts: &Facts<'_>, job: &Job<'_>, end: Status, found: &mut Vec<Violation>) {
    let mut told = |fault, seen: String| found.push(violation(fault, job, seen));
    if end == Status::Cancelled && job.cancels_asked.is_empty() {
        told(Fault::WrongCancel, "nobody asked for that".to_owned());
    }
    if end == Status::Error && !job.cancelling.is_empty() {
        told(
            Fault::WrongCancel,
            "it was being cancelled, and failed".to_owned(),
        );
    }
    if end == Status::Error && facts.call_of(job).is_some_and(|call| call.must_succeed) {
        let why = job.terminals().find_map(|sight| sight.error);
        told(Fault::GaveUp, why.unwrap_or_default().to_owned());
    }
}

/// Of two looks that do not overlap, the later shows no less.
pub(super) fn of_progress(job: &Job<'_>, found: &mut Vec<Violation>) {
    let reports = job
        .sights
        .iter()
        .filter_map(|sight| Some((sight.span, sight.progress?)));
    let mut by_asked: Vec<_> = reports.collect();
    let mut by_answered = by_asked.clone();
    by_asked.sort_by_key(|(span, _)| span.asked);
    by_answered.sort_by_key(|(span, _)| span.answered);
    let mut earlier = by_answered.into_iter().peekable();
    let mut highest = 0;
    for (span, progress) in by_asked {
        while let Some((_, before)) = earlier.next_if(|(before, _)| before.answered < span.asked) {
            highest = highest.max(before);
        }
        if progress < highest {
            let seen = format!("{highest}, then {progress} at {}", span.answered);
            found.push(violation(Fault::ProgressFell, job, seen));
            return;
        }
    }
}

/// Handlers run as often as they may, when they may, with what was submitted.
pub(super) fn of_runs(facts: &Facts<'_>, job: &Job<'_>, found: &mut Vec<Violation>) {
    let mut told = |fault, seen: String| found.push(violation(fault, job, seen));
    if let Some(run) = job.runs.iter().find(|run| run.entry.token != run.entry.tag) {
        told(
            Fault::WrongPayload,
            format!("it was of {}", run.entry.token),
        );
    }
    let starts: Vec<_> = job.starts().copied().collect();
    match facts.call_of(job).map(|call| call.rule) {
        Some(Rule::Once) if starts.len() > 1 => {
            let processes: Vec<_> = starts.iter().map(|run| run.process).collect();
            told(
                Fault::RanTwice,
                format!("started in the processes {processes:?}"),
            );
        }
        Some(Rule::Retry { max_attempts }) => {
            if let Some(run) = starts.iter().find(|run| run.entry.attempt > max_attempts) {
                let seen = format!("attempt {} of {max_attempts}", run.entry.attempt);
                told(Fault::TooManyAttempts, seen);
            }
        }
        Some(Rule::Once) | None => {}
    }
    let first_end = job.terminals().next().map(|sight| sight.span.answered);
    let durable_cancel = job.cancelling.iter().map(|span| span.answered).min();
    for run in &starts {
        let after_end = first_end.is_some_and(|at| run.entry.at > at);
        // A handler may be started just before, and write its line just after.
        let after_cancel = durable_cancel.is_some_and(|at| run.began > at);
        // It had been started before.
        let excused = facts.stood_still(run);
        if (after_end || after_cancel) && !excused {
            let seen = format!("process {}, at {}", run.process, run.entry.at);
            told(Fault::RanAfterEnd, seen);
            break;
        }
    }
    for result in job.terminals().filter_map(|sight| sight.result) {
        let Some(by) = &result.by else { continue };
        let is_it =
            |run: &Run<'_>| run.entry.what == Moment::Done && run.entry.attempt == by.attempt;
        if !job.runs.iter().any(is_it) {
            told(Fault::DoneUnrun, format!("by attempt {}", by.attempt));
            break;
        }
    }
    of_overlaps(job, found);
    // Elsewhere it goes on in any process, and nobody knows of those between.
    if facts.is_one_by_one() {
        of_drains(job, found);
    }
}

/// Within a process, the next run begins when the one before has ended.
fn of_overlaps(job: &Job<'_>, found: &mut Vec<Violation>) {
    let mut running: BTreeMap<usize, bool> = BTreeMap::new();
    for run in &job.runs {
        let is_start = run.entry.what == Moment::Start;
        let was_running = running.insert(run.process, is_start) == Some(true);
        if is_start && was_running {
            let seen = format!("process {}, attempt {}", run.process, run.entry.attempt);
            found.push(violation(Fault::RanAtOnce, job, seen));
        }
    }
}

/// A run that a drain cut off does not count: the next one has the same number.
fn of_drains(job: &Job<'_>, found: &mut Vec<Violation>) {
    let mut cut: Option<&Run<'_>> = None;
    for run in &job.runs {
        match run.entry.what {
            Moment::Start => {
                // Of a process between, which was killed between a durable start and its line,
                // nothing is known.
                if let Some(before) = cut.filter(|before| before.process + 1 == run.process)
                    && before.entry.attempt != run.entry.attempt
                {
                    let seen = format!(
                        "attempt {} in process {}, {} after the drain",
                        before.entry.attempt, before.process, run.entry.attempt
                    );
                    found.push(violation(Fault::DrainCost, job, seen));
                }
                cut = None;
            }
            Moment::Stopped | Moment::Dropped => cut = run.drained.then_some(run),
            Moment::Done | Moment::Failed => cut = None,
        }
    }
}

/// Nothing that these clients ask is to be refused.
pub(super) fn of_refusals(trial: &Trial, found: &mut Vec<Violation>) {
    for event in &trial.events {
        let (refused, tag) = match &event.what {
            What::Submit {
                call,
                answer: Answer::Refused(why),
            } => (why, Some(call.tag.clone())),
            What::Submit {
                call,
                answer: Answer::NotFound,
            } => {
                let tag = Some(call.tag.clone());
                let seen = "a submit was told that there is no such job".to_owned();
                found.push(Violation {
                    fault: Fault::Refused,
                    id: None,
                    tag,
                    seen,
                });
                continue;
            }
            What::Get {
                answer: Answer::Refused(why),
                ..
            } => (why, None),
            What::Cancel {
                answer: Answer::Refused(why),
                ..
            } => (why, None),
            What::List {
                answer: Answer::Refused(why),
            } => (why, None),
            _ => continue,
        };
        found.push(Violation {
            fault: Fault::Refused,
            id: None,
            tag,
            seen: format!("at {}: {refused}", event.answered),
        });
    }
}

/// A list of all that is made at the end has each job once, ended.
pub(super) fn of_final_lists(trial: &Trial, found: &mut Vec<Violation>) {
    for event in &trial.events {
        let What::FinalList { rows } = &event.what else {
            continue;
        };
        let mut seen = BTreeSet::new();
        for row in rows {
            let told = |fault, seen: &str| Violation {
                fault,
                id: Some(row.id),
                tag: row.tag.clone(),
                seen: seen.to_owned(),
            };
            if !seen.insert(row.id) {
                found.push(told(Fault::ListedTwice, "in the list of all"));
            }
            if !row.status.is_terminal() {
                found.push(told(Fault::Stuck, "nothing runs, and it has no end"));
            }
        }
    }
}

pub(super) fn violation(fault: Fault, job: &Job<'_>, seen: String) -> Violation {
    Violation {
        fault,
        id: Some(job.id),
        tag: job.tag(),
        seen,
    }
}
