//! Routes that pass jobs on: to servers over real connections, and to real processes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[cfg(unix)]
mod command;
mod kinetica;
mod plain;
mod progress;
mod stopping;
mod support;
mod through;
mod upstream;
