//! What is known of the jobs of a store that may fail at any call: for each job, all that it may be.
//!
//! An answer proves something: what was acknowledged is there. An error or no answer leaves it open
//! whether the step was done, but whole or not at all. Once a store was opened anew and looked at,
//! it is settled what each job is, and it stays so.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use kjob_core::{
    Difference, Ending, Event, Filter, Job, JobId, JobTag, Lease, NewJob, Owner, Parts, Phase,
    State, Store, StoreError, Submitted, TagReuse, Timestamp, Transition, apply,
};
use kjob_store::embedded::EmbeddedStore;

use crate::steps::{Answer, Op, visible};

/// All that the jobs of a store may be.
#[derive(Clone, Debug, Default)]
pub struct Known {
    jobs: BTreeMap<JobId, Vec<Option<Job>>>,
    /// The jobs that may have been given a tag, in this order.
    tags: HashMap<(Owner, JobTag), Vec<(JobId, Hold)>>,
    reserved: BTreeSet<JobId>,
}

/// Whether a job still has the tag that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Unless a later one of whom it is open whether it was made has taken it.
    Has,
    /// A submit that failed may have taken it away, as it was told to.
    MayHave,
    HasNot,
}

const ALL: Parts = Parts {
    payload: true,
    result: true,
};

impl Known {
    /// Takes in steps that were asked for at the same moment, each with its answer if it got one:
    /// they may have been done in any order.
    ///
    /// # Panics
    /// If in no order any job can be such that the answers are right.
    pub fn take(&mut self, steps: &[(&Op, Option<&Answer>)], now: Timestamp) {
        // What is not known to be done comes as late as it can: then it may still be anything.
        let (done, open): (Vec<_>, Vec<_>) = steps
            .iter()
            .partition(|(_, answer)| answer.is_some_and(|answer| !answer.is_failed()));
        let (ends, submits) = open.into_iter().partition(|(op, _)| !op.is_submit());
        let steps: Vec<_> = [done, ends, submits].concat();
        *self = self.after(&steps, now).unwrap_or_else(|why| {
            panic!("none of {} orders: {why}", steps.len());
        });
    }

    /// What is known after the steps, in the first order that explains the answers.
    fn after(&self, steps: &[(&Op, Option<&Answer>)], now: Timestamp) -> Result<Self, String> {
        let mut first = None;
        for (at, (op, answer)) in steps.iter().enumerate() {
            let mut known = self.clone();
            let rest = [&steps[..at], &steps[at + 1..]].concat();
            let taken = known.take_one(op, now, *answer);
            match taken.and_then(|()| known.after(&rest, now)) {
                Ok(known) => return Ok(known),
                Err(why) => drop(first.get_or_insert(why)),
            }
        }
        first.map_or_else(|| Ok(self.clone()), Err)
    }

    /// Takes in one step; an error if no job can be such that its answer is right.
    fn take_one(&mut self, op: &Op, now: Timestamp, answer: Option<&Answer>) -> Result<(), String> {
        if let Op::Submit(job, start) = op {
            return self.submit(job, *start, answer);
        }
        if let Some(Answer::Ids(ids)) = answer {
            for id in ids {
                if !self.reserved.insert(*id) {
                    return Err(format!("id {id} was given twice"));
                }
            }
        }
        let Some(maybe) = op.job().and_then(|id| self.jobs.get_mut(&id)) else {
            return Ok(());
        };
        if let Some(Answer::Started(_, payload)) = answer {
            let stored = maybe.iter().flatten().next();
            if *payload != stored.and_then(|job| job.payload.clone()) {
                return Err(format!("{op:?}: another payload"));
            }
        }
        let after = maybe.iter().map(|job| op.step(job.as_ref(), now));
        let after: Vec<_> = match answer.map(|answer| (answer, answer.expected())) {
            // For what has no room nothing is done.
            Some((Answer::Failed(StoreError::Full), _)) => return Ok(()),
            Some((_, Some(expected))) => after
                .filter(|(_, told)| *told == expected)
                .map(|(job, _)| job)
                .collect(),
            _ => after.map(|(job, _)| job).chain(maybe.clone()).collect(),
        };
        if after.is_empty() {
            return Err(format!("{op:?}: {answer:?} by {maybe:#?}"));
        }
        *maybe = after;
        maybe.dedup();
        Ok(())
    }

