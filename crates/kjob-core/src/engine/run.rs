//! Running a job: from its durable start to its durable end.

use std::sync::Arc;
use std::time::Duration;

use kjob_proto::{Encoding, Text};

use super::Inner;
use super::call::{Call, Outcome};
use super::handler::{HandlerError, JobContext, JobInfo};
use super::live::{Live, Stop};
use super::log::job_log;
use super::payload::{is_text, unpack, unpacked_len};
use super::place::Place;
use super::progress::Progress;
use super::recovery;
use super::registry::{Interrupted, Route};
use super::schemas::{Schemas, Side};
use crate::{
    Finish, JobId, Lease, OnInterrupt, Output, Parts, Payload, Phase, Refused, Started, State,
    StepError, StoreError, Timestamp, Waiting,
};

/// How long a handler whose future was to be dropped may take to let go of its thread.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);

/// Results of up to so many bytes may wait for the store beside those that have places.
const SMALL_RESULT: usize = 64 << 10;

impl Inner {
    /// Starts queued jobs while there are places.
    pub(super) fn dispatch(self: &Arc<Self>) {
        if self.is_shared() {
            return self.look_for_denied();
        }
        while let Some(job) = self.room.next(self.now()) {
            let place = Place::taken(self, job.route, job.id, &job.owner);
            tokio::spawn(self.clone().start(job, place));
        }
    }

    async fn start(self: Arc<Self>, job: Waiting, place: Place) {
        let id = job.id;
        let live = match self.wake(id).await {
            Ok(Some(live)) => live,
            Ok(None) => return,
            Err(error @ StoreError::Corrupt { .. }) => {
                return self.give_up(id, &job.owner, &error);
            }
            Err(error) => {
                self.pause(&error);
                return self.room.enqueue(job, None);
            }
        };
        let Some(route) = self.route_of(&live.header.endpoint) else {
            drop(place);
            self.no_longer_waits(&live);
            return recovery::fail_unserved(&self, &live).await;
        };
        if route.id != place.route {
            // The routes were replaced while it was on its way into the queue.
            let route = route.id;
            return self.room.enqueue(Waiting { route, ..job }, None);
        }
        let started = match self.step(self.store.start(id, self.now())).await {
            // An earlier try was done, though its answer was an error.
            Err(StepError::Refused(Refused::NotQueued(_))) => self.started_before(id).await,
            other => other,
        };
        match started {
            Ok(started) => {
                if self.room.started() {
                    tracing::info!("jobs can be started again");
                }
                self.begin(live, route, started, place).await;
            }
            Err(StepError::Refused(Refused::TooEarly { not_before })) => {
                self.room.enqueue(job, Some(not_before));
            }
            // It was cancelled while it was on its way here. Whoever did that settles it, unless
            // the answer was an error.
            Err(StepError::Refused(_) | StepError::Unknown(_)) => {
                drop(place);
                self.settle_as_stored(&live, Lease::default()).await;
            }
            // All jobs wait a moment: one after another would fail the same way.
            Err(StepError::Store(error)) => {
                self.pause(&error);
                self.room.enqueue(job, None);
            }
        }
    }

    async fn started_before(&self, id: JobId) -> Result<Started, StepError> {
        let parts = Parts {
            payload: true,
            result: false,
        };
        let job = self.step(self.store.get(id, parts, self.now())).await?;
        let job = job.ok_or(StepError::Unknown(id))?;
        match job.state.phase {
            Phase::Running | Phase::Cancelling => Ok(Started {
                state: job.state,
                payload: job.payload,
            }),
            phase => Err(StepError::Refused(Refused::Ended(phase))),
        }
    }

    fn pause(self: &Arc<Self>, error: &StoreError) {
        let pause = self.room.pause();
        if pause.is_news {
            tracing::error!(%error, "no jobs can be started; will try again");
        }
        if pause.begins {
            let inner = self.clone();
            self.clone().in_background(async move {
                inner.clock.sleep(super::RETRY_AFTER).await;
                inner.room.resume();
                inner.dispatch();
            });
        }
    }

