//! The server held to the protocol, byte by byte: each test speaks over a socket of its own, as
//! clients do, and one file has one subject.

#![allow(clippy::unwrap_used)]

mod access;
mod accounts;
mod alter_jobs;
mod anothers_times;
mod audit_http;
mod bodies;
mod callbacks;
mod create_job;
mod crowds;
mod drain;
mod encodings;
mod errors;
mod events_http;
mod get_job;
mod http1;
mod http2;
mod jobs_access;
mod jobs_http;
mod ordinary;
mod pages;
mod patience;
mod raw;
mod results_http;
mod secure;
mod server;
mod show_jobs;
mod sync_calls;
mod threads;
mod tls;
mod tls_hostile;
mod tls_reload;
mod web;
