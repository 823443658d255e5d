//! The six wire endpoints.
