//! The table.

// It talks to a person at a terminal.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::honest::{Honest, Times};
use super::server::{Server, Vitals, Watch};
use super::tally::Counts;

/// How many times as slow as in the quiet honest clients may be, by their median.
const SLOWER_MAX: f64 = 3.0;

/// One phase of the run.
#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    watch: Watch,
    bound: u64,
    is_tight: bool,
    pub(crate) before: Vitals,
    peaks: Vitals,
    began: Instant,
    /// How long it took, in seconds.
    took: f64,
    /// Of the server, in seconds.
    processor: f64,
    pub(crate) counts: Counts,
    pub(crate) memory_after: u64,
    times: Times,
    quiet: Times,
}

impl Row {
    /// A phase that begins now.
    pub(crate) fn begin(
        name: &'static str,
        server: &Server,
        bound: u64,
        is_tight: bool,
    ) -> Result<Self> {
        Ok(Self {
            name,
            watch: server.watch(),
            bound,
            is_tight,
            before: server.vitals()?,
            peaks: Vitals::default(),
            began: Instant::now(),
            took: 0.0,
            processor: 0.0,
            counts: Counts::default(),
            memory_after: 0,
            times: Times::default(),
            quiet: Times::default(),
        })
    }

    /// It ends now; the server may have ended before.
    pub(crate) fn end(
        &mut self,
        server: &Server,
        honest: &Honest,
        times: Times,
        quiet: &Times,
    ) -> Result<()> {
        self.peaks = self.watch.peaks();
        self.took = self.began.elapsed().as_secs_f64();
        if let Ok(now) = server.vitals() {
            self.processor = now.processor - self.before.processor;
            self.memory_after = now.memory;
        }
        for failure in honest.take_failures() {
            // Where budgets are small on purpose honest clients meet them too, and are told so.
            if self.is_tight && failure.contains("is busy (429)") {
                *self
                    .counts
                    .answers
                    .entry("honest client refused".to_owned())
                    .or_default() += 1;
            } else {
                self.violations([failure]);
            }
        }
        if self.peaks.memory > self.bound {
            let (found, bound) = (mib(self.peaks.memory), mib(self.bound));
            self.violations([format!("memory: {found} MiB, bound {bound}")]);
        }
        self.times = times;
        self.quiet = quiet.clone();
        Ok(())
    }

    pub(crate) fn note(&mut self, what: String) {
        self.counts.notes.push(what);
    }

    pub(crate) fn violations(&mut self, what: impl IntoIterator<Item = String>) {
        for what in what {
            *self.counts.violations.entry(what).or_default() += 1;
        }
    }

    /// The line that says whether the server stood this.
    pub(crate) fn verdict(&self) -> String {
        let word = if self.violation_count() == 0 {
            "stood"
        } else {
            "FELL"
        };
        format!("{word}: {}", self.name)
    }

    fn violation_count(&self) -> u64 {
        self.counts.violations.values().sum()
    }

    /// How many times as slow honest clients are as in the quiet, by the time that so many hundredths
    /// of lives do not exceed.
    pub(crate) fn ratio(&self, hundredths: usize) -> Option<f64> {
        let quiet = self.quiet.percentile(hundredths).as_secs_f64();
        let now = self.times.percentile(hundredths).as_secs_f64();
        (quiet > 0.0).then(|| now / quiet)
    }

    /// Holds the median against the quiet, and against that beside work which leaves the server alone.
    pub(crate) fn judge_latency(&mut self, control: Option<f64>) {
        self.violations(too_slow(self.ratio(50), control));
    }

    fn line(&self) -> String {
        let ratio = |hundredths| {
            let ratio = self.ratio(hundredths);
            ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.1}"))
        };
        format!(
            "| {} | {} | {} | {} | {} / {} | {} / {} | {} / {} | {} / {} | {} | {} |",
            self.name,
            how_much(&self.counts),
            answers(&self.counts.answers),
            self.times.count(),
            millis(self.times.percentile(50)),
            millis(self.times.percentile(99)),
            ratio(50),
            ratio(99),
            mib(self.peaks.memory),
            mib(self.memory_after),
            percent(self.processor, self.took),
            percent(self.counts.processor, self.took),
            self.peaks.files,
            self.violation_count(),
        )
    }
}

/// Prints the rows, and what is to be said of them. Whether there is no violation.
pub(crate) fn print(rows: &[Row]) -> bool {
    println!(
        "\n| attack | how much | answers | honest lives | p50 / p99 ms | p50 / p99 × quiet \
         | MiB peak / after | % of a processor server / attackers | files | violations |\n\
         |---|---|---|---|---|---|---|---|---|---|"
    );
    for row in rows {
        println!("{}", row.line());
    }
    println!();
    for row in rows {
        for note in &row.counts.notes {
            println!("{}: {note}", row.name);
        }
        for (violation, times) in &row.counts.violations {
            println!("VIOLATION {}: {violation} ({times} times)", row.name);
        }
    }
    let memory = rows.iter().map(|row| row.peaks.memory).max().unwrap_or(0);
    let bound = rows.iter().map(|row| row.bound).max().unwrap_or(0);
    println!(
        "memory: {} MiB at most, bound {} MiB",
        mib(memory),
        mib(bound)
    );
    rows.iter().all(|row| row.counts.violations.is_empty())
}

/// Why honest clients are too slow, if they are.
fn too_slow(ratio: Option<f64>, control: Option<f64>) -> Option<String> {
    let allowed = control.unwrap_or_default().max(SLOWER_MAX);
    let ratio = ratio.filter(|ratio| *ratio > allowed)?;
    Some(format!(
        "latency: the median is {ratio:.1} times that of the quiet, and {allowed:.1} is allowed"
    ))
}

/// The share of one processor that so many seconds are.
fn percent(processor: f64, took: f64) -> String {
    if took > 0.0 {
        format!("{:.0}", processor * 100.0 / took)
    } else {
        "–".to_owned()
    }
}

fn how_much(counts: &Counts) -> String {
    let mut parts = Vec::new();
    if counts.held > 0 {
        parts.push(format!("{} connections held", counts.held));
    }
    if counts.connections > counts.held {
        parts.push(format!("{} connections", counts.connections));
    }
    if counts.sent > 0 {
        parts.push(format!("{} sent", counts.sent));
    }
    if counts.bytes > 1 << 20 {
        parts.push(format!("{} MiB", mib(counts.bytes)));
    }
    parts.join(", ")
}

fn answers(answers: &BTreeMap<String, u64>) -> String {
    let parts = answers
        .iter()
        .map(|(what, count)| format!("{count} × {what}"));
    parts.collect::<Vec<_>>().join(", ")
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_what_is_neither_near_the_quiet_nor_the_machines_doing() {
        assert_eq!(too_slow(None, None), None);
        assert_eq!(too_slow(Some(3.0), None), None);
        assert_eq!(too_slow(Some(3.0), Some(1.2)), None);
        assert_eq!(too_slow(Some(4.0), Some(4.1)), None);
        for control in [None, Some(1.2), Some(3.9)] {
            assert!(too_slow(Some(4.0), control).is_some(), "{control:?}");
        }
    }
}
