//! The store on files that fail: the nth call of each kind, torn and short ones, a full disk, one
//! that takes only so much more, and
//! power that is lost at any moment.
//!
//! A layer between the process and libc ([`layer`]) does that to the calls of SQLite and of Rust's
//! standard library alike. What the store answers under generated steps ([`work`]) is held against
//! a model that knows what each answer proves ([`known`]), while the fault lasts, after it, and
//! once the store was opened anew.
//!
//! With `KJOB_FAULT_SEEDS` set, each test tries so many seeds, and hits every single call; without,
//! one seed, and after the first calls a share of the others.
#![cfg(all(feature = "embedded", target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "what was tried is worth a table")]

mod disk;
mod full;
mod known;
mod layer;
mod nth;
mod power;
mod steps;
mod work;
