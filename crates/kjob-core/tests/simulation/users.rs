//! Callers who submit, look, wait, list and cancel, and who may go away in the middle of it.

use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::{Caller, Engine, JobKey, Submission, SubmitError};
use kjob_core::{
    Clock, Filter, Job, JobId, JobTag, Owner, Payload, Phase, Priority, StoreError, TagReuse,
    Timestamp,
};
use kjob_proto::Encoding;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::checks::Before;
use crate::coverage::Event;
use crate::plan::millis;
use crate::sim::Sim;

const OWNERS: [&str; 3] = ["ann", "bob", "eve"];

/// How many tags each owner uses: few, so that they meet.
const TAGS: u32 = 10;

/// One caller in one round.
#[derive(Clone)]
pub(crate) struct User {
    sim: Arc<Sim>,
    engine: Engine,
    caller: Caller,
}

impl User {
    pub(crate) fn new(sim: &Arc<Sim>, engine: &Engine, number: usize) -> Self {
        let owner = Owner::new(OWNERS[number % OWNERS.len()]);
        let caller = if number == 4 {
            Caller::admin(owner)
        } else {
            Caller::user(owner)
        };
        Self {
            sim: sim.clone(),
            engine: engine.clone(),
            caller,
        }
    }

    /// Makes calls, one after another.
    pub(crate) async fn live(self, calls: usize, mut rng: StdRng) {
        let rng = &mut rng;
        for _ in 0..calls {
            let pause = millis(rng, 0, 600);
            match rng.random_range(0..100) {
                0..45 => self.submit(rng).await,
                45..60 => self.get(rng).await,
                60..72 => self.wait(rng).await,
                72..90 => self.cancel(rng).await,
                _ => self.list(rng).await,
            }
            self.sim.clock.sleep(pause).await;
        }
    }

    async fn submit(&self, rng: &mut StdRng) {
        let submission = self.submission(rng);
        if rng.random_bool(0.15) {
            // Twice at once, as by a client that has lost patience.
            Event::SubmitsRaced.happened();
            tokio::join!(
                biased;
                self.submit_once(submission.clone()),
                self.submit_once(submission)
            );
        } else if rng.random_bool(0.12) {
            let patience = self.short(rng);
            if self.abandoned(self.submit_once(submission), patience).await {
                Event::SubmitAbandoned.happened();
            }
        } else {
            self.submit_once(submission).await;
        }
    }

    fn submission(&self, rng: &mut StdRng) -> Submission {
        let tag = rng.random_bool(0.75).then(|| rng.random_range(0..TAGS));
        // The same tag mostly means the same call.
        let call = match tag {
            Some(tag) if rng.random_bool(0.9) => tag,
            _ => rng.random_range(0..1_000),
        };
        let routes = &self.sim.plan.routes;
        let endpoint = routes[call as usize % routes.len()].endpoint;
        let plain = format!("{call:>20}");
        let payload = match call % 7 {
            5 => Payload {
                encoding: Encoding::Snappy,
                data: kjob_proto::snappy::compress(plain.as_bytes()).into(),
            },
            _ => Payload::binary(plain),
        };
        let mut submission = Submission::new(self.caller.owner.clone(), endpoint, payload);
        submission.tag = tag.map(|tag| format!("t{tag}").parse().expect("a tag"));
        if submission.payload.encoding == Encoding::Snappy {
            Event::PackedPayload.happened();
            if rng.random_bool(0.2) {
                submission.payload.data = "not packed".into();
            }
        }
        if rng.random_bool(0.3) {
            submission.tag_reuse = TagReuse::IfFailed;
        }
        submission.priority = Priority::new(rng.random_range(0..10)).expect("a priority");
        if rng.random_bool(0.2) {
            submission.delay = millis(rng, 1, 4_000);
        }
        if rng.random_bool(0.2) {
            submission.timeout = Some(millis(rng, 20, 4_000));
        }
        if rng.random_bool(0.3) {
            submission.retention = Some(millis(rng, 0, 10_000));
        }
        submission.remove_on_complete = rng.random_bool(0.25);
        if rng.random_bool(0.3) {
            submission.callback_url = Some("http://hooks.example.com/".into());
        }
        submission
    }

