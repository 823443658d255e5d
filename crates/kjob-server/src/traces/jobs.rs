//! Spans of jobs: the wait, each run, and how its end became durable.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use kjob_core::engine::{
    Accepted, CancelOutcome, LeaseEvent, Observer, RouteObserver, SubmitError,
};
use kjob_core::{Expired, Finish, Header, Owner, Phase, State, Timestamp};

use super::{Kind, Run, Span, Traces, Value, ids, moment};

/// Makes spans of what the engine tells, and passes it on.
#[derive(Debug)]
pub(super) struct Jobs {
    traces: Traces,
    next: Arc<dyn Observer>,
}

#[derive(Debug)]
struct OfRoute {
    traces: Traces,
    next: Arc<dyn RouteObserver>,
    route: Option<Arc<str>>,
    wait: Arc<str>,
    process: Arc<str>,
    finish: Arc<str>,
}

impl Jobs {
    pub(super) fn new(traces: Traces, next: Arc<dyn Observer>) -> Self {
        Self { traces, next }
    }
}

impl Observer for Jobs {
    fn route(&self, pattern: Option<&str>) -> Arc<dyn RouteObserver> {
        let name = |verb: &str| match pattern {
            Some(pattern) => format!("{verb} {pattern}").into(),
            None => verb.into(),
        };
        Arc::new(OfRoute {
            traces: self.traces.clone(),
            next: self.next.route(pattern),
            route: pattern.map(Into::into),
            wait: name("wait"),
            process: name("process"),
            finish: name("finish"),
        })
    }

    fn cancelled(&self, outcome: CancelOutcome) {
        self.next.cancelled(outcome);
    }

    fn expired(&self, expired: &Expired) {
        self.next.expired(expired);
    }

    fn lease(&self, event: LeaseEvent) {
        self.next.lease(event);
    }
}

impl OfRoute {
    /// A span of a job, which is a part of what submitted it.
    fn span(&self, name: &str, job: &Header, start: SystemTime, end: SystemTime) -> Span {
        let mut attributes = vec![
            ("messaging.system", Value::from("kjob")),
            ("messaging.destination.name", text(&job.endpoint)),
            ("messaging.message.id", text(&job.id.to_string())),
            ("kjob.job.id", Value::Number(job.id.get())),
            ("kjob.endpoint", text(&job.endpoint)),
        ];
        if let Some(route) = &self.route {
            attributes.push(("messaging.destination.template", text(route)));
        }
        Span {
            trace: job.query_id,
            id: ids::random(),
            parent: job.parent_span,
            is_parent_remote: false,
            kind: Kind::Internal,
            name: Cow::Owned(name.to_owned()),
            start,
            // The clock may have been set.
            end: end.max(start),
            attributes,
            link: None,
            error: None,
        }
    }
}

impl RouteObserver for OfRoute {
    fn submitted(&self, owner: &Owner, accepted: &Accepted) {
        self.next.submitted(owner, accepted);
    }

    fn refused(&self, error: &SubmitError) {
        self.next.refused(error);
    }

    fn progressed(&self, job: &Header, state: &State) {
        self.next.progressed(job, state);
    }

    fn started(&self, job: &Header, state: &State) {
        self.next.started(job, state);
        let not_before = job.options.not_before.unwrap_or_default();
        let ready = job.received_at.max(not_before);
        // One that was begun at once has not waited.
        if state.lease.0 == 1
            && let Some(started) = state.started_at.filter(|started| *started > ready)
        {
            let span = self.span(&self.wait, job, moment(ready), moment(started));
            self.traces.record(span);
        }
    }

    fn cancelling(&self, job: &Header, state: &State) {
        self.next.cancelling(job, state);
    }

    fn returned(&self, job: &Header, started: &State, finish: &Finish, at: Timestamp) {
        self.next.returned(job, started, finish, at);
        let start = moment(started.started_at.unwrap_or(at));
        let mut span = self.span(&self.process, job, start, moment(at));
        let run = Run::of_state(job, started);
        (span.trace, span.id) = (run.trace, run.span);
        span.kind = Kind::Consumer;
        if !run.is_first {
            span.parent = 0;
            span.link = Some((job.query_id, job.parent_span));
        }
        let (outcome, error) = outcome(finish);
        span.error = error;
        span.attributes.extend([
            ("messaging.operation.type", "process".into()),
            ("messaging.operation.name", "process".into()),
            ("kjob.attempt", Value::Number(started.attempt.into())),
            ("kjob.outcome", outcome.into()),
        ]);
        self.traces.record(span);
    }

    fn queued_again(&self, job: &Header, state: &State) {
        self.next.queued_again(job, state);
    }

    fn ended(&self, job: &Header, state: &State) {
        self.next.ended(job, state);
        let now = SystemTime::now();
        let start = state.ended_at.map_or(now, moment);
        let mut span = self.span(&self.finish, job, start, now);
        // One that was cancelled while it waited had no run.
        if state.lease.0 > 0 {
            let run = Run::of_state(job, state);
            (span.trace, span.parent) = (run.trace, run.span);
        }
        let status = state.phase.status().as_str();
        span.attributes.push(("kjob.status", status.into()));
        span.error = (state.phase == Phase::Failed).then_some("failed");
        self.traces.record(span);
    }
}

/// What a run makes of its job, and what went wrong with it. Its words may quote payloads, which are
/// nobody's business.
fn outcome(finish: &Finish) -> (&'static str, Option<&'static str>) {
    match finish {
        Finish::Complete(_) => ("done", None),
        Finish::Stop => ("cancelled", None),
        Finish::Interrupt { .. } => ("interrupted", Some("interrupted")),
        Finish::Fail(_) => ("failed", Some("failed")),
    }
}

fn text(text: &str) -> Value {
    Value::Text(Cow::Owned(text.to_owned()))
}
