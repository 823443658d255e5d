//! The codecs from outside: against golden bytes, against another implementation, and against bad input.
#![cfg(all(feature = "json", feature = "snappy"))]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod apache_avro;
#[cfg(feature = "dynamic")]
mod dynamic;
mod examples;
mod golden;
mod json;
mod limits;
mod round_trip;
mod support;
