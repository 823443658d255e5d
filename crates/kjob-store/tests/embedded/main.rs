//! The embedded store from outside: what it promises, over its files and through the ends of its process.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backup;
mod conformance;
mod directory;
mod format_sample;
mod killed;
mod looking_after;
mod lost_catalogue;
mod opening;
mod packs;
mod retention;
mod segments;
mod tags_given_away;
mod torn_tail;
mod trial;
