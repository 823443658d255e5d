//! Taking a job in.

use std::sync::Arc;
use std::task::{Context, Waker};

use kjob_proto::{Encoding, Text};

use super::budget::UnderWay;
use super::cluster::Cluster;
use super::live::Live;
use super::log::job_log;
use super::payload::{is_text, unpack, unpacked_len};
use super::place::Place;
use super::registry::Route;
use super::schemas::Side;
use super::submission::{Accepted, Submission, SubmitError};
use super::to_end::ToEnd;
use super::{Engine, Inner, RETRY_AFTER};
use crate::{
    Finish, Header, JobOptions, JobTag, Lease, LiveJob, NewJob, Owner, Parts, Payload, Phase,
    QueryId, Shard, State, StoreError, Submitted, TagReuse, Waiting, WaitingCounts,
};

impl Engine {
    /// Takes a job in. It is durable when this answers; a free worker has then begun it.
    ///
    /// Submitting the same call with the same tag again answers with the job that is there,
    /// whatever its state, so a caller that lost an answer simply asks again.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, SubmitError> {
        // To its end, so that a caller who goes away does not leave a stored job unqueued.
        ToEnd::new(self.inner.clone().submit(submission)).await
    }
}

impl Inner {
    async fn submit(self: Arc<Self>, submission: Submission) -> Result<Accepted, SubmitError> {
        let Some(route) = self.route_of(&submission.endpoint) else {
            let refusal = match self.is_draining() {
                true => SubmitError::Draining,
                false => SubmitError::UnknownEndpoint(submission.endpoint),
            };
            self.unrouted.refused(&refusal);
            return Err(refusal);
        };
        let (observer, owner) = (route.observer.clone(), submission.owner.clone());
        let outcome = self.submit_to(route, submission).await;
        match &outcome {
            Ok(accepted) => observer.submitted(&owner, accepted),
            Err(error) => {
                if matches!(error, SubmitError::Store(StoreError::Full)) {
                    self.budget.note_short();
                }
                observer.refused(error);
            }
        }
        outcome
    }

    async fn submit_to(
        self: &Arc<Self>,
        route: Route,
        submission: Submission,
    ) -> Result<Accepted, SubmitError> {
        if self.is_draining() {
            return Err(SubmitError::Draining);
        }
        let unpacked = self.check_payload(&submission, &route).await?;
        let _under_way = self.admit(&submission).await?;
        let owner = submission.owner.clone();
        let attachment = submission.attachment.clone();
        let (header, packed, tag_reuse) = match self.new_header(submission).await {
            Ok(new) => new,
            Err(error) => {
                self.room.leave(&owner);
                return Err(error);
            }
        };
        let job = NewJob {
            header,
            payload: packed.data,
            tag_reuse,
        };
        let live = Live::new(job.header.clone(), attachment);
        self.store_and_begin(job, live, route, unpacked).await
    }

    /// Checks the payload, and gives it as it is for the handler.
    async fn check_payload(
        &self,
        submission: &Submission,
        route: &Route,
    ) -> Result<Payload, SubmitError> {
        let payload = submission.payload.clone();
        let schemas = route.options.schemas.clone();
        let limits = self.config.limits;
        let len = unpacked_len(&payload, &limits);
        let check = move || {
            let unpacked = unpack(&payload, &limits)?;
            if let Some(schemas) = schemas {
                schemas.check(Side::Request, &unpacked, &limits)?;
            } else if unpacked.encoding == Encoding::Json && !is_text(&unpacked) {
                return Err(Text::from_static("JSON text is UTF-8"));
            }
            Ok(unpacked)
        };
        let checked = self.config.heavy.run(len, check).await;
        checked
            .ok_or(SubmitError::Stopped)?
            .map_err(|why| SubmitError::BadPayload {
                endpoint: submission.endpoint.clone(),
                encoding: submission.payload.encoding,
                why,
            })
    }

    /// Checks the budgets, and counts the job as waiting, and as under way until what this gives is
    /// dropped.
    async fn admit(&self, submission: &Submission) -> Result<Option<UnderWay>, SubmitError> {
        let owner = &submission.owner;
        let stored = || self.store.usage(owner);
        let bytes = submission.payload.data.len();
        let admitted = self.budget.admit(stored, owner, bytes);
        let admitted = admitted.and_then(|under_way| {
            let admitted = self
                .room
                .admit(owner, self.waiting_elsewhere(owner), self.now());
            admitted.map(|()| under_way)
        });
        let refusal = match admitted {
            Ok(under_way) => return Ok(Some(under_way)),
            Err(busy) => busy,
        };
        // A job that is there already costs nothing: who lost an answer is to get it even now.
        if let (Some(tag), TagReuse::Never) = (&submission.tag, submission.tag_reuse)
            && let find = self.store.find(owner, tag, self.now())
            && self.step(find).await?.is_some()
        {
            self.room.readmit(owner);
            return Ok(None);
        }
        Err(refusal)
    }

