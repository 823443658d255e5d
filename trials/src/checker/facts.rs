//! What is known of each job, put together from all histories and journals.

use std::collections::{BTreeMap, BTreeSet};

use super::{Several, Trial};
use crate::call::Call;
use crate::history::{Accepted, Answer, CancelWord, Key, Micros, ResultSeen, Status, What};
use crate::journal::{Entry, Moment};
use crate::receiver::{End, Telling};

/// How long a process may take that stood still until it knows what others did meanwhile.
const GOES_ON_WITHIN: Micros = 1_000_000;

/// All jobs and tags.
pub(super) struct Facts<'a> {
    pub(super) calls: BTreeMap<&'a str, &'a Call>,
    pub(super) jobs: BTreeMap<i64, Job<'a>>,
    /// When each tag was first submitted, answered or not.
    submitted: BTreeMap<&'a str, Micros>,
    /// The jobs that each tag was seen with.
    pub(super) tags: BTreeMap<&'a str, BTreeSet<i64>>,
    pub(super) ambiguous: u64,
    several: Option<&'a Several>,
}

/// What is known of one job.
#[derive(Default)]
pub(super) struct Job<'a> {
    pub(super) id: i64,
    /// More than one is a fault.
    pub(super) tags: BTreeSet<&'a str>,
    pub(super) acks: Vec<Ack>,
    pub(super) sights: Vec<Sighting<'a>>,
    /// When it was said that there is no such job.
    pub(super) absences: Vec<Span>,
    /// When its cancel was asked for, answered or not.
    pub(super) cancels_asked: Vec<Micros>,
    /// When it was said that it is being cancelled.
    pub(super) cancelling: Vec<Span>,
    pub(super) runs: Vec<Run<'a>>,
    /// Callbacks that told of its end.
    pub(super) tellings: Vec<(&'a Telling, &'a End)>,
}

/// A submit that was acknowledged.
pub(super) struct Ack {
    pub(super) span: Span,
    pub(super) existing: bool,
}

/// From the asking to the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) asked: Micros,
    pub(super) answered: Micros,
}

/// How the job stood.
pub(super) struct Sighting<'a> {
    pub(super) span: Span,
    pub(super) status: Status,
    pub(super) progress: Option<i32>,
    pub(super) ended_millis: Option<i64>,
    pub(super) error: Option<&'a str>,
    pub(super) result: Option<&'a ResultSeen>,
}

/// A line of a handler.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    /// Which process of the server.
    pub(super) process: usize,
    /// When that was started.
    pub(super) began: Micros,
    /// Whether it ended by a drain.
    pub(super) drained: bool,
    pub(super) entry: &'a Entry,
}

impl<'a> Facts<'a> {
    pub(super) fn gather(trial: &'a Trial) -> Self {
        let mut facts = Self {
            calls: BTreeMap::new(),
            submitted: BTreeMap::new(),
            jobs: BTreeMap::new(),
            tags: BTreeMap::new(),
            ambiguous: 0,
            several: trial.several.as_ref(),
        };
        for (process, journal) in trial.journals.iter().flatten().enumerate() {
            for entry in &journal.entries {
                facts.job(entry.id, Some(&entry.tag)).runs.push(Run {
                    process,
                    began: journal.began,
                    drained: journal.drained,
                    entry,
                });
            }
        }
        for telling in &trial.tellings {
            if let Some(end) = &telling.end {
                let job = facts.job(end.id, Some(&end.tag));
                job.tellings.push((telling, end));
            }
        }
        for event in &trial.events {
            let span = Span {
                asked: event.asked,
                answered: event.answered,
            };
            facts.add_named(&event.what, span);
        }
        // Only now is it known which jobs a tag has named.
        for event in &trial.events {
            let span = Span {
                asked: event.asked,
                answered: event.answered,
            };
            facts.add_by_tag(&event.what, span);
        }
        facts
    }

