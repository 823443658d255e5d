//! Generated sequences of steps, on the store and on a plain map: each answer must be the same.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use kjob_proto::{Encoding, Text};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Harness, Trial, at, new_job, runtime};
use crate::{
    CallbackOutcome, CallbackState, CallbackTry, Difference, Ending, Event, Filter, Finish, Job,
    JobId, JobTag, Lease, NewJob, OnInterrupt, Order, Output, Owner, Parts, Phase, Refused, State,
    Status, StepError, Submitted, TagReuse, Timestamp, Transition, Usage, apply,
};

/// Runs generated sequences of steps, and shrinks one that goes wrong.
///
/// # Panics
/// Where the store does something else than the model.
pub fn check_against_model<H: Harness + 'static>(make: impl Fn() -> H) {
    check_all_against_model(&|| Box::new(make()));
}

fn check_all_against_model(make: &dyn Fn() -> Box<dyn Harness>) {
    // The sequences differ each time; a failure prints the smallest one found.
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = runtime();
    let outcome = TestRunner::new(config).run(&vec(op(), 1..60), |ops| {
        runtime.block_on(async {
            let mut run = Run {
                trial: Trial::new(make()).await,
                model: Model::default(),
                now: at(0),
            };
            for op in ops {
                run.step(op).await?;
            }
            run.check_all().await
        })
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, ops)) => panic!("{reason}\nby {ops:#?}"),
        Err(error) => panic!("{error}"),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Submit {
        owner: u8,
        tag: Tag,
        endpoint: bool,
        json: bool,
        payload: u8,
        if_failed: bool,
        start: bool,
        delay: bool,
        retention_ms: u64,
        callback: bool,
    },
    Start(usize),
    Progress {
        job: usize,
        stale: bool,
        percent: u8,
    },
    Finish {
        job: usize,
        stale: bool,
        how: How,
    },
    Cancel(usize),
    /// Of callbacks, for this long.
    Claim(i64),
    Note {
        job: usize,
        how: Tried,
    },
    ExpireAt {
        job: usize,
        millis: i64,
    },
    List {
        owner: Option<u8>,
        statuses: Vec<Status>,
        endpoint: Option<bool>,
        after: usize,
        limit: usize,
    },
    Expire,
    Wait(i64),
    Reopen,
}

#[derive(Clone, Debug)]
enum Tag {
    /// One of a few.
    User(u8),
    /// The one that carries the job's own id.
    Generated,
    /// The one generated for an earlier job.
    GeneratedFor(usize),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Complete(usize),
    Fail,
    Stop,
    Interrupt,
    Retry { charged: bool, delay: bool },
}

#[derive(Clone, Copy, Debug)]
enum Tried {
    Delivered,
    Retry(i64),
    GiveUp,
}

fn op() -> impl Strategy<Value = Op> {
    let tag = prop_oneof![
        4 => (0..4u8).prop_map(Tag::User),
        1 => Just(Tag::Generated),
        1 => (0..20usize).prop_map(Tag::GeneratedFor),
    ];
    let retention_ms = prop_oneof![Just(0u64), 1..3_000u64, Just(100_000_000)];
    let submit = (
        0..2u8,
        tag,
        any::<(bool, bool)>(),
        0..3u8,
        any::<(bool, bool, bool, bool)>(),
        retention_ms,
    )
        .prop_map(
            |(
                owner,
                tag,
                (odd, json),
                payload,
                (if_failed, start, delay, callback),
                retention_ms,
            )| {
                // Mostly the same call, so that repeats are met often.
                let (endpoint, json) = (odd && json, json && payload == 0);
                let delay = delay && payload == 1;
                Op::Submit {
                    owner,
                    tag,
                    endpoint,
                    json,
                    payload,
                    if_failed,
                    start,
                    delay,
                    retention_ms,
                    callback,
                }
            },
        );
    let how = prop_oneof![
        (0..200usize).prop_map(How::Complete),
        Just(How::Fail),
        Just(How::Stop),
        Just(How::Interrupt),
        any::<(bool, bool)>().prop_map(|(charged, delay)| How::Retry { charged, delay }),
    ];
    let statuses = vec(
        prop::sample::select(vec![
            Status::Running,
            Status::Done,
            Status::Error,
            Status::Cancelled,
        ]),
        0..3,
    );
    let list = (
        proptest::option::of(0..2u8),
        statuses,
        proptest::option::of(any::<bool>()),
        0..20usize,
        1..6usize,
    )
        .prop_map(|(owner, statuses, endpoint, after, limit)| Op::List {
            owner,
            statuses,
            endpoint,
            after,
            limit,
        });
    let tried = prop_oneof![
        1 => Just(Tried::Delivered),
        2 => (0..3_000i64).prop_map(Tried::Retry),
        1 => Just(Tried::GiveUp),
    ];
    let job = 0..20usize;
    let stale = prop::bool::weighted(0.1);
    prop_oneof![
        6 => submit,
        3 => job.clone().prop_map(Op::Start),
        2 => (job.clone(), stale, any::<u8>())
            .prop_map(|(job, stale, percent)| Op::Progress { job, stale, percent }),
        5 => (job.clone(), stale, how).prop_map(|(job, stale, how)| Op::Finish { job, stale, how }),
        2 => job.clone().prop_map(Op::Cancel),
        2 => (1..3_000i64).prop_map(Op::Claim),
        3 => (job.clone(), tried).prop_map(|(job, how)| Op::Note { job, how }),
        1 => (job, 0..4_000i64).prop_map(|(job, millis)| Op::ExpireAt { job, millis }),
        1 => list,
        1 => Just(Op::Expire),
        2 => (1..2_000i64).prop_map(Op::Wait),
        1 => Just(Op::Reopen),
    ]
}

