//! The table of a run.

use std::collections::BTreeMap;
use std::fmt;

use crate::campaign::Outcome;
use crate::checker::{Counts, Harm};
use crate::fate::Fault;
use crate::marks::Step;

/// What all campaigns of a run came to.
#[derive(Debug, Default)]
pub struct Report {
    rows: BTreeMap<Fault, Row>,
    /// Of jobs that no life acknowledged, or that have no id.
    others: BTreeMap<Harm, u64>,
    steps: BTreeMap<Step, Hit>,
    counts: Counts,
    campaigns: u64,
    pauses: u64,
    segments: u64,
    rewritten: u64,
    errors: Vec<String>,
}

/// A job counts for the end of the process that acknowledged it.
#[derive(Debug, Default)]
struct Row {
    times: u64,
    acknowledged: u64,
    harms: BTreeMap<Harm, u64>,
}

#[derive(Debug, Default)]
struct Hit {
    kills: u64,
    steps: u64,
}

impl Report {
    /// Adds a campaign.
    pub fn add(&mut self, outcome: &Outcome) {
        self.campaigns += 1;
        self.pauses += outcome.pauses;
        self.segments += outcome.segments.begun;
        self.rewritten += outcome.segments.rewritten;
        for life in &outcome.lives {
            self.rows.entry(life.fault).or_default().times += 1;
            for (step, count) in life.under_way.iter().filter(|_| life.fault.is_kill()) {
                let hit = self.steps.entry(*step).or_default();
                hit.kills += 1;
                hit.steps += count;
            }
        }
        let fault_of = |id: i64| {
            let at = outcome.acknowledged.get(&id)?;
            let mut lives = outcome.lives.iter();
            let life = lives.find(|life| (life.began..=life.ended).contains(at))?;
            Some(life.fault)
        };
        for fault in outcome.acknowledged.keys().filter_map(|id| fault_of(*id)) {
            self.rows.entry(fault).or_default().acknowledged += 1;
        }
        for violation in &outcome.findings.violations {
            let harms = match violation.id.and_then(fault_of) {
                Some(fault) => &mut self.rows.entry(fault).or_default().harms,
                None => &mut self.others,
            };
            *harms.entry(violation.fault.harm()).or_default() += 1;
        }
        self.counts += outcome.findings.counts;
    }

    /// Adds a campaign that could not be brought to its end.
    pub fn add_error(&mut self, error: &anyhow::Error) {
        self.errors.push(format!("{error:#}"));
    }

    /// How often a server was killed.
    pub fn kills(&self) -> u64 {
        let kills = self.rows.iter().filter(|(fault, _)| fault.is_kill());
        kills.map(|(_, row)| row.times).sum()
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
        let all = self
            .rows
            .values()
            .map(|row| &row.harms)
            .chain([&self.others]);
        all.flat_map(BTreeMap::values).sum()
    }

    /// The steps that a server has to be killed in, and was not.
    pub fn missed(&self) -> Vec<Step> {
        let missed = Step::REQUIRED.into_iter();
        missed
            .filter(|step| !self.steps.contains_key(step))
            .collect()
    }

    /// Whether every promise was kept, as far as it was looked at.
    pub fn is_unharmed(&self) -> bool {
        let all = self
            .rows
            .values()
            .map(|row| &row.harms)
            .chain([&self.others]);
        all.into_iter().all(BTreeMap::is_empty) && self.errors.is_empty()
    }

    /// Whether each required step was hit, too.
    pub fn is_good(&self) -> bool {
        self.is_unharmed() && self.missed().is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_faults(f)?;
        // Only a store with marks tells.
        if !self.steps.is_empty() {
            self.fmt_steps(f)?;
        }
        self.fmt_counts(f)?;
        for error in &self.errors {
            writeln!(f, "\na campaign broke off: {error}")?;
        }
        Ok(())
    }
}

