//! What callers are told, held against what was stored and what was told before.

use std::collections::BTreeMap;

use kjob_core::engine::{Accepted, Caller, CancelOutcome, JobKey, Submission};
use kjob_core::{Difference, Ending, Header, Job, JobId, JobTag, Owner, Phase, State, Timestamp};

use crate::coverage::Event;
use crate::history::History;

/// What was known when a call was made: its answer may not go back behind that.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    told: BTreeMap<JobId, State>,
    named: Option<usize>,
    accepted: Vec<JobId>,
    /// Whether no more jobs could wait.
    pub(crate) busy: bool,
    pub(crate) at: u64,
    pub(crate) wall: Timestamp,
}

impl History {
    /// To be taken before a call.
    pub(crate) fn before(&self, owner: &Owner, tag: Option<&JobTag>, wall: Timestamp) -> Before {
        let named = tag.and_then(|tag| self.named.get(&(owner.clone(), tag.clone())));
        Before {
            told: self.told.clone(),
            named: named.copied(),
            accepted: self.accepted.clone(),
            busy: false,
            at: self.at,
            wall,
        }
    }

    /// A submit was answered.
    pub(crate) fn was_accepted(
        &mut self,
        submission: &Submission,
        accepted: &Accepted,
        before: &Before,
    ) {
        let id = accepted.id;
        let Some(known) = self.jobs.get_mut(&id) else {
            return self.violated(format_args!("{id} is accepted, but not stored"));
        };
        let header = &known.header;
        let is_same = header.owner == submission.owner
            && header.endpoint == submission.endpoint
            && header.encoding == submission.payload.encoding
            && known.payload == submission.payload.data
            && header.tag == accepted.tag
            && header.query_id == accepted.query_id
            && submission.tag.as_ref().is_none_or(|tag| *tag == header.tag);
        let problem = if !is_same {
            "another call"
        } else if before.named.is_some_and(|number| number > known.number) {
            "an older job of its tag"
        } else if !accepted.existing && std::mem::replace(&mut known.told_new, true) {
            "new for the second time"
        } else if !accepted.existing && !has_options(header, submission, &self.plan.config) {
            "with other options"
        } else if accepted.existing && submission.tag.is_none() {
            "existing without a tag"
        } else {
            ""
        };
        let (owner, tag, number) = (header.owner.clone(), header.tag.clone(), known.number);
        if !problem.is_empty() {
            self.violated(format_args!("{id} is accepted as {problem}"));
        }
        if accepted.existing {
            Event::FoundExisting.happened();
        } else {
            Event::Accepted.happened();
        }
        let newest = self.named.entry((owner, tag)).or_default();
        *newest = number.max(*newest);
        if !self.accepted.contains(&id) {
            self.accepted.push(id);
        }
    }

    /// A submit was refused for another job that has its tag.
    pub(crate) fn was_conflict(&mut self, submission: &Submission, id: JobId, what: Difference) {
        Event::TagConflict.happened();
        let Some(known) = self.jobs.get(&id) else {
            return self.violated(format_args!("a conflict with {id}, which is not stored"));
        };
        let header = &known.header;
        let is_so = match what {
            Difference::Endpoint => header.endpoint != submission.endpoint,
            Difference::Encoding => header.encoding != submission.payload.encoding,
            Difference::Payload => known.payload != submission.payload.data,
        };
        let same_tag = Some(&header.tag) == submission.tag.as_ref();
        if !is_so || !same_tag || header.owner != submission.owner {
            self.violated(format_args!("{id} is no conflict in {what:?}"));
        }
    }

    /// A look at a job was answered.
    pub(crate) fn was_found(
        &mut self,
        caller: &Caller,
        key: &JobKey,
        found: Option<&Job>,
        before: &Before,
    ) {
        match found {
            None => {
                let expected = self.expected(caller, key, before);
                if expected.is_some() {
                    Event::Expired.happened();
                }
                self.may_be_missing(expected, key);
            }
            Some(job) => {
                let id = job.header.id;
                let is_it = match key {
                    JobKey::Id(asked) => *asked == id,
                    JobKey::Tag(tag) => *tag == job.header.tag && job.header.owner == caller.owner,
                };
                if !is_it || !self.sees(caller, id) {
                    self.violated(format_args!("{caller:?} got {id} for {key:?}"));
                }
                let number = self.jobs.get(&id).map_or(0, |known| known.number);
                if matches!(key, JobKey::Tag(_)) && before.named.is_some_and(|n| n > number) {
                    self.violated(format_args!("{key:?} gives {id}, which has lost that tag"));
                }
                self.was_told(job, before, true);
            }
        }
    }

