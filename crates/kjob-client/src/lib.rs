#![doc = include_str!("../README.md")]

mod answer;
mod builder;
mod cancel;
mod client;
mod credentials;
mod error;
mod job;
mod list;
mod payload;
mod retry;
mod submit;
#[cfg(feature = "tls")]
mod tls;
mod transport;

pub use builder::ClientBuilder;
pub use cancel::Cancel;
pub use client::Client;
pub use error::Error;
pub use job::{Job, JobKey, Status};
pub use kjob_proto::{Encoding, StringMap, Text};
pub use list::{JobList, List, ListedJob};
pub use payload::Payload;
pub use submit::{Submit, Submitted};
