//! The program `kjob` as people and scripts meet it, against the program `kjob-server`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod listing;
mod looking;
mod pty;
mod settings;
mod submitting;
mod support;
mod terminal;
mod waiting;
