#![doc = include_str!("../README.md")]

mod access;
mod activity;
mod audit;
mod auth;
mod body;
pub mod builtin;
pub mod config;
mod connection;
#[cfg(unix)]
mod control;
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
mod store_cli;
mod store_orders;
mod store_report;
mod system;
pub mod tls;
pub mod user_command;
pub mod users;
mod web;
mod wire;

pub use access::Access;
pub use audit::AuditLog;
pub use auth::Accounts;
pub use server::{BindError, Server, ServerHandle, ServerOptions};
pub use system::SystemInfo;
pub use web::WebRules;