/// What a store is to be: every job ever submitted, in a map.
#[derive(Default)]
struct Model {
    jobs: BTreeMap<JobId, Job>,
    /// To whom each tag was last given.
    tags: HashMap<(Owner, JobTag), JobId>,
    ids: Vec<JobId>,
    /// When each pending callback is to be handed out.
    due: BTreeMap<JobId, Timestamp>,
    dropped: Usage,
}

impl Model {
    fn job(&self, id: JobId, now: Timestamp) -> Option<&Job> {
        self.jobs
            .get(&id)
            .filter(|job| job.expires_at.is_none_or(|at| at > now))
    }

    fn find(&self, owner: &Owner, tag: &JobTag, now: Timestamp) -> Option<JobId> {
        let id = *self.tags.get(&(owner.clone(), tag.clone()))?;
        self.job(id, now).map(|_| id)
    }

    fn submit(&mut self, job: NewJob, start: bool) -> Submitted {
        let NewJob {
            header,
            payload,
            tag_reuse,
        } = job;
        let now = header.received_at;
        let generated = header.tag.carried_id() == Some(header.id);
        let old = self
            .find(&header.owner, &header.tag, now)
            .filter(|_| !generated);
        if let Some(old) = old.and_then(|id| self.jobs.get(&id)) {
            let failed = matches!(old.state.phase, Phase::Failed | Phase::Cancelled);
            if !(failed && tag_reuse == TagReuse::IfFailed) {
                let bytes = old.payload.clone().unwrap();
                let id = old.header.id;
                return match Difference::between((&old.header, &bytes), (&header, &payload)) {
                    Some(difference) => Submitted::Conflict { id, difference },
                    None => Submitted::Existing(Box::new(without_bytes(old))),
                };
            }
        }
        let queued = State::queued(header.options.not_before);
        let state = match apply(&queued, Event::Start, now) {
            Ok(Transition::To(started)) if start => started,
            _ => queued,
        };
        let id = header.id;
        self.tags
            .insert((header.owner.clone(), header.tag.clone()), id);
        let payload = Some(payload);
        self.jobs.insert(
            id,
            Job {
                header,
                state,
                payload,
                ending: None,
                expires_at: None,
                callback: None,
            },
        );
        self.ids.push(id);
        Submitted::Created(state)
    }

    fn step(
        &mut self,
        id: JobId,
        event: Event,
        ending: Option<Ending>,
        now: Timestamp,
    ) -> Result<State, Refusal> {
        self.job(id, now).ok_or(Refusal::Unknown)?;
        let job = self.jobs.get_mut(&id).unwrap();
        if let Transition::To(state) = apply(&job.state, event, now).map_err(Refusal::Refused)? {
            job.state = state;
            if state.phase.is_terminal() {
                job.ending = match state.phase {
                    Phase::Cancelled => Some(Ending::Cancelled),
                    _ => ending,
                };
                job.expires_at = Some(now.after(job.header.options.retention));
                if job.header.options.callback_url.is_some() {
                    job.callback = Some(CallbackState::pending(now));
                    self.due.insert(id, now);
                }
            }
        }
        Ok(job.state)
    }

