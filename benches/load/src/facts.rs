//! Facts that are no rates: sizes, and times that come once.

use std::fmt::Write as _;
use std::time::Duration;

/// What was found, in the order of finding.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<(String, String)>);

impl Facts {
    /// Adds one, and shows it.
    pub(crate) fn add(&mut self, what: impl Into<String>, value: String) {
        let what = what.into();
        println!("{what}: {value}");
        self.0.push((what, value));
    }

    /// All of them, as Markdown; empty if there are none.
    pub(crate) fn table(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let mut out = String::from("| kjob-server | |\n|---|---|\n");
        for (what, value) in &self.0 {
            let _ = writeln!(out, "| {what} | {value} |");
        }
        out
    }
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub(crate) fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}
