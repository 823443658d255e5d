//! The table.

// It talks to a person at a terminal.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::honest::{Honest, Times};
use super::server::{Server, Vitals, Watch};
use super::tally::Counts;

/// One phase of the run.
#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    watch: Watch,
    bound: u64,
    is_tight: bool,
    pub(crate) before: Vitals,
    peaks: Vitals,
    processor: f64,
    pub(crate) counts: Counts,
    pub(crate) memory_after: u64,
    times: Times,
    quiet: Times,
    pub(crate) has_ended: bool,
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
            processor: 0.0,
            counts: Counts::default(),
            memory_after: 0,
            times: Times::default(),
            quiet: Times::default(),
            has_ended: false,
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

    /// How the server ended, if it did: it must not.
    pub(crate) fn note_end(&mut self, ended: Option<String>) {
        self.has_ended = ended.is_some();
        self.violations(ended);
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

    fn line(&self) -> String {
        let ratio = |hundredths| {
            let quiet = self.quiet.percentile(hundredths).as_secs_f64();
            if quiet > 0.0 {
                let now = self.times.percentile(hundredths).as_secs_f64();
                format!("{:.1}", now / quiet)
            } else {
                "–".to_owned()
            }
        };
        format!(
            "| {} | {} | {} | {} | {} / {} | {} / {} | {} / {} | {:.1} | {} | {} |",
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
            self.processor,
            self.peaks.files,
            self.violation_count(),
        )
    }
}

/// Prints the rows, and what is to be said of them. Whether there is no violation.
pub(crate) fn print(rows: &[Row]) -> bool {
    println!(
        "\n| attack | how much | answers | honest lives | p50 / p99 ms | × quiet | MiB peak / after \
         | processor s | files | violations |\n|---|---|---|---|---|---|---|---|---|---|"
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
