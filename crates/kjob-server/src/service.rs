//! The one service: limits, access, decode, dispatch, encode.

mod arrival;
mod bodies;
mod metrics_page;
mod passing;
mod progress;
mod setup;
mod wire_calls;

pub(crate) use arrival::Arrived;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use kjob_core::engine::Engine;
use kjob_proto::Limits;

use crate::access::{Access, Admitted};
use crate::activity::{Activity, InFlight};
use crate::actor::Actor;
use crate::auth::{Credentials, Denied};
use crate::body::{BodyBounds, collect};
use crate::budget::Budget;
use crate::callbacks::{Callbacks, deliver};
use crate::gateway::Gateway;
use crate::head::{Head, Routed, Target, Through};
use crate::health::{NotReady, Page};
use crate::latch::Latch;
use crate::load::Load;
use crate::metrics::Metrics;
use crate::ordinary::{Ask, Audience, Extras, Resource, SyncCall};
use crate::passthrough::{Passthrough, streamed};
use crate::refusal::Refusal;
use crate::reply::{self, Rejected, ReplyBody};
use crate::traces::Traces;
use crate::web::Visit;
use crate::{ServerOptions, SystemInfo};

/// The longest silence of a stream of events: what is on the way often ends what is silent for a minute.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Answers requests, of all connections.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Engine,
    system: SystemInfo,
    /// Set once, before the first request.
    access: OnceLock<Access>,
    callbacks: OnceLock<Callbacks>,
    /// Likewise.
    gateway: OnceLock<Gateway>,
    /// Likewise.
    passthrough: OnceLock<Passthrough>,
    /// Likewise.
    metrics: OnceLock<Metrics>,
    /// Likewise.
    traces: OnceLock<Traces>,
    /// Set once, if there is to be a console.
    console: OnceLock<()>,
    limits: Limits,
    bounds: BodyBounds,
    budget: Budget,
    load: Load,
    wait_max: Duration,
    /// The longest silence of a stream of events: a client that takes nothing for the time that a
    /// connection has for that is cut.
    silence_max: Duration,
    stopping: Latch,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    pub(crate) activity: Activity,
}

impl Service {
    pub(crate) fn new(engine: Engine, system: SystemInfo, options: &ServerOptions) -> Self {
        Self {
            engine,
            system,
            access: OnceLock::new(),
            callbacks: OnceLock::new(),
            gateway: OnceLock::new(),
            passthrough: OnceLock::new(),
            metrics: OnceLock::new(),
            traces: OnceLock::new(),
            console: OnceLock::new(),
            limits: options.limits,
            bounds: BodyBounds {
                len_max: options.limits.max_body,
                time_max: options.body_timeout,
                idle_max: options.body_idle_timeout,
            },
            budget: Budget::new(options.max_body_memory),
            load: Load::new(options.max_streams),
            wait_max: options.max_wait,
            silence_max: SILENCE_MAX.min(options.write_timeout / 2),
            stopping: Latch::default(),
        }
    }

