//! What a run on several nodes did not have, though it was to.

use std::fmt;
use std::time::Duration;

use super::faults::{DatabaseFault, NodeFault};

/// A run of so long is to have all that there is.
pub(super) const FULL_RUN: Duration = Duration::from_secs(5 * 60);

/// What a run did not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// A job that a submit was acknowledged for.
    Job,
    /// A node that was killed.
    Kill,
    /// A node that this happened to.
    Node(NodeFault),
    /// A database that this happened to.
    Database(DatabaseFault),
    /// A node that took the time for another.
    WrongClock,
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missed::Job => f.pad("job acknowledged"),
            Missed::Kill => f.pad("node killed"),
            Missed::Node(fault) => fmt::Display::fmt(fault, f),
            Missed::Database(fault) => fmt::Display::fmt(fault, f),
            Missed::WrongClock => f.pad("node with a wrong clock"),
        }
    }
}
