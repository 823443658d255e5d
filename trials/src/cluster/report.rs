//! The table of a run on several nodes.

use std::collections::BTreeMap;
use std::fmt;

use super::campaign::Outcome;
use super::faults::{DatabaseFault, NodeFault};
use crate::checker::{Counts, Harm};

/// What all campaigns of a run came to.
#[derive(Debug, Default)]
pub struct Report {
    node_faults: BTreeMap<NodeFault, u64>,
    database_faults: BTreeMap<DatabaseFault, u64>,
    harms: BTreeMap<Harm, u64>,
    counts: Counts,
    campaigns: u64,
    sharded: u64,
    pauses: u64,
    skewed: u64,
    refused: u64,
    errors: Vec<String>,
}

impl Report {
    /// Adds a campaign.
    pub fn add(&mut self, outcome: &Outcome) {
        self.campaigns += 1;
        self.sharded += outcome.sharded;
        self.pauses += outcome.pauses;
        self.skewed += outcome.skewed;
        self.refused += outcome.refused;
        for (fault, times) in &outcome.node_faults {
            *self.node_faults.entry(*fault).or_default() += times;
        }
        for (fault, times) in &outcome.database_faults {
            *self.database_faults.entry(*fault).or_default() += times;
        }
        for violation in &outcome.findings.violations {
            *self.harms.entry(violation.fault.harm()).or_default() += 1;
        }
        self.counts += outcome.findings.counts;
    }

    /// Adds a campaign that could not be brought to its end.
    pub fn add_error(&mut self, error: &anyhow::Error) {
        self.errors.push(format!("{error:#}"));
    }

    /// How often a node was killed.
    pub fn kills(&self) -> u64 {
        let kills = self.node_faults.iter().filter(|(fault, _)| fault.is_kill());
        kills.map(|(_, times)| times).sum()
    }

    /// Whether there was a campaign.
    pub fn was_run(&self) -> bool {
        self.campaigns > 0 || !self.errors.is_empty()
    }

    /// How many jobs a submit was acknowledged for.
    pub fn acknowledged(&self) -> u64 {
        self.counts.acknowledged
    }

    /// How many promises were broken.
    pub fn violations(&self) -> u64 {
        self.harms.values().sum()
    }

    /// Whether every promise was kept, as far as it was looked at.
    pub fn is_unharmed(&self) -> bool {
        self.harms.is_empty() && self.errors.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<30} {:>6}", "fault", "times")?;
        for fault in NodeFault::ALL {
            let times = self.node_faults.get(&fault).copied().unwrap_or_default();
            writeln!(f, "{fault:<30} {times:>6}")?;
        }
        for fault in DatabaseFault::ALL {
            let times = self.database_faults.get(&fault).copied();
            writeln!(f, "{fault:<30} {:>6}", times.unwrap_or_default())?;
        }
        let (skewed, refused) = (self.skewed, self.refused);
        writeln!(f, "{:<30} {skewed:>6}", "node with a wrong clock")?;
        writeln!(f, "{:<30} {refused:>6}", "node started without database")?;
        let harm = |harm| self.harms.get(&harm).copied().unwrap_or_default();
        writeln!(
            f,
            "\n{} jobs acknowledged, {} lost, {} changed, {} ran twice",
            self.counts.acknowledged,
            harm(Harm::Lost),
            harm(Harm::Changed),
            harm(Harm::RanTwice)
        )?;
        let (campaigns, sharded, pauses) = (self.campaigns, self.sharded, self.pauses);
        writeln!(
            f,
            "{campaigns} campaigns, {sharded} of them over several databases, {pauses} pauses of clients"
        )?;
        write!(f, "{}", self.counts)?;
        let ambiguous = self.counts.ambiguous;
        writeln!(
            f,
            "{ambiguous} looks by tags that may have named several jobs left out"
        )?;
        for error in &self.errors {
            writeln!(f, "\na campaign broke off: {error}")?;
        }
        Ok(())
    }
}