    /// What was submitted, if anybody did.
    pub(super) fn call_of(&self, job: &Job<'_>) -> Option<&'a Call> {
        job.tags
            .first()
            .and_then(|tag| self.calls.get(tag).copied())
    }

    /// From when on a call may have its job.
    pub(super) fn submitted_from(&self, job: &Job<'_>) -> Option<Micros> {
        let tag = job.tags.first()?;
        self.submitted.get(tag).copied()
    }

    /// Until when a job is surely kept, by all that is known of its end.
    pub(super) fn kept_until(&self, job: &Job<'_>) -> Option<Micros> {
        let kept = self.call_of(job)?.kept_millis.saturating_mul(1_000);
        let ended = self.ended_from(job).or_else(|| self.submitted_from(job))?;
        let until = ended.saturating_add(kept);
        Some(until.saturating_sub(self.clocks_differ()))
    }

    /// Before this moment, in whole milliseconds, a job had surely not ended.
    ///
    /// That it was seen alive says nothing: an end is dated when the handler returns, and seen when it is durable.
    /// Nor does what a run did after its start where servers are several: it may be another's job by then, and ended.
    fn ended_from(&self, job: &Job<'_>) -> Option<Micros> {
        if let Some(told) = job.ended_at() {
            return Some(told);
        }
        let new = job.acks.iter().filter(|ack| !ack.existing);
        let new = new.map(|ack| ack.span.asked);
        let counts = |run: &&Run<'_>| match self.several {
            None => true,
            Some(_) => run.entry.what == Moment::Start && !self.stood_still(run),
        };
        let lines = job.runs.iter().filter(counts).map(|run| run.entry.at);
        let from = new.chain(lines).max()?;
        Some(from - from.rem_euclid(1_000))
    }

    /// By how much the clocks of servers may differ.
    pub(super) fn clocks_differ(&self) -> Micros {
        self.several.map_or(0, |several| several.clocks_differ)
    }

    /// Whether there was one server at a time.
    pub(super) fn is_one_by_one(&self) -> bool {
        self.several.is_none()
    }

    /// Whether a process stood still just before it did this, and so could not know what others did meanwhile.
    pub(super) fn stood_still(&self, run: &Run<'_>) -> bool {
        let standstills = self.several.iter().flat_map(|it| &it.standstills);
        let mut its = standstills.filter(|it| it.process == run.process);
        its.any(|it| (it.from..it.until + GOES_ON_WITHIN).contains(&run.entry.at))
    }

