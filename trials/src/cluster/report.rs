//! The table of a run on several nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::campaign::Outcome;
use super::faults::{DatabaseFault, NodeFault};
use super::missed::{FULL_RUN, Missed};
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
    took: Duration,
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
        self.took += outcome.took;
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

    /// What it was to have and did not: a run of any length a kill and a job, and one of five minutes each fault, and
    /// a wrong clock where there can be one. Of no run nothing is wanted.
    pub fn missed(&self, has_wrong_clocks: bool) -> Vec<Missed> {
        let mut missed = Vec::new();
        if !self.was_run() {
            return missed;
        }
        if self.acknowledged() == 0 {
            missed.push(Missed::Job);
        }
        if self.kills() == 0 {
            missed.push(Missed::Kill);
        }
        if self.took < FULL_RUN {
            return missed;
        }
        let of_nodes = NodeFault::ALL.into_iter();
        let of_nodes = of_nodes.filter(|fault| !self.node_faults.contains_key(fault));
        missed.extend(of_nodes.map(Missed::Node));
        let of_databases = DatabaseFault::ALL.into_iter();
        let of_databases = of_databases.filter(|fault| !self.database_faults.contains_key(fault));
        missed.extend(of_databases.map(Missed::Database));
        if has_wrong_clocks && self.skewed == 0 {
            missed.push(Missed::WrongClock);
        }
        missed
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Findings;

    /// A campaign of so long that had everything, once.
    fn outcome(took: Duration) -> Outcome {
        Outcome {
            findings: Findings {
                violations: Vec::new(),
                counts: Counts {
                    acknowledged: 1,
                    ..Counts::default()
                },
            },
            node_faults: BTreeMap::from(NodeFault::ALL.map(|fault| (fault, 1))),
            database_faults: BTreeMap::from(DatabaseFault::ALL.map(|fault| (fault, 1))),
            sharded: 0,
            skewed: 1,
            refused: 0,
            pauses: 0,
            took,
        }
    }

    fn report(change: impl FnOnce(&mut Outcome), took: Duration) -> Report {
        let mut outcome = outcome(took);
        change(&mut outcome);
        let mut report = Report::default();
        report.add(&outcome);
        report
    }

    #[test]
    fn each_thing_that_a_long_run_did_not_have_is_missed() {
        let missed = |change: &dyn Fn(&mut Outcome)| report(change, FULL_RUN).missed(true);
        assert!(missed(&|_| {}).is_empty());
        for fault in NodeFault::ALL {
            let without = missed(&|outcome| {
                outcome.node_faults.remove(&fault);
            });
            assert_eq!(without, [Missed::Node(fault)]);
        }
        for fault in DatabaseFault::ALL {
            let without = missed(&|outcome| {
                outcome.database_faults.remove(&fault);
            });
            assert_eq!(without, [Missed::Database(fault)]);
        }
        assert_eq!(missed(&|outcome| outcome.skewed = 0), [Missed::WrongClock]);
        let no_library = report(|outcome| outcome.skewed = 0, FULL_RUN);
        assert!(no_library.missed(false).is_empty());
        let idle = |outcome: &mut Outcome| outcome.findings.counts.acknowledged = 0;
        assert_eq!(missed(&idle), [Missed::Job]);
    }

    #[test]
    fn a_short_run_needs_a_job_and_a_kill() {
        let short = FULL_RUN - Duration::from_secs(1);
        let nothing = |outcome: &mut Outcome| {
            outcome.findings.counts.acknowledged = 0;
            outcome.node_faults.clear();
            outcome.database_faults.clear();
            outcome.skewed = 0;
        };
        let mut all_short = report(nothing, short);
        assert_eq!(all_short.missed(true), [Missed::Job, Missed::Kill]);
        let killed = |outcome: &mut Outcome| {
            let is_kill = |fault: &NodeFault, _: &mut u64| *fault == NodeFault::KilledAtWork;
            outcome.node_faults.retain(is_kill);
        };
        assert!(report(killed, short).missed(true).is_empty());
        // Campaigns count together.
        all_short.add(&outcome(FULL_RUN - short));
        assert!(all_short.missed(true).is_empty());
        assert!(Report::default().missed(true).is_empty());
    }

    #[test]
    fn what_was_missed_is_named_as_in_the_table() {
        let named = [
            (Missed::Job, "job acknowledged"),
            (Missed::Node(NodeFault::Cut), "node cut off for a while"),
            (Missed::Database(DatabaseFault::Crashed), "database crashed"),
        ];
        for (missed, name) in named {
            assert_eq!(missed.to_string(), name);
        }
    }
}