    /// Runs a job that the store says is started.
    pub(super) async fn begin(
        self: Arc<Self>,
        live: Arc<Live>,
        route: Route,
        started: Started,
        place: Place,
    ) {
        let state = started.state;
        live.observe(state);
        self.no_longer_waits(&live);
        if state.phase == Phase::Cancelling {
            // The start was found out about late, and the handler need not begin any more.
            return self.finish(&live, state.lease, Finish::Stop).await;
        }
        let Some(data) = started.payload else {
            job_log!(
                error,
                live.header,
                "the job's payload is damaged in the store"
            );
            let reason = Text::from_static("the payload is damaged in the store");
            return self.finish(&live, state.lease, Finish::Fail(reason)).await;
        };
        let payload = Payload {
            encoding: live.header.encoding,
            data,
        };
        let limits = self.config.limits;
        let len = unpacked_len(&payload, &limits);
        let heavy = &self.config.heavy;
        match heavy.run(len, move || unpack(&payload, &limits)).await {
            Some(Ok(unpacked)) => self.run(live, route, state, unpacked, place).await,
            Some(Err(why)) => self.finish(&live, state.lease, Finish::Fail(why)).await,
            // The runtime ends; at the next start the job counts as interrupted.
            None => {}
        }
    }

    /// Runs a job that was started, with its unpacked payload, and makes its end durable. The place is held until
    /// then where its result is large or many are ending already, so that results that wait for the store are bounded.
    pub(super) async fn run(
        self: Arc<Self>,
        live: Arc<Live>,
        route: Route,
        state: State,
        payload: Payload,
        mut place: Place,
    ) {
        if !self.has_lease_for(live.header.id) || (self.is_shared() && self.is_draining()) {
            // It may be another node's by now, or is to be soon.
            return self.finish(&live, state.lease, self.not_begun()).await;
        }
        route.observer.started(&live.header, &state);
        let (finish, stuck) = self.call(&live, &route, &state, payload).await;
        live.end_run();
        let now = self.now();
        route.observer.returned(&live.header, &state, &finish, now);
        let is_small = match &finish {
            Finish::Complete(output) => output.payload.data.len() <= SMALL_RESULT,
            _ => true,
        };
        if is_small && stuck.is_none() {
            place.begin_ending();
        }
        self.finish_in(&mut place, &live, state.lease, finish).await;
        match stuck {
            Some(call) => place.held_by(call),
            None => drop(place),
        }
    }

    /// Makes the end of a run durable, which a shard that is away may hold up for long.
    async fn finish_in(
        self: &Arc<Self>,
        place: &mut Place,
        live: &Arc<Live>,
        lease: Lease,
        finish: Finish,
    ) {
        let finished = self.finish(live, lease, finish);
        let cluster = self.cluster_of(live.header.id);
        match cluster.filter(|_| self.is_sharded()) {
            None => finished.await,
            Some(cluster) => {
                let mut finished = std::pin::pin!(finished);
                tokio::select! {
                    biased;
                    () = &mut finished => return,
                    () = cluster.lost() => {}
                }
                place.leave_room();
                finished.await;
            }
        }
    }