    fn submit(&mut self, new: &NewJob, start: bool, answer: Option<&Answer>) -> Result<(), String> {
        let now = new.header.received_at;
        let id = new.header.id;
        let key = (new.header.owner.clone(), new.header.tag.clone());
        let if_failed = new.tag_reuse == TagReuse::IfFailed;
        let made = made(new, start);
        let may_lose = |job: &Job| if_failed && is_reusable(job);
        let keeper = self.keeper(&key, now, may_lose);
        let holders = self.tags.entry(key).or_default();
        let (holder, found, difference) = match answer {
            Some(Answer::Submitted(Submitted::Created(state))) => {
                if *state != made.state {
                    return Err(format!("job {id} is {state:?}, not {:?}", made.state));
                }
                if let Some(keeper) = keeper {
                    let keeper = &self.jobs[&keeper];
                    return Err(format!(
                        "{new:#?} was made, but the tag is that of {keeper:#?}"
                    ));
                }
                for (_, hold) in holders.iter_mut() {
                    *hold = Hold::HasNot;
                }
                holders.push((id, Hold::Has));
                self.jobs.insert(id, vec![Some(made)]);
                return Ok(());
            }
            Some(Answer::Submitted(Submitted::Existing(job))) => {
                (job.header.id, Some(&**job), None)
            }
            Some(Answer::Submitted(Submitted::Conflict { id, difference })) => {
                (*id, None, Some(*difference))
            }
            other => {
                let is_full = matches!(other, Some(Answer::Failed(StoreError::Full)));
                let mut maybe = vec![None];
                if keeper.is_none() {
                    // A job of a newer segment gives its tag away by a commit of its own, before.
                    let has = |(old, hold): &&mut (JobId, Hold)| *old > id && *hold == Hold::Has;
                    for (_, hold) in holders.iter_mut().filter(has) {
                        *hold = Hold::MayHave;
                    }
                    if !is_full {
                        maybe.push(Some(made));
                        holders.push((id, Hold::Has));
                    }
                }
                self.jobs.insert(id, maybe);
                return Ok(());
            }
        };
        let Some(place) = holders.iter().rposition(|(id, _)| *id == holder) else {
            return Err(format!("job {holder} never had the tag of {id}"));
        };
        for (later, _) in holders.iter().skip(place + 1) {
            let maybe = self.jobs.get_mut(later).unwrap();
            maybe.retain(|job| visible(job.as_ref(), now).is_none());
            if maybe.is_empty() {
                return Err(format!("job {later} had the tag after {holder}"));
            }
        }
        let maybe = self.jobs.get_mut(&holder).unwrap();
        maybe.retain(|old| {
            visible(old.as_ref(), now).is_some_and(|old| {
                let bytes = old.payload.as_ref().unwrap();
                found.is_none_or(|found| without_bytes(old) == *found)
                    && Difference::between((&old.header, bytes), (&new.header, &new.payload))
                        == difference
                    && !may_lose(old)
            })
        });
        if maybe.is_empty() {
            return Err(format!("{answer:?} to {new:#?}"));
        }
        self.jobs.insert(id, vec![None]);
        Ok(())
    }

    /// Who has a tag, if someone certainly has it, and may not lose it.
    fn keeper(
        &self,
        key: &(Owner, JobTag),
        now: Timestamp,
        may_lose: impl Fn(&Job) -> bool,
    ) -> Option<JobId> {
        for (holder, hold) in self.tags.get(key)?.iter().rev() {
            let maybe = &self.jobs[holder];
            let lost = |job: &Job| visible(Some(job), now).is_none_or(&may_lose);
            if *hold == Hold::HasNot {
                continue;
            }
            if maybe.iter().flatten().any(lost) {
                return None;
            }
            if *hold == Hold::Has && maybe.iter().all(Option::is_some) {
                return Some(*holder);
            }
            // It, or whoever had the tag before.
        }
        None
    }

    /// Whether a job may be there and not have ended, and with which lease.
    pub fn live(&self, id: JobId) -> Option<(Phase, Lease)> {
        let mut live = self.jobs[&id].iter().flatten();
        let live = live.find(|job| !job.state.phase.is_terminal())?;
        Some((live.state.phase, live.state.lease))
    }

    /// Every id that a submit was made with.
    pub fn ids(&self) -> Vec<JobId> {
        self.jobs.keys().copied().collect()
    }