    /// A list was answered in whole.
    pub(crate) fn was_listed(&mut self, caller: &Caller, jobs: &[Job], before: &Before) {
        if !jobs.is_sorted_by(|a, b| a.header.id < b.header.id) {
            self.violated(format_args!("a list is not in the order of ids"));
        }
        for job in jobs {
            if !self.sees(caller, job.header.id) {
                self.violated(format_args!("{caller:?} was listed {}", job.header.id));
            }
            self.was_told(job, before, false);
        }
        let listed = |id: &JobId| jobs.iter().any(|job| job.header.id == *id);
        let missing = before.accepted.iter().filter(|id| !listed(id));
        let missing = missing.filter(|id| self.sees(caller, **id) && !self.may_be_gone(**id));
        if let Some(id) = missing.copied().next() {
            self.violated(format_args!("{id} is accepted, but not listed"));
        }
    }

    fn was_told(&mut self, job: &Job, before: &Before, with_result: bool) {
        let id = job.header.id;
        let Some(known) = self.jobs.get(&id) else {
            return self.violated(format_args!("{id} was told of, but is not stored"));
        };
        let told = &job.state;
        let ending = match &known.ending {
            Some(Ending::Done(result)) if !with_result => {
                Some(Ending::Done(result.without_bytes()))
            }
            other => other.clone(),
        };
        let expired = known.expires_at.is_some_and(|at| at <= before.wall);
        if !with_result && known.state.is_newer_than(told) {
            Event::ListWasBehind.happened();
        }
        let problem = if known.header != job.header {
            "with another header"
        } else if told.is_newer_than(&known.state) {
            "ahead of the store"
        } else if before
            .told
            .get(&id)
            .is_some_and(|old| old.is_newer_than(told))
        {
            "as it was before"
        } else if before
            .told
            .get(&id)
            .is_some_and(|old| old.progress > told.progress)
        {
            "with less progress than before"
        } else if told.phase.is_terminal() && (*told, &job.ending) != (known.state, &ending) {
            "with another end"
        } else if told.phase.is_terminal() != job.ending.is_some() {
            "ended and not ended"
        } else if Self::callback_told_wrong(known, told, job) {
            "with another callback"
        } else if told.phase.is_terminal() && expired && !self.present.jumped {
            "though it has expired"
        } else {
            ""
        };
        if !problem.is_empty() {
            let stored = known.state;
            self.violated(format_args!(
                "{id} is told {problem}: {told:?}, stored {stored:?}"
            ));
        }
        let newest = self.told.entry(id).or_insert(*told);
        if told.is_newer_than(newest) {
            *newest = *told;
        }
    }

    /// A wait has come back.
    pub(crate) fn was_waited(&mut self, job: Option<&Job>, before: &Before, patience: u64) {
        let waited = self.at - before.at;
        let reliable = self.plan.rounds[self.present.round].is_reliable();
        // After an error in a step or in looking what became of it, it is tried again.
        let slack = self.slack() + if reliable { 0 } else { 60_000_000 };
        if self.present.closing || self.present.failed {
            return;
        }
        if waited > patience + slack {
            self.violated(format_args!("waited {waited} us for {patience} us"));
        }
        let Some(job) = job else { return };
        if !job.state.phase.is_terminal() {
            return Event::WaitImpatient.happened();
        }
        Event::WaitWoken.happened();
        let ended = self.jobs.get(&job.header.id).map(|known| known.changed);
        let Some((ended, round)) = ended else { return };
        let late = self.at - ended.max(before.at);
        if round == self.present.round && late > slack {
            self.violated(format_args!("{} was told {late} us late", job.header.id));
        }
    }