    /// Stores a job that counts as waiting, and begins it if a worker is free.
    async fn store_and_begin(
        self: &Arc<Self>,
        job: NewJob,
        live: Arc<Live>,
        route: Route,
        unpacked: Payload,
    ) -> Result<Accepted, SubmitError> {
        self.table.insert(&live);
        let delayed = job.header.options.not_before.is_some();
        let id = job.header.id;
        let place = if delayed || !self.has_lease_for(id) {
            None
        } else {
            Place::try_take(self, route.id, id, &job.header.owner)
        };
        // Kept only for a run that begins now: a job that waits has its payload in the store.
        let mut begun = place.map(|place| (place, unpacked));
        let submitted = self.step(self.store.submit(job, begun.is_some())).await;
        let refusal = match submitted {
            Ok(Submitted::Created(state)) => {
                log_accepted(&live.header);
                let accepted = accepted(&live.header, false);
                self.begin_stored(live, route, state, begun);
                return Ok(accepted);
            }
            Ok(Submitted::Existing(job)) => Ok(accepted(&job.header, true)),
            Ok(Submitted::Conflict { id, difference }) => {
                let tag = live.header.tag.clone();
                Err(SubmitError::TagConflict {
                    tag,
                    id,
                    difference,
                })
            }
            Err(error) if error.leaves_unknown() => {
                if let Some((place, _)) = begun.as_mut().filter(|_| self.is_sharded()) {
                    place.leave_room();
                }
                tokio::spawn(self.clone().find_out(live, route, begun));
                return Err(error.into());
            }
            Err(error) => Err(error.into()),
        };
        self.withdraw(&live);
        refusal
    }

    /// Goes on with a job that the store has.
    fn begin_stored(
        self: &Arc<Self>,
        live: Arc<Live>,
        route: Route,
        state: State,
        begun: Option<(Place, Payload)>,
    ) {
        let newest = live.observe(state);
        if live.is_over() {
            return;
        }
        self.table.name(&live);
        // The one that a submit begins. A later one is somebody else's, where the answer was long in coming.
        let is_first = state.lease == Lease(1);
        let begun = begun.filter(|_| is_first || !self.is_shared());
        match begun {
            Some((mut place, payload)) if state.phase == Phase::Running => {
                place.come_back();
                self.no_longer_waits(&live);
                let cooperative = route.options.cooperative;
                let run = self.clone().run(live, route, state, payload, place);
                if cooperative {
                    begin_here(run);
                } else {
                    tokio::spawn(run);
                }
            }
            // It was found out about late, and cancelled meanwhile: the handler need not begin.
            Some(_) if state.phase == Phase::Cancelling => {
                self.no_longer_waits(&live);
                let inner = self.clone();
                tokio::spawn(async move { inner.finish(&live, state.lease, Finish::Stop).await });
            }
            // Another node may have been quicker than the answer.
            _ if let Some(cluster) = self.cluster_of(live.header.id) => {
                self.leave_to_all(cluster, &live, Lease::default());
            }
            // A cancel may have come first.
            _ if newest.phase == Phase::Queued => self.enqueue(&live, &route),
            _ => {}
        }
    }

    /// Finds out whether a submit that was answered with an error was done all the same: then the
    /// job is there, and runs like any other.
    async fn find_out(
        self: Arc<Self>,
        live: Arc<Live>,
        route: Route,
        begun: Option<(Place, Payload)>,
    ) {
        let id = live.header.id;
        loop {
            let get = self.store.get(id, Parts::NONE, self.now());
            match self.step(get).await {
                Ok(Some(job)) if job.state.phase.is_terminal() => {
                    drop(begun);
                    return self.settle_as_stored(&live, Lease::default()).await;
                }
                Ok(Some(job)) => return self.begin_stored(live, route, job.state, begun),
                Ok(None) => return self.withdraw(&live),
                Err(error) if self.is_hopeless(&error) => return self.withdraw(&live),
                Err(_) => self.pause_between_tries(RETRY_AFTER).await,
            }
        }
    }

