//! The six wire endpoints (docs/protocol.md section 4): one request record in, one response record out.

mod alter_jobs;
mod create_job;
mod get_job;
mod show_jobs;
mod system;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kjob_core::TraceParent;
use kjob_core::engine::{Accepted, Caller, Engine, Submission};
use kjob_proto::{Encoding, Limits, Record, Segments, reply_ok, snappy};
use tokio::sync::Semaphore;

use crate::SystemInfo;
use crate::audit::{AuditLog, Event};
use crate::body::{BodyError, Held};
use crate::refusal::Refusal;
use crate::reply::Delivery;

/// Bodies and records from this size on are turned from or to JSON, or unpacked, on a thread for
/// blocking work: it takes some 100 µs and would hold up other connections. Below, changing threads
/// costs more than it saves.
const HEAVY_LEN_MIN: usize = 128 << 10;

/// A wire endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    CreateJob,
    GetJob,
    ShowJobs,
    AlterJobs,
    SystemStatus,
    SystemProperties,
}

/// A call of a wire endpoint, but for its record.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) system: &'a SystemInfo,
    pub(crate) limits: &'a Limits,
    /// Turns of heavy work.
    pub(crate) heavy: &'a Arc<Semaphore>,
    /// The longest time that a `wait_ms` may ask for.
    pub(crate) wait_max: Duration,
    /// Of the request's body, and so of the reply's.
    pub(crate) encoding: Encoding,
    pub(crate) caller: &'a Caller,
    pub(crate) audit: Option<&'a AuditLog>,
    pub(crate) trace: Option<TraceParent>,
    /// The caller's address.
    pub(crate) ip: IpAddr,
}

/// A success.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The reply's whole body.
    pub(crate) segments: Segments,
    /// What to do when it was sent whole.
    pub(crate) delivery: Option<Delivery>,
}

impl Endpoint {
    const ALL: [Self; 6] = [
        Self::CreateJob,
        Self::GetJob,
        Self::ShowJobs,
        Self::AlterJobs,
        Self::SystemStatus,
        Self::SystemProperties,
    ];

    /// Where it is.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::CreateJob => "/create/job",
            Self::GetJob => "/get/job",
            Self::ShowJobs => "/admin/show/jobs",
            Self::AlterJobs => "/admin/alter/jobs",
            Self::SystemStatus => "/show/system/status",
            Self::SystemProperties => "/show/system/properties",
        }
    }

    /// The endpoint at a path.
    pub(crate) fn at(path: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|endpoint| endpoint.path() == path)
    }

    /// Does what the body asks for. `held` is the memory that counts for the body, and is made to count
    /// for the answer.
    pub(crate) async fn answer(
        self,
        call: &Call<'_>,
        body: Bytes,
        held: &mut Held,
    ) -> Result<Answer, Refusal> {
        match self {
            Self::CreateJob => {
                let request = call.decode(body, held).await?;
                call.encode(create_job::call(call, request).await?).await
            }
            Self::GetJob => {
                let request = call.decode(body, held).await?;
                let (response, delivery) = get_job::call(call, request, held).await?;
                let answer = call.encode(response).await?;
                answer.hold(held)?;
                Ok(Answer { delivery, ..answer })
            }
            Self::ShowJobs => {
                let request = call.decode(body, held).await?;
                let answer = call.encode(show_jobs::call(call, request).await?).await?;
                held.release();
                answer.hold(held)?;
                Ok(answer)
            }
            Self::AlterJobs => {
                let request = call.decode(body, held).await?;
                call.encode(alter_jobs::call(call, request).await?).await
            }
            Self::SystemStatus => {
                let request = call.decode(body, held).await?;
                call.encode(system::status(call, &request)?).await
            }
            Self::SystemProperties => {
                let request = call.decode(body, held).await?;
                call.encode(system::properties(call, &request)?).await
            }
        }
    }
}

impl Answer {
    /// Counts the reply's body, which may be larger than the record: JSON escapes.
    fn hold(&self, held: &mut Held) -> Result<(), Refusal> {
        held.grow_to_answer(self.segments.total_len())
            .map_err(Refusal::AnswerBusy)
    }
}

impl Call<'_> {
    /// Submits a job, and writes who did.
    async fn submit(&self, submission: Submission) -> Result<Accepted, Refusal> {
        let Some(audit) = self.audit.cloned() else {
            return Ok(self.engine.submit(submission).await?);
        };
        let (engine, caller, ip) = (self.engine.clone(), self.caller.clone(), self.ip);
        let endpoint = submission.endpoint.clone();
        // A task of its own, so that it is written also if the caller goes away meanwhile.
        let submitted = tokio::spawn(async move {
            let accepted = engine.submit(submission).await?;
            let event = Event::submit(&caller, ip, &endpoint, &accepted);
            AuditLog::note(Some(&audit), event).await;
            Ok(accepted)
        });
        submitted.await.map_err(|_| Refusal::Stopping)?
    }

    async fn decode<R: Record>(&self, body: Bytes, held: &mut Held) -> Result<R, Refusal> {
        let (encoding, limits) = (self.encoding, *self.limits);
        let refused = |error| Refusal::Decode {
            record: R::NAME,
            error,
        };
        // What is unpacked takes memory beside what was packed, and texts with escapes are copied:
        // counted before it is there, since a body may unfold to twenty times its size.
        let more = match encoding {
            Encoding::Binary => 0,
            Encoding::Json if body.len() < HEAVY_LEN_MIN => 0,
            Encoding::Json => body.len(),
            Encoding::Snappy => snappy::decompressed_len(&body, &limits).map_err(refused)?,
        };
        held.grow_by(more).map_err(BodyError::from)?;
        let is_heavy = encoding != Encoding::Binary && body.len().max(more) >= HEAVY_LEN_MIN;
        let decoded = self
            .off_thread(is_heavy, move || R::decode(encoding, body, &limits))
            .await?;
        decoded.map_err(refused)
    }

    async fn encode<R: Record>(&self, response: R) -> Result<Answer, Refusal> {
        let encoding = self.encoding;
        let is_heavy = encoding == Encoding::Json && response.encoded_len() >= HEAVY_LEN_MIN;
        let segments = self
            .off_thread(is_heavy, move || reply_ok(&response, encoding))
            .await?;
        Ok(Answer {
            segments,
            delivery: None,
        })
    }
}

/// How much heavy work is done at a time. Each has a thread, and dozens of them at once would leave the
/// few threads that serve connections hardly any time; so a processor stays free, if there is another.
pub(crate) fn heavy_max() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.saturating_sub(1).max(1)
}

impl Call<'_> {
    /// Runs `work` here, or in its turn on a thread for blocking work if it is heavy.
    async fn off_thread<T: Send + 'static>(
        &self,
        is_heavy: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        if !is_heavy {
            return Ok(work());
        }
        // Never closed, so there is always a turn.
        let turn = self.heavy.clone().acquire_owned().await;
        // Kept by the work itself: a caller who goes away does not end it.
        let work = move || {
            let _turn = turn;
            work()
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => Ok(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only a runtime that shuts down cancels such work.
            Err(_) => Err(Refusal::Stopping),
        }
    }
}
