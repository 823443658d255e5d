//! The option maps of requests.