    /// Whether a job that was found may be as it was found.
    pub fn allows(&self, id: JobId, found: Option<&Job>, now: Timestamp) -> bool {
        let maybe = &self.jobs[&id];
        maybe.iter().any(|job| visible(job.as_ref(), now) == found)
    }

    /// Looks at everything in every way.
    ///
    /// # Panics
    /// If something is there that cannot be, or is not there that must.
    pub async fn check(&self, store: &EmbeddedStore, now: Timestamp) {
        let mut there = Vec::new();
        for (id, maybe) in &self.jobs {
            let found = store.get(*id, ALL, now).await.unwrap();
            let allowed = self.allows(*id, found.as_ref(), now);
            assert!(allowed, "job {id} is {found:#?}\nand not one of {maybe:#?}");
            there.extend(found.map(|_| *id));
        }
        for ((owner, tag), holders) in &self.tags {
            let found = store.find(owner, tag, now).await.unwrap();
            let allowed = self.holders(holders, now);
            assert!(
                allowed.contains(&found),
                "tag {tag} names {found:?}, not {allowed:?}"
            );
            // And whoever is named is there.
            assert!(
                found.is_none_or(|id| there.contains(&id)),
                "{tag} names {found:?}"
            );
        }
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let filter = Filter {
                after,
                limit: 50,
                ..Filter::ALL
            };
            let page = store.list(&filter, now).await.unwrap();
            listed.extend(page.jobs.iter().map(|job| job.header.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, there, "the list");
    }

    /// As [`check`](Self::check), of a store that was just opened: what is found is what is.
    pub async fn settle(&mut self, store: &EmbeddedStore, now: Timestamp) {
        self.check(store, now).await;
        for (id, maybe) in &mut self.jobs {
            let found = store.get(*id, ALL, now).await.unwrap();
            maybe.retain(|job| visible(job.as_ref(), now) == found.as_ref());
        }
        for ((owner, tag), holders) in &mut self.tags {
            let found = store.find(owner, tag, now).await.unwrap();
            let was_made = |id: &JobId| self.jobs[id].iter().all(Option::is_some);
            let last = holders.iter().rposition(|(id, _)| was_made(id));
            for (at, (id, hold)) in holders.iter_mut().enumerate() {
                *hold = match *hold {
                    // It lost the tag to the one that was made later.
                    Hold::Has if last.is_some_and(|last| last > at) => Hold::HasNot,
                    Hold::MayHave if found == Some(*id) => Hold::Has,
                    Hold::MayHave => Hold::HasNot,
                    hold => hold,
                };
            }
        }
    }

    /// Whom a tag may name.
    fn holders(&self, holders: &[(JobId, Hold)], now: Timestamp) -> BTreeSet<Option<JobId>> {
        let mut allowed = BTreeSet::new();
        for (id, hold) in holders
            .iter()
            .rev()
            .filter(|(_, hold)| *hold != Hold::HasNot)
        {
            let maybe = &self.jobs[id];
            let is_visible = |job: &Job| visible(Some(job), now).is_some();
            if maybe.iter().flatten().any(is_visible) {
                allowed.insert(Some(*id));
            }
            if maybe.iter().flatten().any(|job| !is_visible(job)) || *hold == Hold::MayHave {
                allowed.insert(None);
            }
            // If it was not made, whoever had the tag before still has it.
            if maybe.iter().all(Option::is_some) && *hold == Hold::Has {
                return allowed;
            }
        }
        allowed.insert(None);
        allowed
    }
}

/// A job that was just submitted.
fn made(new: &NewJob, start: bool) -> Job {
    let queued = State::queued(new.header.options.not_before);
    let state = match apply(&queued, Event::Start, new.header.received_at) {
        Ok(Transition::To(started)) if start => started,
        _ => queued,
    };
    Job {
        header: new.header.clone(),
        state,
        payload: Some(new.payload.clone()),
        ending: None,
        callback: None,
        expires_at: None,
    }
}

fn is_reusable(job: &Job) -> bool {
    matches!(job.state.phase, Phase::Failed | Phase::Cancelled)
}

fn without_bytes(job: &Job) -> Job {
    let mut job = job.clone();
    job.payload = None;
    if let Some(Ending::Done(result)) = &mut job.ending {
        result.payload.data = Bytes::new();
    }
    job
}
