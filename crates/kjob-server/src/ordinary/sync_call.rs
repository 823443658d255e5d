//! A call of an endpoint that is answered with its result: a job that somebody waits for.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::StatusCode;
use kjob_core::engine::{JobKey, Submission};
use kjob_core::{Age, Ending, Job, JobId, JobTag, Output, Payload};
use kjob_proto::{Encoding, Envelope, Record, Text};

use super::{Ask, accepted, put_applied, result};
use crate::actor::{CancelOnDrop, json_text, unknown};
use crate::budget::Held;
use crate::head::{WIRE_TYPES, guessed_encoding};
use crate::options::OptionError;
use crate::prefer::Prefer;
use crate::refusal::Refusal;
use crate::reply::{self, Delivery, ReplyBody};

/// How long a job is waited for at a time.
const WAIT: Duration = Duration::from_secs(3600);

/// Types that a web page may send to any server unasked (Fetch standard, "CORS-safelisted").
const UNASKED_TYPES: [&str; 3] = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
];

/// A call whose result somebody waits for.
#[derive(Debug)]
pub(crate) struct SyncCall<'a> {
    pub(crate) ask: Ask<'a>,
    pub(crate) endpoint: &'a str,
}

impl SyncCall<'_> {
    /// Refuses what is wrong with the head, before the body is read.
    pub(crate) fn check_head(&self) -> Result<(), Refusal> {
        let extras = self.ask.extras;
        if extras.query.is_some() {
            return Err(Refusal::Query);
        }
        let refused = |allowed| Refusal::MediaType {
            found: extras.content_type.clone().unwrap_or_default(),
            allowed,
        };
        let media_type = extras.content_type.as_deref().map(media_type_of);
        let is_unasked = media_type.is_none_or(|media_type| {
            UNASKED_TYPES
                .iter()
                .any(|unasked| media_type.eq_ignore_ascii_case(unasked))
        });
        if extras.is_from_page && is_unasked {
            return Err(refused(
                "any that is not a form's or plain text, in requests of web pages",
            ));
        }
        // Its records are JSON or Avro. Curl, for one, calls all that it sends a form.
        let is_record = media_type.is_none_or(|media_type| encoding_of(media_type).is_some());
        if !is_record && self.ask.by.engine.declares_records(self.endpoint) {
            return Err(refused(WIRE_TYPES));
        }
        Ok(())
    }

    /// The payload that a body is: what its type says, JSON for the types that are JSON underneath, and
    /// bytes as they are for all others. A body without a type is JSON if it is an object.
    pub(crate) fn payload(&self, body: Bytes) -> Payload {
        let encoding = match self.ask.extras.content_type.as_deref() {
            None => guessed_encoding(&body),
            Some(content_type) => encoding_of(media_type_of(content_type)).unwrap_or_default(),
        };
        Payload {
            encoding,
            data: body,
        }
    }

    /// Answers a caller of ordinary HTTP: with the result as it is, or with where it will be.
    ///
    /// A call without an `Idempotency-Key` is its caller's alone: it is cancelled if they go away, and
    /// dropped soon after its end. One with a key can be asked for again.
    pub(crate) async fn answer(
        &self,
        payload: Payload,
        held: &mut Held,
    ) -> Result<Response<ReplyBody>, Refusal> {
        let (by, extras) = (self.ask.by, self.ask.extras);
        let mut submission = by.submission(self.endpoint, payload)?;
        submission.tag = self.tag()?;
        if extras.prefer.respond_async {
            return self.answer_later(submission, held).await;
        }
        if submission.tag.is_none() {
            let (job, guard) = self.end_held(submission, held).await?;
            guard.disarm();
            return self.raw(job, held);
        }
        let taken = by.submit(submission).await?;
        held.release();
        let job = self.end_of(taken.id).await?;
        self.raw(job, held)
    }

    /// Answers a client of the wire protocol: the result in an envelope, in the request's encoding.
    pub(crate) async fn answer_in_envelope(
        &self,
        payload: Payload,
        held: &mut Held,
    ) -> Result<Response<ReplyBody>, Refusal> {
        let encoding = payload.encoding.reply();
        let submission = self.ask.by.submission(self.endpoint, payload)?;
        let (mut job, guard) = self.end_held(submission, held).await?;
        guard.disarm();
        let result = take_result(&mut job)?.payload;
        held.grow_to_answer(result.data.len())
            .map_err(Refusal::AnswerBusy)?;
        let result = self.ask.by.turned(&job, result, Some(encoding)).await?;
        let len = match encoding {
            Encoding::Json => result.data.len(),
            Encoding::Binary | Encoding::Snappy => 0,
        };
        let envelope = envelope(self.endpoint, result)?;
        let segments = self.ask.by.off_thread(len, move || match encoding {
            Encoding::Json => envelope.encode_json().into(),
            _ => envelope.encode_segments(),
        });
        let response = reply::envelope(StatusCode::OK, encoding, segments.await?);
        held.grow_to_answer(response.body().len())
            .map_err(Refusal::AnswerBusy)?;
        Ok(response)
    }

    /// Submits, waits for as long as the caller prefers, and says where the job is if that is not enough.
    async fn answer_later(
        &self,
        submission: Submission,
        held: &mut Held,
    ) -> Result<Response<ReplyBody>, Refusal> {
        let by = self.ask.by;
        let taken = by.submit(submission).await?;
        held.release();
        let key = JobKey::Id(taken.id);
        let wait = self
            .ask
            .extras
            .prefer
            .wait
            .map(|wait| wait.min(self.ask.wait_max));
        let patience = wait.unwrap_or_default();
        let job = by
            .engine
            .news(&by.caller, &key, Age::LIVE_MAX, patience)
            .await?;
        let job = job.ok_or_else(|| unknown(&key))?;
        if !patience.is_zero() && job.state.phase.is_terminal() {
            let job = by.engine.get(&by.caller, &key).await?;
            let mut response = self.raw(job.ok_or_else(|| unknown(&key))?, held)?;
            let respond_async = false;
            put_applied(
                &mut response,
                Prefer {
                    respond_async,
                    wait,
                },
            );
            return Ok(response);
        }
        let mut response = accepted(&job, false);
        let respond_async = true;
        put_applied(
            &mut response,
            Prefer {
                respond_async,
                wait,
            },
        );
        Ok(response)
    }

    /// A job that is the caller's alone, once it has ended.
    async fn end_held(
        &self,
        mut submission: Submission,
        held: &mut Held,
    ) -> Result<(Job, CancelOnDrop), Refusal> {
        let by = self.ask.by;
        // Nobody knows it by a name: what they were not told, nobody will ask for.
        submission.retention = Some(by.engine.config().remove_grace);
        let (taken, guard) = by.submit_held(submission).await?;
        // What waits is to be small.
        held.release();
        Ok((self.end_of(taken.id).await?, guard))
    }

    /// Waits for the end of a job, for as long as its caller does.
    async fn end_of(&self, id: JobId) -> Result<Job, Refusal> {
        let (engine, caller) = (&self.ask.by.engine, &self.ask.by.caller);
        let key = JobKey::Id(id);
        loop {
            let (job, is_over) = tokio::select! {
                biased;
                () = engine.closed() => (engine.get(caller, &key).await?, true),
                job = engine.wait(caller, &key, WAIT) => (job?, false),
            };
            let job = job.ok_or_else(|| unknown(&key))?;
            if job.state.phase.is_terminal() {
                return Ok(job);
            }
            if is_over {
                return Err(Refusal::Stopping);
            }
        }
    }

    fn raw(&self, mut job: Job, held: &mut Held) -> Result<Response<ReplyBody>, Refusal> {
        let result = take_result(&mut job)?;
        held.grow_to_answer(result.payload.data.len())
            .map_err(Refusal::AnswerBusy)?;
        let mut response = result::whole(result);
        let delivery = Delivery::of(&self.ask.by.engine, job);
        response.body_mut().set_delivery(delivery);
        Ok(response)
    }

    /// The tag that an `Idempotency-Key` is, with or without the quotes of a structured field.
    fn tag(&self) -> Result<Option<JobTag>, OptionError> {
        let Some(key) = self.ask.extras.idempotency_key.as_deref() else {
            return Ok(None);
        };
        let unquoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
        let tag = unquoted.unwrap_or(key).parse();
        let name = "Idempotency-Key";
        tag.map(Some)
            .map_err(|error| OptionError::BadTag { name, error })
    }
}