    async fn submit_once(&self, submission: Submission) {
        let before = self.before(submission.tag.as_ref());
        let answer = self.engine.submit(submission.clone()).await;
        self.sim.note(format_args!(
            "{} submits {:?} to {}: {answer:?}",
            self.caller.owner, submission.tag, submission.endpoint
        ));
        let present = self.sim.present();
        let mut history = self.sim.history();
        let route = history.plan.rounds[present.round].gone;
        let gone = route.map(|gone| history.plan.routes[gone].endpoint);
        let is_explained = match &answer {
            Ok(accepted) => {
                history.was_accepted(&submission, accepted, &before);
                if accepted.existing && before.busy {
                    Event::ExistingThoughBusy.happened();
                }
                true
            }
            Err(SubmitError::TagConflict { id, difference, .. }) => {
                history.was_conflict(&submission, *id, *difference);
                true
            }
            Err(SubmitError::Busy {
                what, found, limit, ..
            }) => {
                match *what {
                    "queued jobs" => Event::BusyJobs.happened(),
                    "queued jobs of one user" => Event::BusyJobsOfOwner.happened(),
                    "stored jobs" => Event::BusyStored.happened(),
                    "stored jobs of one user" => Event::BusyStoredOfOwner.happened(),
                    "stored bytes" => Event::BusyBytes.happened(),
                    _ => Event::BusyBytesOfOwner.happened(),
                }
                found > limit
            }
            Err(SubmitError::Draining) => {
                Event::RefusedDraining.happened();
                present.draining
            }
            Err(SubmitError::UnknownEndpoint(endpoint)) => {
                Event::RefusedUnserved.happened();
                gone == Some(endpoint.as_str())
            }
            Err(SubmitError::BadPayload { .. }) => {
                Event::RefusedPayload.happened();
                submission.payload.data == "not packed"
            }
            Err(SubmitError::Store(_) | SubmitError::Stopped) => may_fail(&self.sim),
            Err(_) => false,
        };
        if !is_explained {
            history.violated(format_args!("a submit was answered with {answer:?}"));
        }
    }

    async fn get(&self, rng: &mut StdRng) {
        let Some(key) = self.key(rng) else { return };
        if rng.random_bool(0.1) {
            let patience = self.short(rng);
            if self
                .abandoned(self.engine.get(&self.caller, &key), patience)
                .await
            {
                Event::OtherAbandoned.happened();
            }
            return;
        }
        let before = self.before(tag_of(&key));
        let answer = self.engine.get(&self.caller, &key).await;
        self.looked("gets", &key, &answer, &before);
        if let Ok(Some(job)) = &answer
            && job.state.phase == Phase::Done
            && self.caller.owner == job.header.owner
        {
            self.deliver(job).await;
        }
    }

    async fn deliver(&self, job: &Job) {
        let now = self.sim.clock.now();
        if let Some(known) = self.sim.history().jobs.get_mut(&job.header.id) {
            known.delivered.get_or_insert(now);
        }
        self.failed("delivered", self.engine.delivered(job).await.err());
    }

    async fn wait(&self, rng: &mut StdRng) {
        let Some(key) = self.key(rng) else { return };
        let patience = if rng.random_bool(0.3) {
            Duration::from_secs(600)
        } else {
            millis(rng, 0, 5_000)
        };
        let wait = self.engine.wait(&self.caller, &key, patience);
        if rng.random_bool(0.1) {
            let short = self.short(rng);
            if self.abandoned(wait, short).await {
                Event::WaitAbandoned.happened();
            }
            return;
        }
        let mut before = self.before(tag_of(&key));
        // Who waits is told of the end even if the job has expired by then.
        before.wall = Timestamp::default();
        let answer = wait.await;
        self.looked("has waited for", &key, &answer, &before);
        if let Ok(job) = &answer {
            let patience = patience.as_micros() as u64;
            let mut history = self.sim.history();
            history.was_waited(job.as_ref(), &before, patience);
        }
    }

    fn looked(
        &self,
        how: &str,
        key: &JobKey,
        answer: &Result<Option<Job>, StoreError>,
        before: &Before,
    ) {
        let state = answer.as_ref().map(|job| job.as_ref().map(|job| job.state));
        self.sim.note(format_args!(
            "{} {how} {key:?}: {state:?}",
            self.caller.owner
        ));
        match answer {
            Ok(job) => {
                let mut history = self.sim.history();
                history.was_found(&self.caller, key, job.as_ref(), before);
            }
            Err(error) => self.failed("a look", Some(error.clone())),
        }
    }

