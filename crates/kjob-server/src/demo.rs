//! The demo endpoints.
