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
