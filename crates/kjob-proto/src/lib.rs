#![doc = include_str!("../README.md")]

mod admin_alter_jobs;
mod admin_show_jobs;
mod create_job;
mod cursor;
#[cfg(feature = "dynamic")]
pub mod dynamic;
mod encoding;
mod envelope;
mod error;
pub mod failover;
#[cfg(any(feature = "fuzzing", all(test, feature = "json", feature = "snappy")))]
#[doc(hidden)]
pub mod fuzzing;
mod get_job;
#[cfg(feature = "json")]
mod json;
mod kind;
mod limits;
mod map;
mod record;
mod segments;
#[cfg(feature = "serde")]
mod serde_impls;
mod show_system;
mod sink;
#[cfg(feature = "snappy")]
pub mod snappy;
mod text;
mod varint;
mod words;

pub use admin_alter_jobs::{AdminAlterJobsRequest, AdminAlterJobsResponse};
pub use admin_show_jobs::{AdminShowJobsRequest, AdminShowJobsResponse};
pub use create_job::{CreateJobRequest, CreateJobResponse};
pub use encoding::{Encoding, UnknownEncoding};
pub use envelope::{Envelope, Reply, ServerError, reply_error, reply_failover, reply_ok};
pub use error::{DecodeError, DecodeErrorKind};
pub use failover::Signal;
pub use get_job::{GetJobRequest, GetJobResponse};
pub use limits::Limits;
pub use map::StringMap;
pub use record::Record;
pub use segments::{SEGMENT_MIN, Segments};
pub use show_system::{
    ShowSystemPropertiesRequest, ShowSystemPropertiesResponse, ShowSystemStatusRequest,
    ShowSystemStatusResponse,
};
pub use text::{NotUtf8, Text};
