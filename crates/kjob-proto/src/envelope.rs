//! The record around every reply (docs/protocol.md section 3).

use std::marker::PhantomData;

use bytes::Bytes;

use crate::failover::{Signal, defuse};
use crate::record::{Record, record};
use crate::segments::{Segments, Write, segments};
use crate::sink::{Measure, Sink};
use crate::{DecodeError, DecodeErrorKind, Encoding, Limits, Text};

/// How much of a status that is none an error repeats, in characters.
const STATUS_SHOWN_MAX: usize = 40;

record! {
    /// The envelope: what every reply to an API request is, whatever its HTTP status.
    ///
    /// To clients a reply that is no envelope is a dead cluster, so even a refusal is one.
    Envelope = "gpudb_response" {
        /// [`Envelope::OK`] or [`Envelope::ERROR`].
        status: Text => Word,
        /// The error's text; empty if there is none.
        message: Text => String,
        /// The name of the record inside, or [`Envelope::NONE`] in an error.
        data_type: Text => Word,
        /// The record as Avro binary, in replies to binary and snappy requests. A slice of the received body.
        #[cfg_attr(feature = "serde", serde(with = "crate::serde_impls::payload"))]
        data: Bytes => Payload,
        /// The record as JSON text, in replies to JSON requests. A slice of the received body where the
        /// reply is binary.
        data_str: Text => PayloadText,
    }
}

impl Envelope {
    /// [`Envelope::status`] of a success; JavaScript requires exactly this.
    pub const OK: &'static str = "OK";

    /// [`Envelope::status`] of an error.
    pub const ERROR: &'static str = "ERROR";

    /// [`Envelope::data_type`] of an error; without it the Python client decodes the empty data and fails over.
    pub const NONE: &'static str = "none";

    /// Opens the reply to a request in `encoding`.
    ///
    /// Its status has to be one of the two words. Whatever stands between a client and a server answers in
    /// objects of its own, such as `{"detail":"Forbidden"}`, and to [`Record::decode`] each of them is an
    /// envelope whose fields are all missing, and so empty.
    ///
    /// ```
    /// # #[cfg(feature = "json")] {
    /// use bytes::Bytes;
    /// use kjob_proto::{Encoding, Envelope, Limits};
    ///
    /// let open = |body| Envelope::of_reply(Encoding::Json, Bytes::from_static(body), &Limits::default());
    /// assert_eq!(open(br#"{"status":"ERROR","message":"no such job"}"#).unwrap().message, "no such job");
    /// let error = open(br#"{"detail":"Forbidden"}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "status: \"\", allowed are OK and ERROR, at byte 0");
    /// # }
    /// ```
    ///
    /// # Errors
    /// The body is no envelope.
    pub fn of_reply(encoding: Encoding, body: Bytes, limits: &Limits) -> Result<Self, DecodeError> {
        let envelope = Self::decode(encoding.reply(), body, limits)?;
        match envelope.status.as_str() {
            Self::OK | Self::ERROR => Ok(envelope),
            other => {
                let found = other.chars().take(STATUS_SHOWN_MAX).collect();
                let kind = DecodeErrorKind::BadStatus { found };
                Err(DecodeError::new(kind, "status", 0))
            }
        }
    }

    /// The envelope of a success, for the reply to a request in `encoding`.
    ///
    /// This encodes the record into a buffer of its own; [`reply_ok`] gives the whole body without that.
    pub fn ok<R: Record>(record: &R, encoding: Encoding) -> Self {
        let mut envelope = Self {
            status: Text::from_static(Self::OK),
            data_type: Text::from_static(R::NAME),
            ..Self::default()
        };
        match encoding {
            #[cfg(feature = "json")]
            Encoding::Json => envelope.data_str = crate::json::text_of(record),
            _ => envelope.data = record.encode_to_bytes(),
        }
        envelope
    }

    /// The envelope of an error. The message is defused, and never empty, as clients require.
    pub fn error(message: &str) -> Self {
        let message = match message.trim_ascii() {
            "" => "unspecified error",
            _ => message,
        };
        Self::error_as_it_is(Text::from(defuse(message).into_owned()))
    }

    /// The envelope that sends clients to another cluster.
    pub fn failover(signal: Signal) -> Self {
        Self::error_as_it_is(Text::from_static(signal.message()))
    }

    fn error_as_it_is(message: Text) -> Self {
        Self {
            status: Text::from_static(Self::ERROR),
            message,
            data_type: Text::from_static(Self::NONE),
            ..Self::default()
        }
    }

