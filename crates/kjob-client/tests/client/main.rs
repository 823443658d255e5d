//! The client against a real server, and against what lies between the two.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod calls;
mod following;
#[cfg(feature = "tls")]
mod secure;
mod support;
mod trouble;