    fn job(&mut self, id: i64, tag: Option<&'a str>) -> &mut Job<'a> {
        if let Some(tag) = tag {
            self.tags.entry(tag).or_default().insert(id);
        }
        let job = self.jobs.entry(id).or_default();
        job.id = id;
        job.tags.extend(tag);
        job
    }

    /// What names its job by id.
    fn add_named(&mut self, what: &'a What, span: Span) {
        match what {
            What::Submit { call, answer } => {
                self.calls.insert(&call.tag, call);
                let first = self.submitted.entry(&call.tag).or_insert(span.asked);
                *first = span.asked.min(*first);
                if let Answer::Told(Accepted { id, existing }) = answer {
                    let existing = *existing;
                    self.job(*id, Some(&call.tag))
                        .acks
                        .push(Ack { span, existing });
                }
            }
            What::Get {
                key: Key::Id(id),
                answer,
            } => self.look(*id, answer, span),
            What::Get { .. } => {}
            What::Cancel { id, answer } => {
                let job = self.job(*id, None);
                job.cancels_asked.push(span.asked);
                match answer {
                    Answer::Told(CancelWord::Cancelled) => {
                        job.sights.push(Sighting::listed(span, Status::Cancelled));
                    }
                    Answer::Told(CancelWord::Already(status)) => {
                        job.sights.push(Sighting::listed(span, *status));
                    }
                    Answer::Told(CancelWord::Cancelling) => job.cancelling.push(span),
                    Answer::NotFound => job.absences.push(span),
                    Answer::Refused(_) | Answer::Unknown(_) => {}
                }
            }
            What::List {
                answer: Answer::Told(rows),
            }
            | What::FinalList { rows } => {
                for row in rows {
                    let sight = Sighting::listed(span, row.status);
                    self.job(row.id, row.tag.as_deref()).sights.push(sight);
                }
                if matches!(what, What::FinalList { .. }) {
                    self.note_absent(rows, span);
                }
            }
            What::List { .. } => {}
        }
    }

    /// Who is not in a list of all is not there.
    fn note_absent(&mut self, rows: &[crate::history::Row], span: Span) {
        let there: BTreeSet<i64> = rows.iter().map(|row| row.id).collect();
        for job in self
            .jobs
            .values_mut()
            .filter(|job| !there.contains(&job.id))
        {
            job.absences.push(span);
        }
    }

    fn look(&mut self, id: i64, answer: &'a Answer<crate::history::Sight>, span: Span) {
        match answer {
            Answer::Told(sight) => {
                let job = self.job(id, sight.tag.as_deref());
                job.sights.push(Sighting {
                    span,
                    status: sight.status,
                    progress: Some(sight.progress),
                    ended_millis: sight.ended_millis,
                    error: sight.error.as_deref(),
                    result: sight.result.as_ref(),
                });
            }
            Answer::NotFound => self.job(id, None).absences.push(span),
            Answer::Refused(_) | Answer::Unknown(_) => {}
        }
    }

    /// What names its job by tag.
    fn add_by_tag(&mut self, what: &'a What, span: Span) {
        let What::Get {
            key: Key::Tag(tag),
            answer,
        } = what
        else {
            return;
        };
        let Some(ids) = self.tags.get(tag.as_str()) else {
            return;
        };
        // Before the job was there, and after its time, the tag may have named one that nobody was
        // told the id of: submits go unanswered.
        let is_of = |id: &i64| {
            let job = self.jobs.get(id)?;
            let (from, until) = (job.there_from()?, self.kept_until(job)?);
            Some(span.asked > from && span.answered < until)
        };
        match ids.first().copied() {
            Some(id) if ids.len() == 1 && is_of(&id) == Some(true) => self.look(id, answer, span),
            _ => self.ambiguous += 1,
        }
    }
}

impl<'a> Job<'a> {
    pub(super) fn tag(&self) -> Option<String> {
        self.tags.first().map(|tag| (*tag).to_owned())
    }

    /// Sights of its end, the first answered first.
    pub(super) fn terminals(&self) -> impl Iterator<Item = &Sighting<'a>> {
        let mut ends: Vec<_> = self
            .sights
            .iter()
            .filter(|sight| sight.status.is_terminal())
            .collect();
        ends.sort_by_key(|sight| sight.span.answered);
        ends.into_iter()
    }

    pub(super) fn starts(&self) -> impl Iterator<Item = &Run<'a>> {
        self.runs
            .iter()
            .filter(|run| run.entry.what == Moment::Start)
    }

    /// From when on it was surely there: somebody was told, a receiver too, or its handler was started.
    pub(super) fn there_from(&self) -> Option<Micros> {
        let acks = self.acks.iter().map(|ack| ack.span.answered);
        let sights = self.sights.iter().map(|sight| sight.span.answered);
        let starts = self.starts().map(|run| run.entry.at);
        let tellings = self.tellings.iter().map(|(telling, _)| telling.at);
        acks.chain(sights).chain(starts).chain(tellings).min()
    }

    /// When it was told to have ended.
    pub(super) fn ended_at(&self) -> Option<Micros> {
        let told = self.sights.iter().find_map(|sight| sight.ended_millis);
        told.map(|millis| millis.saturating_mul(1_000))
    }
}

impl Sighting<'_> {
    fn listed(span: Span, status: Status) -> Self {
        Self {
            span,
            status,
            progress: None,
            ended_millis: None,
            error: None,
            result: None,
        }
    }
}
