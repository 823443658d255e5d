#![doc = include_str!("../README.md")]

mod activity;
mod auth;
mod body;
pub mod builtin;
pub mod config;
mod connection;
pub mod demo;
mod files;
mod health;
mod load;
pub mod logging;
mod options;
mod places;
pub mod program;
mod refusal;
mod reload;
mod reply;
pub mod run;
mod server;
mod service;
mod signals;
mod system;
pub mod tls;
mod wire;

pub use server::{BindError, Server, ServerHandle, ServerOptions};
pub use system::SystemInfo;
