//! Running a job: from its durable start to its durable end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use kjob_proto::{Encoding, Text};

use super::Inner;
use super::handler::{Handler, HandlerError, JobContext, JobInfo};
use super::live::{Live, Stop};
use super::log::job_log;
use super::progress::Progress;
use super::registry::{Interrupted, Route};
use super::schemas::Side;
use crate::{Finish, JobId, OnInterrupt, Payload, Refused, RouteId, State, StepError, Timestamp};

/// A place to run, given back when it is dropped.
pub(super) struct Place {
    inner: Arc<Inner>,
    route: RouteId,
}

impl Place {
    pub(super) fn try_take(inner: &Arc<Inner>, route: RouteId) -> Option<Self> {
        inner.room.try_place(route).then(|| Self {
            inner: inner.clone(),
            route,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.room.free(self.route);
        self.inner.dispatch();
    }
}

impl Inner {
    /// Starts queued jobs while there are places.
    pub(super) fn dispatch(self: &Arc<Self>) {
        while let Some((id, route)) = self.room.next(self.now()) {
            let place = Place {
                inner: self.clone(),
                route,
            };
            tokio::spawn(self.clone().start(id, place));
        }
    }

    async fn start(self: Arc<Self>, id: JobId, place: Place) {
        let Some(live) = self.table.get(id) else {
            return;
        };
        let Some(route) = self.registry.find(&live.header.endpoint).cloned() else {
            return;
        };
        match self.store.start(id, self.now()).await {
            Ok(started) => {
                if self.room.started() {
                    tracing::info!("jobs can be started again");
                }
                live.observe(started.state);
                self.no_longer_waits(&live);
                if let Some(payload) = started.payload {
                    self.run(live, route, started.state, payload, place).await;
                } else {
                    job_log!(
                        error,
                        live.header,
                        "the job's payload is damaged in the store"
                    );
                    let reason = Text::from_static("the payload is damaged in the store");
                    let finish = Finish::Fail(reason);
                    self.finish(&live, started.state.lease, finish).await;
                }
            }
            Err(StepError::Refused(Refused::TooEarly { not_before })) => {
                self.room
                    .enqueue(self.waiting(&live, &route), Some(not_before));
            }
            // It was cancelled while it was on its way here: whoever did that has settled it.
            Err(StepError::Refused(_) | StepError::Unknown(_)) => {}
            // All jobs wait a moment: one after another would fail the same way.
            Err(StepError::Store(error)) => {
                if self.room.pause(self.now().after(super::RETRY_AFTER)) {
                    tracing::error!(%error, "no jobs can be started; will try again");
                }
                self.room.enqueue(self.waiting(&live, &route), None);
            }
        }
    }

    /// Runs a job that was started, and makes its end durable. The place is held until then, so
    /// that results that wait for the store are bounded.
    pub(super) async fn run(
        self: Arc<Self>,
        live: Arc<Live>,
        route: Route,
        state: State,
        payload: Bytes,
        place: Place,
    ) {
        let payload = Payload {
            encoding: live.header.encoding,
            data: payload,
        };
        let finish = self.call(&live, &route, &state, payload).await;
        live.end_run();
        self.finish(&live, state.lease, finish).await;
        drop(place);
    }

    async fn call(
        self: &Arc<Self>,
        live: &Arc<Live>,
        route: &Route,
        state: &State,
        payload: Payload,
    ) -> Finish {
        job_log!(debug, live.header, attempt = state.attempt, "job started");
        let payload = match self.for_handler(route, &payload) {
            Ok(payload) => payload,
            Err(why) => return Finish::Fail(why),
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
            deadline,
        });
        let context = JobContext {
            job,
            stop: stop.clone(),
            progress: progress.clone(),
        };

        let mut handler = Guarded::new(route.handler.clone(), context, payload);
        let mut reports = std::pin::pin!(self.report(live, state, &progress));
        let mut due = std::pin::pin!(async {
            match deadline {
                Some(at) => self.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        });
        let mut grace_over = std::pin::pin!(async {
            stop.cancelled().await;
            self.clock
                .sleep_until(self.now().after(self.config.stop_grace))
                .await;
        });
        let mut past_deadline = false;
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut handler => break outcome,
                () = &mut due, if !past_deadline => {
                    past_deadline = true;
                    live.stop(Stop::Deadline);
                }
                () = &mut grace_over => break Outcome::Dropped,
                () = &mut reports => {}
            }
        };
        handler.drop_quietly();
        self.judge(live, route, state, outcome, deadline)
    }