    /// Makes callbacks for ever, if there are to be any.
    pub(crate) async fn make_callbacks(&self) {
        match self.callbacks.get() {
            Some(callbacks) => {
                let metrics = self.metrics().cloned();
                deliver(self.engine.clone(), callbacks.clone(), metrics).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Keeps what the console tells of the last hours, for ever.
    pub(crate) async fn keep_history(&self) {
        match (self.console.get(), self.metrics()) {
            (Some(()), Some(metrics)) => metrics.watched().history.keep_looking(&self.engine).await,
            _ => std::future::pending().await,
        }
    }

    /// Who counts, if anybody does.
    pub(crate) fn metrics(&self) -> Option<&Metrics> {
        self.metrics.get()
    }

    /// What goes to an upstream now.
    fn through(&self) -> Through {
        match self.passthrough.get() {
            None => Through::Nothing,
            Some(_) if self.not_ready().is_some() => Through::AllButStatus,
            Some(_) => Through::All,
        }
    }

    pub(crate) fn access(&self) -> &Access {
        self.access.get_or_init(Access::default)
    }

    /// From now on wire endpoints answer that the server ends.
    pub(crate) fn stop(&self) {
        self.stopping.set();
    }

    /// Answers one request.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        arrived: Arrived,
    ) -> Response<ReplyBody> {
        let Arrived {
            began,
            mut in_flight,
            is_over,
            ..
        } = arrived;
        // Nothing of the rest is kept, nor is there room for it, while the call waits.
        let (mut head, visit, credentials, body) = {
            let (parts, body) = request.into_parts();
            let visit = self.access().web.judge(&parts);
            let credentials = Credentials::of(&parts.headers);
            let kept = self.gateway.get();
            let kept = kept.map(|gateway| gateway.forwarding().keep(&parts.headers));
            let head = Head::new(
                parts,
                &self.engine,
                kept.unwrap_or_default(),
                self.through(),
                self.console.get().is_some(),
            );
            (head, visit, credentials, body)
        };
        if let Some(traces) = self.traces.get() {
            head.begin_span(traces);
        }
        let is_preflight = visit.is_preflight(&head.method);
        let mut response = if is_over && head.target.is_bounded() {
            self.put_aside(&head, body, &peer);
            let limit = self.load.max();
            let refusal = Refusal::TooManyStreams { limit };
            head.refuse(&refusal, refusal.status())
        } else if is_preflight {
            self.put_aside(&head, body, &peer);
            reply::preflight()
        } else {
            self.respond(&head, &visit, credentials, body, &peer, &mut in_flight)
                .await
        };
        let web = &self.access().web;
        web.allow(&visit, is_preflight, response.headers_mut());
        // Over HTTP/1 hyper leaves the body away; over HTTP/2 it sends it, which breaks the protocol.
        if head.is_http2 && head.method == Method::HEAD {
            response.body_mut().strip();
        }

        let took = began.elapsed();
        if let Some(metrics) = self.metrics() {
            metrics.answered(&head.target, response.status(), took);
            if let Some(Rejected(reason)) = response.extensions_mut().remove() {
                metrics.rejected(reason);
            }
        }
        if let Some(span) = &head.span {
            let status = response.status();
            span.answered(&head.method, &head.target, head.is_http2, status);
        }
        let headers = response.headers_mut();
        headers.insert(reply::REQUEST_TIME, reply::request_time(took));
        response.body_mut().set_in_flight(in_flight);
        tracing::debug!(
            method = %head.method,
            path = head.target.path(),
            status = response.status().as_u16(),
            took_us = took.as_micros() as u64,
            peer = %peer.ip,
            "request"
        );
        response
    }

    /// Answers what is no browser's question.
    async fn respond(
        &self,
        head: &Head,
        visit: &Visit,
        credentials: Credentials,
        body: Incoming,
        peer: &Peer,
        in_flight: &mut InFlight,
    ) -> Response<ReplyBody> {
        let access = self.access();
        let to_strangers = access.has_strangers();
        if let Target::Page(page) = &head.target
            && page.is_open()
        {
            self.put_aside(head, body, peer);
            return page.answer(&head.method, self.not_ready(), to_strangers);
        }
        if let Target::Asset(asset, seen) = &head.target {
            self.put_aside(head, body, peer);
            return asset.answer(&head.method, seen.as_deref());
        }
        // Its token says who may, and of what.
        if let Target::Resource(Resource::Progress(name), extras) = &head.target {
            return Box::pin(self.progress(name, extras, head, body, peer)).await;
        }
        if let Some(metrics) = self.open_metrics(head) {
            self.put_aside(head, body, peer);
            return Box::pin(self.metrics_page(metrics, &head.method)).await;
        }
        let is_given = matches!(credentials, Credentials::Given(_));
        // It takes the credentials: what waits is to be small, and is to know no secrets.
        let is_of_jobs = head.target.is_of_jobs();
        let admitted = access.admit(visit, credentials, peer.ip, is_of_jobs);
        let admitted = match admitted.await {
            Ok(admitted) => admitted,
            Err(refusal) => {
                if is_given && refusal.is_wrong_login() {
                    self.metrics().inspect(|metrics| metrics.login_failed());
                }
                self.put_aside(head, body, peer);
                return head.refuse(&refusal, refusal.status());
            }
        };
        match &head.target {
            Target::Wire(endpoint) => {
                self.wire(*endpoint, head, body, &admitted, peer, in_flight)
                    .await
            }
            Target::Resource(resource, extras) => {
                let asked = (resource, &**extras);
                // In a box of its own, as all that follows but the wire protocol: a call that waits is to
                // take the memory of what it is, and not of the largest that it might have been.
                Box::pin(self.resource(asked, head, body, &admitted, peer, in_flight)).await
            }
            Target::Routed(call) => {
                Box::pin(self.routed(call, head, body, &admitted, peer, in_flight)).await
            }
            Target::Page(Page::Metrics) => {
                self.put_aside(head, body, peer);
                Box::pin(self.metrics_for(head, &admitted, peer)).await
            }
            Target::Page(page) => {
                self.put_aside(head, body, peer);
                page.answer(&head.method, self.not_ready(), false)
            }
            Target::Asset(asset, seen) => {
                self.put_aside(head, body, peer);
                asset.answer(&head.method, seen.as_deref())
            }
            Target::Passed(passing) => {
                in_flight.begin_working();
                match Box::pin(self.pass(passing, streamed(body), peer)).await {
                    Ok(answer) => reply::passed(answer),
                    Err(refusal) => head.refuse(&refusal, refusal.status()),
                }
            }
            Target::Properties(passing) => {
                Box::pin(self.properties(passing, head, body, peer, in_flight)).await
            }
            Target::Unknown(path) => {
                self.put_aside(head, body, peer);
                let path = path.clone();
                head.refuse(&Refusal::UnknownPath { path }, StatusCode::NOT_FOUND)
            }
        }
    }

    /// Answers for a resource of ordinary HTTP.
    async fn resource(
        &self,
        (resource, extras): (&Resource, &Extras),
        head: &Head,
        mut body: Incoming,
        admitted: &Admitted,
        peer: &Peer,
        in_flight: &mut InFlight,
    ) -> Response<ReplyBody> {
        let (by, audience) = (self.actor(head, admitted, peer), self.audience(admitted));
        let ask = self.ask(&by, &head.method, extras, &audience);
        let outcome = async {
            resource.check_method(&head.method)?;
            self.check_stopping()?;
            let mut held = self.budget.hold();
            let mut response = if head.method == Method::POST {
                head.check_json()?;
                let request;
                (request, held) = collect(&mut body, &self.bounds, &self.budget).await?;
                head.received();
                in_flight.begin_working();
                ask.submit(request, &mut held).await?
            } else {
                in_flight.begin_working();
                while_admitted(admitted, ask.answer(resource, &mut held)).await?
            };
            response.body_mut().set_held(held);
            Ok(response)
        };
        match outcome.await {
            Ok(response) if head.method == Method::POST => response,
            Ok(response) => {
                self.put_aside(head, body, peer);
                response
            }
            Err(refusal) => {
                let refusal = self.access().refused(refusal, peer.ip).await;
                let response = head.refuse(&refusal, refusal.status());
                self.refused(&refusal, response, head, body, peer)
            }
        }
    }

    /// Answers a call of an endpoint that a route takes, once its job has ended.
    async fn routed(
        &self,
        routed: &Routed,
        head: &Head,
        mut body: Incoming,
        admitted: &Admitted,
        peer: &Peer,
        in_flight: &mut InFlight,
    ) -> Response<ReplyBody> {
        let (by, audience) = (self.actor(head, admitted, peer), self.audience(admitted));
        let call = SyncCall {
            ask: self.ask(&by, &head.method, &routed.extras, &audience),
            endpoint: &routed.endpoint,
        };
        let outcome = async {
            head.check_post()?;
            call.check_head()?;
            self.check_stopping()?;
            let (request, mut held) = collect(&mut body, &self.bounds, &self.budget).await?;
            head.received();
            in_flight.begin_working();
            let payload = call.payload(request);
            let mut response = if routed.in_envelope {
                let answer = call.answer_in_envelope(payload, &mut held);
                while_admitted(admitted, answer).await?
            } else {
                while_admitted(admitted, call.answer(payload, &mut held)).await?
            };
            response.body_mut().set_held(held);
            Ok(response)
        };
        outcome.await.unwrap_or_else(|refusal: Refusal| {
            let response = head.refuse(&refusal, refusal.status());
            self.refused(&refusal, response, head, body, peer)
        })
    }

    /// Ends a request that was not done, with the answer that says so.
    fn refused(
        &self,
        refusal: &Refusal,
        mut response: Response<ReplyBody>,
        head: &Head,
        body: Incoming,
        peer: &Peer,
    ) -> Response<ReplyBody> {
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(path = head.target.path(), error = %refusal, "request failed");
        }
        if !refusal.ends_connection() {
            self.put_aside(head, body, peer);
        } else if !head.is_http2 {
            // HTTP/2 ends the stream instead.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    fn actor(&self, head: &Head, admitted: &Admitted, peer: &Peer) -> Actor {
        Actor {
            engine: self.engine.clone(),
            caller: admitted.caller.clone(),
            audit: self.access().audit.clone(),
            trace: head.trace,
            span: head.span.clone(),
            forwardable: head.forwardable.clone(),
            ip: peer.ip,
            is_paced: peer.activity.is_paced(),
            callbacks: self.callbacks.get().cloned(),
        }
    }

    fn audience(&self, admitted: &Admitted) -> Audience {
        Audience {
            admitted: admitted.clone(),
            stopping: self.stopping.clone(),
            silence_max: self.silence_max,
        }
    }

    fn ask<'a>(
        &'a self,
        by: &'a Actor,
        method: &'a Method,
        extras: &'a Extras,
        audience: &'a Audience,
    ) -> Ask<'a> {
        Ask {
            by,
            method,
            extras,
            wait_max: self.wait_max,
            audience,
            metrics: self.metrics(),
            accounts: self.access().accounts_word(),
        }
    }

    fn check_stopping(&self) -> Result<(), Refusal> {
        match self.stopping.is_set() {
            true => Err(Refusal::Stopping),
            false => Ok(()),
        }
    }

    fn not_ready(&self) -> Option<NotReady> {
        if self.stopping.is_set() {
            return Some(NotReady::Stopping);
        }
        if let Some(error) = self.engine.store_failure() {
            return Some(NotReady::StoreFailed(error));
        }
        if !self.engine.has_lease() {
            return Some(NotReady::NoLease);
        }
        let is_draining = self.system.is_draining() || self.engine.stats().draining;
        is_draining.then_some(NotReady::Draining)
    }
}

/// A call that may wait: it ends when its caller is to be let in no more.
async fn while_admitted<T>(
    admitted: &Admitted,
    call: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::select! {
        biased;
        outcome = call => outcome,
        () = admitted.revoked() => Err(Refusal::Login(Denied::Wrong)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The bytes of the future of such a function.
    pub(crate) fn size<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Tens of thousands of calls may wait, and each request is moved about once at least.
    #[test]
    fn a_request_in_progress_is_small() {
        let answer = size(Service::answer);
        assert!(answer <= 3 << 10, "{answer} bytes");
    }
}
