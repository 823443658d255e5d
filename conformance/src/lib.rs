//! What the conformance tests share: the server process, the demo endpoints, the client, a lossy proxy.
//!
//! The tests are in `tests/official_client`. They need the path of a built server in the environment
//! variable `KJOB_SERVER_BIN`; `cargo xtask test --only acceptance` sets it.
//!
//! A helper that finds the world not as it must be panics: it runs inside tests only.

mod accounts;
mod client;
mod demo;
mod proxy;
mod server;

pub use accounts::Accounts;
pub use client::{
    Connection, Credentials, FAILOVER_PHRASES, TestClient, assert_plain_error, new_tag, until,
};
pub use demo::{
    DemoResult, PAYLOAD_ENCODINGS, PayloadEncoding, echo, fail, primes, result, sleep, with_option,
};
pub use proxy::ReplyCutter;
pub use server::Server;