impl Report {
    fn fmt_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<30} {:>6} {:>13} {:>6} {:>8} {:>10}",
            "fault", "times", "acknowledged", "lost", "changed", "ran twice"
        )?;
        let mut line = |name: &str, row: &Row| {
            let harm = |harm| row.harms.get(&harm).copied().unwrap_or_default();
            writeln!(
                f,
                "{name:<30} {:>6} {:>13} {:>6} {:>8} {:>10}",
                row.times,
                row.acknowledged,
                harm(Harm::Lost),
                harm(Harm::Changed),
                harm(Harm::RanTwice)
            )
        };
        let mut all = Row {
            // Those of the last life of a campaign too, which nobody killed.
            acknowledged: self.counts.acknowledged,
            harms: self.others.clone(),
            times: 0,
        };
        let none = Row::default();
        for fault in Fault::ALL {
            let row = self.rows.get(&fault).unwrap_or(&none);
            line(&fault.to_string(), row)?;
            all.times += row.times;
            for (harm, count) in &row.harms {
                *all.harms.entry(*harm).or_default() += count;
            }
        }
        line("all", &all)
    }

    fn fmt_steps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["kills with a", "times", "of those"];
        writeln!(f, "\n{:<30} {:>6} {:>13}", head[0], head[1], head[2])?;
        let none = Hit::default();
        for step in Step::ALL {
            let hit = self.steps.get(&step).unwrap_or(&none);
            let name = format!("{step} under way");
            writeln!(f, "{name:<30} {:>6} {:>13}", hit.kills, hit.steps)?;
        }
        Ok(())
    }

    fn fmt_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kills, campaigns, pauses) = (self.kills(), self.campaigns, self.pauses);
        let (segments, rewritten) = (self.segments, self.rewritten);
        writeln!(
            f,
            "\n{kills} kills in {campaigns} campaigns, {pauses} pauses of clients"
        )?;
        write!(f, "{}", self.counts)?;
        writeln!(
            f,
            "{segments} segments begun, {rewritten} rewritten of those left at the end"
        )?;
        let ambiguous = self.counts.ambiguous;
        writeln!(
            f,
            "{ambiguous} looks by tags that may have named several jobs left out"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::Life;
    use crate::checker::{self, Findings, Violation};
    use crate::server::Segments;

    /// Two lives, of which the second acknowledged a job that was then lost.
    fn outcome(steps: &[Step], violations: Vec<Violation>) -> Outcome {
        let life = |fault, began, ended| Life {
            fault,
            began,
            ended,
            under_way: steps.iter().map(|step| (*step, 2)).collect(),
        };
        Outcome {
            findings: Findings {
                violations,
                counts: Counts {
                    acknowledged: 3,
                    ..Counts::default()
                },
            },
            lives: vec![
                life(Fault::Drained, 0, 10),
                life(Fault::KilledAtWork, 20, 30),
            ],
            pauses: 1,
            segments: Segments::default(),
            // The last one by the life that nobody ended.
            acknowledged: BTreeMap::from([(1, 5), (2, 25), (3, 35)]),
        }
    }

    fn lost(id: Option<i64>) -> Violation {
        Violation {
            fault: checker::Fault::Lost,
            id,
            tag: None,
            seen: String::new(),
        }
    }

    #[test]
    fn a_job_counts_for_the_end_of_the_life_that_acknowledged_it() {
        let mut report = Report::default();
        report.add(&outcome(&Step::REQUIRED, vec![lost(Some(2)), lost(None)]));
        let text = report.to_string();
        for line in [
            "killed at work                      1             1      1        0          0\n",
            "drained                             1             1      0        0          0\n",
            "all                                 2             3      2        0          0\n",
            // Only kills count here, not the drain.
            "submit under way                    1             2\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert_eq!((report.kills(), report.violations()), (1, 2));
        assert!(!report.is_unharmed());
    }

    #[test]
    fn a_run_that_missed_a_step_is_not_good() {
        let mut report = Report::default();
        report.add(&outcome(&Step::REQUIRED[1..], Vec::new()));
        assert!(report.is_unharmed() && !report.is_good());
        assert_eq!(report.missed(), [Step::Submit]);
        report.add(&outcome(&Step::REQUIRED[..1], Vec::new()));
        assert!(report.is_good());
    }

    #[test]
    fn a_run_that_broke_off_is_not_good() {
        let mut report = Report::default();
        report.add(&outcome(&Step::REQUIRED, Vec::new()));
        report.add_error(&anyhow::anyhow!("it did not start"));
        assert!(!report.is_unharmed());
        assert!(
            report
                .to_string()
                .ends_with("a campaign broke off: it did not start\n")
        );
    }
}