    fn claim(&mut self, now: Timestamp, until: Timestamp) -> Vec<Job> {
        let mut due: Vec<_> = self.due.iter().map(|(id, at)| (*at, *id)).collect();
        due.retain(|(at, id)| *at <= now && self.job(*id, now).is_some());
        due.sort();
        self.due.extend(due.iter().map(|(_, id)| (*id, until)));
        let jobs = due.iter().map(|(_, id)| without_bytes(&self.jobs[id]));
        jobs.collect()
    }

    fn note(
        &mut self,
        id: JobId,
        tried: CallbackTry,
        now: Timestamp,
    ) -> Result<CallbackState, Refusal> {
        let callback = &self.job(id, now).ok_or(Refusal::Unknown)?.callback;
        let next = callback.as_ref().and_then(|old| old.after(tried, now));
        let next = next.ok_or(Refusal::Refused(Refused::NoCallback))?;
        self.jobs.get_mut(&id).unwrap().callback = Some(next.clone());
        match next.next_at {
            Some(at) => self.due.insert(id, at),
            None => self.due.remove(&id),
        };
        Ok(next)
    }

    /// Claims are forgotten when the store is opened anew.
    fn reopen(&mut self) {
        let pending = |job: &Job| Some((job.header.id, job.callback.as_ref()?.next_at?));
        self.due = self.jobs.values().filter_map(pending).collect();
    }

    fn usage(&self) -> Usage {
        let bytes = |job: &Job| (job.payload.as_ref().unwrap().len() + job.result_len()) as u64;
        Usage {
            jobs: self.jobs.len() as u64 - self.dropped.jobs,
            bytes: self.jobs.values().map(bytes).sum::<u64>() - self.dropped.bytes,
        }
    }
}

#[derive(Debug, PartialEq)]
enum Refusal {
    Unknown,
    Refused(Refused),
}

fn told<T>(result: Result<T, StepError>) -> Result<Result<T, Refusal>, TestCaseError> {
    match result {
        Ok(done) => Ok(Ok(done)),
        Err(StepError::Unknown(_)) => Ok(Err(Refusal::Unknown)),
        Err(StepError::Refused(refused)) => Ok(Err(Refusal::Refused(refused))),
        Err(StepError::Store(error)) => Err(TestCaseError::fail(error.to_string())),
    }
}

struct Run {
    trial: Trial,
    model: Model,
    now: Timestamp,
}

impl Run {
    /// The id of an earlier job, or of one that never was.
    fn id(&self, number: usize) -> JobId {
        let last = JobId::new(JobId::MAX - 1).unwrap();
        self.model.ids.get(number).copied().unwrap_or(last)
    }

    /// The lease to report with.
    fn lease(&self, id: JobId, stale: bool) -> Lease {
        let current = self
            .model
            .jobs
            .get(&id)
            .map_or(Lease(1), |job| job.state.lease);
        if stale { Lease(current.0 + 1) } else { current }
    }