    /// What the handler is given: unpacked, and in the encoding that the route asks for.
    fn for_handler(&self, route: &Route, payload: &Payload) -> Result<Payload, Text> {
        let unpacked = self.unpack(payload)?;
        match (route.options.encoding, &route.options.schemas) {
            (Some(wanted), Some(schemas)) if wanted != unpacked.encoding => {
                schemas.turn(Side::Request, &unpacked, wanted, &self.config.limits)
            }
            (Some(wanted), None) if wanted != unpacked.encoding => Err(Text::from(format!(
                "the endpoint takes {wanted} only, the job was submitted as {}",
                payload.encoding
            ))),
            _ => Ok(unpacked),
        }
    }

    pub(super) fn unpack(&self, payload: &Payload) -> Result<Payload, Text> {
        if payload.encoding != Encoding::Snappy {
            return Ok(payload.clone());
        }
        kjob_proto::snappy::decompress(&payload.data, &self.config.limits)
            .map(Payload::binary)
            .map_err(|error| Text::from(error.to_string()))
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
            self.clock
                .sleep_until(last.after(self.config.progress_interval))
                .await;
            seen = progress.above(seen).await;
            last = self.now();
            match self
                .store
                .progress(live.header.id, state.lease, seen, last)
                .await
            {
                Ok(state) => {
                    live.observe(state);
                }
                Err(error) => {
                    job_log!(debug, live.header, %error, "progress was not stored");
                }
            }
        }
    }

    /// What the outcome of a handler makes of the job.
    fn judge(
        &self,
        live: &Live,
        route: &Route,
        state: &State,
        outcome: Outcome,
        deadline: Option<Timestamp>,
    ) -> Finish {
        let error = match outcome {
            Outcome::Returned(Ok(result)) => return self.result(live, route, result),
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
    fn result(&self, live: &Live, route: &Route, result: Payload) -> Finish {
        let wanted = live.header.encoding.reply();
        let limits = &self.config.limits;
        let turned = match &route.options.schemas {
            Some(schemas) if result.encoding != wanted => {
                schemas.turn(Side::Response, &result, wanted, limits)
            }
            _ => Ok(result),
        };
        match turned {
            Err(why) => Finish::Fail(Text::from(format!(
                "the handler's result is no valid response of {}: {why}",
                live.header.endpoint
            ))),
            Ok(result) if result.encoding != wanted => Finish::Fail(Text::from(format!(
                "the handler gave a {} result for a {} job",
                result.encoding, live.header.encoding
            ))),
            Ok(result) if result.encoding == Encoding::Json && !is_text(&result) => {
                Finish::Fail(Text::from("the handler's JSON result is not UTF-8"))
            }
            Ok(result) if result.data.len() > self.config.max_result => {
                Finish::Fail(Text::from(format!(
                    "result too large: {} bytes, more than the limit of {}",
                    result.data.len(),
                    self.config.max_result
                )))
            }
            Ok(result) => Finish::Complete(result),
        }
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

fn is_text(payload: &Payload) -> bool {
    std::str::from_utf8(&payload.data).is_ok()
}

/// How a handler was left.
enum Outcome {
    Returned(Result<Payload, HandlerError>),
    /// It did not stop in time, so its future is dropped.
    Dropped,
    Panicked,
}

/// A call of a handler whose panics harm nobody else.
struct Guarded {
    future: Option<Pin<Box<Call>>>,
}

type Call = dyn Future<Output = Result<Payload, HandlerError>> + Send;

impl Guarded {
    fn new(handler: Arc<dyn Handler>, context: JobContext, payload: Payload) -> Self {
        Self {
            future: Some(Box::pin(
                async move { handler.call(context, payload).await },
            )),
        }
    }

    /// Drops what is left of the call; a panic in that is the handler's own affair.
    fn drop_quietly(&mut self) {
        let future = self.future.take();
        if catch_unwind(AssertUnwindSafe(|| drop(future))).is_err() {
            tracing::error!("a handler panicked while it was dropped");
        }
    }
}

impl Future for Guarded {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Outcome> {
        let Some(future) = &mut self.future else {
            return Poll::Pending;
        };
        // Nothing of ours is touched inside, so a panic cannot leave it half changed.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(Outcome::Returned(result)),
            Err(_) => Poll::Ready(Outcome::Panicked),
        }
    }
}
