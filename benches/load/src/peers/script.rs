//! Peers whose clients are libraries: a script in their own language loads them, and says what came of it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Task;
use crate::generator::Pace;
use crate::process::program;
use crate::sample::Sample;

/// A command that runs the script of a peer on Node, up to the arguments of its own.
///
/// # Errors
/// What it needs is not installed.
pub(super) fn node(installed: &Path, peer: &str) -> Result<Command> {
    let home = installed.join(peer);
    if !home.join("node_modules").is_dir() {
        bail!("its packages are not installed");
    }
    let mut command = program("node");
    command.arg("bench.mjs").current_dir(home);
    Ok(command)
}

/// Runs a script to its end: a warm-up and a measured time, and then a line with how many ended, and
/// two quantiles in nanoseconds.
///
/// # Errors
/// It fails, or says something else.
pub(super) fn run(mut command: Command, task: Task, lanes: usize, pace: Pace) -> Result<Sample> {
    let task = match task {
        Task::Submits => "submits",
        Task::Lives => "lives",
    };
    command.args([task, &lanes.to_string()]);
    for time in [pace.warm_up, pace.time] {
        command.arg(time.as_millis().to_string());
    }
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| command.get_program().display().to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("the script ended with {}: {}", output.status, said.trim());
    }
    read(&String::from_utf8(output.stdout)?, pace.time)
}

fn read(line: &str, time: Duration) -> Result<Sample> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [count, p50, p99] = words[..] else {
        bail!("the script said {line:?}");
    };
    let count: u64 = count.parse()?;
    if count == 0 {
        bail!("nothing ended in the measured time");
    }
    Ok(Sample {
        per_second: count as f64 / time.as_secs_f64(),
        p50: Duration::from_nanos(p50.parse()?),
        p99: Duration::from_nanos(p99.parse()?),
        processor: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_anything_else_is_not() {
        let sample = read("100 1000 2000\n", Duration::from_secs(2)).unwrap();
        assert_eq!(sample.per_second, 50.0);
        assert_eq!(sample.p50, Duration::from_micros(1));
        assert_eq!(sample.p99, Duration::from_micros(2));
        for bad in ["", "0 0 0", "1 2", "1 2 3 4", "a b c"] {
            assert!(read(bad, Duration::from_secs(2)).is_err(), "{bad:?}");
        }
    }
}