    /// A cancel was answered.
    pub(crate) fn was_cancelled(
        &mut self,
        caller: &Caller,
        key: &JobKey,
        asked: Option<JobId>,
        outcome: CancelOutcome,
        before: &Before,
    ) {
        let candidates: Vec<JobId> = match key {
            JobKey::Id(id) => vec![*id],
            // The tag may have gone on to another job while the cancel was on its way.
            JobKey::Tag(tag) => {
                let of_tag = self.jobs.iter().filter(|(_, known)| {
                    (&known.header.owner, &known.header.tag) == (&caller.owner, tag)
                });
                of_tag.map(|(id, _)| *id).collect()
            }
        };
        if outcome == CancelOutcome::NotFound {
            let expected = self.expected(caller, key, before);
            return self.may_be_missing(expected, key);
        }
        let is_true = |phase: Phase| match outcome {
            CancelOutcome::Cancelled => phase == Phase::Cancelled,
            CancelOutcome::Cancelling => {
                matches!(phase, Phase::Cancelling | Phase::Cancelled | Phase::Done)
            }
            CancelOutcome::Ended(as_told) => phase == as_told,
            CancelOutcome::NotFound => true,
        };
        let known = candidates.iter().filter_map(|id| self.jobs.get(id));
        let is_true = known.into_iter().any(|known| is_true(known.state.phase));
        if !is_true || !candidates.iter().any(|id| self.sees(caller, *id)) {
            self.violated(format_args!("{key:?} was told {outcome:?} to {caller:?}"));
        }
        match (outcome, asked) {
            (CancelOutcome::Ended(_), _) => Event::CancelCameLate.happened(),
            (CancelOutcome::Cancelling, Some(id)) => {
                let now = (self.at, self.present.round);
                if let Some(known) = self.jobs.get_mut(&id) {
                    known.told_cancelling.get_or_insert(now);
                }
            }
            _ => {}
        }
    }

    /// Whether the job may be invisible because its retention is over.
    pub(crate) fn may_be_gone(&self, id: JobId) -> bool {
        let Some(known) = self.jobs.get(&id) else {
            return true;
        };
        known.deleted || known.expires_at.is_some_and(|at| at <= self.wall_max)
    }

    pub(crate) fn sees(&self, caller: &Caller, id: JobId) -> bool {
        let owner = self.jobs.get(&id).map(|known| &known.header.owner);
        caller.admin || owner == Some(&caller.owner)
    }

    /// The accepted job that the caller must find by this key, unless it has expired.
    fn expected(&self, caller: &Caller, key: &JobKey, before: &Before) -> Option<JobId> {
        let id = match key {
            JobKey::Id(id) => *id,
            JobKey::Tag(_) => {
                let number = before.named?;
                let found = self.jobs.iter().find(|(_, known)| known.number == number);
                *found?.0
            }
        };
        (before.accepted.contains(&id) && self.sees(caller, id)).then_some(id)
    }

    fn may_be_missing(&mut self, expected: Option<JobId>, key: &JobKey) {
        let Some(known) = expected.and_then(|id| self.jobs.get(&id)) else {
            return;
        };
        let header = &known.header;
        // A tag names nothing once the newest job that had it is gone.
        let mut had_it = self.jobs.iter().filter(|(id, other)| match key {
            JobKey::Id(asked) => **id == *asked,
            JobKey::Tag(tag) => {
                other.header.owner == header.owner
                    && other.header.tag == *tag
                    && other.number >= known.number
            }
        });
        if !had_it.any(|(id, _)| self.may_be_gone(*id)) {
            let id = header.id;
            self.violated(format_args!("{id} is accepted, but not found by {key:?}"));
        }
    }
}

fn has_options(
    header: &Header,
    submission: &Submission,
    config: &kjob_core::engine::EngineConfig,
) -> bool {
    let options = &header.options;
    let delay = options
        .not_before
        .map(|at| at.since(header.received_at))
        .unwrap_or_default();
    options.priority == submission.priority
        && options.timeout == submission.timeout
        && options.retention == submission.retention.unwrap_or(config.retention)
        && options.remove_on_complete == submission.remove_on_complete
        && options.callback_url == submission.callback_url
        && delay == submission.delay
}
