//! The six wire endpoints (docs/protocol.md section 4): one request record in, one response record out.

mod alter_jobs;
mod create_job;
mod get_job;
mod show_jobs;
mod system;

use std::future::ready;
use std::time::Duration;

use bytes::Bytes;
use kjob_core::engine::HeavyWork;
use kjob_proto::{Encoding, Limits, Record, Segments, reply_ok, snappy};
use tokio_util::either::Either;

use crate::SystemInfo;
use crate::actor::Actor;
use crate::body::BodyError;
use crate::budget::Held;
use crate::refusal::Refusal;
use crate::reply::Delivery;

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
    pub(crate) by: &'a Actor,
    pub(crate) system: &'a SystemInfo,
    pub(crate) limits: &'a Limits,
    /// The longest time that a `wait_ms` may ask for.
    pub(crate) wait_max: Duration,
    /// Of the request's body, and so of the reply's.
    pub(crate) encoding: Encoding,
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
                let response = Box::pin(create_job::call(call, request)).await?;
                call.encode(response).await
            }
            Self::GetJob => {
                let request = call.decode(body, held).await?;
                let got = Box::pin(get_job::wait(call, request, held)).await?;
                Box::pin(get_job::answer(call, got, held)).await
            }
            Self::ShowJobs => {
                let request = call.decode(body, held).await?;
                Box::pin(show_jobs::call(call, request, held)).await
            }
            Self::AlterJobs => {
                let request = call.decode(body, held).await?;
                let response = Box::pin(alter_jobs::call(call, request)).await?;
                call.encode(response).await
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
    fn of(segments: Segments) -> Self {
        Self {
            segments,
            delivery: None,
        }
    }

    /// Counts the reply's body, which may be larger than the record: JSON escapes.
    fn hold(&self, held: &mut Held) -> Result<(), Refusal> {
        held.grow_to_answer(self.segments.total_len())
            .map_err(Refusal::AnswerBusy)
    }
}

impl Call<'_> {
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
            Encoding::Json if body.len() < HeavyWork::LEN_MIN => 0,
            Encoding::Json => body.len(),
            Encoding::Snappy => snappy::decompressed_len(&body, &limits).map_err(refused)?,
        };
        held.grow_by(more).map_err(BodyError::from)?;
        // Binary records are slices of the body, however long.
        let len = match encoding {
            Encoding::Binary => 0,
            Encoding::Json | Encoding::Snappy => body.len().max(more),
        };
        let decoded = self
            .by
            .off_thread(len, move || R::decode(encoding, body, &limits))
            .await?;
        decoded.map_err(refused)
    }

    fn encode<R: Record>(
        &self,
        response: R,
    ) -> impl Future<Output = Result<Answer, Refusal>> + use<'_, R> {
        let len = match self.encoding {
            Encoding::Json => response.encoded_len(),
            // Long payloads and results are not copied.
            Encoding::Binary | Encoding::Snappy => 0,
        };
        if len < HeavyWork::LEN_MIN {
            // Nothing to wait for, so that it need not go into a future.
            let segments = reply_ok(&response, self.encoding);
            return Either::Left(ready(Ok(Answer::of(segments))));
        }
        // Not awaited here: a future around it would be as large again.
        Either::Right(self.encode_copied(response, len))
    }

    /// Encodes what takes the copying of so many bytes.
    async fn encode_copied<R: Record>(&self, response: R, len: usize) -> Result<Answer, Refusal> {
        let encoding = self.encoding;
        let segments = self
            .by
            .off_thread(len, move || reply_ok(&response, encoding))
            .await?;
        Ok(Answer::of(segments))
    }
}
