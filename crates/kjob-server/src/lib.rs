//! The server of the asynchronous job protocol.

mod body;
mod builtin;
pub mod config;
mod demo;
mod health;
pub mod logging;
mod options;
mod reply;
pub mod run;
mod server;
mod service;
mod system;
mod wire;
