//! Jobs that are posted to a plain HTTP server: the payload as it is, and the body that comes back is the
//! result.

use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderName, HeaderValue, Request};
use kjob_core::engine::{Handler, HandlerError, JobContext, JobInfo};
use kjob_core::{Output, Payload};
use kjob_proto::Encoding;

use super::again::Again;
use super::answer::{self, Failure, Patience};
use super::forward::Forwarded;
use super::gather::Memory;
use super::reports::{Reporting, Reports};
use super::route::HttpRoute;
use super::trace::traceparent;
use crate::outbound::{AGENT, OutBody, Outbound, whole};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How long the call of a cancel URL may take: less than the time that a stopped job has.
const CANCEL_WITHIN: Duration = Duration::from_secs(3);

/// Posts payloads to an upstream.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) route: HttpRoute,
    pub(super) outbound: Outbound,
    pub(super) memory: Memory,
    pub(super) max_result: usize,
    pub(super) reports: Reports,
}

#[async_trait]
impl Handler for Plain {
    async fn call(&self, context: JobContext, payload: Payload) -> Result<Output, HandlerError> {
        let job = context.job();
        let reporting = self.reports.open(&self.route, &context);
        tokio::select! {
            biased;
            outcome = self.exchanges(job, payload, &reporting) => return Ok(outcome?),
            () = context.cancelled() => {}
        }
        // The exchange is dropped by now, and its connection closed with it.
        drop(reporting);
        cancel(&self.route, &self.outbound, job).await;
        Err(HandlerError::Stopped)
    }
}

impl Plain {
    /// Asks until the upstream takes the job, or its time for that is over.
    async fn exchanges(
        &self,
        job: &JobInfo,
        payload: Payload,
        reporting: &Reporting,
    ) -> Result<Output, Failure> {
        let mut again = Again::within(self.route.unavailable_timeout);
        loop {
            let failure = match self.exchange(job, payload.clone(), reporting).await {
                Err(failure) if failure.is_untouched() => failure,
                outcome => return outcome,
            };
            tracing::debug!(job_id = %job.id, %failure, "an upstream has not taken a job");
            if !again.wait(failure.retry_after()).await {
                return Err(failure);
            }
        }
    }

    async fn exchange(
        &self,
        job: &JobInfo,
        payload: Payload,
        reporting: &Reporting,
    ) -> Result<Output, Failure> {
        let mut request = self.request(job, payload)?;
        reporting.add_to(&mut request);
        let patience = Patience::new(self.route.response_timeout, reporting);
        let response = patience.wait(self.outbound.send(request)).await??;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(answer::failure_of(&head, body).await);
        }
        let gathering = self.memory.gather(self.max_result);
        let data = answer::read(body, gathering, &patience).await?;
        let payload = answer::result(&head.headers, data).await;
        let info = answer::info(head.status, &head.headers);
        Ok(Output { payload, info })
    }

    fn request(&self, job: &JobInfo, payload: Payload) -> Result<Request<OutBody>, Failure> {
        let bad = |error: &dyn ToString| Failure::Request(error.to_string());
        let upstream = self.route.upstreams.first();
        let upstream = upstream.ok_or_else(|| bad(&"the route has no upstream"))?;
        let uri = upstream.at(&job.endpoint).map_err(|error| bad(&error))?;
        let content_type = match payload.encoding {
            Encoding::Json => HeaderValue::from_static("application/json"),
            _ => self.route.content_type.clone(),
        };
        let mut request = Request::post(uri)
            .header(CONTENT_TYPE, content_type)
            .body(whole(payload.data))
            .map_err(|error| bad(&error))?;
        add_headers(&mut request, &self.route, job);
        Ok(request)
    }
}

/// Adds what every request for a job has. Headers of the route win over ours, and those of the job's
/// submit over both: the route asks for them.
pub(super) fn add_headers<B>(request: &mut Request<B>, route: &HttpRoute, job: &JobInfo) {
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    // A result is kept as it comes, for callers who may not know what it was packed with.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    // The id alone is the same for jobs of two gateways before one upstream, and for those of one whose
    // data directory is new.
    if let Ok(value) = HeaderValue::try_from(format!("{}-{}", job.id, job.query_id)) {
        headers.insert(IDEMPOTENCY_KEY, value);
    }
    if let Ok(value) = HeaderValue::try_from(traceparent(job)) {
        headers.insert(TRACEPARENT, value);
    }
    for (name, value) in &route.headers {
        headers.insert(name, value.clone());
    }
    let attachment = job.attachment.as_ref();
    if let Some(Forwarded(caller)) = attachment.and_then(|kept| kept.get()) {
        let is_wanted = |name: &&HeaderName| route.forward_headers.contains(name);
        for name in caller.keys().filter(is_wanted) {
            headers.remove(name);
            for value in caller.get_all(name) {
                headers.append(name, value.clone());
            }
        }
    }
}

/// Tells the upstream that a job was stopped, if it wants to be told in words too. Whether it listens
/// changes nothing: the job is stopped in any case.
pub(super) async fn cancel(route: &HttpRoute, outbound: &Outbound, job: &JobInfo) {
    let Some(url) = &route.cancel_url else {
        return;
    };
    let url = url.replace("{job_id}", &job.id.to_string());
    let Ok(mut request) = Request::post(url).body(whole("")) else {
        return;
    };
    add_headers(&mut request, route, job);
    let told = match tokio::time::timeout(CANCEL_WITHIN, outbound.send(request)).await {
        Ok(Ok(response)) if response.status().is_success() => return,
        Ok(Ok(response)) => response.status().to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("nothing within {CANCEL_WITHIN:?}"),
    };
    tracing::warn!(job_id = %job.id, query_id = %job.query_id, %told, "the cancel URL of a job's route did not answer well");
}
