//! What the server is told: file, environment, flags.
