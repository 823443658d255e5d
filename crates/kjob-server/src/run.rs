//! From a config to a running server, and to its end.
