//! Runs the chosen steps one by one and sums up. A failed step does not stop the others: one run
//! tells all that is wrong.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::counts::Counts;
use crate::steps::{Context, STEPS, Step, Verdict};

/// Runs the steps in `only` (all if empty) that are not in `skip`. Whether none failed.
pub(crate) fn run(context: &Context, only: &[String], skip: &[String]) -> bool {
    let named = |list: &[String], step: &Step| list.iter().any(|name| name == step.name);
    let mut rows = Vec::new();
    for step in STEPS
        .iter()
        .filter(|step| (only.is_empty() || named(only, step)) && !named(skip, step))
    {
        println!("\n== {}: {}", step.name, step.about);
        let start = Instant::now();
        let outcome = (step.run)(context);
        if let Err(error) = &outcome {
            println!("error: {error:#}");
        }
        let row = Row::new(step.name, start.elapsed(), outcome);
        println!("== {}: {} in {}", row.name, row.result, seconds(row.time));
        rows.push(row);
    }
    print!("\n{}", summary(&rows));
    rows.iter().all(|row| row.result != "FAILED")
}

struct Row {
    name: &'static str,
    result: &'static str,
    time: Duration,
    counts: Counts,
    note: String,
}

impl Row {
    fn new(name: &'static str, time: Duration, outcome: Result<Verdict>) -> Self {
        let (result, mut counts, note) = match outcome {
            Ok(Verdict::Ran {
                ok: true,
                counts,
                note,
            }) if counts.failed == 0 => ("ok", counts, note),
            Ok(Verdict::Ran { counts, note, .. }) => ("FAILED", counts, note),
            Ok(Verdict::Skipped(reason)) => ("skipped", Counts::default(), reason),
            Err(error) => ("FAILED", Counts::default(), format!("{error:#}")),
        };
        // A step that fails without a failed test of its own counts as one, so that the closing
        // line never looks clean when the run was not.
        if result == "FAILED" && counts.failed == 0 {
            counts.failed = 1;
        }
        Self {
            name,
            result,
            time,
            counts,
            note,
        }
    }
}

/// A table of the steps, what failed in them, then one plain line of counts.
fn summary(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<12} {:<8} {:>9} {:>7} {:>7}\n",
        "step", "result", "time", "passed", "failed"
    );
    let mut total = Counts::default();
    let mut time = Duration::ZERO;
    for row in rows {
        let Row {
            name,
            result,
            counts,
            ..
        } = row;
        // The first line of an error names it; the rest was printed where it happened.
        let mut note = row.note.lines().next().unwrap_or_default().to_owned();
        if counts.ignored > 0 {
            let comma = if note.is_empty() { "" } else { ", " };
            note = format!("{note}{comma}{} not run", counts.ignored);
        }
        let elapsed = seconds(row.time);
        let line = format!(
            "{name:<12} {result:<8} {elapsed:>9} {:>7} {:>7}  {note}",
            counts.passed, counts.failed
        );
        text.push_str(line.trim_end());
        text.push('\n');
        total += counts.clone();
        time += row.time;
    }
    text.push_str(&format!("{:<12} {:<8} {:>9}\n\n", "all", "", seconds(time)));
    for row in rows {
        for failure in &row.counts.failures {
            text.push_str(&format!("{}: {failure}\n", row.name));
        }
    }
    text.push_str(&format!(
        "{} passed, {} failed\n",
        total.passed, total.failed
    ));
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: Result<Verdict>) -> Row {
        Row::new("some", Duration::from_millis(1_500), outcome)
    }

    #[test]
    fn the_last_line_counts_tests_of_all_steps() {
        let counts = Counts {
            passed: 3,
            failed: 1,
            ignored: 2,
            failures: vec!["claims::two".to_owned()],
        };
        let rows = [
            row(Ok(Verdict::Ran {
                ok: false,
                counts,
                note: String::new(),
            })),
            row(Ok(Verdict::passed("fine"))),
            row(Ok(Verdict::Skipped("no nightly".to_owned()))),
        ];
        let text = summary(&rows);
        assert!(
            text.ends_with("\n\nsome: claims::two\n3 passed, 1 failed\n"),
            "{text}"
        );
        assert!(
            text.contains("some         FAILED       1.5 s       3       1  2 not run\n"),
            "{text}"
        );
        assert!(
            text.contains("some         ok           1.5 s       0       0  fine\n"),
            "{text}"
        );
        assert!(text.contains("no nightly\n"), "{text}");
    }

    #[test]
    fn a_step_that_fails_without_a_failed_test_counts_as_one() {
        let error = row(Err(anyhow::anyhow!("one\ntwo")));
        let not_ok = row(Ok(Verdict::Ran {
            ok: false,
            counts: Counts::default(),
            note: String::new(),
        }));
        for row in [&error, &not_ok] {
            assert_eq!((row.result, row.counts.failed), ("FAILED", 1));
        }
        assert!(summary(&[error]).contains(" one\n"));
    }

    #[test]
    fn a_failed_test_fails_a_step_whatever_its_exit_code() {
        let counts = Counts {
            passed: 9,
            failed: 1,
            ignored: 0,
            failures: Vec::new(),
        };
        assert_eq!(
            row(Ok(Verdict::Ran {
                ok: true,
                counts,
                note: String::new()
            }))
            .result,
            "FAILED"
        );
    }
}