    async fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        let now = self.now;
        let store = std::sync::Arc::clone(&self.trial.store);
        match op {
            Op::Submit {
                owner,
                tag,
                endpoint,
                json,
                payload,
                if_failed,
                start,
                delay,
                retention_ms,
                callback,
            } => {
                let owner = owner_of(owner);
                let generated = |id| JobTag::generate(id, &mut StdRng::seed_from_u64(1));
                let given = match tag {
                    Tag::User(number) => Some(format!("tag-{number}").parse().unwrap()),
                    Tag::Generated => None,
                    Tag::GeneratedFor(number) => Some(generated(self.id(number))),
                };
                let (id, tag) = match given {
                    Some(tag) => (self.trial.id_of(&owner, &tag, now).await, tag),
                    None => {
                        let id = self.trial.id().await;
                        (id, generated(id))
                    }
                };
                let mut job = new_job(id, tag);
                job.header.owner = owner;
                job.header.received_at = now;
                if endpoint {
                    job.header.endpoint = Text::from("/demo/sleep");
                }
                if json {
                    job.header.encoding = Encoding::Json;
                }
                job.payload = Bytes::from(std::vec![payload; usize::from(payload) * 60]);
                job.header.options.retention = Duration::from_millis(retention_ms);
                job.header.options.not_before = delay.then(|| now.after(Duration::from_secs(1)));
                job.header.options.callback_url = callback.then(|| Text::from("http://a/b"));
                if if_failed {
                    job.tag_reuse = TagReuse::IfFailed;
                }
                let expected = self.model.submit(job.clone(), start);
                let found = store
                    .submit(job, start)
                    .await
                    .map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert_eq!(found, expected);
            }
            Op::Start(number) => {
                let id = self.id(number);
                let expected = self.model.step(id, Event::Start, None, now);
                let found = store.start(id, now).await;
                if let Ok(started) = &found {
                    let payload = self.model.jobs[&id].payload.as_ref();
                    prop_assert_eq!(started.payload.as_ref(), payload);
                }
                prop_assert_eq!(told(found.map(|started| started.state))?, expected);
            }
            Op::Progress {
                job,
                stale,
                percent,
            } => {
                let id = self.id(job);
                let lease = self.lease(id, stale);
                let expected = self
                    .model
                    .step(id, Event::Progress { lease, percent }, None, now);
                prop_assert_eq!(
                    told(store.progress(id, lease, percent, now).await)?,
                    expected
                );
            }
            Op::Finish { job, stale, how } => {
                let id = self.id(job);
                let lease = self.lease(id, stale);
                let (finish, ending) = finish(how, now);
                let event = Event::End {
                    lease,
                    end: finish.end(),
                };
                let expected = self.model.step(id, event, ending, now);
                prop_assert_eq!(told(store.finish(id, lease, finish, now).await)?, expected);
            }
            Op::Cancel(number) => {
                let id = self.id(number);
                let expected = self.model.step(id, Event::RequestCancel, None, now);
                prop_assert_eq!(told(store.request_cancel(id, now).await)?, expected);
            }
            Op::Claim(millis) => {
                let until = now.after(Duration::from_millis(millis as u64));
                let mut expected = self.model.claim(now, until);
                let mut found = Vec::new();
                loop {
                    let claimed = store.claim_callbacks(now, until, 3).await.unwrap();
                    prop_assert!(claimed.jobs.len() <= 3);
                    found.extend(claimed.jobs);
                    if claimed.next_at.is_none_or(|next| next > now) {
                        break;
                    }
                }
                // In which order they are handed out is the store's affair.
                expected.sort_by_key(|job| job.header.id);
                found.sort_by_key(|job| job.header.id);
                prop_assert_eq!(found, expected);
            }
            Op::Note { job, how } => {
                let id = self.id(job);
                let expected = self.model.note(id, tried(how, now), now);
                let found = store.note_callback(id, tried(how, now), now).await;
                prop_assert_eq!(told(found)?, expected);
            }
            Op::ExpireAt { job, millis } => {
                let (id, to) = (
                    self.id(job),
                    now.after(Duration::from_millis(millis as u64)),
                );
                if let Some(job) = self.model.jobs.get_mut(&id) {
                    job.expires_at = job.expires_at.map(|at| at.min(to));
                }
                store.expire_at(id, to).await.unwrap();
            }
            Op::List {
                owner,
                statuses,
                endpoint,
                after,
                limit,
            } => {
                let endpoint = endpoint
                    .map(|sleep| Text::from(if sleep { "/demo/sleep" } else { "/demo/echo" }));
                let after = (after > 0).then(|| self.id(after - 1));
                let owner = owner.map(owner_of);
                self.check_list(Filter {
                    owner,
                    statuses,
                    endpoint,
                    after,
                    limit,
                    ..Filter::ALL
                })
                .await?;
            }
            Op::Expire => {
                let expired = store.expire(now).await.unwrap();
                self.model.dropped.jobs += expired.jobs;
                self.model.dropped.bytes += expired.bytes;
            }
            Op::Wait(millis) => self.now = now.after(Duration::from_millis(millis as u64)),
            Op::Reopen => {
                drop(store);
                if self.trial.reopen().await {
                    self.model.reopen();
                }
            }
        }
        let total = self.trial.store.usage(&Owner::anonymous()).total;
        prop_assert_eq!(total, self.model.usage());
        Ok(())
    }

    /// In both orders.
    async fn check_list(&self, filter: Filter) -> Result<(), TestCaseError> {
        for order in [Order::OldestFirst, Order::NewestFirst] {
            let ordered = Filter {
                order,
                ..filter.clone()
            };
            self.check_ordered_list(ordered).await?;
        }
        Ok(())
    }

    async fn check_ordered_list(&self, mut filter: Filter) -> Result<(), TestCaseError> {
        let (above, last) = filter.ids();
        let is_of = |id: JobId| id.get() > above && id.get() <= last;
        let wanted = |job: &&Job| is_of(job.header.id) && filter.matches(job);
        let there = self
            .model
            .jobs
            .keys()
            .filter_map(|id| self.model.job(*id, self.now));
        let mut expected: Vec<_> = there.filter(wanted).map(without_bytes).collect();
        if filter.order == Order::NewestFirst {
            expected.reverse();
        }
        let mut found = Vec::new();
        loop {
            let page = self.trial.store.list(&filter, self.now).await.unwrap();
            prop_assert!(page.jobs.len() <= filter.limit);
            found.extend(page.jobs);
            let Some(next) = page.next else { break };
            let (above, last) = filter.ids();
            prop_assert!(next.get() > above && next.get() <= last);
            filter.after = Some(next);
        }
        prop_assert_eq!(found, expected);
        Ok(())
    }

    /// Looks at everything in every way; also after opening the store once more.
    async fn check_all(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..2 {
            let store = &self.trial.store;
            for id in &self.model.ids {
                let parts = Parts {
                    payload: true,
                    result: true,
                };
                let found = store.get(*id, parts, self.now).await.unwrap();
                prop_assert_eq!(found.as_ref(), self.model.job(*id, self.now));
            }
            for (owner, tag) in self.model.tags.keys() {
                let found = store.find(owner, tag, self.now).await.unwrap();
                prop_assert_eq!(found, self.model.find(owner, tag, self.now));
            }
            let all = Filter {
                limit: 7,
                ..Filter::ALL
            };
            self.check_list(all).await?;
            if !self.trial.reopen().await {
                break;
            }
            prop_assert_eq!(
                self.trial.store.usage(&Owner::anonymous()).total,
                self.model.usage()
            );
        }
        Ok(())
    }
}