fn take_result(job: &mut Job) -> Result<Output, Refusal> {
    let id = job.header.id;
    match job.ending.take() {
        Some(Ending::Done(result)) => Ok(result),
        Some(Ending::Failed(message)) => Err(Refusal::JobFailed { id, message }),
        Some(Ending::Cancelled) | None => Err(Refusal::JobCancelled(id)),
    }
}

/// The envelope of a success. Records are named after their endpoints (docs/protocol.md section 4).
fn envelope(endpoint: &str, result: Payload) -> Result<Envelope, Refusal> {
    let words = endpoint.trim_matches('/').replace('/', "_");
    let mut envelope = Envelope {
        status: Text::from_static(Envelope::OK),
        data_type: Text::from(format!("{words}_response")),
        ..Envelope::default()
    };
    match result.encoding {
        Encoding::Json => envelope.data_str = json_text(result.data)?,
        Encoding::Binary | Encoding::Snappy => envelope.data = result.data,
    }
    Ok(envelope)
}

/// A `Content-Type` without its parameters.
fn media_type_of(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// The encoding that a type names: also types that are JSON underneath. `None` for bytes of other kinds.
fn encoding_of(media_type: &str) -> Option<Encoding> {
    let suffix = media_type.rsplit_once('+').map(|(_, suffix)| suffix);
    let is_json = suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"));
    Encoding::from_content_type(media_type).or(is_json.then_some(Encoding::Json))
}
