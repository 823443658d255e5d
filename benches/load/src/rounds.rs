//! Rounds: all cases one after the other, again and again, so that what changes about the machine
//! changes for all of them.

use std::path::Path;

use anyhow::{Context, Result};

use crate::cases::{Case, Whose};
use crate::generator::Pace;
use crate::sample::{Sample, median};

/// A case and what each round found.
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) samples: Vec<Sample>,
    /// Why it has been left out since, if it has.
    pub(crate) failed: Option<String>,
}

/// Measures, and calls `told` with each row that has a new sample.
///
/// # Errors
/// The floor or kjob could not be measured; a peer that cannot be is left out and says why.
pub(crate) fn run(
    cases: Vec<Case>,
    rounds: usize,
    pace: Pace,
    home: &Path,
    mut told: impl FnMut(usize, &Row),
) -> Result<Vec<Row>> {
    let row = |case| Row {
        case,
        samples: Vec::new(),
        failed: None,
    };
    let mut rows: Vec<Row> = cases.into_iter().map(row).collect();
    for round in 1..=rounds {
        for row in rows.iter_mut().filter(|row| row.failed.is_none()) {
            let fresh = tempfile::tempdir_in(home).context("a directory")?;
            match (row.case.measure)(fresh.path(), pace) {
                Ok(sample) => row.samples.push(sample),
                Err(error) if row.case.whose == Whose::Peers => {
                    row.failed = Some(format!("{error:#}"));
                }
                Err(error) => return Err(error.context(row.name())),
            }
            told(round, row);
        }
    }
    Ok(rows)
}

impl Row {
    /// Scenario, detail and server.
    pub(crate) fn name(&self) -> String {
        let Case {
            scenario, detail, ..
        } = &self.case;
        format!("{scenario}, {detail}: {}", self.server())
    }

    /// The program and its mode.
    pub(crate) fn server(&self) -> String {
        match self.case.mode {
            "" => self.case.program.to_owned(),
            mode => format!("{}, {mode}", self.case.program),
        }
    }

    /// The middle of its rounds.
    pub(crate) fn median<T: Copy + PartialOrd>(&self, of: impl Fn(&Sample) -> T) -> Option<T> {
        median(self.samples.iter().map(of))
    }

    /// How many times as many a second as another in the same scenario: the middle of the rounds.
    pub(crate) fn ratio(&self, other: &Row) -> Option<f64> {
        let pairs = self.samples.iter().zip(&other.samples);
        median(pairs.map(|(own, other)| own.per_second / other.per_second))
    }

    /// Whether both did the same.
    pub(crate) fn is_comparable(&self, other: &Row) -> bool {
        (self.case.scenario, &self.case.detail) == (other.case.scenario, &other.case.detail)
    }
}

/// The row of the floor, or of kjob, that a row is to be held against.
pub(crate) fn beside<'a>(rows: &'a [Row], row: &Row, whose: Whose) -> Option<&'a Row> {
    rows.iter()
        .find(|other| other.case.whose == whose && other.is_comparable(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::cell::Cell;
    use std::time::Duration;

    const PACE: Pace = Pace {
        warm_up: Duration::ZERO,
        time: Duration::ZERO,
        threads: 1,
    };

    /// A case that does these many a second, round after round, and then fails.
    fn case(whose: Whose, detail: &str, rates: &'static [f64]) -> Case {
        let round = Cell::new(0);
        Case {
            scenario: "submit",
            detail: detail.to_owned(),
            whose,
            program: "it",
            mode: "",
            measure: Box::new(move |_, _| {
                let Some(rate) = rates.get(round.get()) else {
                    bail!("has had enough");
                };
                round.set(round.get() + 1);
                Ok(Sample {
                    per_second: *rate,
                    p50: Duration::ZERO,
                    p99: Duration::ZERO,
                    processor: None,
                })
            }),
        }
    }

    fn run(cases: Vec<Case>) -> Result<Vec<Row>> {
        let home = tempfile::tempdir()?;
        super::run(cases, 3, PACE, home.path(), |_, _| ())
    }

    /// The machine is slower in the second round, and in the third beside the peer alone.
    #[test]
    fn ratios_are_taken_within_rounds() {
        let rows = run(vec![
            case(Whose::Floor, "a", &[100.0, 50.0, 100.0]),
            case(Whose::Ours, "a", &[50.0, 25.0, 50.0]),
            case(Whose::Peers, "a", &[10.0, 5.0, 1.0]),
            case(Whose::Floor, "b", &[7.0, 7.0, 7.0]),
        ])
        .unwrap();
        let floor = beside(&rows, &rows[1], Whose::Floor).unwrap();
        assert_eq!(floor.median(|sample| sample.per_second), Some(100.0));
        assert_eq!(rows[1].ratio(floor), Some(0.5));
        let ours = beside(&rows, &rows[2], Whose::Ours).unwrap();
        assert_eq!(rows[2].ratio(ours), Some(0.2));
        assert!(beside(&rows, &rows[3], Whose::Ours).is_none());
    }

    #[test]
    fn a_peer_that_fails_is_left_out_and_kjob_is_not() {
        let peer = case(Whose::Peers, "a", &[1.0]);
        let rows = run(vec![peer, case(Whose::Ours, "a", &[1.0; 3])]).unwrap();
        assert_eq!(rows[0].failed.as_deref(), Some("has had enough"));
        assert_eq!((rows[0].samples.len(), rows[1].samples.len()), (1, 3));
        let error = run(vec![case(Whose::Ours, "a", &[1.0])]).err().unwrap();
        assert_eq!(format!("{error:#}"), "submit, a: it: has had enough");
    }
}