    /// There is no such job after all.
    pub(super) fn withdraw(&self, live: &Live) {
        self.no_longer_waits(live);
        self.table.remove(live);
        live.void();
    }

    async fn new_header(
        &self,
        submission: Submission,
    ) -> Result<(Header, Payload, TagReuse), SubmitError> {
        let now = self.now();
        let shard = match &submission.tag {
            Some(tag) if self.is_sharded() => {
                let shard = self.store.shard_for(&submission.owner, tag, now);
                self.step(shard).await?
            }
            _ => self.any_shard(),
        };
        // Where each submit would wait for a shard that is away, there would soon be no room for those of others.
        if self.is_sharded() && !self.cluster(shard).is_some_and(Cluster::is_trusted) {
            return Err(away(shard).into());
        }
        let id = self.step(self.ids.next(shard)).await?;
        let (tag, query_id) = self.with_rng(|rng| {
            let tag = submission.tag.unwrap_or_else(|| JobTag::generate(id, rng));
            let query_id = submission.trace.map(|trace| trace.query_id);
            (tag, query_id.unwrap_or_else(|| QueryId::random(rng)))
        });
        let not_before = (!submission.delay.is_zero()).then(|| now.after(submission.delay));
        let header = Header {
            id,
            tag,
            owner: submission.owner,
            endpoint: submission.endpoint,
            encoding: submission.payload.encoding,
            query_id,
            parent_span: submission.trace.map_or(0, |trace| trace.span_id),
            received_at: now,
            source_ip: submission.source_ip,
            options: JobOptions {
                priority: submission.priority,
                not_before,
                timeout: submission.timeout,
                retention: submission.retention.unwrap_or(self.config.retention),
                remove_on_complete: submission.remove_on_complete,
                user_data: submission.user_data,
                callback_url: submission.callback_url,
            },
        };
        Ok((header, submission.payload, submission.tag_reuse))
    }

    /// Queues a job that counts as waiting, in a store that is shared with nobody, and starts what can start.
    pub(super) fn enqueue(self: &Arc<Self>, live: &Arc<Live>, route: &Route) {
        self.room
            .enqueue(self.waiting(&live.header, route), live.state().not_before);
        self.dispatch();
        self.doze(live);
    }

    /// How many jobs wait in a store that others share.
    pub(super) fn waiting_elsewhere(&self, owner: &Owner) -> WaitingCounts {
        let mut sum = WaitingCounts::default();
        for cluster in self.clusters() {
            let waiting = cluster.store.waiting(owner);
            sum.total = sum.total.saturating_add(waiting.total);
            sum.owner = sum.owner.saturating_add(waiting.owner);
        }
        sum
    }

    pub(super) fn waiting(&self, header: &Header, route: &Route) -> Waiting {
        Waiting {
            id: header.id,
            owner: header.owner.clone(),
            route: route.id,
            priority: header.options.priority,
            since: self.now(),
        }
    }

    pub(super) fn waiting_of(&self, job: &LiveJob, route: &Route) -> Waiting {
        Waiting {
            id: job.id,
            owner: job.owner.clone(),
            route: route.id,
            priority: job.priority,
            since: self.now(),
        }
    }

    /// Takes the job out of the count of those that wait.
    pub(super) fn no_longer_waits(&self, live: &Live) {
        if live.stop_waiting() {
            self.room.leave(&live.header.owner);
        }
    }
}

/// Does what a run can do at once, and spawns the rest: a job that waits for nothing is on its way into the
/// store before its submit is answered, and not after.
fn begin_here(run: impl Future<Output = ()> + Send + 'static) {
    let mut run = Box::pin(run);
    // Whatever it waits for is told whom to wake when the task has its first turn.
    let mut nobody = Context::from_waker(Waker::noop());
    if run.as_mut().poll(&mut nobody).is_pending() {
        tokio::spawn(run);
    }
}

/// The shard that a submit has to go to cannot be reached.
fn away(shard: Shard) -> StoreError {
    let why = format!("there is no lease on shard {shard} for now");
    StoreError::Io {
        doing: "store a job",
        source: Arc::new(std::io::Error::new(std::io::ErrorKind::NotConnected, why)),
    }
}

fn accepted(header: &Header, existing: bool) -> Accepted {
    Accepted {
        id: header.id,
        tag: header.tag.clone(),
        query_id: header.query_id,
        existing,
    }
}

fn log_accepted(header: &Header) {
    job_log!(
        debug,
        header,
        endpoint = %header.endpoint,
        owner = %header.owner,
        "job accepted"
    );
}
