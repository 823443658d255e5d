//! The engine, on a clock that the tests move and with handlers that they hold.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod callbacks;
mod claims;
mod cluster;
mod doze;
mod ending;
mod heavy;
mod late_answers;
mod leases;
mod lifecycle;
mod news;
mod observer;
mod queue;
mod restart;
mod routes;
#[cfg(feature = "dynamic")]
mod schemas;
mod shards;
mod shards_away;
mod shards_joined;
mod support;
mod trouble;
mod troubled;
