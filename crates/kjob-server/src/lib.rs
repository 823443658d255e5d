//! The server of the asynchronous job protocol.

mod body;
pub mod builtin;
pub mod config;
pub mod demo;
mod health;
pub mod logging;
mod options;
mod reply;
pub mod run;
mod server;
mod service;
mod system;
mod wire;

pub use system::SystemInfo;