    async fn cancel(&self, rng: &mut StdRng) {
        let Some(key) = self.key(rng) else { return };
        let asked = match &key {
            JobKey::Id(id) => Some(*id),
            JobKey::Tag(_) => None,
        };
        {
            let mut history = self.sim.history();
            match &key {
                JobKey::Id(id) if history.sees(&self.caller, *id) => {
                    if let Some(known) = history.jobs.get_mut(id) {
                        known.cancel_asked = true;
                    }
                }
                JobKey::Id(_) => {}
                JobKey::Tag(tag) => {
                    let name = (self.caller.owner.clone(), tag.clone());
                    history.tags_cancelled.insert(name);
                }
            }
        }
        let cancel = self.engine.cancel(&self.caller, &key);
        if rng.random_bool(0.1) {
            let patience = self.short(rng);
            if self.abandoned(cancel, patience).await {
                Event::OtherAbandoned.happened();
            }
            return;
        }
        let before = self.before(tag_of(&key));
        let answer = cancel.await;
        self.sim.note(format_args!(
            "{} cancels {key:?}: {answer:?}",
            self.caller.owner
        ));
        match answer {
            Ok(outcome) => {
                let mut history = self.sim.history();
                history.was_cancelled(&self.caller, &key, asked, outcome, &before);
            }
            Err(error) => self.failed("a cancel", Some(error)),
        }
    }

    async fn list(&self, rng: &mut StdRng) {
        let before = self.before(None);
        let mut filter = Filter {
            limit: rng.random_range(1..30),
            ..Filter::ALL
        };
        if self.caller.admin {
            Event::AdminLooked.happened();
        }
        let mut jobs = Vec::new();
        loop {
            let page = match self.engine.list(&self.caller, filter.clone()).await {
                Ok(page) => page,
                Err(error) => return self.failed("a list", Some(error)),
            };
            if page.jobs.len() > filter.limit {
                let found = page.jobs.len();
                let mut history = self.sim.history();
                history.violated(format_args!("{found} listed of {}", filter.limit));
            }
            jobs.extend(page.jobs);
            match page.next {
                Some(last) => filter.after = Some(last),
                None => break,
            }
        }
        Event::ListedAll.happened();
        let count = jobs.len();
        self.sim
            .note(format_args!("{} lists {count} jobs", self.caller.owner));
        self.sim.history().was_listed(&self.caller, &jobs, &before);
    }

    /// A job to ask about: mostly one's own.
    fn key(&self, rng: &mut StdRng) -> Option<JobKey> {
        if rng.random_bool(0.3) {
            let tag = format!("t{}", rng.random_range(0..TAGS));
            return Some(JobKey::Tag(tag.parse().expect("a tag")));
        }
        let history = self.sim.history();
        let mine: Vec<JobId> = if rng.random_bool(0.1) {
            history.accepted.clone()
        } else {
            let mine = history.accepted.iter().rev();
            let mine = mine.filter(|id| history.sees(&self.caller, **id));
            mine.take(12).copied().collect()
        };
        let id = *mine.get(rng.random_range(0..mine.len().max(1)))?;
        if !history.sees(&self.caller, id) {
            Event::NotTheirs.happened();
        }
        Some(JobKey::Id(id))
    }

    fn before(&self, tag: Option<&JobTag>) -> Before {
        let wall = self.sim.clock.now();
        let stats = self.engine.stats();
        let busy = stats.queued >= self.sim.plan.config.max_queued;
        let mut history = self.sim.history();
        history.who_waits_is_counted(stats.queued);
        if stats.whole < stats.live {
            Event::Dozed.happened();
        }
        let mut before = history.before(&self.caller.owner, tag, wall);
        before.busy = busy;
        before
    }

    /// A time that a call may well take.
    fn short(&self, rng: &mut StdRng) -> u64 {
        let latency = self.sim.present().trouble.latency_max;
        rng.random_range(0..=latency * 3)
    }

    /// Makes a call, but leaves it alone after some microseconds; says whether it was.
    async fn abandoned<T>(&self, call: impl Future<Output = T>, patience: u64) -> bool {
        tokio::select! {
            biased;
            _ = call => false,
            () = self.sim.clock.micros(patience) => true,
        }
    }

    fn failed(&self, what: &str, error: Option<StoreError>) {
        if let Some(error) = error
            && !may_fail(&self.sim)
        {
            let mut history = self.sim.history();
            history.violated(format_args!("{what} failed: {error}"));
        }
    }
}

/// Whether a step may be answered with an error.
pub(crate) fn may_fail(sim: &Sim) -> bool {
    let present = sim.present();
    let reliable = sim.plan.rounds[present.round].is_reliable();
    !reliable || present.closing || present.failed
}

fn tag_of(key: &JobKey) -> Option<&JobTag> {
    match key {
        JobKey::Id(_) => None,
        JobKey::Tag(tag) => Some(tag),
    }
}
