//! Helpers shared by the benchmarks.

pub mod processes;
pub mod samples;
