//! What happens to nodes and to their database.

use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// How long nodes are taken for alive without being heard of: as short as a busy machine allows.
pub(crate) const LEASE_TIME: Duration = Duration::from_secs(3);

/// What happens to a node. The first few end its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeFault {
    /// It is killed before it is ready.
    KilledAtBirth,
    /// It is killed while it works.
    KilledAtWork,
    /// It is killed while it drains.
    KilledInDrain,
    /// It drains to its end.
    Drained,
    /// It stands still for less than its lease.
    StoodStill,
    /// It stands still until its lease has ended, and goes on.
    StoodStillTooLong,
    /// Its connections to the database are cut, and come back before its lease ends.
    Cut,
    /// It hears nothing from the database until its lease has ended, on connections that stay.
    BlockedTooLong,
    /// All that it says to the database and hears takes longer.
    Slowed,
}

/// What happens to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DatabaseFault {
    /// It is stopped and started.
    Restarted,
    /// It crashes, and recovers.
    Crashed,
    /// It crashes for good, and its standby takes its place.
    Replaced,
}

impl NodeFault {
    /// All of them.
    pub const ALL: [NodeFault; 9] = [
        NodeFault::KilledAtBirth,
        NodeFault::KilledAtWork,
        NodeFault::KilledInDrain,
        NodeFault::Drained,
        NodeFault::StoodStill,
        NodeFault::StoodStillTooLong,
        NodeFault::Cut,
        NodeFault::BlockedTooLong,
        NodeFault::Slowed,
    ];

    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        // Those that cost more time come less often by themselves.
        Self::ALL[rng.random_range(0..Self::ALL.len())]
    }

    /// How long it goes on, if that is for it to say.
    pub(crate) fn duration(self, rng: &mut StdRng) -> Duration {
        let lease = u64::try_from(LEASE_TIME.as_millis()).unwrap_or(u64::MAX);
        let millis = match self {
            NodeFault::StoodStill | NodeFault::Cut => rng.random_range(50..lease * 2 / 3),
            NodeFault::StoodStillTooLong | NodeFault::BlockedTooLong => {
                rng.random_range(lease * 12 / 10..lease * 2)
            }
            NodeFault::Slowed => rng.random_range(500..3_000),
            NodeFault::KilledAtBirth => rng.random_range(0..120),
            NodeFault::KilledInDrain => rng.random_range(0..250),
            NodeFault::KilledAtWork | NodeFault::Drained => 0,
        };
        Duration::from_millis(millis)
    }

    /// Whether it is a SIGKILL.
    pub fn is_kill(self) -> bool {
        matches!(
            self,
            NodeFault::KilledAtBirth | NodeFault::KilledAtWork | NodeFault::KilledInDrain
        )
    }
}

impl DatabaseFault {
    /// All of them.
    pub const ALL: [DatabaseFault; 3] = [
        DatabaseFault::Restarted,
        DatabaseFault::Crashed,
        DatabaseFault::Replaced,
    ];
}

impl fmt::Display for NodeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NodeFault::KilledAtBirth => "node killed when just started",
            NodeFault::KilledAtWork => "node killed at work",
            NodeFault::KilledInDrain => "node killed while draining",
            NodeFault::Drained => "node drained",
            NodeFault::StoodStill => "node stopped for a while",
            NodeFault::StoodStillTooLong => "node stopped past its lease",
            NodeFault::Cut => "node cut off for a while",
            NodeFault::BlockedTooLong => "node cut off past its lease",
            NodeFault::Slowed => "node slowed on its way",
        })
    }
}

impl fmt::Display for DatabaseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DatabaseFault::Restarted => "database restarted",
            DatabaseFault::Crashed => "database crashed",
            DatabaseFault::Replaced => "database replaced by standby",
        })
    }
}
