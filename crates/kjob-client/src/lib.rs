#![doc = include_str!("../README.md")]

mod answer;
mod builder;
mod cancel;
mod client;
mod credentials;
mod error;
mod job;
mod list;
mod outcome;
mod payload;
mod retry;
mod ring;
mod servers;
mod stop;
mod submit;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod urls;
mod watch;

pub use builder::ClientBuilder;
pub use cancel::Cancel;
pub use client::Client;
pub use error::Error;
pub use job::{BadJobKey, Job, JobKey, Status};
pub use kjob_proto::{Encoding, StringMap, Text};
pub use list::{JobList, List, ListedJob};
pub use outcome::Unsuccessful;
pub use payload::Payload;
pub use servers::{Health, Server};
pub use stop::CancelOnDrop;
pub use submit::{Submit, Submitted};
pub use urls::Urls;
pub use watch::Watch;
