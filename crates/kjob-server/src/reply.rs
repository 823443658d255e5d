//! Outcomes as HTTP responses.
