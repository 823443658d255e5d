//! The listener: accepts connections, bounds them and ends them gracefully.
