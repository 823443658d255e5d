//! The store in PostgreSQL, on a real server.
//!
//! The server is that which `KJOB_TEST_POSTGRES` names (`cargo xtask test` sets it), or one that the tests start
//! where PostgreSQL is installed. Each test has a schema of its own.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod broken_off;
mod conformance;
mod delayed;
mod faults;
mod guards;
mod hints;
mod jobs;
mod late_shards;
mod promotion;
mod schema;
mod shards;
mod sharing;
mod support;
mod tls;
mod unnamed;
mod unserved;