fn owner_of(number: u8) -> Owner {
    Owner::new(if number == 0 { "anonymous" } else { "ann" })
}

fn tried(how: Tried, now: Timestamp) -> CallbackTry {
    let error = Text::from("not taken");
    let (http_status, outcome) = match how {
        Tried::Delivered => (Some(200), CallbackOutcome::Delivered),
        Tried::Retry(millis) => {
            let at = now.after(Duration::from_millis(millis as u64));
            (None, CallbackOutcome::Retry { error, at })
        }
        Tried::GiveUp => (Some(410), CallbackOutcome::GiveUp { error }),
    };
    CallbackTry {
        http_status,
        outcome,
    }
}

fn finish(how: How, now: Timestamp) -> (Finish, Option<Ending>) {
    let reason = Text::from("it failed");
    let failed = Some(Ending::Failed(reason.clone()));
    match how {
        How::Complete(size) => {
            let mut result = Output::binary(std::vec![3; size]);
            if size % 3 == 0 {
                result.info.insert("size", size.to_string()).unwrap();
            }
            (Finish::Complete(result.clone()), Some(Ending::Done(result)))
        }
        How::Fail => (Finish::Fail(reason), failed),
        How::Stop => (Finish::Stop, None),
        How::Interrupt => (
            Finish::Interrupt {
                reason,
                then: OnInterrupt::Fail,
            },
            failed,
        ),
        How::Retry { charged, delay } => {
            let not_before = if delay {
                now.after(Duration::from_millis(700))
            } else {
                now
            };
            let then = OnInterrupt::Retry {
                max_attempts: 2,
                not_before,
                charged,
            };
            (Finish::Interrupt { reason, then }, failed)
        }
    }
}

fn without_bytes(job: &Job) -> Job {
    let mut job = job.clone();
    job.payload = None;
    if let Some(Ending::Done(result)) = &mut job.ending {
        *result = result.without_bytes();
    }
    job
}