    fn encode_reply(&self, encoding: Encoding) -> Segments {
        match encoding {
            #[cfg(feature = "json")]
            Encoding::Json => Segments::from(self.encode_json()),
            _ => self.encode_segments(),
        }
    }
}

/// The whole body of a success: an envelope around `record`, for the reply to a request in `encoding`.
///
/// Binary and snappy requests get Avro binary, never compressed, and payloads of
/// [`SEGMENT_MIN`](crate::SEGMENT_MIN) bytes or more are shared and not copied. JSON requests get JSON with the record as text
/// in `data_str`; without the feature `json` they get Avro binary.
///
/// ```
/// # #[cfg(feature = "json")] {
/// use kjob_proto::{CreateJobResponse, Encoding, Limits, Reply, reply_ok};
///
/// let response = CreateJobResponse { job_id: 7, ..Default::default() };
/// let body = reply_ok(&response, Encoding::Json).into_bytes();
/// assert_eq!(
///     body,
///     r#"{"status":"OK","message":"","data_type":"create_job_response","data":"","data_str":"{\"job_id\":7,\"info\":{}}"}"#,
/// );
/// let reply = Reply::<CreateJobResponse>::decode(Encoding::Json, body, &Limits::default())?;
/// assert_eq!(reply, Ok(response));
/// # }
/// # Ok::<(), kjob_proto::DecodeError>(())
/// ```
pub fn reply_ok<R: Record>(record: &R, encoding: Encoding) -> Segments {
    match encoding {
        #[cfg(feature = "json")]
        Encoding::Json => Segments::from(Envelope::ok(record, encoding).encode_json()),
        _ => segments(&Success(record)),
    }
}

/// The whole body of an error, for the reply to a request in `encoding`; to be sent with HTTP 400.
///
/// Phrases that make clients fail over are broken, see [`failover::defuse`](crate::failover::defuse).
pub fn reply_error(message: &str, encoding: Encoding) -> Segments {
    Envelope::error(message).encode_reply(encoding)
}

/// The whole body of a refusal that sends clients to another cluster, for the reply to a request in
/// `encoding`; to be sent with HTTP 400.
pub fn reply_failover(signal: Signal, encoding: Encoding) -> Segments {
    Envelope::failover(signal).encode_reply(encoding)
}

/// The server answered with an error.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ServerError {
    /// The envelope's text.
    pub message: Text,
}

/// Reads replies whose envelope holds an `R`.
#[derive(Clone, Copy, Debug)]
pub struct Reply<R>(PhantomData<fn() -> R>);

impl<R: Record> Reply<R> {
    /// Opens the reply to a request in `encoding`: the record, or the error that the server gave instead.
    ///
    /// An envelope is a success if its status is exactly [`Envelope::OK`], and an error if it is exactly
    /// [`Envelope::ERROR`]; what has another is none. Like the clients, this does not compare `data_type`
    /// with the record's name, as servers of version 7.0 give another one.
    ///
    /// # Errors
    /// The body is no envelope, or what is in it no `R`. Offsets count from the start of the body for
    /// binary, and from the start of `data_str` for what is wrong in there.
    pub fn decode(
        encoding: Encoding,
        body: Bytes,
        limits: &Limits,
    ) -> Result<Result<R, ServerError>, DecodeError> {
        let body_start = body.as_ptr().addr();
        let envelope = Envelope::of_reply(encoding, body, limits)?;
        if envelope.status != Envelope::OK {
            return Ok(Err(ServerError {
                message: envelope.message,
            }));
        }
        match encoding.reply() {
            #[cfg(feature = "json")]
            Encoding::Json => R::decode_json(envelope.data_str.into_bytes(), limits).map(Ok),
            _ => {
                // `data` is a slice of the body, so the difference is its place in there.
                let data_start = envelope.data.as_ptr().addr().saturating_sub(body_start);
                R::decode_binary(envelope.data, limits)
                    .map(Ok)
                    .map_err(|mut error| {
                        error.offset = error.offset.saturating_add(data_start);
                        error
                    })
            }
        }
    }
}

/// A success, written in one go so that the record's payloads stay shared.
struct Success<'a, R>(&'a R);

impl<R: Record> Write for Success<'_, R> {
    fn write(&self, sink: &mut impl Sink) {
        let mut len = Measure::default();
        self.0.write_to(&mut len);
        sink.put_string(Envelope::OK.as_bytes());
        sink.put_string(b"");
        sink.put_string(R::NAME.as_bytes());
        sink.put_len(len.0);
        self.0.write_to(sink);
        sink.put_string(b"");
    }
}
