//! The program `kjob-server` as its operator meets it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod accounts;
mod audit;
#[cfg(unix)]
mod cluster;
mod console;
#[cfg(unix)]
mod database_away;
mod doctor;
mod endings;
mod endpoints;
#[cfg(unix)]
mod examples;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod failing_disk;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[path = "../../../kjob-store/tests/faults/layer.rs"]
mod layer;
mod metrics;
mod reload;
#[cfg(unix)]
mod routes;
#[cfg(target_os = "linux")]
mod service;
mod settings;
mod shards;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod small_disk;
mod sockets;
mod starts;
#[cfg(unix)]
mod store;
mod support;
mod tls;
#[cfg(feature = "otlp")]
mod traces;
#[cfg(unix)]
mod transparent;
#[cfg(unix)]
mod transparent_accounts;