    /// Gives how the run is over, and the call if that does not let go of its thread.
    async fn call(
        self: &Arc<Self>,
        live: &Arc<Live>,
        route: &Route,
        state: &State,
        payload: Payload,
    ) -> (Finish, Option<Call>) {
        job_log!(debug, live.header, attempt = state.attempt, "job started");
        let payload = match self.for_handler(route, payload).await {
            Ok(payload) => payload,
            Err(why) => return (Finish::Fail(why), None),
        };
        let deadline = self.deadline(live, route, state);
        let progress = Progress::new();
        let stop = live.begin_run();
        if self.is_interrupting() {
            live.stop(Stop::Drain);
        }
        let job = Arc::new(JobInfo {
            id: live.header.id,
            tag: live.header.tag.clone(),
            owner: live.header.owner.clone(),
            endpoint: live.header.endpoint.clone(),
            query_id: live.header.query_id,
            attempt: state.attempt,
            lease: state.lease,
            deadline,
            attachment: live.attachment.clone(),
        });
        let context = JobContext {
            job,
            stop: stop.clone(),
            progress: progress.clone(),
        };

        let runtime = self.config.handlers.as_ref();
        let (inner, id) = (self.clone(), live.header.id);
        let may_begin = move || inner.has_lease_for(id);
        let mut call = Call::begin(route, context, payload, runtime, may_begin);
        let mut reports = std::pin::pin!(self.report(live, state, &progress));
        let mut due = std::pin::pin!(async {
            match deadline {
                Some(at) => self.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        });
        let mut grace_over = std::pin::pin!(async {
            stop.cancelled().await;
            self.clock.sleep(self.config.stop_grace).await;
        });
        let mut past_deadline = false;
        let mut stuck = false;
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = call.over() => break outcome,
                () = &mut due, if !past_deadline => {
                    past_deadline = true;
                    live.stop(Stop::Deadline);
                }
                () = &mut grace_over => {
                    call.abort();
                    break tokio::select! {
                        biased;
                        outcome = call.over() => outcome,
                        () = self.clock.sleep(LET_GO_WITHIN) => {
                            stuck = true;
                            Outcome::Dropped
                        }
                    };
                }
                () = &mut reports => {}
            }
        };
        if stuck {
            job_log!(
                error,
                live.header,
                endpoint = %live.header.endpoint,
                "the job's handler was told to stop and blocks its thread; its place is not free"
            );
        }
        let finish = self.judge(live, route, state, outcome, deadline).await;
        (finish, stuck.then_some(call))
    }

    /// What the handler is given: in the encoding that the route asks for.
    async fn for_handler(&self, route: &Route, payload: Payload) -> Result<Payload, Text> {
        match (route.options.encoding, &route.options.schemas) {
            (Some(wanted), Some(schemas)) if wanted != payload.encoding => {
                self.turn(schemas, Side::Request, payload, wanted).await
            }
            (Some(wanted), None) if wanted != payload.encoding => Err(Text::from(format!(
                "the endpoint takes {wanted} only, the job was submitted as {}",
                payload.encoding
            ))),
            _ => Ok(payload),
        }
    }

    /// The same record in another encoding.
    async fn turn(
        &self,
        schemas: &Arc<Schemas>,
        side: Side,
        payload: Payload,
        wanted: Encoding,
    ) -> Result<Payload, Text> {
        let (schemas, limits) = (schemas.clone(), self.config.limits);
        let len = payload.data.len();
        let turn = move || schemas.turn(side, &payload, wanted, &limits);
        let turned = self.config.heavy.run(len, turn).await;
        turned.unwrap_or_else(|| Err(Text::from_static("the server ends")))
    }

    fn deadline(&self, live: &Live, route: &Route, state: &State) -> Option<Timestamp> {
        let limits = [live.header.options.timeout, route.options.timeout];
        let timeout = limits.into_iter().flatten().min()?;
        Some(state.started_at?.after(timeout))
    }

    /// Brings the handler's reports to the store, not too often. Never completes.
    async fn report(&self, live: &Live, state: &State, progress: &Progress) {
        let mut seen = state.progress;
        let mut last = state.started_at.unwrap_or_default();
        loop {
            progress.above(seen).await;
            let interval = self.config.progress_interval;
            let passed = self.now().since(last);
            self.clock.sleep(interval.saturating_sub(passed)).await;
            seen = progress.above(seen).await;
            last = self.now();
            let id = live.header.id;
            let step = self.store.progress(id, state.lease, seen, last);
            match self.step(step).await {
                Ok(state) => {
                    live.observe(state);
                    let header = &live.header;
                    self.tell(&header.endpoint, |told| told.progressed(header, &state));
                }
                Err(error) => {
                    job_log!(debug, live.header, %error, "progress was not stored");
                }
            }
        }
    }

    /// What the outcome of a handler makes of the job.
    async fn judge(
        &self,
        live: &Live,
        route: &Route,
        state: &State,
        outcome: Outcome,
        deadline: Option<Timestamp>,
    ) -> Finish {
        let error = match outcome {
            Outcome::Returned(Ok(result)) => return self.result(live, route, result).await,
            Outcome::Returned(Err(error)) => error,
            Outcome::Dropped => HandlerError::Stopped,
            Outcome::Panicked => {
                job_log!(error, live.header, "the job's handler panicked");
                return Finish::Fail(Text::from(
                    "the handler panicked; the server's log says where",
                ));
            }
        };
        match live.stopped_by() {
            Some(Stop::Cancel) => return Finish::Stop,
            Some(Stop::Deadline) => {
                let limit = deadline
                    .zip(state.started_at)
                    .map(|(end, start)| end.since(start));
                let millis = limit.unwrap_or_default().as_millis();
                return Finish::Fail(Text::from(format!("deadline: not done within {millis} ms")));
            }
            Some(Stop::Drain) => {
                return Finish::Interrupt {
                    reason: Text::from("interrupted: the server was stopped; outcome unknown"),
                    then: self.after_interrupt(route, state, false),
                };
            }
            Some(Stop::Lost) => {
                return Finish::Interrupt {
                    reason: Text::from("interrupted: the node was cut off; outcome unknown"),
                    then: self.after_interrupt(route, state, true),
                };
            }
            None => {}
        }
        match error {
            HandlerError::Failed(message) => Finish::Fail(bounded(message)),
            HandlerError::Transient(reason) => Finish::Interrupt {
                reason: bounded(reason),
                then: self.after_interrupt(route, state, true),
            },
            HandlerError::Stopped => {
                Finish::Fail(Text::from("the handler stopped though nobody asked it to"))
            }
        }
    }

    /// Checks a result, and brings it into the encoding family of the job's payload.
    async fn result(&self, live: &Live, route: &Route, output: Output) -> Finish {
        let wanted = live.header.encoding.reply();
        let Output {
            payload: result,
            info,
        } = output;
        // Looked at before and after it is turned, so that turning has a bound too.
        if let Some(failure) = self.too_large(&result) {
            return failure;
        }
        let turned = match &route.options.schemas {
            Some(schemas) if result.encoding != wanted => {
                self.turn(schemas, Side::Response, result, wanted).await
            }
            _ => Ok(result),
        };
        match turned {
            Err(why) => Finish::Fail(Text::from(format!(
                "the handler's result is no valid response of {}: {why}",
                live.header.endpoint
            ))),
            Ok(result) if result.encoding != wanted && !route.options.any_result => {
                Finish::Fail(Text::from(format!(
                    "the handler gave a {} result for a {} job",
                    result.encoding, live.header.encoding
                )))
            }
            Ok(result) if result.encoding == Encoding::Json && !is_text(&result) => {
                Finish::Fail(Text::from("the handler's JSON result is not UTF-8"))
            }
            Ok(payload) => match self.too_large(&payload) {
                Some(failure) => failure,
                None => Finish::Complete(Output { payload, info }),
            },
        }
    }

    fn too_large(&self, result: &Payload) -> Option<Finish> {
        let (found, limit) = (result.data.len(), self.config.max_result);
        (found > limit).then(|| {
            Finish::Fail(Text::from(format!(
                "result too large: {found} bytes, more than the limit of {limit}"
            )))
        })
    }

    /// The route's rule for a run that was cut off. `charged` is whether it was an attempt.
    pub(super) fn after_interrupt(
        &self,
        route: &Route,
        state: &State,
        charged: bool,
    ) -> OnInterrupt {
        match route.options.on_interrupt {
            Interrupted::Fail => OnInterrupt::Fail,
            Interrupted::Retry { max_attempts } => {
                let now = self.now();
                let not_before = if charged {
                    now.after(self.backoff(state.attempt))
                } else {
                    now
                };
                OnInterrupt::Retry {
                    max_attempts,
                    not_before,
                    charged,
                }
            }
        }
    }

    /// The wait after the `attempt`th attempt: doubling, up to a bound, less a jitter of up to half.
    fn backoff(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(30);
        let full = self.config.retry_backoff.saturating_mul(1 << doublings);
        let full = full.min(self.config.retry_backoff_max);
        let jitter = self.with_rng(|rng| rand::RngExt::random_range(rng, 0.5..=1.0));
        full.mul_f64(jitter)
    }
}

/// A handler's message, cut where it is longer than a message should be: it is stored beside the
/// job and not counted as a result.
fn bounded(message: Text) -> Text {
    const LEN_MAX: usize = 16 * 1024;
    if message.len() <= LEN_MAX {
        return message;
    }
    let cut = message.floor_char_boundary(LEN_MAX);
    Text::from(format!(
        "{}… ({} bytes in all)",
        &message[..cut],
        message.len()
    ))
}
